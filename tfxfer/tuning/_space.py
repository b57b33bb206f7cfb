"""The search space: the values of each entry, their conditions, and the values of inactive entries."""

import contextlib
import dataclasses

from tfxfer import _check

_RANGE = ("min_value", "max_value", "step", "sampling", "default")
_SPECS = (
    "a list of values to choose from, a dict of the arguments of `hp.Float` or `hp.Int` (min_value, max_value[, step, "
    "sampling, default]), one value, or None to remove the entry"
)


class Space:
    """The entries of a space, with the user's changes.

    Args:
        entries: dict of name to `Entry`.
        changes: dict of name to another spec, or `None`.
    """

    def __init__(self, entries, changes=None):
        changes = _check.instance("space", changes or {}, dict, "a dict of entry to values")
        for name in changes:
            _check.one_of("space", name, entries, "These are the entries of this task's space.")
        self._entries = {
            name: dataclasses.replace(entry, spec=_checked(name, changes.get(name, entry.spec), entry))
            for name, entry in entries.items()
        }

    def candidates(self, name):
        """Returns the possible values of an entry of choices or whole numbers, or its `instead` if it is removed."""
        return self._entries[name].candidates()

    def declare(self, hp):
        """Registers all entries with a `keras_tuner.HyperParameters`; entries with names that it has are unchanged."""
        known = {each.name for each in hp.space}
        for name, entry in self._entries.items():
            if name not in known and self._is_possible(entry):
                with self._scope(hp, entry):
                    _register(hp, name, entry)

    def values(self, hp):
        """Returns all values in a `HyperParameters`; `instead` for entries that are inactive or missing."""
        # Scopes are opened only if entries are missing: for each side of a scope that is opened while a model is built,
        # Keras Tuner builds another model.
        known = {each.name for each in hp.space}
        if not all(name in known for name, entry in self._entries.items() if self._is_possible(entry)):
            self.declare(hp)
        return {name: entry.decode(hp.values.get(name, entry.instead)) for name, entry in self._entries.items()}

    def _activating(self, entry):
        return [value for value in self._entries[entry.parent].candidates() if entry.when(value)]

    def _is_possible(self, entry):
        return entry.spec is not None and (entry.parent is None or bool(self._activating(entry)))

    def _scope(self, hp, entry):
        if entry.parent is None or self._entries[entry.parent].spec is None:
            return contextlib.nullcontext()
        return hp.conditional_scope(entry.parent, self._activating(entry))


def _checked(name, spec, entry):
    """Returns a spec in its normal form: `None`, a dict, or a list."""
    if spec is None:
        return None
    argument = f"space[{name!r}]"
    if isinstance(spec, dict):
        return _checked_range(argument, spec, entry)
    values = list(spec) if isinstance(spec, list) else [spec]
    if not values:
        raise _check.invalid(argument, _SPECS, spec, "An empty list leaves nothing to choose.")
    values = [entry.check(argument, value) for value in values]
    if len(set(values)) < len(values):
        raise _check.invalid(argument, "distinct values", spec)
    return values


def _checked_range(argument, spec, entry):
    for key in spec:
        _check.one_of(argument, key, _RANGE, f"Expected {_SPECS}.")
    if not {"min_value", "max_value"} <= set(spec):
        raise _check.invalid(argument, "a dict with min_value and max_value", spec)
    bounds = {key: entry.check(argument, spec[key]) for key in ("min_value", "max_value")}
    if isinstance(bounds["min_value"], str):
        raise _check.invalid(argument, "a list of values to choose from", spec)
    if not bounds["min_value"] < bounds["max_value"]:
        raise _check.invalid(argument, "min_value < max_value", spec)
    return {**spec, **bounds}


def _register(hp, name, entry):
    spec, default = entry.spec, entry.instead
    if isinstance(spec, dict):
        if default is not None and spec["min_value"] <= default <= spec["max_value"]:
            spec = {"default": default, **spec}
        (hp.Int if entry.is_whole else hp.Float)(name, **spec)
    elif len(spec) == 1:
        hp.Fixed(name, spec[0])
    else:
        hp.Choice(name, spec, default=default if default in spec else None)
