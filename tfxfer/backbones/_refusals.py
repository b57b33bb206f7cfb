"""Methods of Keras that encoders and task models cannot keep, with what to do instead."""

from typing import Any, NoReturn


class FixedWeights:
    """Refuses weights and losses beside those of the layers; a mixin of Keras models."""

    def add_weight(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: every weight belongs to a layer, and every layer to a group that freezes and is saved."""
        raise NotImplementedError(
            f"{type(self).__name__} has no weights beside those of its layers: files and layer groups would not know "
            "them. Put the weight into a Keras layer, and give a task model that layer as `head`."
        )

    add_variable = add_weight

    def add_loss(self, loss: Any) -> NoReturn:
        """Refuses: a functional model has no loss of its own."""
        raise NotImplementedError(
            f"{type(self).__name__} has no loss beside those of its layers. Give `compile` a loss, or call `add_loss` "
            "within a Keras layer, and give a task model that layer as `head`."
        )
