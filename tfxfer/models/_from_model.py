"""From a model in memory to a model of another task."""

import copy
import warnings
from typing import Any, Self

from tfxfer import _check, backbones
from tfxfer.models import _vocabulary
from tfxfer.models._from_preset import unexpected

_Mixin: Any = object  # what is mixed in here has the methods of a Keras model


class StartsFromModel(_Mixin):
    """`from_model` of task models; a mixin."""

    @classmethod
    def from_model(
        cls, model: Any, *, share_backbone: bool = False, backbone_only: bool = False, **arguments: Any
    ) -> Self:
        """Makes the model from another task model in memory, as `from_preset` does from its saved folder.

        A model of this class is taken over as a whole, with changes that its head allows. Of any other, the backbone
        is, with the pooling where this class has one, and the head is new; a warning says so. The backbone stays as it
        is: with its adapters (`freezing.merge_lora` adds them to the weights), its quantization, its added tokens, and
        the flags of what is frozen, unless `trainable` says otherwise.

        Args:
            model: a `TextTask`: the model that was trained.
            share_backbone: bool. Whether both models have the same layers and tokenizer, so that training one changes
                the other. With it, a model of this class to which no argument makes a difference is returned itself.
                Defaults to `False`: backbone and tokenizer are copied, and `model` stays as it is.
            backbone_only: bool. Whether to leave out, without a warning, what was trained above the backbone.
            **arguments: the constructor's arguments, and `keep_labels` of classifiers and taggers.

        Returns:
            A model of this class, not compiled with what `model` was; for a model of a subclass, one of that.

        Raises:
            TypeError: for an argument that the class does not have.
            ValueError: as `from_preset`, and if `model` is no task model.

        Example:

        ```python
        topics = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=["card", "loan"])
        topics.compile()
        topics.fit(texts, topic_names)
        urgency = tx.models.TextRegressor.from_model(topics, backbone_only=True)
        more = tx.models.TextClassifier.from_model(topics, labels=["card", "loan", "fraud"], keep_labels=True)
        ```
        """
        # Not the class by name: it is the base of all that have this method.
        remedy = "For a folder or a name: `from_preset`. For a backbone: the constructor."
        _check.instance("model", model, StartsFromModel, "a task model of `tfxfer.models`, or a subclass", remedy)
        error = unexpected(cls, arguments, "from_model")
        if error is not None and (not isinstance(model, cls) or unexpected(type(model), arguments, "from_model")):
            raise error
        if hasattr(model, "jax_state_sync"):  # on that backend, the weights may be behind those of a training
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
    """A copy of a task model that shares nothing with it, not compiled as it is."""
    backbone = type(model.backbone).from_config(model.backbone.get_config())
    preprocessor = model.preprocessor
    if preprocessor is not None:
        options = _vocabulary.options_of(preprocessor)
        preprocessor = type(preprocessor)(copy.deepcopy(preprocessor.tokenizer), **options)
    made = _vocabulary.rebuilt(model, backbone, preprocessor)
    made.set_weights(model.get_weights())
    return made
