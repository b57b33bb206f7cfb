"""The data of an index's rows besides their vectors or words: texts, ids, and columns for filters."""

import collections
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfxfer import _check

Hits = collections.namedtuple("Hits", ["ids", "scores", "texts"])
Hits.__doc__ = "The result of a search in an index: ids, scores and texts, best first."

Where = Mapping[str, Any] | Callable[[dict[str, np.ndarray]], Any] | None

# float64 represents every int up to this one exactly.
_EXACT = 2**53


class Records:
    """The texts of an index, their ids and metadata; rows are indices into these lists.

    Ids are consecutive ints, or given by the caller: unique ints >= 0, or unique strings. A text keeps its id when
    others are removed.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.ids: np.ndarray = np.zeros(0, "int64")
        self.columns: dict[str, np.ndarray] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def no_id(self) -> Any:
        """The id that marks a missing hit."""
        return "" if self.ids.dtype == object else -1

    @property
    def are_plain(self) -> bool:
        """Whether ids count from 0 and no text has metadata."""
        return not self.columns and self._next == len(self) and self.ids.dtype != object and self._are_counted()

    def _are_counted(self):
        return bool(np.array_equal(self.ids, np.arange(len(self))))

    # === Changes ===

    def check(self, texts: list[str], ids: Any, metadata: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns the ids and columns of new texts, for `add`; raises if they do not match the existing ones."""
        found = self._check_ids(ids, len(texts))
        if metadata is None:
            metadata = {}
        if not isinstance(metadata, Mapping) or not all(isinstance(name, str) and name for name in metadata):
            raise _check.invalid("metadata", "a dict of column names to lists, one value for each text", metadata)
        columns = {name: _column(name, values, len(texts)) for name, values in metadata.items()}
        if len(self):
            if set(columns) != set(self.columns):
                expected = f"the columns of the existing texts, {sorted(self.columns)}"
                raise _check.invalid("metadata", expected, sorted(columns))
            for name, column in columns.items():
                _joined(name, self.columns[name], column)  # raises for another kind of values
        return found, columns

    def _check_ids(self, ids, count):
        if ids is None:
            if self.ids.dtype == object:
                raise _check.invalid("ids", "a string for each text, as for the existing texts", ids)
            return np.arange(self._next, self._next + count)
        ids = list(ids.tolist() if isinstance(ids, np.ndarray) else ids)
        if len(ids) != count:
            raise _check.invalid("ids", f"{count} ids, one for each text", len(ids))
        are_ints = all(isinstance(each, numbers.Integral) and not isinstance(each, bool) for each in ids)
        if not are_ints and not all(isinstance(each, str) for each in ids):
            raise _check.invalid("ids", "ints or strings, all of one kind", ids)
        if len(self) and are_ints == (self.ids.dtype == object):
            kind = "strings" if self.ids.dtype == object else "ints"
            raise _check.invalid("ids", f"{kind}, as for the existing texts", ids[:5])
        for row, each in enumerate(ids):
            if (0 > each or each >= 2**63) if are_ints else not each:
                expected = "ints >= 0 and < 2**63" if are_ints else "strings that are not empty"
                raise _check.invalid("ids", expected, each, f"It is in row {row} (counting from 0).")
        there = set(self.ids.tolist())
        for row, each in enumerate(ids):
            if each in there:
                raise _check.invalid("ids", "unique ids", each, f"Row {row} repeats it.")
            there.add(each)
        return np.array(ids, "int64" if are_ints else object)

    def add(self, texts: list[str], checked: tuple[np.ndarray, dict[str, np.ndarray]]) -> None:
        """Adds texts with the result of `check` for them."""
        ids, columns = checked
        self.columns = {
            name: _joined(name, self.columns[name], column) if len(self) else column for name, column in columns.items()
        }
        self.ids = np.concatenate([self.ids, ids]) if len(self) else ids
        if ids.dtype != object and len(ids):
            self._next = max(self._next, int(ids.max()) + 1)
        self.texts.extend(texts)

    def kept(self, ids: Any) -> np.ndarray:
        """Returns which rows remain when some ids are removed, bool `(rows,)`; raises if an id does not exist."""
        if isinstance(ids, (str, bytes)) or isinstance(ids, numbers.Integral):
            raise _check.invalid("ids", "a list of ids", ids)
        ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        rows = {each: row for row, each in enumerate(self.ids.tolist())}
        kept = np.ones(len(self), bool)
        for each in ids:
            row = None if isinstance(each, bool) else rows.get(each)
            if row is None:
                raise _check.invalid("ids", "ids of texts that are in the index", each)
            if not kept[row]:
                raise _check.invalid("ids", "unique ids", each)
            kept[row] = False
        if len(ids) and not kept.any():
            remedy = "An index holds at least one text. Create a new index, or keep a text."
            raise _check.invalid("ids", "ids that leave a text in the index", f"all {len(self)} ids", remedy)
        return kept

    def keep(self, kept: np.ndarray) -> None:
        """Keeps only the rows of a mask."""
        self.texts = [self.texts[row] for row in np.flatnonzero(kept)]
        self.ids = self.ids[kept]
        self.columns = {name: column[kept] for name, column in self.columns.items()}

    # === Search ===

    def select(self, where: Where) -> np.ndarray | None:
        """Returns which rows a filter selects, bool `(rows,)`, or `None` for all."""
        if where is None:
            return None
        if isinstance(where, Mapping):
            if not self.columns:
                remedy = "Pass `metadata=` with the texts."
                raise _check.invalid("where", "None for an index without metadata", where, remedy)
            mask = np.ones(len(self), bool)
            for name, wanted in where.items():
                _check.one_of("where", name, self.columns, "These are the columns of `metadata`.")
                mask &= _matches(name, self.columns[name], wanted)
            return mask
        if not callable(where):
            raise _check.invalid("where", "a dict of columns to values, or a function of the columns to bools", where)
        views = {name: column.view() for name, column in self.columns.items()}
        for column in views.values():
            column.flags.writeable = False
        mask = np.asarray(where(views))
        if mask.dtype != bool or mask.shape != (len(self),):
            expected = f"a function of the columns to a bool array of shape ({len(self)},)"
            raise _check.invalid("where", expected, f"{mask.dtype} of shape {mask.shape}")
        return mask

    def hits(self, rows: np.ndarray, scores: np.ndarray, is_one: bool) -> Hits:
        """Returns rows `(queries, k)`, with -1 for missing ones, as `Hits`."""
        ids = np.full(rows.shape, self.no_id, self.ids.dtype)
        ids[rows >= 0] = self.ids[rows[rows >= 0]]
        texts = [[self.texts[row] if row >= 0 else None for row in each] for each in rows.tolist()]
        return Hits(ids[0], scores[0], texts[0]) if is_one else Hits(ids, scores, texts)

    # === Saving ===

    def state(self) -> dict[str, Any] | None:
        """Returns ids and metadata as JSON-serializable values; `None` if ids count from 0 without metadata."""
        if self.are_plain:
            return None
        columns = {
            name: {"dtype": column.dtype.name, "values": _plain(column)} for name, column in self.columns.items()
        }
        return {"ids": self.ids.tolist(), "next": self._next, "metadata": columns}

    @classmethod
    def from_state(cls, texts: list[str], state: Mapping[str, Any] | None) -> "Records":
        """Restores the records from the result of `state`; raises for anything else."""
        made = cls()
        if state is None:
            made.add(texts, (np.arange(len(texts)), {}))
            return made
        columns = {name: column["values"] for name, column in state["metadata"].items()}
        made.add(texts, made.check(texts, state["ids"], columns))
        for name, column in state["metadata"].items():
            if made.columns[name].dtype.name != column["dtype"]:
                made.columns[name] = made.columns[name].astype(column["dtype"])
        if not isinstance(state["next"], int) or state["next"] < made._next:
            raise ValueError(f"the next id {state['next']!r} is one that is there")
        made._next = state["next"]
        return made


