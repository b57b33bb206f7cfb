"""`from_preset` with the constructors' arguments by name, so that editors complete them and misspelled ones raise.

These classes pass on only the arguments that the caller gave: an omitted argument has the preset's value, and `None`
may be a value.
"""

import difflib
import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import keras
import numpy as np
from numpy.typing import ArrayLike

_Mixin: Any = object  # in the bases of a class, these mixins come before `TextTask`


class _Unset:
    """The default of an argument whose value comes from the preset."""

    def __repr__(self):
        return "<the preset's>"


UNSET: Any = _Unset()


def given(local: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments that the caller gave, from the `locals()` of a `from_preset`."""
    named = {name: value for name, value in local.items() if name not in ("cls", "preset", "kwargs", "__class__")}
    return {**{name: value for name, value in named.items() if value is not UNSET}, **local["kwargs"]}


# Arguments of `from_preset` that control how a preset is read; they do not apply to a model in memory.
_READING = ("load_weights", "sequence_length", "dtype", "special_tokens_in_strings")


def unexpected(kind: type, arguments: Mapping[str, Any], method: str = "from_preset") -> TypeError | None:
    """Returns an error for the first argument that `from_preset` of one of the package's classes does not have.

    Subclasses outside the package may have any arguments: their constructor checks them.

    Args:
        kind: the class.
        arguments: dict of the caller's arguments.
        method: `"from_preset"`, or `"from_model"`, which has only the arguments that concern the model.

    Returns:
        A `TypeError`, or `None` if all arguments are known.
    """
    if kind.__module__.partition(".")[0] != __name__.partition(".")[0]:
        return None
    parameters = inspect.signature(kind.from_preset).parameters  # type: ignore[attr-defined]
    known = [name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY]
    known = [name for name in known if method == "from_preset" or name not in _READING]
    for name in arguments:
        if name not in (*known, "compile"):
            return _unknown(f"{kind.__name__}.{method}", name, known)
    return None


def check_arguments(kind: type, base: type, others: Mapping[str, Any]) -> None:
    """Raises for the first argument in `others` that no constructor from `kind` to `base` has.

    Keras's functional models accept any argument, and ignore it.

    Args:
        kind: the class of the model.
        base: `TextTask`.
        others: dict of the arguments that no constructor took.

    Raises:
        TypeError: if there is such an argument.
    """
    known: dict[str, None] = {}
    for each in kind.__mro__[: kind.__mro__.index(base)]:
        parameters = inspect.signature(vars(each)["__init__"]).parameters if "__init__" in vars(each) else {}
        known |= dict.fromkeys(name for name, one in parameters.items() if name != "self" and one.kind in _BY_NAME)
    for name in others:
        if name not in ("name", "compile"):
            raise _unknown(kind.__name__, name, [*known, "trainable", "name"])


_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _unknown(function, name, known):
    near = difflib.get_close_matches(name, known, 1)
    hint = f"Did you mean `{near[0]}`?" if near else f"It takes {', '.join(dict.fromkeys(known))}."
    return TypeError(f"`{function}` got an unexpected keyword argument {name!r}. {hint}")


class ClassifierFromPreset(_Mixin):
    """Mixin with `TextClassifier.from_preset`."""

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        labels: Sequence[str] | Sequence[int] | Mapping[Any, str] | np.ndarray | None = UNSET,
        multi_label: bool = UNSET,
        threshold: float | Mapping[Any, float] | Sequence[float] | None = UNSET,
        pooling: str | Sequence[str] | keras.layers.Layer = UNSET,
        dropout: float = UNSET,
        head: Literal["linear", "mlp"] | keras.layers.Layer = UNSET,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = UNSET,
        mixup: float = UNSET,
        name: str | None = UNSET,
        keep_labels: bool = UNSET,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the model from a preset. Omitted arguments have the preset's value, or else the class's default.

        The arguments from `labels` to `name` are the constructor's.
        `keep_labels=True` keeps the trained outputs of known labels when labels are added or removed.
        The other arguments are those of `TextTask.from_preset`; `**kwargs` are arguments that your subclass adds.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `TextTask.from_preset`, and if arguments contradict the trained parts.
        """
        return cls._from_preset(preset, **given(locals()))


class RegressorFromPreset(_Mixin):
    """Mixin with `TextRegressor.from_preset`."""

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        num_outputs: int = UNSET,
        pooling: str | Sequence[str] | keras.layers.Layer = UNSET,
        dropout: float = UNSET,
        head: Literal["linear", "mlp"] | keras.layers.Layer = UNSET,
        score_activation: str | None = UNSET,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = UNSET,
        name: str | None = UNSET,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the model from a preset. Omitted arguments have the preset's value, or else the class's default.

        The arguments from `num_outputs` to `name` are the constructor's.
        The other arguments are those of `TextTask.from_preset`; `**kwargs` are arguments that your subclass adds.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `TextTask.from_preset`, and if arguments contradict the trained parts.
        """
        return cls._from_preset(preset, **given(locals()))


class EmbedderFromPreset(_Mixin):
    """Mixin with `TextEmbedder.from_preset`."""

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        pooling: str | Sequence[str] = UNSET,
        dense: Sequence[Mapping[str, Any]] = UNSET,
        normalize: bool | None = UNSET,
        modules: Sequence[Mapping[str, Any]] | None = UNSET,
        layer_start: int | None = UNSET,
        layer_weights: ArrayLike | None = UNSET,
        include_prompt: bool = UNSET,
        prompts: Mapping[str, str] | None = UNSET,
        default_prompt_name: str | None = UNSET,
        similarity_fn_name: Literal["cosine", "dot", "euclidean", "manhattan"] = UNSET,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = UNSET,
        name: str | None = UNSET,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the model from a preset. Omitted arguments have the preset's value, or else the class's default.

        The arguments from `pooling` to `name` are the constructor's.
        The other arguments are those of `TextTask.from_preset`; `**kwargs` are arguments that your subclass adds.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `TextTask.from_preset`, and if arguments contradict the trained parts.
        """
        return cls._from_preset(preset, **given(locals()))


class RerankerFromPreset(_Mixin):
    """Mixin with `Reranker.from_preset`."""

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        pooling: str | Sequence[str] | keras.layers.Layer = UNSET,
        dropout: float = UNSET,
        head: Literal["linear", "mlp"] | keras.layers.Layer = UNSET,
        score_activation: str | None = UNSET,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = UNSET,
        name: str | None = UNSET,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the model from a preset. Omitted arguments have the preset's value, or else the class's default.

        The arguments from `pooling` to `name` are the constructor's.
        The other arguments are those of `TextTask.from_preset`; `**kwargs` are arguments that your subclass adds.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `TextTask.from_preset`, and if arguments contradict the trained parts.
        """
        return cls._from_preset(preset, **given(locals()))


class SiameseFromPreset(_Mixin):
    """Mixin with `Siamese.from_preset`."""

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        decoder: str | keras.layers.Layer | None = UNSET,
        chunk_size: int | None = UNSET,
        all_layers: bool = UNSET,
        pooling: str | Sequence[str] = UNSET,
        dense: Sequence[Mapping[str, Any]] = UNSET,
        normalize: bool | None = UNSET,
        modules: Sequence[Mapping[str, Any]] | None = UNSET,
        layer_start: int | None = UNSET,
        layer_weights: ArrayLike | None = UNSET,
        include_prompt: bool = UNSET,
        prompts: Mapping[str, str] | None = UNSET,
        default_prompt_name: str | None = UNSET,
        similarity_fn_name: Literal["cosine", "dot", "euclidean", "manhattan"] = UNSET,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = UNSET,
        name: str | None = UNSET,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the model from a preset. Omitted arguments have the preset's value, or else the class's default.

        `decoder`, `chunk_size` and `all_layers` are the constructor's, `pooling` to `name` those of `TextEmbedder`.
        The other arguments are those of `TextTask.from_preset`; `**kwargs` are arguments that your subclass adds.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `TextTask.from_preset`, and if arguments contradict the trained parts.
        """
        return cls._from_preset(preset, **given(locals()))


class ContrastiveTensionFromPreset(_Mixin):
    """Mixin with `ContrastiveTension.from_preset`."""

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        pooling: str | Sequence[str] = UNSET,
        dense: Sequence[Mapping[str, Any]] = UNSET,
        normalize: bool | None = UNSET,
        modules: Sequence[Mapping[str, Any]] | None = UNSET,
        layer_start: int | None = UNSET,
        layer_weights: ArrayLike | None = UNSET,
        include_prompt: bool = UNSET,
        prompts: Mapping[str, str] | None = UNSET,
        default_prompt_name: str | None = UNSET,
        similarity_fn_name: Literal["cosine", "dot", "euclidean", "manhattan"] = UNSET,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = UNSET,
        name: str | None = UNSET,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the model from a preset. Omitted arguments have the preset's value, or else the class's default.

        The arguments from `pooling` to `name` are those of `TextEmbedder`.
        The other arguments are those of `TextTask.from_preset`; `**kwargs` are arguments that your subclass adds.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `TextTask.from_preset`, and if arguments contradict the trained parts.
        """
        return cls._from_preset(preset, **given(locals()))


class SiameseClassifierFromPreset(_Mixin):
    """Mixin with `SiameseClassifier.from_preset`."""

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        labels: Sequence[str] | Sequence[int] | Mapping[Any, str] | np.ndarray | None = UNSET,
        features: Sequence[str] = UNSET,
        hidden_dims: Sequence[int] = UNSET,
        dropout: float = UNSET,
        threshold: float | None = UNSET,
        chunk_size: int | None = UNSET,
        pooling: str | Sequence[str] = UNSET,
        dense: Sequence[Mapping[str, Any]] = UNSET,
        normalize: bool | None = UNSET,
        modules: Sequence[Mapping[str, Any]] | None = UNSET,
        layer_start: int | None = UNSET,
        layer_weights: ArrayLike | None = UNSET,
        include_prompt: bool = UNSET,
        prompts: Mapping[str, str] | None = UNSET,
        default_prompt_name: str | None = UNSET,
        similarity_fn_name: Literal["cosine", "dot", "euclidean", "manhattan"] = UNSET,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = UNSET,
        name: str | None = UNSET,
        keep_labels: bool = UNSET,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the model from a preset. Omitted arguments have the preset's value, or else the class's default.

        The arguments up to `chunk_size` are the constructor's, `pooling` to `name` those of `TextEmbedder`.
        `keep_labels=True` keeps the trained outputs of known labels when labels are added or removed.
        The other arguments are those of `TextTask.from_preset`; `**kwargs` are arguments that your subclass adds.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `TextTask.from_preset`, and if arguments contradict the trained parts.
        """
        return cls._from_preset(preset, **given(locals()))


class TaggerFromPreset(_Mixin):
    """Mixin with `TokenTagger.from_preset`."""

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        tags: Sequence[str] | Mapping[str, str] = UNSET,
        scheme: str | None = UNSET,
        head: Literal["linear", "probe", "crf"] | keras.layers.Layer = UNSET,
        word_pooling: Literal["first", "last", "mean", "max"] = UNSET,
        split: Literal["punctuation", "whitespace"] = UNSET,
        stride: int | None = UNSET,
        dropout: float = UNSET,
        temperature: float = UNSET,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = UNSET,
        name: str | None = UNSET,
        keep_labels: bool = UNSET,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the model from a preset. Omitted arguments have the preset's value, or else the class's default.

        The arguments from `tags` to `name` are the constructor's.
        `keep_labels=True` keeps the trained outputs of known tags when tags are added or removed.
        The other arguments are those of `TextTask.from_preset`; `**kwargs` are arguments that your subclass adds.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `TextTask.from_preset`, and if arguments contradict the trained parts.
        """
        return cls._from_preset(preset, **given(locals()))


class MaskedFromPreset(_Mixin):
    """Mixin with `MaskedLanguageModel.from_preset`."""

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        mask_rate: float = UNSET,
        whole_words: bool = UNSET,
        mask_share: float = UNSET,
        random_share: float = UNSET,
        head: Mapping[str, Any] | None = UNSET,
        pooling: str | Sequence[str] = UNSET,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = UNSET,
        name: str | None = UNSET,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the model from a preset. Omitted arguments have the preset's value, or else the class's default.

        The arguments from `mask_rate` to `name` are the constructor's.
        The other arguments are those of `TextTask.from_preset`; `**kwargs` are arguments that your subclass adds.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `TextTask.from_preset`, and if arguments contradict the trained parts.
        """
        return cls._from_preset(preset, **given(locals()))


class DenoisingFromPreset(_Mixin):
    """Mixin with `DenoisingAutoencoder.from_preset`."""

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        deletion_rate: float = UNSET,
        num_layers: int = UNSET,
        dropout: float = UNSET,
        pooling: str | Sequence[str] = UNSET,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = UNSET,
        name: str | None = UNSET,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the model from a preset. Omitted arguments have the preset's value, or else the class's default.

        The arguments from `deletion_rate` to `name` are the constructor's.
        The other arguments are those of `TextTask.from_preset`; `**kwargs` are arguments that your subclass adds.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `TextTask.from_preset`, and if arguments contradict the trained parts.
        """
        return cls._from_preset(preset, **given(locals()))


class SparseFromPreset(_Mixin):
    """Mixin with `SparseEmbedder.from_preset`."""

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        token_pooling: Literal["max", "sum"] = UNSET,
        pool_special_tokens: bool = UNSET,
        max_active_dims: int | None = UNSET,
        head: Mapping[str, Any] | None = UNSET,
        vocabulary_chunk: int = UNSET,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = UNSET,
        name: str | None = UNSET,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the model from a preset. Omitted arguments have the preset's value, or else the class's default.

        The arguments from `token_pooling` to `name` are the constructor's.
        The other arguments are those of `TextTask.from_preset`; `**kwargs` are arguments that your subclass adds.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `TextTask.from_preset`, and if the preset lacks the head of a masked language model.
        """
        return cls._from_preset(preset, **given(locals()))


class LateInteractionFromPreset(_Mixin):
    """Mixin with `LateInteractionEmbedder.from_preset`."""

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        dim: int = UNSET,
        query_length: int = UNSET,
        augment_queries: bool = UNSET,
        query_marker: str | None = UNSET,
        document_marker: str | None = UNSET,
        skip_tokens: Literal["punctuation"] | Sequence[str] = UNSET,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = UNSET,
        name: str | None = UNSET,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the model from a preset. Omitted arguments have the preset's value, or else the class's default.

        The arguments from `dim` to `name` are the constructor's.
        The other arguments are those of `TextTask.from_preset`; `**kwargs` are arguments that your subclass adds.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `TextTask.from_preset`, and if arguments contradict the trained parts.
        """
        return cls._from_preset(preset, **given(locals()))
