"""The state of losses across steps, kept with the task."""

import contextlib
from typing import Any

import keras

_NAME = "loss_state_"


class KeepsLossState:
    """Mixin that adds the variables of stateful losses, for example `losses.CrossBatchMemoryLoss`, to the task.

    They are part of `variables`, which `callbacks.Resume` saves and a step on JAX returns, and of `.keras` files. They
    are not part of `weights`, so no layer group, parameter count or export includes them. Only training changes them.
    """

    def stateful_losses(self) -> list[Any]:
        """Returns the losses of the last `compile` with `state_variables`, including those inside other losses."""
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
        """All variables, including those of random generators and losses."""
        found = super().variables  # type: ignore[misc]
        known = {id(variable) for variable in found}
        return [*found, *(variable for variable in self._loss_state() if id(variable) not in known)]

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Returns the loss of a batch, like `keras.Model.compute_loss`; stateful losses update only in training."""
        with contextlib.ExitStack() as stack:
            for loss in self.stateful_losses():
                stack.enter_context(loss.remembering(training))
            return super().compute_loss(  # type: ignore[misc]
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
            )

    def save_own_variables(self, store: Any) -> None:
        """Writes the model's own entries of a weights file; Keras calls it."""
        super().save_own_variables(store)  # type: ignore[misc]
        for number, variable in enumerate(self._loss_state()):
            store[f"{_NAME}{number}"] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        """Reads the entries of `save_own_variables`; a model that is not compiled ignores the losses' part.

        Keras calls it.

        Raises:
            ValueError: if the memory of a loss has another size.
        """
        names = list(store.keys())
        super().load_own_variables(  # type: ignore[misc]
            {name: store[name] for name in names if not name.startswith(_NAME)}
        )
        for number, variable in enumerate(self._loss_state()):
            if f"{_NAME}{number}" in names:
                variable.assign(store[f"{_NAME}{number}"])
