"""Columns of numbers and categories, with statistics of training rows."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfxfer import _check
from tfxfer.data._columns import CategoryColumn, NumberColumn
from tfxfer.data._rows import Rows


def tabular_columns(
    rows: Any,
    *,
    numbers: Sequence[str] = (),
    categories: Sequence[str] = (),
    min_count: int = 1,
    max_categories: int | None = None,
) -> dict[str, Any]:
    """Computes the mean and scale of numeric columns, and the names in categorical columns, from training rows.

    A column of numbers accepts missing ones (`None`, NaN, an empty string) and passes them on as NaN. A column of
    categories maps missing, unknown and rare names to the last index.

    Args:
        rows: the training rows: `Rows`, or anything that `Rows.from_any` accepts.
        numbers: names of columns of numbers, or of strings that hold numbers.
        categories: names of columns of names: strings, ints or bools.
        min_count: int. The minimum number of rows with a name. Defaults to 1.
        max_categories: int. The maximum number of names in a column, most frequent first. Defaults to `None`: all.

    Returns:
        A dict of column name to `NumberColumn` or `CategoryColumn`, in the order of the arguments. The scale is the
        standard deviation, or 1 if all numbers are equal.

    Raises:
        ValueError: if there are no columns, a column does not exist or is named twice, has no number or name at all, or
            has a value that is not a number; the message names the row.

    Example:

    >>> rows = {"age": [30, 40, None], "class": ["a", "b", "a"]}
    >>> found = tabular_columns(rows, numbers=["age"], categories=["class"])
    >>> found["age"].mean, found["age"].scale, found["class"].names
    (35.0, 5.0, ['a', 'b'])
    """
    rows = Rows.from_any(rows)
    given = {"numbers": _names("numbers", numbers), "categories": _names("categories", categories)}
    named = [*given["numbers"], *given["categories"]]
    if not named:
        raise _check.invalid("numbers", "the name of a column, here or in `categories`", list(numbers))
    twice = [name for name, count in collections.Counter(named).items() if count > 1]
    if twice:
        remedy = "A column is either numbers or categories."
        raise _check.invalid("categories", "names that are not given before", twice[0], remedy)
    for argument, names in given.items():
        for name in names:
            _check.one_of(argument, name, rows.columns)
    _check.integer("min_count", min_count)
    _check.integer("max_categories", max_categories, optional=True)
    found: dict[str, Any] = {name: _number_column(rows[name], name) for name in given["numbers"]}
    for name in given["categories"]:
        found[name] = _category_column(rows[name], name, min_count, max_categories)
    return found


def _names(argument, names):
    if isinstance(names, (str, bytes)) or not isinstance(names, (list, tuple)):
        raise _check.invalid(argument, "a list of names of columns", names)
    return list(names)


def _number_column(values, name):
    found = NumberColumn(missing="nan").read(values, name).astype("float64")
    present = found[~np.isnan(found)]
    if not present.size:
        raise _check.invalid(name, "a column with at least one number", "only missing values")
    return NumberColumn(missing="nan", mean=float(present.mean()), scale=float(present.std()) or 1.0)


def _category_column(values, name, min_count, max_categories):
    counts: Any = collections.Counter()
    for row, value in enumerate(values):
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # pandas converts ints to floats if a value is missing
        if _check.is_missing(value) or value == "":
            continue
        if not isinstance(value, (str, int)):
            remedy = "Pass columns of numbers as `numbers`."
            raise _check.invalid(name, "names: strings, ints or bools", value, f"It is in row {row}. {remedy}")
        counts[value] += 1
    if len({str(value) for value in counts}) < len(counts):
        raise _check.invalid(name, "names of one kind", list(counts)[:10], "1 and '1' count as equal.")
    kept = [value for value, count in counts.most_common(max_categories) if count >= min_count]
    if not kept:
        raise _check.invalid(name, f"a name in at least {min_count} rows", dict(counts.most_common(3)))
    return CategoryColumn(sorted(kept, key=str), unknown="index")
