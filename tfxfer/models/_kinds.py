"""Embedders of other kinds than one dense vector a text: what they share."""

import collections.abc
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from tfxfer import _check, _texts, layers
from tfxfer.models import _restoring, _rows

# Batches from which on encoding shows its progress.
_LONG = 64

_Mixin: Any = object  # what is mixed in here has the methods of a Keras model


class OtherKind(_Mixin):
    """An embedder whose `encode_query`, `encode_document` and `similarity` belong together; a mixin.

    Searches and evaluations that know dense vectors only ask `compares_itself`, and leave the comparison to it.
    """

    compares_itself = True
    # Whether `export.saved_model` with the weights as they are is the only export: the model reads ids or the whole
    # table besides its encoder, which small weights renumber, and answers with rows of any width.
    is_for_saved_models_alone = True

    @classmethod
    def _from_pretrained(cls, pretrained, arguments, backbone_only):
        """Takes over the embedder in a `Siamese`, besides what any task takes over."""
        towers = pretrained.task
        saved = None if backbone_only else getattr(towers, "embedder", None)
        if not isinstance(saved, cls):
            return super()._from_pretrained(pretrained, arguments, backbone_only)
        is_whole = len(towers.weights) == len(saved.weights) or not towers.decoder_changes_embeddings()
        notice = None if is_whole else _restoring.notice(cls, pretrained.trained_task)
        return saved._with(arguments), notice

    def make_towers(self, chunk_size: int | None) -> Any:
        """Returns the layer from the columns of rows to their embeddings that a `Siamese` trains.

        Args:
            chunk_size: as `Siamese` has it.
        """
        return layers.SiameseTowers(self, chunk_size, name="towers")

    def rank(
        self, query: str, documents: Sequence[str], k: int | None = None, *, batch_size: int = 32
    ) -> list[_rows.Ranked]:
        """Orders documents by their `similarity` to a query, as the export's `rank` does.

        Args:
            query: string.
            documents: list of strings.
            k: int. The most documents to return. Defaults to all.
            batch_size: int. Texts computed at a time.

        Returns:
            A list of `Ranked(index, score, text)`, the best first: the document's place in `documents`, its score, and
            itself. Of equal scores the earlier document comes first.
        """
        return _rows.ranked(self._document_scores, query, documents, k, batch_size)

    def _document_scores(self, query, documents, batch_size):
        queries = self.encode_query([query], batch_size, progress=False)
        return self.similarity(queries, self.encode_document(documents, batch_size, progress=False))[0]

    def explain(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: there are attributions for dense embedders, classifiers and regressors."""
        raise NotImplementedError(f"A `{type(self).__name__}` has no `explain`. {self._instead_of_explain}")

    _instead_of_explain = ""

    def _read(self, texts):
        """Texts as a tensor."""
        return self.input_columns()["text"].read(texts, "texts")

    def _over_texts(self, texts: Any, batch_size: int, progress: bool | None, encode: Callable) -> Any:
        """Returns `encode(tensor of texts, progress)` for a string or a sequence; for an iterator a generator of it."""
        _check.integer("batch_size", batch_size)
        expected = "a string, a sequence of strings, or an iterator of strings"
        if isinstance(texts, (str, bytes)):
            return encode(self._read([texts]), False)
        if isinstance(texts, (set, frozenset, collections.abc.Mapping)) or not (
            hasattr(texts, "__len__") or isinstance(texts, collections.abc.Iterable)
        ):
            raise _check.invalid("texts", expected, texts)
        if isinstance(texts, tuple):  # of texts: columns of texts are no text
            strange = [i for i, text in enumerate(texts) if not isinstance(text, (str, bytes))]
            if strange:
                where = f"It is in row {strange[0]} (counting from 0)."
                raise _check.invalid("texts", expected, texts[strange[0]], where)
            texts = list(texts)
        if hasattr(texts, "__len__"):
            if progress is None:
                progress = len(texts) > _LONG * batch_size and _texts.is_watched()
            return encode(self._read(texts), progress)
        return _streamed(texts, batch_size, lambda part: encode(self._read(part), False))

    def _run_texts(self, texts, part, batch_size, progress, finish):
        return self._runner(texts, part)(texts, batch_size, progress=bool(progress), finish=finish)


def _streamed(texts, batch_size, encode):
    texts = iter(texts)
    while part := list(itertools.islice(texts, batch_size * _rows.STREAM_BATCHES)):
        yield encode(part)


def knows_tokens(preprocessor: Any) -> bool:
    """Whether there is a vocabulary: while a model is read from its file, the tokenizer is still without."""
    return preprocessor is not None and preprocessor.tokenizer.has_vocabulary


def token_id(argument: str, preprocessor: Any, token: str | None) -> int | None:
    """Returns the id of a token that an argument names; raises where the vocabulary has no such token."""
    if token is None:
        return None
    _check.instance(argument, token, str, "a token of the vocabulary, or None")
    if preprocessor is None:
        raise _check.invalid(argument, "None for a model without a preprocessor", token)
    vocabulary = preprocessor.tokenizer.vocabulary
    if token not in vocabulary:
        remedy = "Add it by `model.with_added_tokens([...], special=True)`, or choose an unused token."
        raise _check.invalid(argument, "a token of the vocabulary", token, remedy)
    return vocabulary.index(token)
