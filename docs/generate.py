"""Writes the parts of the docs that are made from the code; run it after a change of docstrings or of families."""

import importlib.util
import inspect
import json
import pathlib
import re
import statistics

from tfxfer import backbones, losses

FOLDER = pathlib.Path(__file__).resolve().parent
CELLS = FOLDER.parent / "benchmarks" / "results" / "transfer_tour.json"
SECTIONS = ("Rows", "Choose it", "See also", "Reference")
# The modules of `tfxfer.losses` in the order of the tables.
FAMILIES = (
    "_pairs",
    "_triplets",
    "_ranking",
    "_classes",
    "_similarities",
    "_neighbourhoods",
    "_memory",
    "_tension",
    "_distillation",
    "_late",
    "_wrappers",
    "_layerwise",
    "_logits",
    "_tags",
    "_lists",
    "_list_pairs",
    "_listwise",
)

LOSSES_HEAD = """\
# Losses

This page is made from the docstrings by `docs/generate.py`; change them there.

Find the row that fits your data. A model of several texts a row is a `models.Siamese`, of one text a
`models.TextEmbedder`. `y_pred` is `(batch, columns, dim)` or `(batch, dim)`; each loss is a class for `compile` and, in
brackets, a pure function. *Per row* losses take sample and class weights; the others are one number for the whole batch
and refuse them.
"""


def section(cls, name):
    """The text of one section of a class's docstring, as one line."""
    found = re.search(rf"^{name}: (.+?)(?:\n\n|\Z)", inspect.getdoc(cls), re.MULTILINE | re.DOTALL)
    if not found:
        raise ValueError(f"The docstring of {cls.__name__} has no section `{name}:`.")
    return " ".join(found.group(1).split()).rstrip(".")


LOGITS_HEAD = """\

## On logits

For classifiers, `TextClassifier` and others: `y_pred` is `(batch, classes)`.
"""

TAGS_HEAD = """\

## On tags

For token taggers: `y_pred` is `(batch, length, tags)`, `y_true` is -1 for words without a loss.
"""

LISTS_HEAD = """\

## On lists of documents

For a `models.Reranker`: `y_pred` are the scores of all documents, `(documents, 1)`, one list after another, or
`(lists, documents)`; `y_true` is `(lists, documents)`, NaN where a list has ended. [ranking.md](ranking.md) says how
rows become lists.
"""


def losses_page():
    """The tables of all losses."""
    classes = [value for value in vars(losses).values() if inspect.isclass(value)]
    classes.sort(key=lambda cls: (FAMILIES.index(cls.__module__.rpartition(".")[2]), inspect.findsource(cls)[1]))
    heads = {"_logits": LOGITS_HEAD, "_tags": TAGS_HEAD}
    heads |= dict.fromkeys(("_lists", "_list_pairs", "_listwise"), LISTS_HEAD)
    parts = {head: [] for head in (LOSSES_HEAD, *heads.values())}
    for cls in classes:
        parts[heads.get(cls.__module__.rpartition(".")[2], LOSSES_HEAD)].append(cls)
    return "".join(losses_table(head, part) for head, part in parts.items())


def losses_table(head, classes):
    """A table of losses."""
    lines = [
        head,
        "| loss | rows it needs | when to pick it | see also | per row | reference |",
        "|" + "---|" * 6,
    ]
    for cls in classes:
        summary = inspect.getdoc(cls).partition("\n")[0]
        function = re.search(r"\((`\w+`)\)\.$", summary).group(1)
        rows, choose, see_also, reference = (section(cls, name) for name in SECTIONS)
        per_row = (
            "as the loss inside" if "loss" in inspect.signature(cls).parameters else "yes" if cls.per_row else "no"
        )
        cells = (f"`{cls.__name__}` ({function})", rows, choose, see_also, per_row, reference)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def families_table():
    """The table of the families whose checkpoints can be loaded."""
    lines = [
        "| family | `model_type` | KerasHub | pooling | trained heads | on the Hugging Face hub, for example |",
        "|" + "---|" * 6,
    ]
    for row in backbones.families_table():
        name = f"[{row.name}]({row.paper})" if row.paper else row.name
        examples = ", ".join(f"[{example}](https://huggingface.co/{example})" for example in row.examples)
        cells = (
            name,
            ", ".join(f"`{name}`" for name in row.model_types),
            f"`{row.keras_hub}`" if row.keras_hub else "",
            f"`{row.pooling}`",
            "yes" if row.has_head else "no",
            examples,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def tour_table():
    """The scores of `examples/transfer_tour.py`, and what each way costs."""
    cells = json.loads(CELLS.read_text(encoding="utf-8"))
    sets, ways = ({cell[key]: None for cell in cells} for key in ("set", "way"))
    lines = [f"| | {' | '.join(sorted(sets))} | seconds | weights trained |", "|" + "---|" * (len(sets) + 3)]
    for way in ways:
        shown = [way]
        for name in sorted(sets):
            found = [cell["score"] for cell in cells if (cell["set"], cell["way"]) == (name, way)]
            if not found or None in found:
                shown.append("does not apply" if found else "not run")
                continue
            spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
            shown.append(f"{statistics.fmean(found):.3f}{spread}")
        own = [cell for cell in cells if cell["way"] == way and cell["score"] is not None]
        # Of processors if the cell has it: other programs do not disturb it.
        seconds = [cell.get("cpu_seconds", cell.get("seconds")) for cell in own]
        shown.append(f"{statistics.median(value for value in seconds if value is not None):.0f}")
        shown.append(f"{statistics.median(cell['trainable'] for cell in own):,.0f}")
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def between(text, name):
    """Returns the places of what lies between the markers of a generated part, `(start, end)`."""
    start, end = (f"<!-- {name}: {edge} -->\n" for edge in ("begin", "end"))
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"Expected one {start.strip()} and one {end.strip()}.")
    return text.index(start) + len(start), text.index(end)


def picture():
    """The picture of the way of the data, by `picture.py`."""
    spec = importlib.util.spec_from_file_location("picture", FOLDER / "picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.svg()


PAGES = {"losses.md": losses_page, "_static/way_of_the_data.svg": picture}
PARTS = {("checkpoints.md", "families"): families_table, ("ways.md", "tour"): tour_table}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
    for (name, part), function in PARTS.items():
        text = (FOLDER / name).read_text(encoding="utf-8")
        start, end = between(text, part)
        (FOLDER / name).write_text(text[:start] + function() + text[end:], encoding="utf-8")
