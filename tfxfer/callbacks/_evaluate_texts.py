"""Evaluations as callbacks: translations, paraphrases, a teacher's vectors, several retrieval tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfxfer import _check, _neighbours, _texts, evaluation
from tfxfer.callbacks._evaluate import _EvaluateTexts
from tfxfer.evaluation import _alike, _beir, _retrieval, _runs


class EvaluateTranslation(_EvaluateTexts):
    """Writes `val_accuracy`, `val_source_to_target`, `val_target_to_source` of translations after each epoch.

    The scores of `evaluation.translation`. Put it before the callbacks that monitor its values; see `Evaluate`.

    Args:
        texts: the result of `data.pairs` without a target, or a tuple of two lists of strings, sources and
            translations.
        match: `"text"` or `"position"`; see `evaluation.translation`.
        similarity: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"`.
        batch_size: int. Texts per batch.
        **kwargs: `every`, `name`, `model`, `at_start`, `keep_best`; see `Evaluate`.

    Raises:
        ValueError: as `evaluation.translation`, on construction; as `Evaluate`, when `fit` starts.

    Example:

    ```python
    callbacks = [tx.callbacks.EvaluateTranslation((english, german), name="en_de")]  # val_en_de_accuracy
    ```
    """

    def __init__(
        self, texts: Any, *, match: str = "text", similarity: str = "cosine", batch_size: int = 32, **kwargs: Any
    ) -> None:
        columns = _alike.translation_columns(texts)
        options = {
            "match": _check.one_of("match", match, _alike.MATCHES),
            "similarity": _check.one_of("similarity", similarity, _neighbours.SIMILARITIES),
            "batch_size": batch_size,
        }
        super().__init__(_alike.TRANSLATION_KEYS, evaluation.translation, columns, options=options, **kwargs)


class EvaluateParaphraseMining(_EvaluateTexts):
    """Writes `val_average_precision`, `val_f1`... of paraphrase mining over all pairs, after each epoch.

    The scores of `evaluation.paraphrase_mining`. Put it before the callbacks that monitor its values; see `Evaluate`.

    Args:
        texts: list of strings, or a dict of id to string.
        pairs: the pairs of texts with the same meaning; see `evaluation.paraphrase_mining`.
        transitive: bool; see `evaluation.paraphrase_mining`.
        k: int. The largest number of neighbors of each text to consider.
        max_pairs: int. The largest number of pairs to find.
        similarity: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"`.
        batch_size: int. Texts per batch.
        **kwargs: `every`, `name`, `model`, `at_start`, `keep_best`; see `Evaluate`.

    Raises:
        ValueError: as `evaluation.paraphrase_mining`, on construction; as `Evaluate`, when `fit` starts.

    Example:

    ```python
    callbacks = [tx.callbacks.EvaluateParaphraseMining(questions, duplicates)]
    ```
    """

    def __init__(
        self,
        texts: Any,
        pairs: Any,
        *,
        transitive: bool = False,
        k: int = 100,
        max_pairs: int = 500_000,
        similarity: str = "cosine",
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        texts, pairs = _alike.mining_task(texts, pairs)
        _alike.labelled(pairs, len(texts), transitive)  # raises if the pairs are impossible
        options = {
            "transitive": transitive,
            "k": k,
            "max_pairs": _check.integer("max_pairs", max_pairs),
            "similarity": _check.one_of("similarity", similarity, _neighbours.SIMILARITIES),
            "batch_size": batch_size,
        }
        super().__init__(_alike.MINING_KEYS, evaluation.paraphrase_mining, texts, pairs, options=options, **kwargs)


class EvaluateEmbeddingMSE(_EvaluateTexts):
    """Writes `val_negative_mse`, `val_mse` and `val_cosine` between a student's and a teacher's vectors.

    The scores of `evaluation.embedding_mse` after each epoch. Put it before the callbacks that monitor its values; see
    `Evaluate`. The teacher encodes its texts once, on construction.

    Args:
        teacher: an embedder, or its vectors of the texts, a float array `(texts, dim)`.
        texts: list of strings; or a tuple of two lists, the teacher's texts and the student's; or the result
            of `data.pairs` without a target.
        batch_size: int. Texts per batch.
        **kwargs: `every`, `name`, `model`, `at_start`, `keep_best`; see `Evaluate`.

    Raises:
        ValueError: as `evaluation.embedding_mse`, on construction; as `Evaluate`, when `fit` starts.

    Example:

    ```python
    callbacks = [tx.callbacks.EvaluateEmbeddingMSE(teacher, (english, german))]
    ```
    """

    def __init__(self, teacher: Any, texts: Any, *, batch_size: int = 32, **kwargs: Any) -> None:
        own, students = _alike.mse_columns(texts)
        if _texts.embedder_of(teacher) is not None:
            teacher = _texts.encode(teacher, own, batch_size=batch_size, progress=False)
        vectors = _neighbours.matrix("teacher", teacher)
        if len(vectors) != len(students):
            raise _check.invalid("teacher", f"{len(students)} vectors, one for each text", np.shape(vectors))
        options = {"batch_size": batch_size}
        super().__init__(_alike.MSE_KEYS, _mse, vectors, students, options=options, **kwargs)


def _mse(model, vectors, texts, *, batch_size, progress):
    return evaluation.embedding_mse(model, vectors, texts, batch_size=batch_size, progress=progress)


class EvaluateNanoBEIR(_EvaluateTexts):
    """Writes `val_ndcg@10` and the other means over several retrieval tasks: `evaluation.nano_beir` after each epoch.

    Put it before the callbacks that monitor its values; see `Evaluate`. The folders are read once, on
    construction.

    Args:
        folders: as in `evaluation.nano_beir`.
        split: string. The split of the judgments to use.
        ks: ints. The ranks at which to cut off the scores.
        rules: `"sentence_transformers"` (default), `"trec_eval"` or `"ranx"`.
        query_prompts: dict of a data set's name to the string to prepend to its queries.
        document_prompts: the same for documents.
        batch_size: int. Texts per batch.
        **kwargs: `every`, `name`, `model`, `at_start`, `keep_best`; see `Evaluate`. The best weights are
            those of the largest nDCG, at 10 if that is among `ks`, otherwise at the last of them.

    Raises:
        ValueError: as `evaluation.nano_beir`, on construction; as `Evaluate`, when `fit` starts.

    Example:

    ```python
    callbacks = [
        tx.callbacks.EvaluateNanoBEIR("nanobeir", split="train", name="nano"),
        keras.callbacks.EarlyStopping("val_nano_ndcg@10", mode="max", patience=2),
    ]
    ```
    """

    def __init__(
        self,
        folders: Any,
        *,
        split: str = "test",
        ks: Sequence[int] = _beir.NANO_KS,
        rules: str = "sentence_transformers",
        query_prompts: Mapping[str, str] | None = None,
        document_prompts: Mapping[str, str] | None = None,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        tasks = {name: _beir.read_task(path, split) for name, path in _beir.named_folders(folders).items()}
        ks, prompts = _retrieval.check_ks(ks), {"query_prompts": query_prompts, "document_prompts": document_prompts}
        options = {"ks": ks, "rules": _check.one_of("rules", rules, _runs.RULES), "batch_size": batch_size, **prompts}
        for name, given in prompts.items():
            _beir.check_prompts(name, given, tasks)
        first = f"ndcg@{10 if 10 in ks else ks[-1]}"
        keys = [f"{key}@{k}" for k in ks for key in _retrieval.RETRIEVAL_KEYS]
        keys = [first, *(key for key in [*keys, *_runs.WHOLE_KEYS] if key != first)]

        def score(model, tasks, **given):
            found = evaluation.nano_beir(model, tasks, **given)
            return {key: found[key] for key in keys}

        super().__init__(keys, score, tasks, options=options, **kwargs)
