"""Training steps that leave nothing behind."""

from typing import Any

import keras
import tensorflow as tf


class TrainsAlone:
    """What models share whose training steps are traced without an operation that TensorFlow never forgets; a mixin.

    Keras sums the gradients over all replicas, where there is one replica too. TensorFlow gives that sum a gradient of
    its own, in a registry from which nothing is ever taken: each trace adds an entry, and the entry holds the graph,
    and with it the weights and the optimizer's state. Only where a gradient is sparse, that of a token embedding which
    trains, it goes another way. So a model with frozen embeddings stayed in memory after it was gone, once for each
    `fit`. On one replica a sum is the value itself, and here that is all that is traced.

    The step is traced once. Keras makes the optimizer's variables while it traces, after which TensorFlow traces again.

    Task models and `freezing.AboveFrozen` have it. Under a `tf.distribute` strategy, and on other backends, it changes
    nothing.

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

    def make_train_function(self, force: bool = False) -> None:
        """Makes the function of a step, as `keras.Model.make_train_function`; it builds the optimizer first."""
        known = self.train_function
        super().make_train_function(force)  # type: ignore[misc]
        step = self.train_function
        if step is known or keras.config.backend() != "tensorflow" or tf.distribute.has_strategy():
            return
        if self.distribute_strategy is not tf.distribute.get_strategy():  # type: ignore[attr-defined]
            return  # made under a strategy, and trained outside its scope

        def train(*args: Any) -> Any:
            optimizer = self.optimizer  # type: ignore[attr-defined]
            if optimizer is not None and not optimizer.built:
                weights = self.trainable_weights  # type: ignore[attr-defined]
                if weights:  # with none there is no step
                    with keras.name_scope(optimizer.name, caller=optimizer):
                        optimizer.build(weights)
            return step(*args)

        self.train_function: Any = train


class _OneReplica(tf.distribute.ReplicaContext):
    """The only replica there is."""

    def all_reduce(self, reduce_op, value, options=None):
        return value
