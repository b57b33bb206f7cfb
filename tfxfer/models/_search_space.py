"""How a task describes itself to a search: its space, and how to make and compile the model of a trial."""

import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfxfer import _check, data, layers, losses

UNFREEZING = ("none", "gradual")
HEADS = ("linear", "mlp")
WORD_HEADS = ("linear", "crf")
# The loss arguments to search, from half to twice the loss's default.
LOSS_ARGUMENTS = ("margin", "scale", "temperature", "student_temperature")
LOSSES = {
    name: value
    for name, value in vars(losses).items()
    if inspect.isclass(value) and "loss" not in inspect.signature(value).parameters
}
# Task parameters that the search sets itself: from the preset, or through `frozen` in the space.
_OF_THE_SEARCH = {"self", "inputs", "outputs", "backbone", "preprocessor", "embedder", "top", "trainable", "compile"}


def _same(name, value):
    return value


@dataclasses.dataclass(frozen=True)
class Entry:
    """One choice of a search.

    Args:
        spec: the choices: a list, a dict (a range: the arguments of `hp.Float` or `hp.Int`), one value, or `None` for
            an entry that is in the space only if the user adds it.
        check: function of (name, value) that raises for an invalid value, and otherwise returns the value in a form
            that Keras Tuner takes: a string, a number or a bool.
        instead: the value if the entry is not in the space or not active; if possible, also the first guess.
        parent: the entry on which this one depends. Names must be unique, and a parent has no parent: Keras Tuner loses
            the values of entries that share a name.
        when: function of the parent's value that returns whether this entry is active.
        is_whole: bool. Whether numbers are ints.
        decode: function from Keras Tuner's value to the value that `from_search` and `compile_for_search` get.

    Example:

    >>> tx.tuning.Entry(["mean", "cls"], instead="mean").candidates()
    ['mean', 'cls']
    """

    spec: Any
    check: Callable[[str, Any], Any] = _same
    instead: Any = None
    parent: str | None = None
    when: Callable[[Any], bool] = bool
    is_whole: bool = False
    decode: Callable[[Any], Any] = lambda value: value

    def candidates(self) -> list:
        """The values that an entry of choices or whole numbers may take."""
        if self.spec is None:
            return [self.instead]
        if isinstance(self.spec, dict):
            return list(range(self.spec["min_value"], self.spec["max_value"] + 1))
        return self.spec


