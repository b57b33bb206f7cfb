"""The common wording of errors.

All errors caused by a caller's value are made here, so that they share one form: the argument, the expected value, the
received value, and a remedy.
"""

import fnmatch
import numbers


def invalid(argument, expected, received, remedy=None):
    """Makes the `ValueError` for an invalid value of an argument.

    Args:
        argument: string. The argument's name, as the caller wrote it.
        expected: string. The expected value, e.g. `"a positive int"`.
        received: the received value; shown by `repr`, truncated to 200 characters.
        remedy: optional string. A sentence on how to fix it.

    Returns:
        A `ValueError`, for the caller to raise.

    Example:

    >>> str(invalid("margin", "a positive float", -1.0))
    'Invalid value for argument `margin`. Expected a positive float. Received: margin=-1.0'
    """
    shown = repr(received)
    if len(shown) > 200:
        shown = f"{shown[:200]}..."
    message = f"Invalid value for argument `{argument}`. Expected {expected}. Received: {argument}={shown}"
    return ValueError(f"{message}. {remedy}" if remedy else message)


def one_of(argument, value, options, remedy=None):
    """Returns `value` if it is one of `options` (any iterable of names); raises otherwise."""
    options = list(options)
    if not isinstance(value, str) or value not in options:
        raise invalid(argument, f"one of {', '.join(map(repr, options))}", value, remedy)
    return value


def some_of(argument, patterns, options, remedy=None):
    """Returns the `options` that match a name, an `fnmatch` pattern or several of them, in their order.

    Raises if a name or pattern is not a string or matches no option, and if none are given.

    >>> some_of("groups", ["block_*", "head"], ["embeddings", "block_0", "block_1", "head"])
    ['block_0', 'block_1', 'head']
    """
    options = list(options)
    several = isinstance(patterns, (list, tuple, set, frozenset))
    found: set[str] = set()
    for pattern in (patterns or [()]) if several else [patterns]:
        matching = {name for name in options if isinstance(pattern, str) and fnmatch.fnmatchcase(name, pattern)}
        if not matching:
            expected = f"names from {', '.join(map(repr, options))}, or patterns such as 'block_*' that match some"
            raise invalid(argument, expected, pattern, remedy)
        found |= matching
    return [name for name in options if name in found]


def strings(argument, values):
    """Returns `values`, a list, if every value is a text; the error names the first row that is not."""
    for row, value in enumerate(values):
        text(argument, value, row)
    return values


def text(argument, value, row):
    """Raises if a value is not `str` or `bytes`, or UTF-8 cannot encode it; the error names the row, an int."""
    where = f"It is in row {row} (counting from 0)."
    if isinstance(value, bytes):
        return
    if is_missing(value):
        remedy = f'{where} Fill it in (`""` is a text) or leave the row out.'
        raise invalid(argument, "a text in every row", value, remedy)
    if isinstance(value, (list, tuple)):
        remedy = f"{where} Pass rows of several texts as columns, (firsts, seconds)."
        raise invalid(argument, "texts that are strings", value, remedy)
    if not isinstance(value, str):
        raise invalid(argument, "texts that are strings", value, f"{where} Convert the column to strings first.")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            remedy = f"{where} Lone surrogates come from incorrect decoding. Read the text again, or replace them."
            raise invalid(argument, "texts that UTF-8 can encode", value, remedy) from error


def is_missing(value):
    """Whether a value is `None`, NaN or pandas's NA."""
    # NaN is the float that does not equal itself; numpy's float32 is not a `float`.
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, numbers.Real) and value != value)


def integer(argument, value, *, minimum=1, optional=False):
    """Returns `value` as an int if it is a whole number of at least `minimum` (or `None`, if `optional`)."""
    if optional and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise invalid(argument, f"an int >= {minimum}{' or None' if optional else ''}", value)
    return int(value)


def number(argument, value, *, minimum=None, maximum=None, above=None):
    """Returns `value` as a float if it is in `[minimum, maximum]` and above `above` (each bound optional)."""
    bounds = [
        f"{sign} {bound}" for sign, bound in ((">=", minimum), ("<=", maximum), (">", above)) if bound is not None
    ]
    expected = " ".join(["a number", " and ".join(bounds)]).strip()
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or value != value:
        raise invalid(argument, expected, value)
    if (
        (minimum is not None and value < minimum)
        or (maximum is not None and value > maximum)
        or (above is not None and value <= above)
    ):
        raise invalid(argument, expected, value)
    return float(value)


def instance(argument, value, kinds, expected, remedy=None):
    """Returns `value` if it is an instance of `kinds`; `expected` names them in the error."""
    if not isinstance(value, kinds):
        raise invalid(argument, expected, value, remedy)
    return value
