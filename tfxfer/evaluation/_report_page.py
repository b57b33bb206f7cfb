"""The HTML page of a report, in a single file that opens in a browser without a network."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfxfer import _html, _texts, data, layers
from tfxfer.evaluation import _labels

PAGE_FILE = "report.html"
# Maximum numbers of rows that a page contains, of rows that it explains, and of points that it draws.
ROWS, EXPLAINED, POINTS = 3000, 12, 1000
# The largest number of classes in a readable matrix; with more, pairs of classes are listed, at most the next number.
_MATRIX, _PAIRS = 40, 100
_LEGEND = 20
_STEPS, _MAX_STEPS = 16, 128


@dataclasses.dataclass(frozen=True)
class Details:
    """What a page shows in addition to scores.

    Args:
        texts: list of tuples: the texts of each row; `None` if they are not available.
        explain: function of row indices, and the label to explain for each, that returns their explanations; raises
            `ValueError` if it cannot.
        vectors: function of row indices that returns vectors `(rows, dim)`; raises in the same way.
        points: vectors `(texts, dim)` and their texts, for texts that are not rows.
        spans: the `_span_rows.Rows`, for rows of words with spans.
    """

    texts: list | None = None
    explain: Callable | None = None
    vectors: Callable | None = None
    points: tuple | None = None
    spans: Any = None


def of_classifier(model: Any, texts: Any, batch_size: int, explains: bool) -> Details:
    """Returns the details of a classifier on rows that its gate has read, with explanations of errors if it can."""
    columns = model.prediction_columns()
    rows = text_rows(texts)
    if rows is None or len(columns) != 1:
        return Details(rows)

    def vectors(chosen):
        sequence, mask, pooled = model.boundary()
        if pooled is None:
            last = sequence[-1] if isinstance(sequence, (list, tuple)) else sequence
            pooled = layers.Pooling("mean")(last, padding_mask=mask)
        run = data.Runner(keras.Model(model.input, pooled), columns, rows_multiple_of=model._row_multiple())
        found = run(next(iter(columns.values())).read(_some(rows, chosen), "texts"), batch_size)
        return np.asarray(found, "float64").reshape(len(chosen), -1)

    explain = _explainer(model.explain, rows, batch_size) if explains else None
    return Details(rows, explain, vectors if model.tower() is model else None)


def of_model(model: Any, texts: Any, batch_size: int, explains: bool) -> Details:
    """Returns the details of a regressor, if it reads only texts."""
    columns = list(getattr(model, "prediction_columns", dict)().values())
    if len(columns) != 1 or not isinstance(columns[0], data.TextColumn):
        return Details()
    rows = text_rows(columns[0].read(texts, "texts"))
    has_reasons = explains and rows is not None and hasattr(model, "explain")
    return Details(rows, _explainer(model.explain, rows, batch_size) if has_reasons else None)


def of_pairs(model: Any, columns: Any, points: tuple, similarity: str, batch_size: int, explains: bool) -> Details:
    """Returns the details of an embedder on pairs of texts; `points` are vectors and their texts."""
    rows = list(zip(*columns, strict=True))
    name = getattr(_texts.embedder_of(model), "similarity_fn_name", None)
    # `explain` explains the model's own similarity.
    has_reasons = explains and hasattr(model, "explain") and name == similarity and len(columns) == 2

    def pairwise(x, _, **options):
        return model.explain(*x, **options)

    return Details(rows, _explainer(pairwise, rows, batch_size) if has_reasons else None, points=points)


def _explainer(explain, rows, batch_size):
    """Returns a function that maps row indices and targets to explanations."""

    def explained(chosen, targets):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The attributions of")  # here they are only displayed
            options = {"steps": _STEPS, "max_steps": _MAX_STEPS, "batch_size": 2 * batch_size}
            return explain(_some(rows, chosen), targets, **options)

    return explained


def _some(rows, chosen):
    """Selects rows in the form that a model takes: a list of texts, or a tuple of such columns."""
    parts = [[rows[i][k] for i in chosen] for k in range(len(rows[0]))]
    return parts[0] if len(parts) == 1 else tuple(parts)


def text_rows(texts: Any) -> list | None:
    """Returns rows of texts as a list of tuples; `None` if the rows contain anything else."""
    if isinstance(texts, dict):
        if list(texts) != ["text"]:
            return None
        texts = texts["text"]
    parts = texts if isinstance(texts, tuple) else (texts,)
    found = []
    for part in parts:
        values = part.numpy().tolist() if hasattr(part, "numpy") else list(part)
        found.append([value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in values])
    return list(zip(*found, strict=True))


def page(metrics: dict, y_true: Any, predicted: Any, labels: list | None, name: str, details: Details | None) -> str:
    """Returns the page as HTML.

    Args:
        metrics: dict of all scores, as in `metrics.json`.
        y_true: targets of the rows, as `report_scores` has read them, or `None`.
        predicted: probabilities or predictions, or `None`.
        labels: the class names, or `None`.
        name: what the predictions are, if they are not probabilities.
        details: `Details`, or `None`.
    """
    details = details or Details()
    parts = [_scores(metrics)]
    if labels is not None:
        parts += _classes(metrics, y_true, np.asarray(predicted, "float64"), labels, details)
    elif y_true is not None:
        parts += _numbers(y_true, predicted, name, details)
    if details.spans is not None:
        parts += _entities(metrics, details)
    if metrics.get("history"):
        parts.append(_html.section("Training", f'<div class="charts">{"".join(_curves(metrics["history"]))}</div>'))
    return _html.document("Report", [part for part in parts if part])


# === Scores ===

_INNER = ("bins", "per_class", "per_type", "confusion", "labels", "history")


def _scores(metrics):
    rows = []
    for part, scores in metrics.items():
        if part == "history" or not isinstance(scores, dict):
            continue
        intervals = scores.get("intervals")
        intervals = intervals if isinstance(intervals, dict) else {}
        for key, value in scores.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                shown = intervals.get(key)
                between = "" if not shown else " to ".join(map(_html.number, shown))
                rows.append((_html.escaped(part), _html.escaped(key.replace("_", " ")), value, between))
    if not rows:
        return ""
    width = 4 if any(row[3] for row in rows) else 3  # omits the column of intervals if there are none
    return _html.section(
        "Scores", _html.table(["", "score", "value", "interval"][:width], [row[:width] for row in rows])
    )


def _curves(history):
    metrics = list(dict.fromkeys(name.removeprefix("val_") for name in history))
    for metric in metrics:
        lines = [(name, history[name]) for name in (metric, f"val_{metric}") if name in history]
        values = [value for _, each in lines for value in each if value is not None]
        if not values:
            continue
        x, y = (1, max(max(len(each) for _, each in lines), 2)), _limits(values)
        shapes = [
            _html.line(range(1, len(each) + 1), each, x, y, f"stroke:var(--{'b' if key.startswith('val_') else 'a'})")
            for key, each in lines
        ]
        if max(len(each) for _, each in lines) == 1:
            shapes = _html.dots([(1, each[0], "var(--a)", key) for key, each in lines if each[0] is not None], x, y)
        blue_orange = " (blue: training, orange: validation)" if len(lines) == 2 else ""
        yield _html.chart(shapes, x=x, y=y, names=("epoch", metric), title=f"{metric}{blue_orange}")


def _limits(values):
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


# === Classes ===


def _classes(metrics, y_true, probabilities, labels, details):
    encoded = _labels.encode(y_true, labels, len(labels))
    several = encoded.ndim == 2
    if several:
        least = _labels.thresholds(metrics["classification"]["threshold"], list(labels), probabilities.dtype)
        true, given = encoded > 0, probabilities >= least
        wrong = (true != given).any(axis=1)
        # The confidence of the decision that is most wrong, or else of the least confident one.
        of_each = np.where(given, probabilities, 1 - probabilities)
        sure = np.where(wrong, np.where(true != given, of_each, -np.inf).max(axis=1), of_each.min(axis=1))
        truths = [np.flatnonzero(row).tolist() for row in true]
        answers = [np.flatnonzero(row).tolist() for row in given]
    else:
        best = probabilities.argmax(axis=1)
        wrong, sure = best != encoded, probabilities.max(axis=1)
        truths, answers = [[int(each)] for each in encoded], [[int(each)] for each in best]
    names = [str(label) for label in labels]
    scores = metrics["classification"]
    can_open = details.texts is not None
    counts = (true & ~given, given & ~true) if several and can_open else ()
    parts = [_per_class(scores, names, [each.sum(axis=0).tolist() for each in counts])]
    if not several:
        parts.append(_confusion(np.asarray(scores["confusion"]), names, can_open))
    if can_open:
        parts.append('<div id="opened" class="opened" aria-live="polite"></div>')
        order = np.argsort(~wrong, kind="stable")[:ROWS]
        rows = [
            {"i": int(i), "t": list(details.texts[i]), "y": truths[i], "p": answers[i], "c": float(sure[i])}
            for i in order
        ]
        parts.append(_html.json_block("rows", {"labels": names, "rows": rows}))
        if len(order) < len(wrong):
            held = f"This page includes {len(order)} of {len(wrong)} rows, errors first."
            parts.append(f'<p class="soft">{held}</p>')
    charts = [_reliability(metrics["calibration"])] if "calibration" in metrics else []
    coverage = metrics.get("coverage")
    if isinstance(coverage, dict) and coverage.get("coverage") and coverage.get("accuracy"):
        charts.append(_coverage(coverage))
    if charts:
        parts.append(_html.section("Confidence", f'<div class="charts">{"".join(charts)}</div>'))
    if can_open:
        errors = [int(i) for i in np.argsort(-sure, kind="stable") if wrong[i]]
        worst = list({details.texts[i]: i for i in reversed(errors)}.values())[::-1][:EXPLAINED]  # without duplicates
        # The prediction, or with several labels the decision that is most wrong.
        most = np.abs(true - probabilities).argmax(axis=1) if several else best
        targets = [labels[int(most[i])] for i in worst]
        parts.append(_worst(worst, targets, (truths, answers), sure, names, details))
        first = encoded.argmax(axis=1) if several else encoded
        parts.append(_map(first, names, wrong, details, "most likely true label" if several else "true label"))
    return parts


def _per_class(scores, names, counts):
    """Returns the table of classes; with several labels per row, `counts` counts missed and spurious labels."""
    has_intervals = any(isinstance(each.get("intervals"), dict) for each in scores["per_class"].values())
    keys = [
        key
        for key, value in next(iter(scores["per_class"].values()), {}).items()
        if not isinstance(value, (dict, list))
    ]
    head = ["label", *(key.replace("_", " ") for key in keys)]
    head += ["F1, interval"] if has_intervals else []
    head += ["false negatives", "false positives"] if counts else []
    rows = []
    for k, (name, each) in enumerate(zip(names, scores["per_class"].values(), strict=True)):
        row: list[Any] = [_html.text(name), *(each[key] for key in keys)]
        if has_intervals:
            shown = (each.get("intervals") or {}).get("f1")
            row.append("" if not shown else " to ".join(map(_html.number, shown)))
        for kind, each_count in zip(("missed", "spurious"), counts, strict=False):
            row.append(f'<button data-open="{kind}" data-y="{k}">{each_count[k]} rows</button>')
        rows.append(row)
    note = '<p class="soft">Click a column name to sort.</p>'
    return _html.section("Classes", note, _html.table(head, rows, sorts=True))


def _confusion(matrix, names, can_open):
    def shown(i, j, label):
        if not can_open or not matrix[i, j]:
            return label
        return f'<button data-open="cell" data-y="{i}" data-p="{j}">{label}</button>'

    if len(names) > _MATRIX:
        off = matrix - np.diag(np.diag(matrix))
        worst = [int(place) for place in np.argsort(-off.ravel(), kind="stable")[:_PAIRS] if off.flat[place]]
        rows = []
        for i, j in (divmod(place, len(names)) for place in worst):
            rows.append([_html.text(names[i]), _html.text(names[j]), int(matrix[i, j]), shown(i, j, "open")])
        content = _html.table(["true", "predicted", "rows", ""], rows, sorts=True)
        note = f"The {len(rows)} most frequent confusions among {len(names)} classes."
        return _html.section("Confusion", f'<p class="soft">{note}</p>', content)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    head = "".join(f'<th class="top"><span>{_html.escaped(name)}</span></th>' for name in names)
    lines = [f'<div class="scroll"><table class="matrix"><thead><tr><th></th>{head}</tr></thead><tbody>']
    for i, name in enumerate(names):
        cells = []
        for j in range(len(names)):
            rgb = "37,99,235" if i == j else "217,72,15"
            style = f"background:rgba({rgb},{0.75 * np.sqrt(shares[i, j]):.3f})" if matrix[i, j] else ""
            tip = _html.escaped(f"{name} predicted as {names[j]}: {matrix[i, j]} rows, {shares[i, j]:.1%}")
            value = shown(i, j, int(matrix[i, j])) if matrix[i, j] else ""
            cells.append(f'<td style="{style}" title="{tip}">{value}</td>')
        lines.append(f'<tr><th class="side" title="{_html.escaped(name)}">{_html.text(name)}</th>{"".join(cells)}</tr>')
    note = "Rows are true classes, columns are predicted classes." + (" Click a cell to list its rows." * can_open)
    return _html.section("Confusion", f'<p class="soft">{note}</p>', *lines, "</tbody></table></div>")


def _reliability(calibration):
    x = y = (0.0, 1.0)
    shapes = []
    for each in calibration["bins"]:
        if each["rows"]:
            tip = f"{each['rows']} with confidence {each['confidence']:.3f} on average: {each['right']:.3f} right"
            shapes.append(
                _html.bar(each["lower"], each["upper"], 0, each["right"], x, y, tip, "fill:var(--a);opacity:.7")
            )
    shapes.append(_html.line([0, 1], [0, 1], x, y, "stroke:var(--soft);stroke-dasharray:4"))
    title = f"Reliability: expected calibration error {calibration['ece']:.3f}"
    return _html.chart(shapes, x=x, y=y, names=("confidence", "accuracy"), title=title)


def _coverage(coverage):
    x, accuracy = (0.0, 1.0), coverage["accuracy"]
    y = (min([value for value in accuracy if value is not None] + [0.95]) * 0.98, 1.0)
    shapes = [_html.line(coverage["coverage"], accuracy, x, y)]
    title = "Accuracy on the most confident rows, by their share of all rows"
    return _html.chart(shapes, x=x, y=y, names=("coverage", "accuracy"), title=title)


def _worst(worst, targets, said, sure, names, details):
    if not worst:
        return _html.section("Worst errors", '<p class="soft">There are none.</p>')
    explanations, note = _reasons(worst, targets, details)
    note = f"The errors with the highest confidence.{note}"
    rows = []
    for i, why in zip(worst, explanations, strict=True):
        shown = _shown(details.texts[i], why)
        labels = [", ".join(_html.text(names[k]) for k in each[i]) or "<i>none</i>" for each in said]
        rows.append([i, shown, *labels, float(sure[i])])
    head = ["row", "text", "true", "predicted", "confidence"]
    return _html.section("Worst errors", f'<p class="soft">{_html.escaped(note)}</p>', _html.table(head, rows))


def _reasons(worst, targets, details):
    """Returns the explanations of some rows, `None` for each without one, and a note on them."""
    nothing = [None] * len(worst)
    if details.explain is None or not worst:
        return nothing, ""
    try:
        found = details.explain(worst, targets)
    except ValueError as error:
        return nothing, f" They are not explained: {error}"
    return found, (
        " Blue words are evidence for the answer above the text, red words against it (integrated gradients; hover"
        " over a word for its value)."
    )


def _shown(texts, why):
    return "<br>".join(map(_html.text, texts)) if why is None else why.to_html()


def _map(classes, names, wrong, details, what):
    if details.vectors is None or len(classes) < 3:
        return ""
    count = len(classes)
    chosen = _sample(count)
    try:
        points, share = flat(details.vectors([int(i) for i in chosen]))
    except ValueError as error:
        return _html.section("Map of the texts", f'<p class="soft">Not drawn: {_html.escaped(error)}</p>')
    frequent = [int(k) for k in np.argsort(-np.bincount(classes[chosen], minlength=len(names)), kind="stable")]
    shades = {k: _html.colour(place) for place, k in enumerate(frequent)}
    dots = []
    for i, (a, b) in zip(chosen, points, strict=True):
        mark = " (wrong)" if wrong[i] else ""
        tip = f"{names[classes[i]]}{mark}: {' | '.join(details.texts[i])}"
        dots.append((float(a), float(b), shades[int(classes[i])], tip[:300]))
    shown = {names[k]: shades[k] for k in frequent[:_LEGEND]}
    more = f" The {_LEGEND} most frequent of {len(names)} labels:" if len(names) > _LEGEND else ""
    return _scatter(dots, points, share, count, f"colors: {what}", more, _html.legend(shown))


def _map_of_texts(points):
    """Draws the map of vectors without classes."""
    vectors, texts = points
    if len(texts) < 3:
        return ""
    chosen = _sample(len(texts))
    places, share = flat(np.asarray(vectors)[chosen])
    tips = [str(texts[i])[:300] for i in chosen]
    dots = [(float(a), float(b), "var(--a)", tip) for (a, b), tip in zip(places, tips, strict=True)]
    return _scatter(dots, places, share, len(texts), "each text once")


def _scatter(dots, points, share, count, what, more="", legend=""):
    x, y = (_limits([float(value) for value in points[:, k]]) for k in (0, 1))
    title = f"The first two principal components, {share:.0%} of the variance; {what}; hover over a point for its text"
    part = f"{len(dots)} of {count} texts, drawn at random." if len(dots) < count else ""
    drawing = _html.chart(_html.dots(dots, x, y), x=x, y=y, names=("component 1", "component 2"), title=title)
    return _html.section("Map of the texts", f'<p class="soft">{part}{more}</p>', legend, drawing)


def _sample(count):
    """Returns the indices of the rows to draw: all, or a fixed random sample."""
    if count <= POINTS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, POINTS, replace=False))


def flat(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Projects vectors onto their first two principal components; also returns the explained fraction of the variance.

    Each component's sign is that of its largest entry, so that the plot is not mirrored arbitrarily.
    """
    vectors = np.asarray(vectors, "float64")
    centred = vectors - vectors.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, np.newaxis]
    found = centred @ axes.T
    found = np.pad(found, [(0, 0), (0, 2 - found.shape[1])])
    total = float(np.square(sizes).sum())
    return found, float(np.square(sizes[:2]).sum() / total) if total else 1.0


