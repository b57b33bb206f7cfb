"""Writes a directory that shows the right and wrong predicted spans."""

import csv
import functools
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tfxfer import _schemes
from tfxfer.evaluation import _entities, _plots, _report_folder, _report_page, _span_rows, _tagging

ERRORS_FILE = "errors.tsv"
_EXAMPLES = 10  # listed per kind of error


def report_entities(
    folder: str | os.PathLike[str],
    gold: Any,
    predicted: Any,
    *,
    scheme: str | None = None,
    texts: Sequence[Any] | None = None,
    history: Any = None,
    scores: Mapping[str, Any] | None = None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Writes a report on predicted spans: named entities, chunks, slots.

    | file | requires | content |
    |---|---|---|
    | `README.md` | | the main scores, all plots, and some errors of each kind |
    | `report.html` | | one page that works offline: scores, types, and the rows with errors, their entities marked |
    | `metrics.json` | | all scores |
    | `errors.tsv` | | every error, one per line; see `entity_errors` |
    | `confusion.png` | | which types are confused, including missed and spurious spans |
    | `outcomes.png` | | the outcomes of the spans of each type |
    | `reliability.png` | spans with a probability | how often spans of similar probability are right |
    | `curves.png` | `history` | each value over the epochs |

    Existing files with these names are replaced, either all of them or, if writing fails, none. Other files are kept.

    Args:
        folder: string or path on the local disk. Created if it does not exist.
        gold: rows of tags or of spans, as in `entity_scores`.
        predicted: the same rows. If every span has a probability, the report includes their calibration.
        scheme: as in `entity_scores`.
        texts: the text of each row, as in `entity_errors`.
        history: as in `report`.
        scores: as in `report`.
        tensorboard: as in `report`.

    Returns:
        The dict in `metrics.json`: `entities`, the result of `entity_scores`; `errors`, that of `entity_errors` without
        the list of errors; `calibration`, that of `entity_calibration`, if there are probabilities; `history`; and
        those of `scores`.

    Raises:
        ValueError: as in `entity_scores` and `entity_errors`.
        ImportError: as in `report`.

    Example:

    ```python
    tx.evaluation.report_entities("runs/names", gold_tags, predicted_tags, scheme="BIO", texts=words)
    ```
    """
    folder, history = _report_folder.begin(folder, history, scores, tensorboard)
    return _write(folder, _span_rows.read(gold, predicted, scheme), scheme, texts, history, scores, tensorboard)


def of_tagger(folder, model, x, y, batch_size, verbose, history, scores, tensorboard):
    """Writes the report of a tagger on rows of words with tags; see `report`."""
    folder, history = _report_folder.begin(folder, history, scores, tensorboard)
    words, gold = _tagging.read(model, x, y, ("texts", "y"))
    spans = model.spans(words, batch_size, verbose=verbose)
    predicted = [
        _schemes.tags_of([span[:3] for span in row], len(tags), model.scheme)
        for row, tags in zip(spans, gold, strict=True)
    ]
    rows = _span_rows.read(gold, predicted, model.scheme)
    rows = rows._replace(probabilities=[[span.probability for span in row] for row in spans])
    texts = [[word.decode(errors="replace") for word in row] for row in words.to_list()]
    return _write(folder, rows, model.scheme, texts, history, scores, tensorboard)


def _write(folder, rows, scheme, texts, history, scores, tensorboard):
    metrics, drawings = {}, {}
    metrics["entities"] = _entities.scores_of(rows, scheme)
    metrics["errors"] = found = _entities.errors_of(rows, texts)
    errors, labels = found.pop("errors"), [*found["labels"][:-1], _report_folder.NO_SPAN]
    if found["labels"][:-1]:
        title = "Types of gold and predicted spans"
        drawings["confusion"] = _plots.confusion(found["confusion"], labels, title=title, unit="spans")
        drawings["outcomes"] = _plots.outcomes(found["per_type"])
    probabilities = [each for row in rows.probabilities for each in row]
    if probabilities and None not in probabilities:
        metrics["calibration"] = _entities.calibration_of(rows._replace(tags=None))
        drawings["reliability"] = _plots.reliability(metrics["calibration"], unit="spans")
    files = {ERRORS_FILE: _table_of(errors)}
    page = functools.partial(
        _report_page.page,
        y_true=None,
        predicted=None,
        labels=None,
        name="",
        details=_report_page.Details(texts, spans=rows),
    )
    more = _examples(errors)
    return _report_folder.write(folder, metrics, drawings, history, scores, tensorboard, files, more, page)


def _examples(errors):
    """Lists the first errors of each kind."""
    lines = []
    for kind in _entities.ERRORS:
        some = [each for each in errors if each["kind"] == kind][:_EXAMPLES]
        if some:
            lines += [f"## Errors: {kind.replace('_', ' ')}", "", "| row | gold | predicted | context |"]
            lines += ["|---|---|---|---|"]
        for each in some:
            cells = (each["row"], *(_span_of(each, side) for side in ("gold", "predicted")), each.get("context", ""))
            lines.append(f"| {' | '.join(map(_report_folder.cell, cells))} |")
        lines += [""] if some else []
    return [*lines, f"All errors: [{ERRORS_FILE}]({ERRORS_FILE}).", ""]


def _span_of(error, side):
    """Describes a span of an error: its type, and its text or position."""
    if error[side] is None:
        return ""
    label, start, end = error[side]
    return f"{label}: {error.get(f'{side}_text') or f'{start} to {end}'}"


def _table_of(errors):
    """Returns the errors as tab-separated values; whitespace within a cell becomes single spaces."""
    columns = [f"{side}_{part}" for side in ("gold", "predicted") for part in ("type", "start", "end", "text")]
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(["row", "kind", *columns, "context"])
    for each in errors:
        cells = [each["row"], each["kind"]]
        for side in ("gold", "predicted"):
            cells += [*(each[side] or ("", "", "")), each.get(f"{side}_text") or ""]
        writer.writerow(" ".join(str(cell).split()) for cell in [*cells, each.get("context", "")])
    return table.getvalue()
