"""What a task's losses remember from step to step, kept with the task."""

import contextlib
from typing import Any

import keras

_NAME = "loss_state_"


class KeepsLossState:
    """A mixin: the variables of losses that remember, such as `losses.CrossBatchMemoryLoss`, are the task's as well.

    They are among `variables`, which `callbacks.Resume` keeps and a step on JAX gives back, and in `.keras` files, but
    not among `weights`: no layer group, count or export has them. Only training changes them.
    """

    def stateful_losses(self) -> list[Any]:
        """Returns the losses of the last `compile` that have `state_variables`, those inside other losses too."""
        arguments = getattr(self, "_compile_arguments", None)
        found: list[Any] = []
        for loss in [] if arguments is None else keras.tree.flatten(arguments()["loss"]):
            while loss is not None:
                if getattr(loss, "state_variables", None):
                    found.append(loss)
                loss = getattr(loss, "loss", None)
        return found

    def _loss_state(self):
        return [variable for loss in self.stateful_losses() for variable in loss.state_variables]

    @property
    def variables(self) -> list[Any]:
        """All variables, those of random generators and of losses included."""
        found = super().variables  # type: ignore[misc]
        known = {id(variable) for variable in found}
        return [*found, *(variable for variable in self._loss_state() if id(variable) not in known)]

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Returns the loss of a batch, as `keras.Model.compute_loss`; losses remember it in training alone."""
        with contextlib.ExitStack() as stack:
            for loss in self.stateful_losses():
                stack.enter_context(loss.remembering(training))
            return super().compute_loss(  # type: ignore[misc]
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
            )

    def save_own_variables(self, store: Any) -> None:
        """Writes what a file of weights holds of this model itself; Keras calls it."""
        super().save_own_variables(store)  # type: ignore[misc]
        for number, variable in enumerate(self._loss_state()):
            store[f"{_NAME}{number}"] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Reads what `save_own_variables` wrote; a model that is not compiled leaves the losses' part. Keras calls it.

        Raises:
            ValueError: for a memory of another size.
        """
        names = list(store.keys())
        super().load_own_variables(  # type: ignore[misc]
            {name: store[name] for name in names if not name.startswith(_NAME)}
        )
        for number, variable in enumerate(self._loss_state()):
            if f"{_NAME}{number}" in names:
                variable.assign(store[f"{_NAME}{number}"])
