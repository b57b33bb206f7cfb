"""Texts for evaluation and search: columns from data sets, vectors and pair scores from models."""

import collections.abc
import sys

import keras
import numpy as np

from tfxfer import _check, data

# The usual names of a model's prompts for the two sides of a search.
QUERY_PROMPTS = ("query",)
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
# The number of rows from which a loop over blocks shows its progress.
_LONG = 100_000


def strings(argument, texts):
    """Returns texts as a list of `str`; raises for a single string, no texts, or a value that is not a text."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, collections.abc.Iterable):
        raise _check.invalid(argument, "a list of strings", texts)
    found = _check.strings(argument, list(texts))
    found = [text.decode() if isinstance(text, bytes) else text for text in found]
    if not found:
        raise _check.invalid(argument, "at least one text", found)
    return found


def is_dataset(value):
    """Whether `value` is a `tf.data.Dataset`."""
    return hasattr(value, "as_numpy_iterator")


def columns(dataset, argument="texts"):
    """Returns the texts (a list, or a tuple of lists) and the targets (an array) of a dataset of unbatched rows."""
    if isinstance(dataset, data.Examples):
        found = [strings(argument, column.numpy().tolist()) for column in dataset.columns]
        return (tuple(found) if len(found) > 1 else found[0]), np.asarray(dataset.y)
    if not is_dataset(dataset):
        raise _check.invalid(
            argument, "a dataset made by a function of `data`", dataset, "Or pass texts and their targets."
        )
    rows = list(dataset.as_numpy_iterator())
    if not rows or not isinstance(rows[0], tuple) or len(rows[0]) < 2:
        raise _check.invalid(argument, "a dataset of rows (x, y), at least one", dataset)
    x, y = [row[0] for row in rows], np.array([row[1] for row in rows])
    if not isinstance(x[0], tuple):
        return strings(argument, x), y
    return tuple(strings(argument, column) for column in zip(*x, strict=True)), y


def columns_of(x):
    """Returns the text columns in inputs read by a task's columns: a dict of name or number to strings.

    Args:
        x: string tensor `(rows,)`, a tuple of them, or a dict of inputs of any kind by name.
    """
    if isinstance(x, dict):
        found = {}
        for name, column in x.items():
            if isinstance(column, tuple):
                found |= {f"{name} {i}": part for i, part in columns_of(column).items()}
            elif "string" in str(getattr(column, "dtype", "")) and len(column.shape) == 1:
                found[name] = columns_of(column)[0]
        return found
    each = x if isinstance(x, tuple) else (x,)
    return {i: [text.decode(errors="replace") for text in np.asarray(column).tolist()] for i, column in enumerate(each)}


def text_columns(argument, texts, count, made_by):
    """Returns `count` or more columns of texts as lists of equal length, and the targets of `texts`, or `None`."""
    y = None
    if is_dataset(texts):
        texts, y = columns(texts, argument)
    if not isinstance(texts, tuple) or len(texts) < count:
        raise _check.invalid(argument, f"`{made_by}`, or a tuple of {count} lists of strings", texts)
    found = tuple(strings(argument, column) for column in texts)
    if len({len(column) for column in found}) > 1:
        raise _check.invalid(argument, "columns of equal length", [len(column) for column in found])
    return found, y


def prompt_for(embedder, prompt, names):
    """Returns `prompt`, or the embedder's own under the first of `names` that it has, or `None`."""
    if prompt is not None:
        return prompt
    prompts = getattr(embedder, "prompts", None) or {}
    return next((prompts[name] for name in names if name in prompts), None)


def embedder_of(model):
    """Returns the encoder: the model itself, or the embedder in a `models.Siamese`; `None` if there is none."""
    if hasattr(model, "encode") and not isinstance(model, str):  # a string has a method `encode` too
        return model
    inner = getattr(model, "embedder", None)
    return inner if hasattr(inner, "encode") else None


def comparing(model):
    """Returns the embedder in a model that compares texts with its own `similarity`; `None` for a dense embedder."""
    for found in (model, getattr(model, "embedder", None)):
        if getattr(found, "compares_itself", False):
            return found
    return None


def encode(model, texts, *, batch_size=32, prompt=None, progress=None):
    """Returns the vectors of texts, float `(texts, dim)`; equal texts are encoded once.

    Raises:
        ValueError: if the model has no `encode`, or its vectors are not finite.
    """
    embedder = embedder_of(model)
    if embedder is None:
        raise _check.invalid("embedder", "a `models.TextEmbedder`, or anything with `encode(texts)`", model)
    if getattr(embedder, "compares_itself", False):
        remedy = "For its texts, use `search.SparseIndex` and `evaluation.retrieval`."
        raise _check.invalid("embedder", "a model of dense vectors", type(embedder).__name__, remedy)
    unique = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    arguments = {} if prompt is None else {"prompt": prompt}
    vectors = embedder.encode(list(unique), batch_size=batch_size, progress=progress, **arguments)
    vectors = np.asarray(vectors)
    if vectors.dtype not in (np.float32, np.float64):
        vectors = vectors.astype("float32")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        text = list(unique)[row]
        raise _check.invalid("embedder", f"a model whose vectors are finite; the vector of {text!r} is not", model)
    return vectors if len(unique) == len(texts) else vectors[[unique[text] for text in texts]]


def pair_scores(scorer, first, second, *, batch_size=32, progress=None):
    """Returns a cross-encoder's scores of the texts of one list with the same rows of another, float `(rows,)`.

    Args:
        scorer: a `models.TextRegressor` with one output, a `models.TextClassifier` with two labels (the score is the
            second label's probability) or any function of two lists of strings that returns a number for each row.
        first: list of strings.
        second: list of strings.
        batch_size: int. Pairs computed at a time by a model.
        progress: bool. Whether a model shows a progress bar.

    Raises:
        ValueError: if the scorer is of another kind, or returns another number of scores.
    """
    verbose = int(len(first) > 64 * batch_size and is_watched() if progress is None else progress)
    if hasattr(scorer, "score_pairs"):
        scores = scorer.score_pairs(first, second, batch_size, verbose=verbose)
    elif hasattr(scorer, "predict"):
        scores = scorer.predict((first, second), batch_size=batch_size, verbose=verbose)
    elif callable(scorer):
        scores = scorer(first, second)
    else:
        raise _check.invalid("scorer", "a model of text pairs, or a function of two lists of strings", scorer)
    scores = np.asarray(scores, "float64")
    scores = scores[:, 0] if scores.ndim == 2 and scores.shape[1] == 1 else scores
    if scores.shape != (len(first),) or not np.isfinite(scores).all():
        raise _check.invalid("scorer", f"one finite number for each of {len(first)} pairs", scores)
    return scores


def is_watched():
    """Whether standard output is a terminal or a notebook, not a file."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules


def reporter(total, progress, unit):
    """Returns a function that advances a progress bar by a number of rows, or `None` if no bar is shown."""
    if progress or (progress is None and total > _LONG and is_watched()):
        return keras.utils.Progbar(total, unit_name=unit).add
    return None
