"""Plots of a run with matplotlib, without its `pyplot` and so without windows and global state."""

import math
import warnings

import numpy as np

# With more classes than this a confusion matrix has no readable numbers; with more than the next, no readable labels.
_NUMBERED, _WHOLE = 20, 100
_LONG, _SHORT = 40, 28
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2")
# Outcomes of spans: full color for correct ones, then from nearly right to wrong.
_OUTCOMES = {
    "correct": "#4a90c2",
    "boundary": "#f6d55c",
    "type": "#f29e4c",
    "boundary_and_type": "#d9653b",
    "missed": "#9b2226",
    "spurious": "#6b6b6b",
}


def make(width, height):
    """Returns an empty figure; `width` and `height` are in inches.

    Raises:
        ImportError: if matplotlib is not installed; the message names the package.
    """
    try:
        from matplotlib import figure
    except ImportError as error:
        message = "Plots require the package matplotlib: `pip install matplotlib`, or the extra `plot`."
        raise ImportError(message) from error
    return figure.Figure(figsize=(width, height))


def save(drawing, path):
    """Writes a figure as a PNG file to a path or an open file."""
    with warnings.catch_warnings():
        # Labels may be in any script; characters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support .* natively")
        drawing.savefig(path, format="png", dpi=100, bbox_inches="tight", facecolor="white")


def short(label, longest=_SHORT):
    """Shortens a label to one line by cutting its middle, so that labels with the same beginning still differ."""
    label = " ".join(str(label).split())
    if len(label) <= longest:
        return label
    return f"{label[: longest // 2]}…{label[-(longest // 2 - 1) :]}"