def _column(name, values, count):
    """Returns one value per text as an array: bool, int64, float64 (missing: NaN) or object (strings, `None`)."""
    where = f"The column is {name!r}."
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__iter__"):
        raise _check.invalid("metadata", "lists, one value for each text", values, where)
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(values) != count:
        raise _check.invalid("metadata", f"{count} values in each column", len(values), where)
    values = [None if _check.is_missing(value) else value for value in values]
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {str}:
        return _objects(values)
    if kinds == {bool}:
        return _objects(values) if None in values else np.array(values, bool)
    if kinds <= {int, float}:
        if kinds == {int} and None not in values:
            for row, value in enumerate(values):
                if not -(2**63) <= value < 2**63:
                    raise _check.invalid("metadata", "ints of 64 bits", value, f"{where} It is in row {row}.")
            return np.array(values, "int64")
        for row, value in enumerate(values):
            if value in (np.inf, -np.inf) or (isinstance(value, int) and abs(value) > _EXACT):
                expected = "finite numbers; in a column with missing values or fractions, no ints beyond 2**53"
                raise _check.invalid("metadata", expected, value, f"{where} It is in row {row}.")
        return np.array([np.nan if value is None else value for value in values], "float64")
    of = {bool: "bool", int: "number", float: "number", str: "text"}
    first = next(of.get(type(value)) for value in values if value is not None)
    row = next(i for i, value in enumerate(values) if value is not None and (of.get(type(value)) or "") != first)
    expected = "strings, numbers or bools, one kind in each column"
    raise _check.invalid("metadata", expected, values[row], f"{where} It is in row {row} (counting from 0).")


