"""Writes a report: scores, plots, and a page that shows them."""

import math
import numbers

import numpy as np

from tfxfer import _check, _disk
from tfxfer.evaluation import _plots, _report_page, _tensorboard

METRICS_FILE, INDEX_FILE, TENSORBOARD = "metrics.json", "README.md", "tensorboard"
# The predicted type of a missed span, and the true type of a spurious one.
NO_SPAN = "nothing"
_OWN = (
    "history",
    "classification",
    "calibration",
    "coverage",
    "precision_recall",
    "pair_classification",
    "similarity",
    "entities",
    "errors",
)
_CONFUSIONS = 15  # the largest ones, which are listed
# The scores that the index shows, if there are several.
_MAIN = (
    "accuracy",
    "macro_f1",
    "micro_f1",
    "micro_precision",
    "micro_recall",
    "auc",
    "log_loss",
    "brier",
    "ece",
    "aurc",
    "spearman",
    "pearson",
    "average_precision",
    "f1",
    "mcc",
    "rows",
)


def begin(folder, history, scores, tensorboard):
    """Returns the folder's path and the history; raises for invalid input before anything is computed."""
    folder = _disk.local_path("folder", folder, kind="folder")
    require(tensorboard)
    for key in scores or ():
        if key in _OWN:
            raise _check.invalid("scores", f"other names than {', '.join(map(repr, _OWN))}", key)
    return folder, _history(history)


def write(folder, metrics, drawings, history, scores, tensorboard, files=None, more=(), page=None):
    """Writes a report and returns the dict in `metrics.json`.

    Args:
        folder: path.
        metrics: dict of scores.
        drawings: dict of name to figure.
        history: dict of name to list of floats.
        scores: dict of further scores, or `None`.
        tensorboard: bool.
        files: dict of name to text: additional files.
        more: lines appended to the page.
        page: function of the metrics that returns `report.html`. By default the page shows scores and curves.
    """
    if history:
        metrics = {"history": history, **metrics}
        drawings = {"curves": _plots.curves(history), **drawings}
    metrics = _strict({**metrics, **(scores or {})})
    with _disk.replacing_folder(folder) as staged:
        _disk.write_json(staged / METRICS_FILE, metrics)
        for file, text in (files or {}).items():
            _disk.write_text(staged / file, text)
        for file, drawing in drawings.items():
            _plots.save(drawing, staged / f"{file}.png")
        page = page or (lambda metrics: _report_page.page(metrics, None, None, None, "", None))
        _disk.write_text(staged / _report_page.PAGE_FILE, page(metrics))
        _disk.write_text(staged / INDEX_FILE, "\n".join([*_index(metrics, drawings), *more]))
    if tensorboard:
        pictures = [folder / f"{file}.png" for file in drawings]
        _tensorboard.write_events(folder / TENSORBOARD, history, pictures)
    return metrics


def require(tensorboard):
    """Raises if matplotlib is not installed, or tensorboard when requested."""
    _plots.make(1, 1)
    if tensorboard:
        _tensorboard.require_tensorboard()


def _history(history):
    """Returns a dict of name to list of floats."""
    history = getattr(history, "history", history)
    if history is None:
        return {}
    _check.instance("history", history, dict, "the result of `fit`, or a dict of name to list of numbers")
    found = {}
    for name, values in history.items():
        values = np.asarray(values, "float64")
        if values.ndim != 1:
            raise _check.invalid("history", f"a list of numbers for {name!r}", values)
        if len(values):
            found[str(name)] = values.tolist()
    return found


def _strict(value):
    """Returns a value for strict JSON: numpy numbers as Python numbers, numbers that are not finite as `None`."""
    if isinstance(value, dict):
        return {str(key): _strict(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(each) for each in value]
    if isinstance(value, np.ndarray):
        return _strict(value.tolist())
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str) else str(value)


# === The page ===


def _index(metrics, drawings):
    lines = ["# Report", ""]
    parts = [part for part in _OWN[1:] if part in metrics and part != "errors"]
    rows = [(part, key, metrics[part][key]) for part in parts for key in _MAIN if key in metrics[part]]
    rows = [row for row in rows if not isinstance(row[-1], list)]  # a curve
    if "errors" in metrics:
        rows += [("errors", key.replace("_", " "), value) for key, value in metrics["errors"]["counts"].items()]
    for part, scores in metrics.items():
        if part not in _OWN and isinstance(scores, dict):
            rows += [(part, key, value) for key, value in scores.items() if isinstance(value, (int, float))]
    if rows:
        has_intervals = any(isinstance(metrics[part].get("intervals"), dict) for part in parts)
        names = ["", "score", "value", *(["interval"] if has_intervals else [])]
        lines += [f"| {' | '.join(names)} |".replace("|  |", "| |"), "|---" * len(names) + "|"]
        for part, key, value in rows:
            found = (metrics[part].get("intervals") or {}).get(key) if part in parts else None
            shown = [cell(part), cell(key), _number(value), " to ".join(map(_number, found or ()))]
            lines.append(f"| {' | '.join(shown[: len(names)])} |")
        lines += ["", f"All scores: [{METRICS_FILE}]({METRICS_FILE}).", ""]
    for file in drawings:
        lines += [f"## {file.replace('_', ' ').capitalize()}", "", f"![{file}]({file}.png)", ""]
        if file == "confusion":
            lines += _confusions(metrics["classification"] if "classification" in metrics else metrics["errors"])
    return lines


def _confusions(scores):
    """Lists the most frequently confused pairs of classes."""
    matrix, labels = np.array(scores["confusion"]), [NO_SPAN if each is None else each for each in scores["labels"]]
    np.fill_diagonal(matrix, 0)
    worst = np.argsort(-matrix.ravel(), kind="stable")[:_CONFUSIONS]
    pairs = [(*divmod(int(place), len(labels)), int(matrix.flat[place])) for place in worst if matrix.flat[place]]
    if not pairs:
        return []
    lines = [f"| true | predicted | {'spans' if None in scores['labels'] else 'rows'} |", "|---|---|---|"]
    return [*lines, *(f"| {cell(labels[i])} | {cell(labels[j])} | {count} |" for i, j, count in pairs), ""]


def cell(text):
    """Returns a text as a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def _number(value):
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
