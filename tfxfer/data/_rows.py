"""Rows of text with named columns, each with its origin."""

import collections.abc
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfxfer import _check

ON_ERROR = ("raise", "skip")


class Rows:
    """Rows with named columns; every row knows its file and line, so that errors can name them.

    `len(rows)`, `rows["text"]` (the column as a list, not a copy), `rows[3]` (one row as a dict), `rows[10:20]` and
    `rows[indices or mask]` (fewer rows, as `Rows`), iteration (dicts), `rows.columns` (the names in order). Values have
    the types of the source: strings in TSV and CSV, any type in JSON, Parquet or pandas; a missing value is `None`.

    Args:
        columns: dict of name to values; lists, tuples, numpy arrays or tensors of equal length. Bytes are decoded as
            UTF-8.
        source: string. The origin of the rows in errors.

    Attributes:
        skipped: dict of reason to number of rows that `read(..., on_error="skip")` skipped; empty otherwise.
        repaired: dict of reason to number of tags or spans that a reader of tagged words repaired; empty otherwise.

    Raises:
        ValueError: if there is no column, the lengths differ, or bytes are not UTF-8.

    Example:

    >>> rows = Rows({"text": ["Where is my card?", "Thanks"], "label": ["card", "chat"]})
    >>> rows
    Rows(2 rows of text, label; from rows)
    >>> rows["label"], rows[1], len(rows[:1])
    (['card', 'chat'], {'text': 'Thanks', 'label': 'chat'}, 1)
    >>> rows.place(1)
    'rows, row 1 (counting from 0)'
    """

    def __init__(self, columns: Mapping[str, Any], *, source: str = "rows") -> None:
        _check.instance("columns", columns, collections.abc.Mapping, "a dict of column name to values")
        if not columns:
            raise _check.invalid("columns", "at least one column", dict(columns))
        self._columns = {str(name): _values(values, source, name) for name, values in columns.items()}
        lengths = {name: len(values) for name, values in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise _check.invalid("columns", "columns of one length", lengths)
        count = next(iter(lengths.values()))
        self._sources = [(source, "row")]
        self._source_of = np.zeros(count, "int32")
        self._numbers = np.arange(count)
        self.skipped = {}
        self.repaired = {}

    @classmethod
    def from_any(cls, rows: Any) -> "Rows":
        """Makes `Rows` from rows in any common form.

        Args:
            rows: `Rows`, a pandas DataFrame, a dict of columns, a list (or other iterable) of dicts, a finite
                `tf.data.Dataset` of dicts of scalars, or a pyarrow Table. A key that a dict lacks becomes `None`.

        Raises:
            ValueError: if `rows` has another form, no rows, or a row that is not a dict.

        Example:

        >>> Rows.from_any([{"text": "a", "label": 1}, {"text": "b"}])["label"]
        [1, None]
        """
        if isinstance(rows, Rows):
            return rows
        if hasattr(rows, "iloc") and hasattr(rows, "columns"):
            return cls._from_pandas(rows)
        if hasattr(rows, "to_pydict"):
            made = cls(rows.to_pydict(), source="the table")
        elif isinstance(rows, collections.abc.Mapping):
            made = cls(rows, source="the columns")
        elif isinstance(rows, tf.data.Dataset):
            if not isinstance(rows.element_spec, dict):
                raise _check.invalid("rows", "a tf.data.Dataset of dicts of scalars", rows.element_spec)
            if rows.cardinality() == tf.data.INFINITE_CARDINALITY:
                raise _check.invalid("rows", "a finite tf.data.Dataset", rows, "Limit it: `.take(n)`.")
            made = cls._from_dicts(rows.as_numpy_iterator(), "the dataset")
        elif isinstance(rows, collections.abc.Iterable) and not isinstance(rows, (str, bytes, os.PathLike)):
            made = cls._from_dicts(rows, "the list")
        else:
            remedy = None
            if isinstance(rows, (str, os.PathLike)):
                remedy = "Read a file with `tfxfer.data.read(path)` first, or with `read_conll(path)`."
            expected = "Rows, a pandas DataFrame, a dict of columns, a list of dicts or a tf.data.Dataset of dicts"
            raise _check.invalid("rows", expected, rows, remedy)
        if not len(made):
            raise _check.invalid("rows", "at least one row", rows)
        return made

    @classmethod
    def _from_pandas(cls, frame):
        names = [str(name) for name in frame.columns]
        if len(set(names)) < len(names):
            raise _check.invalid("rows", "a DataFrame with distinct column names", names)
        if not len(frame):
            raise _check.invalid("rows", "at least one row", frame)
        # NaN, NaT and pd.NA all become None, the only missing value.
        columns = (frame.iloc[:, i].astype(object) for i in range(len(names)))
        values = {
            name: column.where(column.notna(), None).tolist() for name, column in zip(names, columns, strict=True)
        }
        return cls(values, source="the DataFrame")

    @classmethod
    def _from_dicts(cls, rows, source):
        rows = list(rows)
        names = {}
        for i, row in enumerate(rows):
            if not isinstance(row, collections.abc.Mapping):
                raise fault(f"{source}, row {i} (counting from 0)", None, f"not a dict but {row!r:.80}")
            names.update(dict.fromkeys(row))
        if not names:
            raise _check.invalid("rows", "at least one row with a column", rows)
        return cls({name: [row.get(name) for row in rows] for name in names}, source=source)

    @classmethod
    def _read(cls, columns, path, unit, numbers, skipped, repaired=()):
        """Makes the rows of a reader; `numbers` are their lines (or rows) in `path`."""
        made = cls(columns, source=str(path))
        made._sources = [(str(path), unit)]
        made._numbers = np.asarray(numbers, "int64")
        made.skipped = dict(skipped)
        made.repaired = dict(repaired)
        return made

    @classmethod
    def _concatenate(cls, parts):
        """Concatenates the rows of several files with the same columns, in the column order of the first."""
        first = parts[0]
        for part in parts[1:]:
            if set(part.columns) != set(first.columns):
                raise fault(
                    part._sources[0][0],
                    None,
                    f"columns {', '.join(part.columns)}, but {first._sources[0][0]} has {', '.join(first.columns)}",
                    "Files read together need the same columns: pick them with `columns=[...]`.",
                )
        made = cls({name: [v for part in parts for v in part[name]] for name in first.columns})
        made._sources = [source for part in parts for source in part._sources]
        made._source_of = np.repeat(np.arange(len(parts), dtype="int32"), [len(part) for part in parts])
        made._numbers = np.concatenate([part._numbers for part in parts])
        for part in parts:
            for mine, theirs in ((made.skipped, part.skipped), (made.repaired, part.repaired)):
                for reason, count in theirs.items():
                    mine[reason] = mine.get(reason, 0) + count
        return made

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return list(self._columns)

    def place(self, i: int) -> str:
        """Returns the origin of row `i` as errors name it, e.g. `"train.tsv, line 7"`."""
        source, unit = self._sources[self._source_of[i]]
        return f"{source}, {unit} {self._numbers[i]}" + (" (counting from 0)" if unit == "row" else "")

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self._columns:
                sources = ", ".join(source for source, _ in self._sources[:3])
                remedy = f"The columns of {sources} are {', '.join(map(repr, self.columns))}."
                if any(unit == "line" for _, unit in self._sources):
                    remedy += " If the file has no header line, name its columns: `read(path, header=[...])`."
                raise _check.invalid("column", "the name of a column", key, remedy)
            return self._columns[key]
        if isinstance(key, (int, np.integer)):
            i = range(len(self))[key]
            return {name: values[i] for name, values in self._columns.items()}
        if isinstance(key, slice):
            indices = np.arange(len(self))[key]
        else:
            indices = np.asarray(key)
            if indices.dtype == bool and indices.shape != (len(self),):
                raise _check.invalid("mask", f"a mask of shape ({len(self)},)", indices.shape)
            indices = np.arange(len(self))[indices if indices.size else indices.astype("int64")]
        return self._take(indices)

    def _take(self, indices):
        made = object.__new__(Rows)
        picked = indices.tolist()
        made._columns = {name: [values[i] for i in picked] for name, values in self._columns.items()}
        made._sources = self._sources
        made._source_of = self._source_of[indices]
        made._numbers = self._numbers[indices]
        made.skipped = dict(self.skipped)
        made.repaired = dict(self.repaired)
        return made

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for values in zip(*self._columns.values(), strict=True):
            yield dict(zip(self._columns, values, strict=True))

    def __repr__(self):
        sources = ", ".join(source for source, _ in self._sources[:3]) + (", ..." if len(self._sources) > 3 else "")
        skipped = f"; {sum(self.skipped.values())} skipped" if self.skipped else ""
        return f"Rows({len(self)} rows of {', '.join(self.columns)}; from {sources}{skipped})"


class Faults:
    """Handles broken rows: raises at the first one, or counts them by reason and warns once at the end.

    Args:
        on_error: string. `"raise"`, `"skip"`, or one of `also`.
        also: tuple of strings. Further modes, in which errors that cannot be repaired raise, and repairs are passed to
            `repair`.
    """

    def __init__(self, on_error, also=()):
        self.on_error = _check.one_of("on_error", on_error, (*ON_ERROR, *also))
        self.skip = on_error == "skip"
        self.counts = {}
        self.first = None
        self.repaired = {}
        self._first_repaired = None

    def add(self, place, column, reason, detail="", remedy=None):
        """Records a broken row; it is counted under `reason`, and `detail` describes this case."""
        error = fault(place, column, f"{reason}{detail}", remedy)
        if not self.skip:
            raise error
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first = self.first or error

    def repair(self, place, reason, detail="", count=1):
        """Records repairs in a row that is kept; `count` is the number of tags or spans."""
        self.repaired[reason] = self.repaired.get(reason, 0) + count
        self._first_repaired = self._first_repaired or f"{place}: {reason}{detail}"

    def warn(self, what):
        """Warns about the numbers of skipped rows and of repairs, if any."""
        if self.counts:
            reasons, total = _listed(self.counts), sum(self.counts.values())
            warnings.warn(f"{what}: skipped {total} broken rows ({reasons}). The first: {self.first}", stacklevel=3)
        if self.repaired:
            warnings.warn(f"{what}: repaired {_listed(self.repaired)}. The first: {self._first_repaired}", stacklevel=3)


def _listed(counts):
    return ", ".join(f"{count} x {reason}" for reason, count in counts.items())


def fault(place, column, problem, remedy=None):
    """Makes the `ValueError` for a broken row: file and line, column, problem, remedy."""
    where = place if column is None else f"{place}, column {column!r}"
    return ValueError(f"{where}: {problem}." + (f" {remedy}" if remedy else ""))


def shown(value):
    """The representation of a value in errors, cut at 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _values(values, source, name):
    """A column as a list of Python values, bytes decoded."""
    if isinstance(values, tf.Tensor):
        values = values.numpy()
    if isinstance(values, (str, bytes)) or not isinstance(values, collections.abc.Iterable):
        raise _check.invalid("columns", f"a list or array as column {name!r}", values)
    values = values.tolist() if isinstance(values, np.ndarray) else list(values)
    for i, value in enumerate(values):
        if isinstance(value, bytes):
            try:
                values[i] = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise fault(f"{source}, row {i} (counting from 0)", name, f"bad UTF-8 in {shown(value)}") from error
        elif isinstance(value, np.generic):
            values[i] = value.item()
        elif isinstance(value, np.ndarray):
            values[i] = value.tolist()
    return values
