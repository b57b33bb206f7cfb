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
    ("losses", "what fit minimizes"),
    ("freezing", "which weights move"),
    ("callbacks", "during fit"),
    ("evaluation", "scores of rows"),
    ("decisions", "when to answer"),
    ("search", "indexes"),
    ("tuning", "which settings"),
    ("export", "for servers"),
)
LEFT, GAP, LINE, WIDTH = 12, 26, 17, 760  # WIDTH is that of the column of text on the site
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
    .paper { fill: #ffffff; stroke: none; }
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


def row_of_boxes(y, height, number, style=None):
    """The left edges and the width of boxes side by side, and what draws them."""
    width = (WIDTH - 2 * LEFT - (number - 1) * GAP) / number
    edges = [LEFT + i * (width + GAP) for i in range(number)]
    return edges, width, [box(round(x, 1), y, round(width, 1), height, style) for x in edges]


def svg():
    """The picture as the text of an SVG file."""
    out, y = [], 34
    for half in (STEPS[:3], STEPS[3:]):
        height = 50 + LINE * max(len(found) for _, _, found in half)
        edges, width, boxes = row_of_boxes(y, height, 3)
        out += boxes
        for x, (title, flows, found) in zip(edges, half, strict=True):
            out += [text(round(x + 10, 1), y + 20, title, "title"), text(round(x + 10, 1), y + 37, flows, "small")]
            out += [text(round(x + 10, 1), y + 57 + i * LINE, name, "name") for i, name in enumerate(found)]
        out += [arrow(round(x - GAP, 1), y + height / 2, round(x - 1, 1), y + height / 2) for x in edges[1:]]
        if y == 34:  # from the end of the first row to the start of the second
            right, left, middle = edges[-1] + width / 2, edges[0] + width / 2, y + height + 15
            out.append(f'  <path d="M{right:.1f} {y + height} V{middle} H{left:.1f} V{middle + 14}"/>')
            tip = f"{left:.1f},{middle + 15} {left - 4:.1f},{middle + 7} {left + 4:.1f},{middle + 7}"
            out.append(f'  <polygon class="tip" points="{tip}"/>')
        y += height + 30
    inner = WIDTH - 2 * LEFT
    out.append(arrow(WIDTH / 2, y + 6, WIDTH / 2, y - 28))
    y += 6
    out += [box(LEFT, y, inner, 92, "task"), text(LEFT + 10, y + 20, "task", "title")]
    out.append(
        text(LEFT + 10, y + 37, "a Keras model that knows its columns, targets, outputs and layer groups", "small")
    )
    for i, name in enumerate(TASKS):
        out.append(text(round(LEFT + 10 + i % 4 * (inner - 10) / 4, 1), y + 58 + i // 4 * LINE, name, "name"))
    out.append(arrow(WIDTH / 2, y + 126, WIDTH / 2, y + 93))
    y += 126
    for half in (ASKERS[:4], ASKERS[4:]):
        edges, _, boxes = row_of_boxes(y, 48, 4, "asker")
        out += boxes
        for x, (name, words) in zip(edges, half, strict=True):
            out += [text(round(x + 8, 1), y + 19, name, "name"), text(round(x + 8, 1), y + 37, words, "small")]
        y += 60
    lead = text(LEFT, 22, "Strings go in and answers come out, in training, in prediction and in serving.", "small")
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" role="img" '
        'aria-label="The way of the data from rows to answers">'
    )
    paper = f'  <rect class="paper" x="0" y="0" width="{WIDTH}" height="{y}"/>'
    return "\n".join([head, STYLE, paper, lead, *out, "</svg>"]) + "\n"
