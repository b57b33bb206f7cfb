"""The evaluations of `evaluation` as callbacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours, _texts, data, evaluation
from tfxfer.callbacks._base import Evaluate
from tfxfer.evaluation import _measures, _pairs, _reranking, _retrieval, _tagging, _triplets

# Options that can be checked without the texts.
_CHECKS = {
    "batch_size": _check.integer,
    "k": _check.integer,
    "threshold": lambda name, value: None if value is None else _check.number(name, value),
}

# The entity scores to write.
_ENTITY_KEYS = ("f1", "precision", "recall")


class _EvaluateTexts(Evaluate):
    """Base of callbacks that call a function of `evaluation`."""

    _compares = True

    # Whether the function takes cross-encoders as well as embedders.
    _takes_cross_encoders = False
    # Whether it takes embedders that compare texts with their own `similarity`.
    _takes_other_kinds = False

    def __init__(self, keys: Any, function: Callable, *arguments: Any, options: Any, **kwargs: Any) -> None:
        """Takes the names of the values, a function of a model and these arguments, and the options to check."""
        options = {name: _CHECKS[name](name, value) if name in _CHECKS else value for name, value in options.items()}
        super().__init__(lambda model: function(model, *arguments, progress=False, **options), **kwargs)
        self._keys = keys

    def check(self, model: Any) -> None:
        is_other = _texts.comparing(model) is not None
        if self._takes_other_kinds if is_other else _texts.embedder_of(model) is not None:
            return
        if not (self._takes_cross_encoders and hasattr(model, "score_pairs") and model.text_form == "joint"):
            kinds = "a `models.Siamese` or `models.TextEmbedder`"
            kinds += ", or a cross-encoder" if self._takes_cross_encoders else ""
            remedy = "If the embedder is part of the trained model, pass `model=embedder`."
            raise _check.invalid("model", f"{kinds} for {type(self).__name__}", model, remedy)


class EvaluateSimilarity(_EvaluateTexts):
    """Writes `val_spearman` and `val_pearson` of graded pairs: `evaluation.similarity` at the end of each epoch.

    Put it before the callbacks that monitor its values; see `Evaluate`.

    Args:
        texts: the result of `data.pairs`, or a tuple of two lists of strings.
        scores: float array, with a tuple of lists. Larger for pairs that are more similar.
        similarity: as in `evaluation.similarity`. Several also write `val_spearman_<similarity>` and so on.
        batch_size: int. Texts per batch.
        **kwargs: `every`, `name`, `model`, `at_start`, `keep_best`; see `Evaluate`.

    Raises:
        ValueError: as `evaluation.similarity`, on construction; as `Evaluate`, when `fit` starts.

    Example:

    ```python
    model.fit(
        tx.data.batches(train, embedder.preprocessor, columns="separate"),
        epochs=10,
        callbacks=[
            tx.callbacks.EvaluateSimilarity(dev),
            keras.callbacks.EarlyStopping("val_spearman", mode="max", patience=2, restore_best_weights=True),
        ],
    )
    ```
    """

    _takes_cross_encoders = True

    def __init__(
        self,
        texts: Any,
        scores: ArrayLike | None = None,
        *,
        similarity: str | Sequence[str] = "cosine",
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        measures = _measures.names(similarity)
        columns, scores = _pairs.graded_pairs(texts, scores)
        keys = _measures.keys(_pairs.SIMILARITY_KEYS, measures)
        options = {"similarity": measures, "batch_size": batch_size}
        super().__init__(keys, evaluation.similarity, columns, scores, options=options, **kwargs)


class EvaluatePairClassification(_EvaluateTexts):
    """Writes `val_average_precision`, `val_f1`, `val_accuracy`, `val_mcc`... of pairs that match or not.

    The scores of `evaluation.pair_classification` at the end of each epoch. Put it before the callbacks that monitor
    its values; see `Evaluate`.

    Args:
        texts: the result of `data.pairs` with a target of 0 and 1, or a tuple of two lists of strings.
        labels: array of 0 and 1, with a tuple of lists.
        similarity: as in `evaluation.pair_classification`.
        threshold: float, or `None` for the best threshold of each evaluation.
        batch_size: int. Texts per batch.
        **kwargs: `every`, `name`, `model`, `at_start`, `keep_best`; see `Evaluate`.

    Raises:
        ValueError: as `evaluation.pair_classification`, on construction; as `Evaluate`, when `fit` starts.

    Example:

    ```python
    callbacks = [
        tx.callbacks.EvaluatePairClassification(tx.data.pairs(rows, ("question1", "question2"), target="same")),
        keras.callbacks.ModelCheckpoint("best.keras", monitor="val_average_precision", mode="max", save_best_only=True),
    ]
    ```
    """

    _takes_cross_encoders = True

    def __init__(
        self,
        texts: Any,
        labels: ArrayLike | None = None,
        *,
        similarity: str | Sequence[str] = "cosine",
        threshold: float | None = None,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        measures = _measures.names(similarity)
        columns, labels = _pairs.labelled_pairs(texts, labels)
        keys = _measures.keys(_pairs.PAIR_KEYS, measures)
        options = {"similarity": measures, "threshold": threshold, "batch_size": batch_size}
        super().__init__(keys, evaluation.pair_classification, columns, labels, options=options, **kwargs)


class EvaluateTriplets(_EvaluateTexts):
    """Writes `val_triplet_accuracy` and `val_triplet_margin`: `evaluation.triplets` at the end of each epoch.

    Put it before the callbacks that monitor its values; see `Evaluate`.

    Args:
        texts: the result of `data.triplets`, or a tuple of three or more lists of strings.
        similarity: as in `evaluation.triplets`.
        batch_size: int. Texts per batch.
        **kwargs: `every`, `name`, `model`, `at_start`, `keep_best`; see `Evaluate`.

    Raises:
        ValueError: as `evaluation.triplets`, on construction; as `Evaluate`, when `fit` starts.

    Example:

    ```python
    callbacks = [
        tx.callbacks.EvaluateTriplets(dev),
        keras.callbacks.EarlyStopping("val_triplet_accuracy", mode="max"),
    ]
    ```
    """

    def __init__(
        self, texts: Any, *, similarity: str | Sequence[str] = "cosine", batch_size: int = 32, **kwargs: Any
    ) -> None:
        measures = _measures.names(similarity)
        columns = _triplets.triplet_columns(texts)
        keys = _measures.keys(_triplets.TRIPLET_KEYS, measures)
        options = {"similarity": measures, "batch_size": batch_size}
        super().__init__(keys, evaluation.triplets, columns, options=options, **kwargs)


class EvaluateRetrieval(_EvaluateTexts):
    """Writes `val_ndcg@10`, `val_recall@10`, `val_mrr@10`... of a search: `evaluation.retrieval` after each epoch.

    Put it before the callbacks that monitor its values; see `Evaluate`. Each evaluation encodes the whole corpus: use a
    sample of a large one.

    Args:
        queries: as in `evaluation.retrieval`: list or dict of strings, or the result of `data.pairs` without a target.
        corpus: list or dict of strings.
        relevant: the relevant documents of each query.
        ks: ints. The ranks at which to cut off the scores.
        similarity: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"`.
        query_prompt: string to prepend to each query; by default the embedder's.
        document_prompt: string to prepend to each document; by default the embedder's.
        batch_size: int. Texts per batch.
        **kwargs: `every`, `name`, `model`, `at_start`, `keep_best`; see `Evaluate`.

    Raises:
        ValueError: as `evaluation.retrieval`, on construction; as `Evaluate`, when `fit` starts.

    Example:

    ```python
    callbacks = [
        tx.callbacks.EvaluateRetrieval(tx.data.pairs(dev, ("question", "answer"))),
        keras.callbacks.EarlyStopping("val_ndcg@10", mode="max", patience=2),
    ]
    ```
    """

    _takes_other_kinds = True

    def __init__(
        self,
        queries: Any,
        corpus: Any = None,
        relevant: Any = None,
        *,
        ks: Sequence[int] = _retrieval.KS,
        similarity: str = "cosine",
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        queries, corpus, relevant = _retrieval.search_task(queries, corpus, relevant)
        options = {
            "ks": _retrieval.check_ks(ks),
            "similarity": _check.one_of("similarity", similarity, _neighbours.SIMILARITIES),
            "query_prompt": query_prompt,
            "document_prompt": document_prompt,
            "batch_size": batch_size,
        }
        keys = [f"{key}@{k}" for k in options["ks"] for key in _retrieval.RETRIEVAL_KEYS]
        super().__init__(keys, evaluation.retrieval, queries, corpus, relevant, options=options, **kwargs)


class EvaluateReranking(_EvaluateTexts):
    """Writes `val_map`, `val_mrr@10` and `val_ndcg@10` of candidates: `evaluation.reranking` after each epoch.

    Put it before the callbacks that monitor its values; see `Evaluate`.

    Args:
        rows: as in `evaluation.reranking`: rows of a query, positives and negatives, or the result of
            `data.triplets` or `data.rankings`.
        columns: the names of the three columns.
        k: int. The rank at which to cut off `mrr` and `ndcg`.
        similarity: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"`, for an embedder.
        query_prompt: string to prepend to each query; by default the embedder's.
        document_prompt: string to prepend to each candidate; by default the embedder's.
        batch_size: int. Texts per batch.
        **kwargs: `every`, `name`, `model`, `at_start`, `keep_best`; see `Evaluate`.

    Raises:
        ValueError: as `evaluation.reranking`, on construction; as `Evaluate`, when `fit` starts.

    Example:

    ```python
    callbacks = [tx.callbacks.EvaluateReranking(rows), keras.callbacks.EarlyStopping("val_map", mode="max")]
    ```
    """

    _takes_cross_encoders = True

    def __init__(
        self,
        rows: Any,
        *,
        columns: Sequence[str] = ("query", "positives", "negatives"),
        k: int = 10,
        similarity: str = "cosine",
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        queries, candidates, relevant = _reranking.ranking_task(rows, columns)
        if not _reranking.are_lists(rows):
            rows = [
                {"query": query, "positives": texts[: int(each.sum())], "negatives": texts[int(each.sum()) :]}
                for query, texts, each in zip(queries, candidates, relevant, strict=True)
            ]
        options = {
            "k": k,
            "similarity": _check.one_of("similarity", similarity, _neighbours.SIMILARITIES),
            "query_prompt": query_prompt,
            "document_prompt": document_prompt,
            "batch_size": batch_size,
        }
        super().__init__(["map", f"mrr@{k}", f"ndcg@{k}"], evaluation.reranking, rows, options=options, **kwargs)


class EvaluateClassification(Evaluate):
    """Writes `val_accuracy`, `val_macro_f1` and, with several labels per text, `val_micro_f1` of a classifier.

    The scores of `evaluation.classification` at the end of each epoch. Put it before the callbacks that monitor its
    values; see `Evaluate`.

    Args:
        texts: the result of `data.labelled`, or a list (or a tuple of columns) of strings.
        y: the labels of a list of strings: names or indices.
        batch_size: int. Texts per batch.
        threshold: as in `model.classify`; defaults to the model's own.
        **kwargs: `every`, `name`, `model`, `at_start`, `keep_best`; see `Evaluate`.

    Raises:
        ValueError: on construction, if `texts` is empty or the labels differ in number; when `fit` starts, if the
            model does not know a label, and as `Evaluate`.

    Example:

    ```python
    callbacks = [
        tx.callbacks.EvaluateClassification(dev["text"], dev["label"]),
        keras.callbacks.EarlyStopping("val_macro_f1", mode="max", patience=3, restore_best_weights=True),
    ]
    ```
    """

    def __init__(
        self, texts: Any, y: Any = None, *, batch_size: int = 32, threshold: Any = None, **kwargs: Any
    ) -> None:
        if y is not None:
            columns = data.TextColumn(None).read(texts, "texts")
            count = len(columns[0] if isinstance(columns, tuple) else columns)
            if not hasattr(y, "__len__") or len(y) != count:
                raise _check.invalid("y", f"{count} labels, one for each text", y)
        elif not _texts.is_dataset(texts):
            raise _check.invalid("y", "a label for each text", y)
        options = {
            "batch_size": _check.integer("batch_size", batch_size),
            "threshold": _checked_threshold(threshold),
        }
        super().__init__(lambda model: evaluation.classification(model, texts, y, **options), **kwargs)
        self._given = texts, y
        self._keys = ["accuracy", "macro_f1"]

    def check(self, model: Any) -> None:
        """Raises if `model` is not a classifier or does not know the labels."""
        if not hasattr(model, "classify"):
            raise _check.invalid("model", "a model with labels for EvaluateClassification, e.g. a classifier", model)
        data.Gate(model, ("texts", "y", "sample_weight")).in_memory(*self._given)
        self._keys = ["accuracy", "macro_f1", *(["micro_f1"] if model.multi_label else [])]


def _checked_threshold(threshold):
    """Checks a single number now; one for each label is checked once the model is known."""
    is_number = threshold is not None and not isinstance(threshold, (Mapping, list, tuple, np.ndarray))
    return _check.number("threshold", threshold, minimum=0.0, maximum=1.0) if is_number else threshold


class EvaluateEntities(Evaluate):
    """Writes `val_entity_f1`, `val_entity_precision` and `val_entity_recall` of a tagger, over all entities.

    These are `micro_f1`, `micro_precision` and `micro_recall` of `evaluation.entities` at the end of each epoch. Put
    it before the callbacks that monitor its values; see `Evaluate`.

    Args:
        x: the result of `data.tagged`, or a list of lists of words.
        y: the tags of a list of lists of words: a list of tags for each row.
        batch_size: int. Windows of words per batch.
        **kwargs: `every`, `name`, `model`, `at_start`, `keep_best`; see `Evaluate`.

    Raises:
        ValueError: on construction, if `x` is empty or a row's tags and words differ in number; when `fit` starts,
            if the model does not know a tag or has no scheme, and as `Evaluate`.

    Example:

    ```python
    callbacks = [
        tx.callbacks.EvaluateEntities(dev),
        keras.callbacks.EarlyStopping("val_entity_f1", mode="max", patience=3, restore_best_weights=True),
    ]
    ```
    """

    def __init__(self, x: Any, y: Any = None, *, batch_size: int = 32, **kwargs: Any) -> None:
        if y is not None:
            _check_tags(data.WordsColumn(None).read(x, "x"), y)
        elif not _texts.is_dataset(x):
            raise _check.invalid("y", "a list of tags for each row of words", y)
        batch_size = _check.integer("batch_size", batch_size)

        def score(model):
            found = evaluation.entities(model, x, y, batch_size=batch_size)
            return {f"entity_{name}": found[f"micro_{name}"] for name in _ENTITY_KEYS}

        super().__init__(score, **kwargs)
        self._given = x, y
        self._keys = [f"entity_{name}" for name in _ENTITY_KEYS]

    def check(self, model: Any) -> None:
        """Raises if `model` is not an entity tagger or does not know the tags."""
        _tagging.check(model)
        _tagging.read(model, *self._given)


def _check_tags(words, y):
    """Raises if the tags of a row differ in number from its words."""
    counts = words.row_lengths().numpy().tolist()
    if not counts or not hasattr(y, "__len__") or len(y) != len(counts):
        raise _check.invalid("y", f"{len(counts)} lists of tags, one for each row of words, at least one", y)
    for row, (count, tags) in enumerate(zip(counts, y, strict=True)):
        if isinstance(tags, str) or not hasattr(tags, "__len__") or len(tags) != count:
            expected = f"{count} tags in row {row} (counting from 0), one for each word"
            raise _check.invalid("y", expected, tags)
