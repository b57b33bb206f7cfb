"""A model's answers to the texts from the page, as JSON values."""

import pathlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (an export's tokenizer needs its ops)

from tfxfer import _check, export, models, search

# Number of labels, and of rows of an index, to show.
LABELS, HITS = 10, 10
_SAVED = "tfxfer.json"


class Asked(NamedTuple):
    """A model as the server uses it.

    Args:
        form: dict of `title`, `about` and `texts`, see `_page.page`.
        answer: function from a list of texts to a dict of some of `labels`, `numbers`, `entities`, `why`, `hits`,
            `note`.
    """

    form: dict
    answer: Callable[[list[str]], dict]


def load(name: str, *, task: str | None = None, pairs: bool = False, index: str | None = None) -> Asked:
    """Loads a model or an export.

    Args:
        name: a `.keras` file, a directory written by `save_to_preset`, an export's directory, or a preset's name.
        task: the name of a class of `models`, for presets that do not store theirs.
        pairs: whether a classifier or regressor reads two texts.
        index: a directory written by `SemanticIndex.save`, or a text file with one text per line.
    """
    path = pathlib.Path(name)
    if task is not None:
        kinds = [each for each in models.__all__ if hasattr(getattr(models, each), "from_preset")]
        model = getattr(models, _check.one_of("task", task, kinds)).from_preset(name)
        return of_model(model, path.name, pairs=pairs, index=index)
    if path.is_dir() and not (path / _SAVED).is_file():
        if index is not None:
            remedy = "An export contains its index: `export.saved_model(..., index=...)`."
            raise _check.invalid("index", "None for an export", index, remedy)
        return of_export(path)
    if path.suffix == ".keras":
        model = keras.saving.load_model(path, compile=False)
    elif path.is_dir():
        model = models.TextTask.from_preset(path)
    else:
        remedy = "For a preset's name, give the class with `--task TextEmbedder` or the like."
        raise _check.invalid("model", "a file or folder that exists", name, remedy)
    return of_model(model, path.name, pairs=pairs, index=index)


def of_model(model: Any, title: str, *, pairs: bool = False, index: Any = None) -> Asked:
    """Returns the `Asked` of a model in memory."""
    model = model.served_model()
    has_two = pairs or model.reads_pairs()
    about = f"{type(model).__name__}, {model.count_params():,} parameters"
    if hasattr(model, "classify") or hasattr(model, "scores"):
        if index is not None:
            raise _check.invalid("index", f"None for a {type(model).__name__}, which returns no vectors", index)
        texts = ["First text", "Second text"] if has_two else ["Text"]
        return Asked({"title": title, "about": about, "texts": texts}, lambda given: _of_rows(model, given, has_two))
    if hasattr(model, "extract"):
        form = {"title": title, "about": about, "texts": ["Text"]}
        return Asked(form, lambda given: {"entities": _entities(given[0], model.extract(given)[0])})
    if hasattr(model, "encode") and not getattr(model, "compares_itself", False):
        corpus = None if index is None else _corpus(model, pathlib.Path(index))
        about += "" if corpus is None else f", an index of {len(corpus.texts):,} texts"
        form = {"title": title, "about": about, "texts": ["Text", "Another text to compare it with (optional)"]}
        return Asked(form, lambda given: _of_vectors(model, given, corpus))
    expected = "a classifier, a regressor, a tagger with entities or an embedder of dense vectors"
    raise _check.invalid("model", expected, type(model).__name__, "For a `MultiTask`, save one task: `multi[name]`.")


def _of_rows(model, given, has_two):
    if has_two and len(given) != 2:
        return {"error": "This model reads two texts."}
    x = tuple([text] for text in given) if has_two else given
    found: dict[str, Any] = {}
    if hasattr(model, "classify"):
        probabilities = model.classify(x).probabilities[0]
        found["labels"] = _labels(model.labels, probabilities)
        target = found["labels"][0]["label"] if model.multi_label else None
        named = next((label for label in model.labels if str(label) == target), None)
        explain = lambda: model.explain(x, named)[0]  # noqa: E731
    else:
        scores = np.atleast_1d(np.asarray(model.scores(x))[0])
        found["numbers"] = [{"name": f"output {i}", "value": float(each)} for i, each in enumerate(scores)]
        explain = lambda: model.explain(x, 0)[0]  # noqa: E731
    return {**found, **_why(explain)}


def _why(explain):
    """Returns the explanation, if there is one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the title shows the error of the integral
            found = explain()
    except ValueError as error:
        return {"note": f"Not explained: {error}"}
    largest = max((abs(word.value) for word in found.words), default=0.0)
    texts = [
        [_piece(text, word, largest) for text, word in pieces]
        for pieces in (
            _cut(content, [word for word in found.words if word.column == column])
            for column, content in enumerate(found.texts)
        )
    ]
    return {"why": {"title": f"{found.title()}; error of the sum {found.error:.2g}", "texts": texts}}


def _piece(text, word, largest):
    return {
        "text": text,
        "value": None if word is None else word.value,
        "share": None if word is None or not largest else word.value / largest,
    }


def _cut(content, spans):
    """Splits a text at spans, ordered by `start` and `end`; yields (part, span or `None`)."""
    place = 0
    for span in spans:
        if span.start < place:
            continue
        if span.start > place:
            yield content[place : span.start], None
        yield content[span.start : span.end], span
        place = span.end
    if place < len(content):
        yield content[place:], None


def _labels(names, probabilities):
    order = np.argsort(-np.asarray(probabilities), kind="stable")[:LABELS]
    return [{"label": str(names[i]), "probability": float(probabilities[i])} for i in order]


def _entities(content, spans):
    return [
        {
            "text": text,
            "label": None if span is None else str(span.label),
            "probability": None if span is None else float(span.probability),
        }
        for text, span in _cut(content, spans)
    ]


def _corpus(model, path):
    if path.is_dir():
        return search.SemanticIndex.load(path, model)
    texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return search.SemanticIndex(model, texts)


def _of_vectors(model, given, corpus):
    found: dict[str, Any] = {}
    if len(given) == 2:
        why = _why(lambda: model.explain(given[0], given[1])[0])
        vectors = model.encode(given)
        value = float(model.similarity(vectors[0], vectors[1])[0, 0])
        found = {"numbers": [{"name": f"similarity ({model.similarity_fn_name})", "value": value}], **why}
    if corpus is not None:
        hits = corpus.search(given[0], k=min(HITS, len(corpus.texts)))
        scores = zip(hits.scores, hits.texts, strict=True)
        found["hits"] = [{"score": float(score), "text": str(text)} for score, text in scores]
    if not found:
        found["note"] = "Enter another text to compare it with, or start with --index."
    return found


# === Exports ===


class _Span(NamedTuple):
    start: int
    end: int
    value: float = 0.0
    label: str = ""
    probability: float = 0.0


def of_export(path: pathlib.Path) -> Asked:
    """Returns the `Asked` of a SavedModel."""
    about = export.describe(path)
    loaded = tf.saved_model.load(about["path"])
    signatures = loaded.signatures
    names = [name for name in ("classify", "regress", "extract", "similarity", "search") if name in signatures]
    if not names:
        known = ", ".join(about["signatures"])
        raise _check.invalid("model", "an export that classifies, regresses, extracts, compares or searches", known)
    has_two = about["pairs"] and not {"extract", "similarity", "search"} & set(names)
    optional = "similarity" in names and not {"classify", "regress"} & set(names)
    texts = ["First text", "Second text"] if has_two else ["Text"]
    texts += ["Another text to compare it with (optional)"] if optional else []

    def ask(name, **inputs):
        values = {key: tf.constant(value) for key, value in inputs.items()}
        return {key: value.numpy()[0] for key, value in signatures[name](**values).items()}

    def answer(given):
        if has_two and len(given) != 2:
            return {"error": "This model reads two texts."}
        found: dict[str, Any] = {}
        one = {"text_a": given[:1], "text_b": given[1:]} if has_two else {"text": given[:1]}
        if "classify" in names:
            said = ask("classify", **one)
            scores = zip(said["labels"], said["scores"], strict=True)
            found["labels"] = [{"label": _read(label), "probability": float(p)} for label, p in scores][:LABELS]
        if "regress" in names:
            values = next(iter(ask("regress", **one).values()))
            found["numbers"] = [{"name": f"output {i}", "value": float(each)} for i, each in enumerate(values)]
        if "explain" in signatures and not has_two:
            found["why"] = _why_of(given[0], ask("explain", text=given[:1]))
        if "extract" in names:
            said = ask("extract", text=given[:1])
            columns = (said["starts"], said["ends"], said["labels"], said["scores"])
            rows = list(zip(*columns, strict=True))[: said["counts"]]
            spans = [_Span(int(a), int(b), 0.0, _read(label), float(p)) for a, b, label, p in rows]
            found["entities"] = _entities(given[0], spans)
        if "similarity" in names and len(given) == 2 and not has_two:
            value = float(ask("similarity", text_a=given[:1], text_b=given[1:])["similarity"])
            found["numbers"] = [{"name": "similarity (cosine)", "value": value}]
        if "search" in names:
            said = ask("search", query=given[:1], k=np.array([HITS], "int32"))
            rows = zip(said["scores"], said["texts"], strict=True)
            found["hits"] = [{"score": float(score), "text": _read(text)} for score, text in rows if text]
        return found or {"note": "Enter another text to compare it with."}

    title = f"{pathlib.Path(about['path']).parent.name}, version {about['version']}"
    parameters = about["weights"]["parameters"]
    form = {"title": title, "about": f"export of a {about['class']}, {parameters:,} parameters", "texts": texts}
    return Asked(form, answer)


def _why_of(content, said):
    columns = (said["starts"], said["ends"], said["attributions"])
    rows = list(zip(*columns, strict=True))[: said["counts"]]
    spans = [_Span(int(start), int(end), float(value)) for start, end, value in rows]
    largest = max((abs(span.value) for span in spans), default=0.0)
    name = f"{_read(said['label'])}: {said['score']:+.2f} log-odds" if "label" in said else f"value {said['score']:.4f}"
    pieces = [_piece(text, span, largest) for text, span in _cut(content, spans)]
    return {"title": f"{name}; error of the sum {said['error']:.2g}", "texts": [pieces]}


def _read(value):
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