# === Numbers ===


def _numbers(y_true, predicted, name, details):
    predicted, y_true = np.asarray(predicted, "float64").reshape(-1), np.asarray(y_true, "float64").reshape(-1)
    count = len(predicted)
    chosen = _sample(count)
    x, y = _limits(y_true.tolist()), _limits(predicted.tolist())

    def tip(i):
        texts = "" if details.texts is None else f": {' | '.join(details.texts[i])}"
        return f"score {y_true[i]:g}, {name} {predicted[i]:.4f}{texts}"[:300]

    dots = _html.dots([(y_true[i], predicted[i], "var(--a)", tip(i)) for i in chosen], x, y)
    part = f"{len(chosen)} of {count} rows, drawn at random." if len(chosen) < count else f"{count} rows."
    drawing = _html.chart(dots, x=x, y=y, names=("score", name), title=f"{name} by score. {part}")
    parts = [_html.section("Predictions", drawing)]
    if details.texts is not None:
        # Compare ranks, because the two may have different scales.
        ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (y_true, predicted)]
        order = np.argsort(-np.abs(ranks[0] - ranks[1]), kind="stable")
        worst = [int(i) for i in order[:EXPLAINED]]
        reasons, said = _reasons(worst, None, details)
        rows = [
            [i, _shown(details.texts[i], why), float(y_true[i]), float(predicted[i])]
            for i, why in zip(worst, reasons, strict=True)
        ]
        note = f"The rows whose rank by score differs most from their rank by prediction.{said}"
        shown = _html.table(["row", "texts", "score", name], rows, sorts=True)
        parts.append(_html.section("Worst errors", f'<p class="soft">{_html.escaped(note)}</p>', shown))
    if details.points is not None:
        parts.append(_map_of_texts(details.points))
    return parts


