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


class _OneReplica(tf.distribute.ReplicaContext):
    """The only replica there is."""

    def all_reduce(self, reduce_op, value, options=None):
        return value