def _objects(values):
    made = np.empty(len(values), object)
    made[:] = values
    return made


def _kind(column):
    """Returns the kind of values in a column: `"bool"`, `"number"`, `"text"`; `None` if all are missing."""
    if column.dtype != object:
        return "bool" if column.dtype == bool else "number"
    first = next((value for value in column if value is not None), None)
    return None if first is None else "bool" if isinstance(first, bool) else "text"


def _joined(name, first, second):
    kinds = {_kind(first), _kind(second)} - {None}
    if len(kinds) > 1:
        raise _check.invalid("metadata", f"a column {name!r} of {_kind(first)}s, as it is", f"{_kind(second)}s")
    if first.dtype == second.dtype:
        return np.concatenate([first, second])
    if kinds != {"number"}:
        return np.concatenate([first.astype(object), second.astype(object)])
    values = [None if value != value else value for part in (first, second) for value in part.tolist()]
    return _column(name, values, len(values))


def _plain(column):
    return [None if value != value else value for value in column.tolist()]


def _matches(name, column, wanted):
    """Returns which values of a column equal the wanted one, or one of several."""
    if isinstance(wanted, (list, tuple, set, frozenset, np.ndarray)):
        options: Sequence[Any] = list(wanted)
    else:
        options = [wanted]
    mask = np.zeros(len(column), bool)
    kind = _kind(column)
    plain = []
    for value in options:
        value = value.item() if isinstance(value, np.generic) else value
        if _check.is_missing(value):
            mask |= np.isnan(column) if column.dtype == np.float64 else _equal(column, None)
            continue
        of_value = "bool" if isinstance(value, bool) else "number" if isinstance(value, numbers.Real) else "text"
        if of_value == "text" and not isinstance(value, str):
            raise _check.invalid("where", f"a string, number or bool, or several, for {name!r}", value)
        if kind is not None and of_value != kind:
            expected = f"a {kind} for {name!r}, as the column has"
            raise _check.invalid("where", expected, value, "For ranges, pass a function: `lambda columns: ...`.")
        plain.append(value)
    if kind == "text" and len(plain) > 1:
        wanted_set = set(plain)
        return mask | np.fromiter((value in wanted_set for value in column), bool, len(column))
    for value in plain:
        mask |= _equal(column, value)
    return mask


def _equal(column, value):
    if column.dtype == object:
        return np.fromiter((each is value if value is None else each == value for each in column), bool, len(column))
    return np.zeros(len(column), bool) if value is None else column == value
