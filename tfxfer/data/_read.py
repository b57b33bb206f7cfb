"""Readers of TSV, CSV, JSON Lines and Parquet."""

import csv
import gzip
import io
import json
import os
import pathlib
import re

from tfxfer import _check
from tfxfer.data._rows import Faults, Rows, fault, shown

FORMATS = {
    ".tsv": "tsv",
    ".tab": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_SURROGATE = re.compile("[\ud800-\udfff]")
_BAD_TEXT = "bytes that are no text in the encoding"


def read(
    path,
    *,
    format=None,
    columns=None,
    header=None,
    delimiter=None,
    quoting=True,
    encoding="utf-8",
    on_error="raise",
):
    """Reads rows of text from TSV, CSV, JSON Lines or Parquet files.

    The whole file is held in memory. TSV and CSV follow Python's `csv` with normal quoting: a quoted field may hold
    delimiters and line breaks, and `""` in it stands for one quote; all their values are strings, empty ones
    included. Empty lines at the end of a file are ignored; anywhere else they are broken rows.

    Args:
        path: a path, or a list of paths whose rows are put one after another. A name that ends in `.gz` is unpacked.
        format: `"tsv"`, `"csv"`, `"jsonl"` or `"parquet"`. By default the ending of the file's name tells.
        columns: optional list of names: the columns to keep, in this order. All by default.
        header: optional list of names for a TSV or CSV file without a header line.
        delimiter: optional string of one character that parts the fields of TSV or CSV; a tab or a comma by default.
        quoting: bool. `False` for TSV or CSV files in which a `"` is a character like any other.
        encoding: string. How text files are encoded; a byte order mark at the start is dropped.
        on_error: `"raise"`: the first broken row raises. `"skip"`: broken rows are left out and counted by reason
            in `Rows.skipped`, with one warning at the end.

    Returns:
        `Rows`.

    Raises:
        FileNotFoundError: if a file is not there.
        ImportError: if Parquet is wanted and pyarrow is missing.
        ValueError: if the file is empty or has no row, no proper header, not the columns wanted, or a broken row (too
            many or few fields, a quote that does not end, bad JSON, a line that is no object, bytes that are no
            text); it names file, line, column and what to do.

    Example:

    ```python
    rows = tx.data.read("train.tsv")
    rows["text"][0], rows["label"][0]
    rows = tx.data.read(["a.jsonl.gz", "b.jsonl.gz"], columns=["text", "label"], on_error="skip")
    rows.skipped  # {"bad JSON": 2}
    ```
    """
    if isinstance(path, (list, tuple)):
        if not path:
            raise _check.invalid("path", "a path or a list of at least one path", path)
        options = {"format": format, "columns": columns, "header": header, "delimiter": delimiter}
        options.update(quoting=quoting, encoding=encoding, on_error=on_error)
        return Rows._concatenate([read(each, **options) for each in path])
    path = pathlib.Path(_check.instance("path", path, (str, os.PathLike), "a path or a list of paths"))
    kind = _format(path, format)
    columns, header = _names("columns", columns), _names("header", header)
    if kind in ("jsonl", "parquet"):
        for argument, value in (("header", header), ("delimiter", delimiter)):
            if value is not None:
                raise _check.invalid(argument, f"None for a {kind} file", value)
    faults = Faults(on_error)
    if kind == "parquet":
        return _select(_read_parquet(path, columns), columns)
    lines = _lines(path, encoding)
    if kind == "jsonl":
        found, numbers = _read_jsonl(path, lines, faults)
    else:
        delimiter = {"tsv": "\t", "csv": ","}[kind] if delimiter is None else delimiter
        if not isinstance(delimiter, str) or len(delimiter) != 1:
            raise _check.invalid("delimiter", "a string of one character", delimiter)
        found, numbers = _read_separated(path, lines, header, delimiter, quoting, faults)
    if not numbers:
        rest = f"; all were skipped, the first because: {faults.first}" if faults.first else ""
        raise fault(path, None, f"no rows{rest}", "Check that the file was written to its end.")
    faults.warn(path)
    return _select(Rows._read(found, path, "line", numbers, faults.counts), columns)


def _format(path, format):
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    if format is not None:
        return _check.one_of("format", format, sorted(set(FORMATS.values())))
    suffixes = path.suffixes[:-1] if path.suffix == ".gz" else path.suffixes
    found = FORMATS.get(suffixes[-1].lower() if suffixes else "")
    if found is None:
        raise _check.invalid("path", f"a name that ends in {', '.join(FORMATS)} (and .gz)", path, "Or give `format`.")
    return found


def _names(argument, names):
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names) or not names:
        raise _check.invalid(argument, "a list of names or None", names)
    if len(set(names)) < len(names):
        raise _check.invalid(argument, "names that differ from each other", names)
    return list(names)


def _select(rows, columns):
    """The columns wanted, in the order wanted."""
    if columns is None:
        return rows
    rows._columns = {name: rows[name] for name in columns}
    return rows


