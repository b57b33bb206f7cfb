"""Tables that are written one part at a time, and joined."""

import contextlib
import csv
import io
import json
import shutil
from typing import Any

import numpy as np

from tfxfer import _check
from tfxfer.data._table_sources import OPEN, SEPARATED, import_arrow

# Rows per row group of Parquet.
_ROW_GROUP = 1 << 15


class Sink:
    """Writes parts in one format, and joins them.

    Args:
        kind: `"csv"`, `"tsv"`, `"jsonl"` or `"parquet"`.
        source: the source of the table.
        source_kind: the kind of the source.
        added: dict of the name of each added column to its kind: `"text"`, `"number"`, `"vector"`, `"texts"`, `"flag"`
            or `"json"`.
    """

    def __init__(self, kind, source, source_kind, added):
        if source.columns is None and kind != "jsonl":
            remedy = "The objects of a JSON Lines file may have any names: write `.jsonl`."
            raise _check.invalid("output", "a name that ends in .jsonl for JSON Lines", kind, remedy)
        self.kind, self._source, self._source_kind, self._added = kind, source, source_kind, added
        self._arrow: Any = import_arrow() if "parquet" in (kind, source_kind) else None
        both_csv = kind == source_kind == "csv"
        self._format: dict[str, Any] = {"delimiter": source.delimiter if both_csv else {"tsv": "\t"}.get(kind, ",")}
        self._format["lineterminator"] = "\n"
        if kind in SEPARATED and source_kind in SEPARATED and not source.quoting:
            self._format.update(quoting=csv.QUOTE_NONE, quotechar=None)

    def write(self, path, part, places, answers):
        """Writes rows of a part to a file.

        Args:
            path: path.
            part: `Part`.
            places: list of ints: the positions of the rows to write.
            answers: dict of each added column to a list with a value for each of these rows, or `None`.
        """
        rows = self._source.kept(part, places)
        if self.kind == "parquet":
            self._arrow.parquet.write_table(self._table(rows, answers), path)
            return
        columns = [_texts(self._added[name], answers[name], self.kind == "jsonl") for name in self._added]
        found = zip(*columns, strict=True) if columns else ((),) * len(places)
        with open(path, "w", encoding="utf-8", newline="") as file:
            if self.kind == "jsonl":
                names = [json.dumps(name, ensure_ascii=False) for name in self._added]
                for line, values in zip(self._json_lines(rows), found, strict=True):
                    more = ", ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
                    inner = line[1:-1].strip()
                    file.write(f"{{{inner}{', ' if inner and more else ''}{more}}}\n")
                return
            writer = csv.writer(file, **self._format)
            # Python 3.11 and 3.12 do not quote a field for a lone "\r", at which readers split lines.
            careful = csv.writer(file, **{"quoting": csv.QUOTE_ALL, **self._format})
            try:
                for row, values in zip(self._fields(rows), found, strict=True):
                    fields = [*row, *values]
                    is_plain = not any(isinstance(field, str) and "\r" in field for field in fields)
                    (writer if is_plain else careful).writerow(fields)
            except csv.Error as error:
                remedy = "Its source has `quoting=False`, so nothing can be quoted: write Parquet or JSON Lines."
                raise _check.invalid("output", "a format that can hold the answers", self.kind, remedy) from error

    def header(self):
        """Returns the first line of the whole file, bytes; empty if the format has none."""
        if self.kind not in SEPARATED:
            return b""
        file = io.StringIO(newline="")
        is_same = self._source_kind in SEPARATED
        columns = self._source.written if is_same else self._source.columns
        csv.writer(file, **self._format).writerow([*columns, *self._added])
        return file.getvalue().encode()

    def join(self, target, paths, packing=""):
        """Writes the whole table to `target` from its parts."""
        if self.kind == "parquet":
            self._join_tables(target, paths)
            return
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(target, "wb"))
            if packing:
                file = stack.enter_context(OPEN[packing](file, "wb"))
            file.write(self.header())
            for path in paths:
                with open(path, "rb") as part:
                    shutil.copyfileobj(part, file, 1 << 20)

    def _join_tables(self, target, paths):
        parquet, held, count = self._arrow.parquet, [], 0
        with parquet.ParquetWriter(target, self._schema()) as writer:
            for path in paths:
                held.append(parquet.read_table(path))
                count += held[-1].num_rows
                if count >= _ROW_GROUP:
                    writer.write_table(self._arrow.concat_tables(held), row_group_size=count)
                    held, count = [], 0
            if held:
                writer.write_table(self._arrow.concat_tables(held), row_group_size=max(count, 1))

    def _types(self):
        arrow = self._arrow
        return {
            "text": arrow.string(),
            "json": arrow.string(),
            "number": arrow.float32(),
            "flag": arrow.bool_(),
            "vector": arrow.list_(arrow.float32()),
            "texts": arrow.list_(arrow.string()),
        }

    def _schema(self):
        arrow, types = self._arrow, self._types()
        if self._source_kind == "parquet":
            schema = self._source.schema
        else:
            schema = arrow.schema([(name, arrow.string()) for name in self._source.columns])
        for name, kind in self._added.items():
            schema = schema.append(arrow.field(name, types[kind]))
        return schema

    def _table(self, rows, answers):
        arrow, schema = self._arrow, self._schema()
        if self._source_kind == "parquet":
            columns = list(rows.columns)
        else:
            columns = [arrow.array([row[k] for row in rows], arrow.string()) for k in range(len(self._source.columns))]
        for name, kind in self._added.items():
            values = answers[name]
            if kind == "json":
                values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
            elif kind == "vector":
                values = [None if value is None else list(map(float, value)) for value in values]
            elif kind == "number":
                values = [None if value is None else float(value) for value in values]
            columns.append(arrow.array(values, self._types()[kind]))
        return arrow.Table.from_arrays(columns, schema=schema)

    def _fields(self, rows):
        if self._source_kind in SEPARATED:
            return rows
        columns = [map(_cell, column.to_pylist()) for column in rows.columns]
        return zip(*columns, strict=True) if columns else [()] * rows.num_rows

    def _json_lines(self, rows):
        """The rows as JSON objects; those read as JSON are unchanged."""
        if self._source_kind == "jsonl":
            return (line for _, line in rows)
        if self._source_kind in SEPARATED:
            return (json.dumps(dict(zip(self._source.columns, row, strict=True)), ensure_ascii=False) for row in rows)
        return (json.dumps(row, ensure_ascii=False, default=_plain) for row in rows.to_pylist())


def _texts(kind, values, is_json):
    """The values of an added column as text."""
    if kind in ("number", "vector"):
        present = [value for value in values if value is not None]
        texts = iter(_numbers(present, is_json))
        return [next(texts) if value is not None else ("null" if is_json else "") for value in values]
    if is_json or kind in ("json", "texts", "flag"):
        missing = "null" if is_json else ""
        return [missing if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return ["" if value is None else str(value) for value in values]


def _numbers(values, is_json):
    """float32 numbers, or vectors of them, in the fewest digits that restore them."""
    array = np.asarray(values, "float32")
    texts = array.astype("U32")
    if not np.isfinite(array).all():
        texts = np.where(np.isfinite(array), texts, "null" if is_json or array.ndim > 1 else "")
    if array.ndim < 2:
        return texts.tolist()
    return [f"[{', '.join(row)}]" for row in texts.tolist()]


def _cell(value):
    """A value of Parquet as a field of TSV or CSV."""
    if value is None:
        return ""
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return value


def _plain(value):
    """Converts values that JSON lacks: times to ISO 8601, bytes to hexadecimal digits, decimals to strings."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)
