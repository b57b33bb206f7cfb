"""Mixup: training on mixtures of rows of a batch and of their targets."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfxfer import _check, layers

_Mixin: Any = object  # the class that uses this mixin has the methods of a Keras model


class MixesRows(_Mixin):
    """Mixin with the option `mixup`, for tasks whose outputs come from a linear layer.

    `l` is drawn from Beta(mixup, mixup) for each batch, and each row i is paired with another row j of the batch:

        loss = l * L(l * z_i + (1 - l) * z_j, y_i) + (1 - l) * L(l * z_i + (1 - l) * z_j, y_j)

    Because the last layer is linear, mixing its outputs z is the same as mixing its inputs: for a head of one layer,
    the sentence embeddings. Each term uses the sample weight of its own row, so that row and class weights have the
    same effect as without mixing. The loss may be any mean over rows, with targets as indices or shares.
    """

    _mixup = 0.0
    _mixup_seed: Any = None

    @property
    def mixup(self) -> float:
        """The parameter of mixup; 0 turns it off. It can be set, applies from the next step, and is saved."""
        return self._mixup

    @mixup.setter
    def mixup(self, value: float) -> None:
        value = _check.number("mixup", value, minimum=0.0)
        if value and not self._ends_linearly():
            remedy = "Mixed outputs equal the outputs of mixed features only for a linear layer."
            raise _check.invalid(
                "mixup", "0 with a head of your own that does not end in a linear layer", value, remedy
            )
        if value and self._mixup_seed is None:
            self._mixup_seed = keras.random.SeedGenerator()
        if value != self._mixup:
            self._mixup = value
            self._trace_anew()

    @property
    def mixup_seed(self) -> Any:
        """The `keras.random.SeedGenerator` of mixup; `None` if mixup was never on."""
        return self._mixup_seed

    def _ends_linearly(self):
        head = self.head
        is_dense = isinstance(head, keras.layers.Dense) and head.activation is keras.activations.linear
        return isinstance(head, layers.Head) or is_dense

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Returns the loss of a batch, like `keras.Model.compute_loss`; in training with `mixup`, of mixed rows."""
        arguments = {"x": x, "y": y, "y_pred": y_pred, "sample_weight": sample_weight}
        if training:
            return self.training_loss(super().compute_loss, **arguments)
        return super().compute_loss(**arguments, training=False)

    def training_loss(self, compute: Callable, *, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Returns the loss of a training step; `freezing.AboveFrozen` also calls it.

        Args:
            compute: `keras.Model.compute_loss` of the model that runs the step.
            x: inputs.
            y: targets.
            y_pred: outputs.
            sample_weight: weights of rows, or `None`.
        """
        if not self.mixup:
            return compute(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
        return mixed_loss(compute, self.mixup, self._mixup_seed, x, y, y_pred, sample_weight)


def mixed_loss(
    compute: Callable, alpha: float, seed: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
) -> Any:
    """Returns the loss of mixed rows; see `MixesRows`.

    Args:
        compute: function of (`x`, `y`, `y_pred`, `sample_weight`, `training`) to a loss.
        alpha: float > 0. The parameter of the Beta distribution.
        seed: `keras.random.SeedGenerator`.
        x: inputs.
        y: targets `(batch, ...)`.
        y_pred: outputs `(batch, outputs)` of a linear layer.
        sample_weight: `(batch,)`, or `None`.
    """
    count = ops.shape(y_pred)[0]
    share = ops.cast(keras.random.beta((), alpha, alpha, seed=seed), y_pred.dtype)
    # The distance from each row to its partner: at least one if there are two or more rows.
    others = ops.cast(count - 1, "float32")
    step = ops.cast(ops.floor(keras.random.uniform((), seed=seed) * others), "int32") + 1
    partners = (ops.arange(count, dtype="int32") + step) % ops.cast(count, "int32")

    def paired(values):
        return None if values is None else ops.take(values, partners, axis=0)

    mixed = share * y_pred + (1.0 - share) * paired(y_pred)
    own = compute(x=x, y=y, y_pred=mixed, sample_weight=sample_weight, training=True)
    theirs = compute(x=x, y=paired(y), y_pred=mixed, sample_weight=paired(sample_weight), training=True)
    share = ops.cast(share, own.dtype)
    return share * own + (1.0 - share) * theirs
