"""Weights of labels or tags, by name or in the order of a model's outputs."""

import collections.abc

import numpy as np

from tfxfer import _check


def checked(argument, given):
    """Returns weights as a tuple, or as a dict by name; raises if one is not a number > 0."""
    if given is None:
        return None
    if isinstance(given, collections.abc.Mapping):
        names = [name.item() if isinstance(name, np.generic) else name for name in given]
        values = list(given.values())
    elif hasattr(given, "__len__") and not isinstance(given, (str, bytes, set, frozenset)):
        names, values = None, list(given)
    else:
        raise _check.invalid(argument, "a list of numbers > 0, or a dict of label to number", given)
    if not values:
        raise _check.invalid(argument, "at least one number", given)
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    values = [_check.number(argument, value, above=0.0) for value in values]
    if not np.isfinite(values).all():
        raise _check.invalid(argument, "finite numbers", given)
    return tuple(values) if names is None else dict(zip(names, values, strict=True))


def ordered(argument, weights, labels, kind="label"):
    """Returns checked weights in the order of `labels`; `kind` is their name in errors."""
    if not isinstance(weights, dict):
        if len(weights) != len(labels):
            raise _check.invalid(argument, f"{len(labels)} numbers, one for each {kind}", weights)
        return weights
    places = list(range(len(labels)))
    by_place = set(weights) == set(places) and not any(isinstance(name, bool) for name in weights)
    if by_place and set(labels) == set(places) and labels != places:
        remedy = f"Give a list of weights in the order of the {kind}s."
        expected = f"no dict for the {kind}s {labels}: its keys could be these or their places"
        raise _check.invalid(argument, expected, weights, remedy)
    if set(weights) == set(labels):
        return tuple(weights[label] for label in labels)
    if by_place and all(isinstance(label, str) for label in labels):
        return tuple(weights[place] for place in places)
    missing, unknown = set(labels) - set(weights), set(weights) - set(labels)
    problems = [f"no weight for {sorted(map(str, missing))}"] if missing else []
    problems += [f"no such {kind} as {sorted(map(str, unknown))}"] if unknown else []
    expected = f"a weight for each of the {kind}s {labels}"
    raise _check.invalid(argument, expected, weights, f"There is {' and '.join(problems)}.")


def by_output(argument, weights, count, remedy):
    """Returns checked weights in the order of `count` outputs; `remedy` explains how to order named weights."""
    if isinstance(weights, dict):
        if set(weights) != set(range(len(weights))):
            raise _check.invalid(argument, "weights in the order of the outputs", weights, remedy)
        weights = tuple(weights[place] for place in range(len(weights)))
    if weights is not None and count is not None and len(weights) != count:
        raise _check.invalid(argument, f"{count} numbers, one for each output", weights)
    return weights


def to_json(weights):
    """Returns checked weights in a form for JSON, which would convert int names to strings."""
    if isinstance(weights, dict):
        return {"names": list(weights), "weights": list(weights.values())}
    return weights if weights is None else list(weights)


def from_json(found):
    """Inverts `to_json`."""
    return dict(zip(found["names"], found["weights"], strict=True)) if isinstance(found, dict) else found
