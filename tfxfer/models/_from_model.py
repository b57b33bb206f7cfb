"""Converts a model in memory to a model of another task."""

import copy
import warnings
from typing import Any, Self

from tfxfer import _check, backbones
from tfxfer.models import _vocabulary
from tfxfer.models._from_preset import unexpected

_Mixin: Any = object  # the class that uses this mixin has the methods of a Keras model


class StartsFromModel(_Mixin):
    """Mixin with `from_model` of task models."""

    @classmethod
    def from_model(
        cls, model: Any, *, share_backbone: bool = False, backbone_only: bool = False, **arguments: Any
    ) -> Self:
        """Creates the model from another task model in memory, like `from_preset` from its saved directory.

        A model of this class is reused with its head, with any changes that the head allows. From any other model only
        the backbone is reused, with the pooling if this class has one; the head is new, and a warning reports it. The
        backbone keeps its adapters (`freezing.merge_lora` adds them to the weights), its quantization, its added
        tokens, and, unless `trainable` is passed, its frozen layers.

        Args:
            model: a `TextTask`: the trained model.
            share_backbone: bool. Whether both models share their layers and tokenizer, so that training one changes the
                other. If `model` is of this class and no argument changes it, it is then returned itself. Defaults to
                `False`: backbone and tokenizer are copied, and `model` is unchanged.
            backbone_only: bool. Whether to ignore, without a warning, everything trained above the backbone.
            **arguments: the constructor's arguments, and `keep_labels` of classifiers and taggers.

        Returns:
            A model of this class, or of the subclass of `model`. The optimizer, loss and metrics of `model` are not
            copied.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `from_preset`, and if `model` is not a task model.

        Example:

        ```python
        topics = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=["card", "loan"])
        topics.compile()
        topics.fit(texts, topic_names)
        urgency = tx.models.TextRegressor.from_model(topics, backbone_only=True)
        more = tx.models.TextClassifier.from_model(topics, labels=["card", "loan", "fraud"], keep_labels=True)
        ```
        """
        # Not `TextTask`: this mixin is the base of all classes with this method.
        remedy = "For a folder or a name: `from_preset`. For a backbone: the constructor."
        _check.instance("model", model, StartsFromModel, "a task model of `tfxfer.models`, or a subclass", remedy)
        error = unexpected(cls, arguments, "from_model")
        if error is not None and (not isinstance(model, cls) or unexpected(type(model), arguments, "from_model")):
            raise error
        if hasattr(model, "jax_state_sync"):  # on JAX, the variables may be older than the training state
            model.jax_state_sync()
        source = model if _check.instance("share_backbone", share_backbone, bool, "a bool") else _copy(model)
        pretrained = backbones.Pretrained(
            source.backbone, source.preprocessor, source.embedding_spec(), source, type(model).__name__
        )
        made, notice = cls._from_pretrained(pretrained, arguments, backbone_only)
        if notice is not None:
            notice = notice.replace(".from_preset`", ".from_model`", 1).replace("the preset is", "the model is", 1)
            warnings.warn(notice, stacklevel=2)
        return made


def _copy(model):
    """Returns a copy of a task model that shares nothing with it, without its compile settings."""
    backbone = type(model.backbone).from_config(model.backbone.get_config())
    preprocessor = model.preprocessor
    if preprocessor is not None:
        options = _vocabulary.options_of(preprocessor)
        preprocessor = type(preprocessor)(copy.deepcopy(preprocessor.tokenizer), **options)
    made = _vocabulary.rebuilt(model, backbone, preprocessor)
    made.set_weights(model.get_weights())
    return made