def curves(history):
    """Draws each value of a history over the epochs; a metric and its `val_` counterpart share one plot.

    Args:
        history: dict of name to list of numbers.

    Returns:
        A figure.
    """
    metrics = list(dict.fromkeys(name.removeprefix("val_") for name in history))
    columns = min(3, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    longest = max(map(len, history.values()))
    drawing = make(4.6 * columns, 3.2 * rows)
    for k, metric in enumerate(metrics):
        axes = drawing.add_subplot(rows, columns, k + 1)
        for name, colour, label in ((metric, _COLOURS[0], "training"), (f"val_{metric}", _COLOURS[1], "validation")):
            if name not in history:
                continue
            values = np.asarray(history[name], "float64")
            epochs = np.arange(1, len(values) + 1)
            marker = "o" if len(values) <= 30 else None
            axes.plot(epochs, values, color=colour, marker=marker, markersize=4, label=label)
        axes.set_title(metric, fontsize=11, parse_math=False)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        margin = 0.04 * longest if longest > 1 else 0.5
        axes.set_xlim(1 - margin, longest + margin)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    drawing.tight_layout()
    return drawing


def confusion(matrix, labels, *, title="Confusion", unit="rows"):
    """Draws a confusion matrix; each row (a true class) is colored by its fractions.

    With more than 100 classes, only the 50 with the most errors, as true or as predicted class, are drawn.

    Args:
        matrix: int array `(classes, classes)`: truth, prediction.
        labels: the class names.
        title: string.
        unit: string. What the numbers count.

    Returns:
        A figure.
    """
    matrix = np.asarray(matrix)
    if len(labels) > _WHOLE:
        off = matrix - np.diag(np.diag(matrix))
        kept = np.sort(np.argsort(-(off.sum(axis=0) + off.sum(axis=1)), kind="stable")[: _WHOLE // 2])
        title = f"{title}: the {len(kept)} of {len(labels)} classes with the most errors"
        totals, matrix, labels = matrix.sum(axis=1)[kept], matrix[np.ix_(kept, kept)], [labels[k] for k in kept]
    else:
        totals = matrix.sum(axis=1)
    count = len(labels)
    cell = 0.55 if count <= _NUMBERED else max(0.2, 11 / count)
    size = max(2.6, cell * count)
    drawing = make(size + 1.2, size)
    axes = drawing.add_subplot()
    shares = matrix / np.maximum(totals, 1)[:, None]
    # Scaled by the square root, so that one row in fifty is distinguishable from none.
    image = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, aspect="equal")
    few = count <= _NUMBERED
    font = 9 if few else 7
    names = [short(label, _LONG if few else _SHORT) for label in labels]
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if few else {"rotation": 90}
    axes.set_xticks(range(count), names, fontsize=font, parse_math=False, **turned)
    rows = [f"{name} (no {unit})" if not total else name for name, total in zip(names, totals, strict=True)]
    axes.set_yticks(range(count), rows, fontsize=font, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    for k in np.flatnonzero(totals == 0):
        axes.axhspan(k - 0.5, k + 0.5, color="0.9", zorder=2)
    if few:
        for i, j in np.argwhere(matrix > 0):
            colour = "white" if shares[i, j] > 0.4 else "black"
            axes.text(j, i, f"{matrix[i, j]}", ha="center", va="center", fontsize=8, color=colour)
    else:
        # Lines that lead from a cell to its labels.
        axes.set_xticks(np.arange(-0.5, count), minor=True)
        axes.set_yticks(np.arange(-0.5, count), minor=True)
        axes.grid(which="minor", color="0.9", linewidth=0.4)
        axes.tick_params(which="minor", length=0)
    bar = drawing.colorbar(image, ax=axes, fraction=0.04, pad=0.02, aspect=30)
    ticks = [0, 0.02, 0.1, 0.25, 0.5, 0.75, 1]
    bar.set_ticks(np.sqrt(ticks), labels=[f"{tick:g}" for tick in ticks])
    bar.set_label("share of the true class")
    return drawing


def per_class(scores):
    """Draws F1, precision and recall of each label, the worst at the top; if there are more than 50, the 50 worst.

    Args:
        scores: the dict `per_class` of `classification_scores`.

    Returns:
        A figure.
    """
    ordered = sorted(scores.items(), key=lambda item: item[1]["f1"])[: _WHOLE // 2]
    drawing = make(7, 1.2 + 0.24 * len(ordered))
    axes = drawing.add_subplot()
    places = np.arange(len(ordered))
    axes.barh(places, [values["f1"] for _, values in ordered], color="0.8", label="F1")
    axes.plot([values["precision"] for _, values in ordered], places, "|", color=_COLOURS[0], ms=10, label="precision")
    axes.plot([values["recall"] for _, values in ordered], places, "x", color=_COLOURS[3], ms=6, label="recall")
    names = [f"{short(label)} ({values['support']})" for label, values in ordered]
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    axes.set_xlim(0, 1.03)
    part = "" if len(ordered) == len(scores) else f": the {len(ordered)} worst of {len(scores)}"
    axes.set_title(f"Labels, with their number of rows{part}", fontsize=11)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.6 / (1.2 + 0.24 * len(ordered))), ncols=3, fontsize=8)
    return drawing


def outcomes(per_type):
    """Draws the outcomes of the spans of each type, as fractions of the gold and of the predicted spans.

    The most frequent type is at the top. Only the 50 most frequent types are drawn.

    Args:
        per_type: the dict `per_type` of `entity_errors`.

    Returns:
        A figure.
    """
    sizes = {kind: sum(each["gold"].values()) + sum(each["predicted"].values()) for kind, each in per_type.items()}
    types = sorted(per_type, key=lambda kind: -sizes[kind])[: _WHOLE // 2]
    part = "" if len(types) == len(per_type) else f": {len(types)} of {len(per_type)} types"
    height = 1.1 + 0.3 * len(types)
    drawing = make(9, height)
    panels = drawing.subplots(1, 2, gridspec_kw={"wspace": 0.15, "bottom": 0.6 / height, "top": 1 - 0.3 / height})
    shown = {}
    for axes, side in zip(panels, ("gold", "predicted"), strict=True):
        counts = np.array([list(per_type[kind][side].values()) for kind in types], "float64")
        shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        left = np.zeros(len(types))
        for k, kind in enumerate(per_type[types[0]][side]):
            bars = axes.barh(range(len(types)), shares[:, k], 0.75, left=left, color=_OUTCOMES[kind])
            shown.setdefault(kind.replace("_", " "), bars)
            left += shares[:, k]
        totals = [f"({total:.0f})" for total in counts.sum(axis=1)]
        if side == "gold":  # the other panel shows the same types
            totals = [f"{short(kind)} {total}" for kind, total in zip(types, totals, strict=True)]
        axes.set_yticks(range(len(types)), totals, fontsize=8, parse_math=False)
        axes.set_ylim(len(types) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(f"{side} spans{part}", fontsize=11)
        axes.set_xlabel(f"% of the {side} spans", fontsize=9)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.1 / height), "ncols": len(shown), "fontsize": 8}
    drawing.legend(shown.values(), shown, **below)
    return drawing


def reliability(calibration, *, unit="rows"):
    """Draws how often rows of similar confidence are right, and a histogram of the confidence.

    Args:
        calibration: the result of `calibration_scores`.
        unit: string. What the bins count.

    Returns:
        A figure.
    """
    bins = [each for each in calibration["bins"] if each["rows"]]
    width = calibration["bins"][0]["upper"] - calibration["bins"][0]["lower"]
    centres = np.array([(each["lower"] + each["upper"]) / 2 for each in bins])
    right = np.array([each["right"] for each in bins])
    confidence = np.array([each["confidence"] for each in bins])
    drawing = make(5.2, 6.0)
    upper, lower = drawing.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1), "hspace": 0.12})
    upper.bar(centres, right, width, color="#9ecae1", edgecolor="white", label="accuracy")
    gaps = {"color": _COLOURS[3], "alpha": 0.4, "zorder": 2, "label": "gap to the mean confidence"}
    upper.bar(centres, np.abs(confidence - right), width * 0.5, bottom=np.minimum(right, confidence), **gaps)
    upper.plot([0, 1], [0, 1], "--", color="black", linewidth=1, label="calibrated", zorder=3)
    upper.set_ylim(0, 1)
    upper.set_ylabel("accuracy")
    # Above the axes, because the bars may be anywhere inside.
    upper.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8, frameon=False)
    upper.set_title(f"Reliability: expected calibration error {calibration['ece']:.3f}", fontsize=11, pad=24)
    lower.bar(centres, [each["rows"] for each in bins], width, color="0.75", edgecolor="white")
    lines = (("mean confidence", "confidence", _COLOURS[1], "-"), ("accuracy", "right", _COLOURS[0], "--"))
    for label, key, colour, style in lines:
        value = calibration[key]
        lower.axvline(value, color=colour, linestyle=style, linewidth=1.8, label=f"{label}: {value:.3f}")
    lower.set_xlim(0, 1)
    lower.set_xlabel("confidence")
    lower.set_ylabel(unit)
    lower.legend(loc="upper center", bbox_to_anchor=(0.5, -0.45), ncols=2, fontsize=8)
    return drawing


