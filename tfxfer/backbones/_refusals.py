"""Keras methods that encoders and task models cannot support, with errors that name the alternative."""

from typing import Any, NoReturn


class FixedWeights:
    """Rejects weights and losses that do not belong to a layer; a mixin for Keras models."""

    def add_weight(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises: every weight belongs to a layer, and every layer to a group that can be frozen and is saved."""
        raise NotImplementedError(
            f"{type(self).__name__} has no weights other than those of its layers: they would not be saved and would "
            "belong to no layer group. Put the weight into a Keras layer, and give a task model that layer as `head`."
        )

    add_variable = add_weight

    def add_loss(self, loss: Any) -> NoReturn:
        """Raises: a functional model has no loss of its own."""
        raise NotImplementedError(
            f"{type(self).__name__} has no loss other than those of its layers. Give `compile` a loss, or call "
            "`add_loss` within a Keras layer, and give a task model that layer as `head`."
        )
