"""The space of a search: what may be chosen, on what conditions, and what holds where nothing is chosen."""

import contextlib
import dataclasses

from tfxfer import _check

_RANGE = ("min_value", "max_value", "step", "sampling", "default")
_SPECS = (
    "a list of values to choose from, a dict of the arguments of `hp.Float` or `hp.Int` (min_value, max_value[, step, "
    "sampling, default]), one value, or None to take the entry out"
)


class Space:
    """Entries, as the user changed them.

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
        """The values that an entry of choices or whole numbers may take, its `instead` where it is taken out."""
        return self._entries[name].candidates()

    def declare(self, hp):
        """Registers all entries with a `keras_tuner.HyperParameters`; those that it has by name stay as they are."""
        known = {each.name for each in hp.space}
        for name, entry in self._entries.items():
            if name not in known and self._is_possible(entry):
                with self._scope(hp, entry):
                    _register(hp, name, entry)

    def values(self, hp):
        """All values in a `HyperParameters`; `instead` for entries that are not active, or not there."""
        # Scopes are opened where entries are missing only: for each side of a scope that is opened while a model is
        # built, Keras Tuner builds another model.
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
    """A spec in its one form: `None`, a dict, or a list."""
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
        raise _check.invalid(argument, "values that differ", spec)
    return values


def _checked_range(argument, spec, entry):
    for key in spec:
        _check.one_of(argument, key, _RANGE, f"Expected is {_SPECS}.")
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