class Searchable:
    """The interface of `tuning.HyperModel` to a task; part of every task model.

    A custom task has the entries that all tasks share: `preset`, `frozen`, `unfreezing`, `layer_decay`,
    `learning_rate`, `warmup`, `batch_size`, `epochs`; and `loss` with its arguments, if `losses` are given. Override
    these methods to add entries.
    """

    keeps_embedding: bool
    compile: Callable
    _from_pretrained: Callable

    @classmethod
    def search_space(cls, presets: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Entry]:
        """Returns the search space of this task.

        Args:
            presets: dict of name to preset, each with `depth` (blocks) and `embedding` (how it pools).
            arguments: dict of the arguments that the user passed for the task: those of the constructor, and `losses`.

        Returns:
            A dict of name to `tuning.Entry`.

        Raises:
            ValueError: if the task does not have an argument, if a required argument is missing, or if the losses are
                invalid.
        """
        _check_arguments(cls, arguments)
        chosen = _checked_losses(cls, arguments.get("losses"))
        # A task that is only an embedder has no head to train on a frozen encoder.
        most = min(preset.depth for preset in presets.values()) - cls.keeps_embedding
        return {
            "preset": Entry(list(presets), one_of(presets), next(iter(presets))),
            **_freezing_entries(presets, most),
            **({"pooling": _pooling_entry(presets)} if cls.keeps_embedding else {}),
            **_loss_entries(chosen),
            **_training_entries(*((5e-6, 2e-4, 2e-5) if cls.keeps_embedding else (1e-5, 1e-3, 1e-4))),
        }

    @classmethod
    def from_search(cls, preset: Any, values: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
        """Makes the model of a trial.

        Args:
            preset: the chosen preset: `pretrained()` returns a new encoder with its weights and the preprocessor that
                trials share, as `backbones.load` does.
            values: dict of entry to value.
            arguments: dict, as in `search_space`.

        Returns:
            An uncompiled model of this class.
        """
        given = {name: value for name, value in arguments.items() if name != "losses"}
        if values.get("pooling") is not None:
            given["pooling"] = values["pooling"]
        return cls._from_pretrained(preset.pretrained(), given, True)[0]

    def compile_for_search(self, values: Mapping[str, Any], optimizer: Any) -> None:
        """Compiles the model of a trial with the chosen loss, or else with the task's own loss and metrics.

        Args:
            values: dict of entry to value.
            optimizer: the Keras optimizer of the trial.
        """
        make = values.get("loss")
        if make is None:
            self.compile(optimizer=optimizer)
            return
        parameters = inspect.signature(make).parameters
        chosen = {name: values[name] for name in LOSS_ARGUMENTS if name in parameters and values.get(name) is not None}
        self.compile(optimizer=optimizer, loss=make(**chosen))


class PooledSearch(Searchable):
    """`Searchable` for tasks with pooled features and a head."""

    @classmethod
    def search_space(cls, presets: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Entry]:
        """Returns the entries of all tasks, pooling, and those of the head; see `Searchable`."""
        own = {
            "pooling": _pooling_entry(presets),
            "head": Entry(list(HEADS), one_of(HEADS), "linear"),
            "hidden_dim": Entry(
                [128, 256, 512], whole(), None, parent="head", when=lambda head: head == "mlp", is_whole=True
            ),
            **_head_entries(cls, 1.0),
        }
        return _before_training(super().search_space(presets, arguments), own)

    @classmethod
    def from_search(cls, preset: Any, values: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
        """Makes the model of a trial with the chosen head; see `Searchable`."""
        head, dropout = values["head"], values["dropout"]
        if head == "mlp" and values["hidden_dim"] is not None:
            outputs = len(arguments["labels"]) if "labels" in arguments else arguments.get("num_outputs", 1)
            head = layers.Head(outputs, (values["hidden_dim"],), dropout=dropout, name="head")
        return super().from_search(preset, values, {**arguments, "head": head, "dropout": dropout})


class WordSearch(Searchable):
    """`Searchable` for tasks on words with a head."""

    @classmethod
    def search_space(cls, presets: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Entry]:
        """Returns the entries of all tasks, the pooling of words, and those of the head; see `Searchable`."""
        own = {
            "word_pooling": Entry(list(layers.WORD_POOLING), one_of(layers.WORD_POOLING), "first"),
            "head": Entry(list(WORD_HEADS), one_of(WORD_HEADS), "linear"),
            **_head_entries(cls, 10.0),
        }
        return _before_training(super().search_space(presets, arguments), own)

    @classmethod
    def from_search(cls, preset: Any, values: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
        """Makes the model of a trial with the chosen pooling and head; see `Searchable`."""
        chosen = {name: values[name] for name in ("word_pooling", "head", "dropout")}
        return super().from_search(preset, values, {**arguments, **chosen})


# === Checks of values ===


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


def _pooling(name, value):
    """A check for modes of `layers.Pooling`; joins several modes in one string, as Keras Tuner has no tuples."""
    try:
        return "+".join(layers.pooling_modes(_modes_of(value)))
    except ValueError as error:
        expected = f"one of {', '.join(map(repr, layers.POOLING))}, or a tuple of several"
        raise _check.invalid(name, expected, value) from error


def _modes_of(value):
    """The modes of a value from `_pooling`."""
    return value.split("+") if isinstance(value, str) else value


# === Entries ===


def _freezing_entries(presets, most):
    """The number of frozen blocks, from the embeddings up, whether they thaw, and the layer-wise rate decay.

    Args:
        presets: dict of presets.
        most: int. The maximum number of frozen blocks; every preset has at least as many.
    """
    least = min(preset.depth for preset in presets.values())

    def frozen(name, value):
        if _check.integer(name, value, minimum=0) > most:
            remedy = "More would leave nothing to train." if most < least else "Every preset needs that many blocks."
            raise _check.invalid(name, f"ints from 0 to {most}, the number of frozen blocks", value, remedy)
        return int(value)

    return {
        "frozen": Entry(sorted({0, least // 2, most}), frozen, 0, is_whole=True),
        "unfreezing": Entry(
            list(UNFREEZING), one_of(UNFREEZING), "none", parent="frozen", when=lambda frozen: frozen > 0
        ),
        # There is no condition: frozen blocks may thaw.
        "layer_decay": Entry({"min_value": 0.7, "max_value": 1.0, "step": 0.05}, number(above=0.0, maximum=1.0), 1.0),
    }


def _pooling_entry(presets):
    """How tokens are pooled: as the presets do or in the usual ways; outside the space, as each preset does."""
    own = ["+".join(preset.embedding.pooling) for preset in presets.values()]
    return Entry(list(dict.fromkeys([*own, "mean", "cls", "max"])), _pooling, decode=_modes_of)


def _head_entries(task, multiplier):
    """Dropout before the head, and the head's rate relative to the top block's; outside the space, the task's."""
    dropout = inspect.signature(task.__init__).parameters.get("dropout")
    spec = {"min_value": 0.0, "max_value": 0.4, "step": 0.1}
    return {
        "dropout": Entry(spec, share, dropout.default if dropout else 0.0),
        "head_multiplier": Entry(
            {"min_value": 1.0, "max_value": 30.0, "sampling": "log"}, number(above=0.0), multiplier
        ),
    }


def _before_training(shared, own):
    """Puts a task's own entries between the shared ones of the model and those of its training."""
    training = {name: shared.pop(name) for name in ("learning_rate", "warmup", "batch_size", "epochs")}
    return {**shared, **own, **training}


def _loss_entries(chosen):
    """The losses and their arguments, from half the smallest of their defaults to twice the largest.

    Args:
        chosen: dict of name to function that makes a loss; empty for a task with its own loss.
    """
    if not chosen:
        return {}
    first = next(iter(chosen))
    found = {"loss": Entry(list(chosen), one_of(chosen), first, decode=chosen.get)}
    for argument in LOSS_ARGUMENTS:
        defaults = {name: _default(make, argument) for name, make in chosen.items()}
        defaults = {name: value for name, value in defaults.items() if value}
        if defaults:
            low, high = min(defaults.values()) / 2, max(defaults.values()) * 2
            spec = {"min_value": low, "max_value": high, "sampling": "log", "default": defaults.get(first, low)}
            found[argument] = Entry(
                spec, number(), parent="loss", when=functools.partial(operator.contains, list(defaults))
            )
    return found


def _default(make, argument):
    """The default of a loss's argument, if that is a number."""
    parameters = inspect.signature(make).parameters
    default = parameters[argument].default if argument in parameters else None
    return default if isinstance(default, (int, float)) and not isinstance(default, bool) else None


def _training_entries(least_rate, most_rate, rate):
    """Rate, warmup, batch size, epochs."""
    return {
        "learning_rate": Entry(
            {"min_value": least_rate, "max_value": most_rate, "sampling": "log"}, number(above=0.0), rate
        ),
        "warmup": Entry({"min_value": 0.0, "max_value": 0.2, "step": 0.05}, share, 0.1),
        "batch_size": Entry([16, 32, 64], whole(), 32, is_whole=True),
        # Only on request: `search` sets the number of epochs, and Hyperband has its own.
        "epochs": Entry(None, whole(), None, is_whole=True),
    }


# === Checks of the task's arguments ===


def _check_arguments(task, arguments):
    """Raises for arguments that the task's constructor does not have, and for missing ones that it requires."""
    known, needed = _parameters(task)
    for name in arguments:
        if name != "losses" and name not in known:
            raise _check.invalid(name, f"an argument of `{task.__name__}`: {', '.join(known)}", arguments[name])
    for name in needed:
        if arguments.get(name) is None:
            raise _check.invalid(name, f"a value: `{task.__name__}` needs one", arguments.get(name))
    if "labels" in needed and hasattr(task, "classify"):
        data.LabelColumn(arguments["labels"], arguments.get("multi_label", False))


def _parameters(task):
    """Returns the arguments of a task's constructor that the search does not set, and those without a default."""
    known, needed, embeds = {}, [], False
    for cls in task.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters
        embeds |= "embedder" in parameters
        for name, parameter in parameters.items():
            is_named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            if is_named and name not in _OF_THE_SEARCH:
                known.setdefault(name)
                # Arguments that a class passes to its base class come from its own arguments.
                if parameter.default is parameter.empty and cls is task:
                    needed.append(name)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
        if cls.__module__ == "tfxfer.models._task":
            break
    if embeds:
        from tfxfer.models._embedder import TextEmbedder

        known.update(dict.fromkeys(_parameters(TextEmbedder)[0]))
    return [*dict.fromkeys([*known, "name"])], needed


def _checked_losses(task, given):
    """Losses as a dict of name to function that makes the loss; empty for a task that has its own loss."""
    if given is None:
        own = inspect.signature(task.compile).parameters.get("loss")
        if (own is None or own.default is None) and task.compile_for_search is Searchable.compile_for_search:
            remedy = f"`{task.__name__}` has no loss of its own."
            raise _check.invalid("losses", "names of losses, or a dict of name to function", None, remedy)
        return {}
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, (list, tuple, dict)) or not given:
        raise _check.invalid("losses", "names of losses, or a dict of name to a function that makes one", given)
    if not isinstance(given, dict):
        return {
            name: LOSSES[_check.one_of("losses", name, LOSSES, "For other losses, pass a dict of name to function.")]
            for name in given
        }
    for name, make in given.items():
        _check.instance("losses", name, str, "names that are strings")
        if not callable(make) or isinstance(make, keras.losses.Loss):
            remedy = "For example `{'matryoshka': lambda scale=20.0: MatryoshkaLoss(CoSENTLoss(scale), [64, 384])}`."
            raise _check.invalid("losses", "functions that make a loss", make, remedy)
    return dict(given)