def _lines(path, encoding):
    """The file's lines with their ends; bytes that are no text stay as lone surrogates for the readers to report."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError) as error:
        raise fault(path, None, f"not a whole gzip file ({error})") from error
    try:
        text = data.decode(encoding, errors="surrogateescape")
    except LookupError as error:
        raise _check.invalid("encoding", "an encoding that Python knows", encoding) from error
    except UnicodeDecodeError as error:
        raise fault(path, None, f"bytes that are not {encoding} at byte {error.start}", "Give `encoding`.") from error
    # newline="" parts at \n, \r and \r\n and at nothing else: U+2028 and its like belong to the text.
    lines = list(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    while lines and not lines[-1].strip("\r\n"):
        lines.pop()
    if not lines:
        raise fault(path, None, "the file is empty", "Check that it was written to its end.")
    return lines


def _read_separated(path, lines, header, delimiter, quoting, faults):
    """TSV and CSV: a dict of columns, and the line that each row begins in."""
    records = _records(path, lines, delimiter, quoting, faults, header is None)
    if header is None:
        _, header = next(records)
        _check_header(f"{path}, line 1", header)
    rows, numbers = [], []
    for line, fields in records:
        place = f"{path}, line {line}"
        if len(fields) != len(header):
            remedy = f"Mend the line, check the delimiter ({delimiter!r}), or pass `on_error='skip'`."
            reason = "an empty line" if not fields else "wrong number of fields"
            detail = "" if not fields else f": {len(fields)} instead of {len(header)} ({', '.join(header)})"
            if len(fields) > len(header):
                detail += f", the first too many being {shown(fields[len(header)])}"
            elif fields:
                detail += f", {header[len(fields)]!r} being the first that is missing"
            faults.add(place, None, reason, detail, remedy)
        elif not _has_bad_text(place, header, fields, faults):
            rows.append(fields)
            numbers.append(line)
    columns = zip(*rows, strict=True) if rows else [[] for _ in header]
    return dict(zip(header, map(list, columns), strict=True)), numbers


def _check_header(place, header):
    repeated = sorted({name for name in header if header.count(name) > 1})
    if not header or not all(header):
        problem = "a column without a name"
    elif repeated:
        problem = f"column {repeated[0]!r} stands there twice"
    elif any(_SURROGATE.search(name) for name in header):
        problem = _BAD_TEXT
    else:
        return
    remedy = "If the file has no header line, name its columns: `header=[...]`."
    raise fault(place, None, f"{problem}, in the header {shown(header)}", remedy)


def _records(path, lines, delimiter, quoting, faults, has_header):
    """Yields (line, fields). A record that csv cannot read is reported, and reading goes on in the line after."""
    options = {"delimiter": delimiter, "quoting": csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE, "strict": True}
    start = 0
    limit = csv.field_size_limit(2**31 - 1)
    try:
        while start < len(lines):
            reader = csv.reader(iter(lines[start:]), **options)
            end = start
            try:
                for fields in reader:
                    yield end + 1, fields
                    end = start + reader.line_num
                return
            except csv.Error as error:
                place, remedy = f"{path}, line {end + 1}", "Double the quotes inside the field"
                remedy += " or pass `quoting=False` if a quote is a character like any other in this file."
                if has_header and end == 0:
                    raise fault(place, None, f"a header that csv cannot read ({error})", remedy) from error
                faults.add(place, None, "broken quotes", f" ({error})", remedy)
                start = end + 1
    finally:
        csv.field_size_limit(limit)


def _has_bad_text(place, header, fields, faults):
    """Reports the first field that held bytes which are no text; says whether there was one."""
    for name, field in zip(header, fields, strict=True):
        if not field.isascii() and _SURROGATE.search(field):
            remedy = "Mend the line, give the right `encoding`, or pass `on_error='skip'`."
            faults.add(place, name, _BAD_TEXT, f", in {shown(field)}", remedy)
            return True
    return False


def _read_jsonl(path, lines, faults):
    """JSON Lines: a dict of columns (the union of all keys; a missing one is None), and the line of each row."""
    rows, numbers, names = [], [], {}
    for number, line in enumerate(lines, 1):
        place = f"{path}, line {number}"
        remedy = "Mend the line or pass `on_error='skip'`."
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = "bad JSON" if line.strip() else "an empty line"
            faults.add(place, None, reason, f" ({error})" if line.strip() else "", remedy)
            continue
        if not isinstance(row, dict):
            faults.add(place, None, "a line that is no JSON object", f": {shown(row)}", remedy)
            continue
        strings = {name: value for name, value in row.items() if isinstance(value, str)}
        if not _has_bad_text(place, strings.keys(), strings.values(), faults):
            rows.append(row)
            numbers.append(number)
            names.update(dict.fromkeys(row))
    if rows and not names:
        raise fault(path, None, "no column in any line", 'Each line should be an object such as {"text": "..."}.')
    return {name: [row.get(name) for row in rows] for name in names}, numbers


def _read_parquet(path, columns):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Reading Parquet needs pyarrow: `pip install pyarrow` or `pip install tfxfer[parquet]`."
        ) from error
    if not path.stat().st_size:
        raise fault(path, None, "the file is empty", "Check that it was written to its end.")
    try:
        file = pyarrow.parquet.ParquetFile(path)
        known = file.schema_arrow.names
        wanted = None if columns is None else [name for name in columns if name in known]
        table = file.read(columns=known if wanted is None or len(wanted) < len(columns) else wanted)
        found = table.to_pydict()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise fault(path, None, f"not a readable Parquet file ({error})") from error
    if not table.num_rows:
        raise fault(path, None, "no rows", "Check that the file was written to its end.")
    return Rows._read(found, path, "row", range(table.num_rows), {})
