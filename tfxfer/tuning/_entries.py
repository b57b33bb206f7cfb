"""The entries that the spaces of all tasks share."""

from tfxfer import _check, layers
from tfxfer.tuning._space import Entry

UNFREEZING = ("none", "gradual")


def whole(minimum=1):
    """A check for ints."""
    return lambda name, value: _check.integer(name, value, minimum=minimum)


def number(**bounds):
    """A check for floats."""
    return lambda name, value: _check.number(name, value, **bounds)


def share(name, value):
    """A check for floats in `[0, 1)`."""
    if _check.number(name, value, minimum=0.0, maximum=1.0) == 1.0:
        raise _check.invalid(name, "a number >= 0.0 and < 1.0", value)
    return float(value)


def one_of(options):
    """A check for names."""
    return lambda name, value: _check.one_of(name, value, options)


def pooling(name, value):
    """A check for what `layers.Pooling` takes; several modes become one string, as Keras Tuner has no tuples."""
    modes = modes_of(value)
    try:
        return "+".join(layers.pooling_modes(modes))
    except ValueError as error:
        expected = f"one of {', '.join(map(repr, layers.POOLING))}, or a tuple of several"
        raise _check.invalid(name, expected, value) from error


def modes_of(value):
    """The modes of a value as `pooling` makes it."""
    return value.split("+") if isinstance(value, str) else value


def preset_entry(presets):
    """Which encoder."""
    names = list(presets)
    return Entry(names, one_of(names), names[0])


def freezing_entries(presets, most):
    """How many blocks are frozen, from the embeddings up, and whether they thaw; how rates fall towards the input.

    Args:
        presets: dict of `Preset`s.
        most: int. The most blocks that may be frozen: no preset has fewer.
    """
    least = min(preset.depth for preset in presets.values())

    def frozen(name, value):
        if _check.integer(name, value, minimum=0) > most:
            remedy = "More would leave nothing to train." if most < least else "Every preset needs as many."
            raise _check.invalid(name, f"ints from 0 to {most}, blocks that are frozen", value, remedy)
        return int(value)

    return {
        "frozen": Entry(sorted({0, least // 2, most}), frozen, 0, is_whole=True),
        "unfreezing": Entry(
            list(UNFREEZING), one_of(UNFREEZING), "none", parent="frozen", when=lambda frozen: frozen > 0
        ),
        # No condition: blocks that are frozen may thaw.
        "layer_decay": Entry({"min_value": 0.7, "max_value": 1.0, "step": 0.05}, number(above=0.0, maximum=1.0), 1.0),
    }


def pooling_entry(presets):
    """How tokens become one vector: in the presets' ways or the usual ones; out of the space, in each preset's own."""
    own = ["+".join(preset.embedding.pooling) for preset in presets.values()]
    return Entry(list(dict.fromkeys([*own, "mean", "cls", "max"])), pooling)


def training_entries(least_rate, most_rate, rate):
    """Rate, warm-up, batch size, epochs."""
    return {
        "learning_rate": Entry(
            {"min_value": least_rate, "max_value": most_rate, "sampling": "log"}, number(above=0.0), rate
        ),
        "warmup": Entry({"min_value": 0.0, "max_value": 0.2, "step": 0.05}, share, 0.1),
        "batch_size": Entry([16, 32, 64], whole(), 32, is_whole=True),
        # Not in the space unless asked for: `search` says how many, and Hyperband has its own way.
        "epochs": Entry(None, whole(), None, is_whole=True),
    }