# === Entities ===


def _entities(metrics, details):
    rows, texts = details.spans, details.texts
    parts = []
    per_type = metrics.get("entities", {}).get("per_type")
    if per_type:
        keys = list(next(iter(per_type.values())))
        found = [[_html.text(kind), *(each[key] for key in keys)] for kind, each in per_type.items()]
        parts.append(_html.section("Types", _html.table(["type", *keys], found, sorts=True)))
    if "calibration" in metrics:
        parts.append(_html.section("Confidence", _reliability(metrics["calibration"])))
    if texts is None:
        return parts
    wrong = [i for i, (a, b) in enumerate(zip(rows.gold, rows.predicted, strict=True)) if {*a} != {*b}]
    shown = []
    for i in wrong[: ROWS // 10]:
        content, places = _joined(texts[i])
        lines = []
        for mine, other in ((rows.gold[i], rows.predicted[i]), (rows.predicted[i], rows.gold[i])):
            spans = [(*places(start, end), str(kind), (kind, start, end) not in {*other}) for kind, start, end in mine]
            lines.append(_html.highlighted(content, spans))
        shown.append([i, *lines])
    part = f"The first {len(shown)} of {len(wrong)}" if len(shown) < len(wrong) else f"All {len(wrong)}"
    note = f"{part} rows with an error; orange spans are in only one of the two columns."
    head = ["row", "gold", "predicted"]
    parts.append(_html.section("Rows with errors", f'<p class="soft">{note}</p>', _html.table(head, shown)))
    return parts


def _joined(text):
    """Returns a row's text, and a function that maps a span of words or characters to one of characters."""
    if isinstance(text, str):
        return text, lambda start, end: (start, end)
    words = [str(word) for word in text]
    ends = np.cumsum([len(word) + 1 for word in words])
    starts = [0, *ends[:-1].tolist()]
    return " ".join(words), lambda start, end: (starts[start], int(ends[end - 1]) - 1)
