"""Training steps that leave nothing behind."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfxfer import _check, _replicas


class TrainsAlone:
    """What models share whose training steps are traced without an operation that TensorFlow never forgets; a mixin.

    Keras sums the gradients over all replicas, where there is one replica too. TensorFlow gives that sum a gradient of
    its own, in a registry from which nothing is ever taken: each trace adds an entry, and the entry holds the graph,
    and with it the weights and the optimizer's state. Only where a gradient is sparse, that of a token embedding which
    trains, it goes another way. So a model with frozen embeddings stayed in memory after it was gone, once for each
    `fit`. On one replica a sum is the value itself, and here that is all that is traced.

    Task models and `freezing.AboveFrozen` have it. On several replicas of a `tf.distribute` strategy a mean over rows
    is that of the whole batch, also where replicas have parts of unequal size: Keras takes the mean of their means. On
    other backends it changes nothing.

    Example:

    ```python
    class Regression(tx.optimizers.TrainsAlone, keras.Sequential):
        pass

    model = Regression([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    ```
    """

    def train_step(self, *args: Any) -> Any:
        """Makes one step, as `keras.Model.train_step`."""
        if keras.config.backend() != "tensorflow" or tf.distribute.has_strategy():
            return super().train_step(*args)  # type: ignore[misc]
        with _OneReplica(tf.distribute.get_strategy(), 0):
            return super().train_step(*args)  # type: ignore[misc]

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Returns the loss of a batch, as `keras.Model.compute_loss`; on replicas, of each one's part of it."""
        value = super().compute_loss(  # type: ignore[misc]
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
        )
        if _replicas.count() == 1:
            return value
        losses = [each for each in keras.tree.flatten(getattr(self, "loss", None)) if each is not None]
        # Losses of this package deal with replicas themselves.
        of_keras = [each for each in losses if not hasattr(each, "compares_rows")]
        if len(of_keras) < len(losses) and of_keras:
            remedy = "Keras's take means over each replica's rows: choose losses of `tfxfer.losses` for all outputs."
            raise _check.invalid("loss", "losses of one kind on replicas", losses, remedy)
        reductions = {getattr(each, "reduction", "sum_over_batch_size") for each in of_keras}
        if not reductions or reductions & {None, "none", "sum"}:
            return value
        weights = keras.tree.flatten(sample_weight)
        if reductions == {"mean_with_sample_weight"} and len(weights) == 1 and weights[0] is not None:
            return _replicas.weighed(value, ops.sum(weights[0]))
        return _replicas.weighed(value, ops.shape(keras.tree.flatten(y_pred)[0])[0])


class _OneReplica(tf.distribute.ReplicaContext):
    """The only replica there is."""

    def all_reduce(self, reduce_op, value, options=None):
        return value
