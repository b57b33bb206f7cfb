"""Draws the way of the data, `_static/way_of_the_data.svg`, from names of the package; `generate.py` calls it."""

import html

# The columns of the picture from left to right: a title, what flows out of it, and the names that do the step.
STEPS = (
    ("rows", "columns of any kind", ("data.read", "data.pairs", "data.labelled", "data.tagged", "data.rankings")),
    ("batches", "dicts of tensors", ("data.batches", "data.mix", "augmentation", "preprocessing.Tokenizer")),
    ("backbone", "states of tokens", ("backbones.load", "backbones.Backbone", "backbones.KerasHubBackbone")),
    ("features", "vectors", ("layers.Pooling", "layers.WordPooling", "layers.Fusion", "layers.SiameseTowers")),
    ("heads", "scores", ("layers.Head", "layers.CRF", "layers.SoftmaxDecoder", "layers.Comparison")),
    ("answers", "for people", ("models.Classification", "models.Entity", "models.Ranked", "search.Hits")),
)
TASKS = (
    "models.TextEmbedder",
    "models.TextClassifier",
    "models.TextRegressor",
    "models.Reranker",
    "models.Siamese",
    "models.TokenTagger",
    "models.MultiTask",
)
# What asks the description of a task, with what it does.
ASKERS = (
    ("losses", "what training minimizes"),
    ("freezing", "which weights move"),
    ("callbacks", "during fit"),
    ("evaluation", "scores of a data set"),
    ("decisions", "when to answer"),
    ("search", "indexes"),
    ("tuning", "which settings"),
    ("export", "for servers"),
)
WIDTH, GAP, LEFT, LINE = 176, 22, 12, 17
STYLE = """\
  <style>
    text { font: 13px ui-sans-serif, system-ui, "Liberation Sans", Arial, sans-serif; fill: #1b1f24; }
    .title { font-weight: 600; font-size: 15px; }
    .name { font: 11.5px ui-monospace, "Liberation Mono", Menlo, monospace; }
    .small { font-size: 12px; fill: #57606a; }
    rect { fill: #f3f6fa; stroke: #8c959f; }
    .task { fill: #e6f2ea; }
    .asker { fill: #fdf3e1; }
    path { stroke: #57606a; fill: none; stroke-width: 1.5; }
    .tip { fill: #57606a; stroke: none; }
    @media (prefers-color-scheme: dark) { .paper { fill: #ffffff; } }
  </style>"""


def names():
    """All names of the package in the picture."""
    return [*(name for _, _, found in STEPS for name in found), *TASKS, *(name for name, _ in ASKERS)]


def text(x, y, words, style=None):
    """A line of text."""
    attribute = f' class="{style}"' if style else ""
    return f'  <text x="{x}" y="{y}"{attribute}>{html.escape(words)}</text>'


def box(x, y, width, height, style=None):
    """A rectangle with round corners."""
    attribute = f' class="{style}"' if style else ""
    return f'  <rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6"{attribute}/>'


def arrow(x, y, end_x, end_y):
    """A straight arrow, to the right or upwards."""
    tip = (
        f"{end_x},{end_y} {end_x - 8},{end_y - 4} {end_x - 8},{end_y + 4}"
        if end_x > x
        else f"{end_x},{end_y} {end_x - 4},{end_y + 8} {end_x + 4},{end_y + 8}"
    )
    return f'  <path d="M{x} {y} L{end_x} {end_y}"/>\n  <polygon class="tip" points="{tip}"/>'


def svg():
    """The picture as the text of an SVG file."""
    total = LEFT * 2 + len(STEPS) * WIDTH + (len(STEPS) - 1) * GAP
    top, height = 34, 44 + LINE * max(len(found) for _, _, found in STEPS)
    out = []
    for i, (title, flows, found) in enumerate(STEPS):
        x = LEFT + i * (WIDTH + GAP)
        out += [box(x, top, WIDTH, height), text(x + 10, top + 20, title, "title")]
        out.append(text(x + 20 + 8.2 * len(title), top + 20, flows, "small"))
        out += [text(x + 10, top + 42 + j * LINE, name, "name") for j, name in enumerate(found)]
        if i:
            out.append(arrow(x - GAP, top + height / 2, x - 1, top + height / 2))
    inner = total - 2 * LEFT
    task_top = top + height + 34
    out += [box(LEFT, task_top, inner, 62, "task"), text(LEFT + 10, task_top + 22, "task", "title")]
    out.append(
        text(LEFT + 52, task_top + 22, "one Keras model that knows its columns, targets, outputs, layer groups", "small")
    )
    step = (inner - 20) / len(TASKS)
    out += [text(LEFT + 10 + i * step, task_top + 46, name, "name") for i, name in enumerate(TASKS)]
    out.append(arrow(LEFT + inner / 2, task_top, LEFT + inner / 2, top + height + 2))
    ask_top = task_top + 62 + 34
    width = (inner - GAP * (len(ASKERS) - 1)) / len(ASKERS)
    for i, (name, words) in enumerate(ASKERS):
        x = LEFT + i * (width + GAP)
        out += [box(round(x, 1), ask_top, round(width, 1), 50, "asker")]
        out += [text(round(x + 8, 1), ask_top + 20, name, "name"), text(round(x + 8, 1), ask_top + 38, words, "small")]
        out.append(arrow(round(x + width / 2, 1), ask_top, round(x + width / 2, 1), task_top + 64))
    bottom = ask_top + 50
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {bottom + 14}" width="{total}" role="img" '
        'aria-label="The way of the data from rows to answers">'
    )
    paper = f'  <rect class="paper" x="0" y="0" width="{total}" height="{bottom + 14}" style="fill:#fff;stroke:none"/>'
    lead = text(LEFT, 22, "Strings go in and answers come out: in training, prediction and serving alike", "small")
    return "\n".join([head, STYLE, paper, lead, *out, "</svg>"]) + "\n"
