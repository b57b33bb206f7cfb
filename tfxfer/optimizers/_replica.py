"""Training steps that do not leak memory."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfxfer import _check, _replicas


class TrainsAlone:
    """Mixin for models whose training steps avoid an operation that TensorFlow never releases.

    Keras sums the gradients over all replicas, even if there is only one. TensorFlow registers a custom gradient for
    that sum, in a registry from which nothing is ever removed: each trace adds an entry, and the entry keeps the graph
    alive, with the weights and the optimizer's state. Only a sparse gradient, that of a trainable token embedding,
    takes another path. Without this mixin, a deleted model with frozen embeddings stays in memory, once for each `fit`.
    On one replica, the sum is the value itself, and this mixin traces only that.

    Task models and `freezing.AboveFrozen` use it. On several replicas of a `tf.distribute` strategy, a mean over rows
    is the mean over the whole batch, even if the replicas' parts differ in size; Keras averages the replicas' means. On
    other backends, the mixin changes nothing.

    Example:

    ```python
    class Regression(tx.optimizers.TrainsAlone, keras.Sequential):
        pass

    model = Regression([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    ```
    """

    def train_step(self, *args: Any) -> Any:
        """Runs one step, as `keras.Model.train_step` does."""
        if keras.config.backend() != "tensorflow" or tf.distribute.has_strategy():
            return super().train_step(*args)  # type: ignore[misc]
        with _OneReplica(tf.distribute.get_strategy(), 0):
            return super().train_step(*args)  # type: ignore[misc]

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Returns the loss of a batch or, on several replicas, of a replica's part of it.

        The arguments `x`, `y`, `y_pred`, `sample_weight` and `training` are those of `keras.Model.compute_loss`.
        """
        value = super().compute_loss(  # type: ignore[misc]
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
        )
        if _replicas.count() == 1:
            return value
        losses = [each for each in keras.tree.flatten(getattr(self, "loss", None)) if each is not None]
        # Losses of this package handle replicas themselves.
        of_keras = [each for each in losses if not hasattr(each, "compares_rows")]
        if len(of_keras) < len(losses) and of_keras:
            remedy = "Keras losses average over each replica's rows: use losses of `tfxfer.losses` for all outputs."
            raise _check.invalid("loss", "losses of one kind on several replicas", losses, remedy)
        reductions = {getattr(each, "reduction", "sum_over_batch_size") for each in of_keras}
        if not reductions or reductions & {None, "none", "sum"}:
            return value
        weights = keras.tree.flatten(sample_weight)
        if reductions == {"mean_with_sample_weight"} and len(weights) == 1 and weights[0] is not None:
            return _replicas.weighed(value, ops.sum(weights[0]))
        return _replicas.weighed(value, ops.shape(keras.tree.flatten(y_pred)[0])[0])


class _OneReplica(tf.distribute.ReplicaContext):
    """The context of a single replica."""

    def all_reduce(self, reduce_op, value, options=None):
        return value