def coverage(curve):
    """Draws the accuracy on the most confident rows against the coverage.

    Args:
        curve: the result of `coverage_curve`.

    Returns:
        A figure.
    """
    drawing = make(5.2, 4.2)
    axes = drawing.add_subplot()
    x, y = np.array(curve["coverage"]), np.array(curve["accuracy"])
    axes.plot(x, y, color=_COLOURS[0], linewidth=1.8, marker="o" if len(x) <= 30 else None, markersize=4)
    axes.fill_between(x, y, 1, color=_COLOURS[3], alpha=0.12, linewidth=0)
    low = max(0.0, float(y.min()) - 0.1 * max(1 - float(y.min()), 0.05))
    axes.set_ylim(low, 1 + 0.02 * (1 - low))
    axes.set_xlim(0, 1.01)
    axes.text(0.03, 0.05, f"all rows: {y[-1]:.3f}", transform=axes.transAxes, fontsize=9)
    axes.set_xlabel("coverage (fraction of the rows, most confident first)")
    axes.set_ylabel("accuracy on these rows")
    axes.set_title(f"Coverage: area over the curve {curve['aurc']:.3f}", fontsize=11)
    axes.grid(alpha=0.3)
    return drawing


def precision_recall(curves):
    """Draws precision against recall of all decisions, and of the six classes with the lowest average precision.

    Args:
        curves: the result of `precision_recall_curve`.

    Returns:
        A figure.
    """
    drawing = make(5.6, 4.6)
    axes = drawing.add_subplot()
    defined = {label: each for label, each in curves["per_class"].items() if each["recall"]}
    ordered = sorted(defined.items(), key=lambda item: item[1]["average_precision"])[: len(_COLOURS) - 1]
    shown = [("all decisions", curves["micro"], "black", 2.0)] if curves["micro"]["recall"] else []
    shown += [(short(label), each, colour, 1.2) for (label, each), colour in zip(ordered, _COLOURS, strict=False)]
    for label, each, colour, width in shown:
        # The best precision at each recall, that of the highest threshold; the curve steps up to it.
        recall, first = np.unique(each["recall"], return_index=True)
        precision = np.array(each["precision"])[first]
        first = int(recall[0] == 0)  # rows before the first right one
        x, y = [0.0, *recall[first:]], [precision[first], *precision[first:]]
        name = f"{label}: {each['average_precision']:.3f}".replace("$", "\\$")
        axes.step(x, y, where="pre", color=colour, linewidth=width, label=name, zorder=3 if width > 1.5 else 2)
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    part = "" if len(ordered) == len(defined) else f": the {len(ordered)} hardest of {len(defined)} classes"
    axes.set_title(f"Precision and recall{part}", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize=8)
    return drawing


def similarities(values, groups, *, name, threshold=None):
    """Draws the values of several groups of pairs as histograms on one scale, one below the other.

    Args:
        values: float array `(rows,)`.
        groups: dict of group name to bool array `(rows,)`, from the first (at the bottom) to the last (at the top).
        name: string. What the values are.
        threshold: float to mark, or `None`.

    Returns:
        A figure.
    """
    values = np.asarray(values, "float64")
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, 41)
    drawing = make(7, 0.9 + 1.25 * len(groups))
    grid = {"hspace": 0.45}
    stacked = drawing.subplots(len(groups), 1, sharex=True, squeeze=False, gridspec_kw=grid)[::-1, 0]
    for k, (axes, (group, inside)) in enumerate(zip(stacked, groups.items(), strict=True)):
        rows = int(inside.sum())
        label = f"{group}: {rows} rows"
        if rows:
            mean = float(values[inside].mean())
            weights = np.full(rows, 100 / rows)
            axes.hist(values[inside], edges, weights=weights, color=_COLOURS[k % len(_COLOURS)], alpha=0.8)
            axes.axvline(mean, color="black", linewidth=1)
            label += f", mean {mean:.3f}"
        else:
            axes.set_ylim(0, 1)
        axes.set_title(label, loc="left", fontsize=9, pad=3, parse_math=False)
        if threshold is not None:
            axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(labelsize=8)
    stacked[0].set_xlim(low, high)
    marked = "" if threshold is None else f"; dashed: threshold {threshold:.3f}"
    stacked[0].set_xlabel(f"{name} (lines: means{marked})", fontsize=9, parse_math=False)
    drawing.supylabel("% of the rows", fontsize=9, x=0.04)
    return drawing
