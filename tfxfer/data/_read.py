"""Readers of TSV, CSV, JSON and Parquet."""

import csv
import io
import os
import re
from collections.abc import Sequence
from typing import Any, Literal

from tfxfer import _check
from tfxfer.data import _json
from tfxfer.data._files import BAD_TEXT, PACKINGS, File, has_bad_text, is_bad, lines, text
from tfxfer.data._rows import Faults, Rows, fault, shown

FORMATS = {
    ".tsv": "tsv",
    ".tab": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}
# Other delimiters of CSV files: semicolons, if the decimal separator is a comma.
_OTHER_DELIMITERS = ";\t|"
# The number of records to inspect for the delimiter.
_SAMPLE = 20


def read(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    format: str | None = None,
    columns: Sequence[str] | None = None,
    header: Sequence[str] | None = None,
    delimiter: str | None = None,
    quoting: bool = True,
    encoding: str = "utf-8",
    on_error: Literal["raise", "skip"] = "raise",
) -> Rows:
    """Reads rows of text from TSV, CSV, JSON, JSON Lines or Parquet files.

    The whole file is read into memory. TSV and CSV follow Python's `csv` with normal quoting: a quoted field may
    contain delimiters and line breaks, and `""` in it is one quote. All their values are strings, including empty ones.
    Empty lines at the end of a file are ignored; elsewhere they are broken rows.

    A first column without a name, the index that `frame.to_csv` writes, is named `index`, or `level_0` if `index`
    exists, as in `frame.reset_index()`. If the header of a CSV file has a single field when split at commas, the file
    is split at the `;`, tab or `|` that separates its fields, or at the one named in a first line such as `sep=;`.

    A `.json` file contains an array of objects, an object of columns (lists of equal length, or the default output of
    `frame.to_json`), or an object per line, as in `.jsonl`.

    Args:
        path: a path or URL, or a list of them whose rows are concatenated. URLs such as `gs://bucket/a.csv`, `s3://`,
            `hf://` or `https://` are read through fsspec, if the package for the scheme is installed (`gcsfs`, `s3fs`,
            ...), or through `tf.io.gfile`. Files whose names end in `.gz`, `.bz2`, `.xz` or `.zip` (with a single file
            in it) are decompressed.
        format: `"tsv"`, `"csv"`, `"json"`, `"jsonl"` or `"parquet"`. By default inferred from the file's extension.
        columns: optional list of names: the columns to keep, in this order. Defaults to all.
        header: optional list of names for a TSV or CSV file without a header line.
        delimiter: optional string of one character that separates the fields of TSV or CSV. Defaults to a tab for TSV,
            and is detected for CSV.
        quoting: bool. `False` for TSV or CSV files in which `"` is an ordinary character.
        encoding: string. The encoding of text files. A byte order mark at the start is dropped; one of UTF-16 or UTF-32
            sets the encoding, unless an encoding other than UTF-8 is given.
        on_error: `"raise"`: the first broken row raises. `"skip"`: broken rows are skipped and counted by reason in
            `Rows.skipped`, with one warning at the end.

    Returns:
        `Rows`.

    Raises:
        FileNotFoundError: if a file does not exist.
        ImportError: if Parquet is requested without pyarrow, or a URL needs a package that is not installed.
        ValueError: if the file is empty or has no rows, an invalid header, not the requested columns, or a broken row
            (too many or few fields, an unclosed quote, bad JSON, a line that is not an object, bytes that are not
            text); the message names file, line, column and a remedy.

    Example:

    ```python
    rows = tx.data.read("train.tsv")
    rows["text"][0], rows["label"][0]
    rows = tx.data.read(["a.jsonl.gz", "b.jsonl.gz"], columns=["text", "label"], on_error="skip")
    rows.skipped  # {"bad JSON": 2}
    rows = tx.data.read("gs://bucket/train.csv")
    ```
    """
    if isinstance(path, (list, tuple)):
        if not path:
            raise _check.invalid("path", "a path or a list of at least one path", path)
        options: dict[str, Any] = {"format": format, "columns": columns, "header": header, "delimiter": delimiter}
        options.update(quoting=quoting, encoding=encoding, on_error=on_error)
        return Rows._concatenate([read(each, **options) for each in path])
    file = File(path)
    content = None
    if format is None and file.packing == ".zip" and not _suffix(file.name):
        content = file.read()  # the name of the file inside determines the format
    kind = _format(file, format)
    columns, header = names("columns", columns), names("header", header)
    if kind in ("json", "jsonl", "parquet"):
        for argument, value in (("header", header), ("delimiter", delimiter)):
            if value is not None:
                raise _check.invalid(argument, f"None for a {kind} file", value)
    if delimiter is not None and (not isinstance(delimiter, str) or len(delimiter) != 1):
        raise _check.invalid("delimiter", "a string of one character", delimiter)
    faults = Faults(on_error)
    if kind == "parquet":
        return _select(_read_parquet(file, columns), columns)
    found = text(file.place, file.read() if content is None else content, encoding)
    unit = "line"
    if kind == "json":
        values, numbers, unit = _json.read_json(file.place, found, faults)
    elif kind == "jsonl":
        values, numbers = _json.read_lines(file.place, found, faults)
    else:
        values, numbers = _read_separated(file.place, lines(found), kind, header, delimiter, quoting, faults)
    if not numbers:
        rest = f"; all were skipped, the first because: {faults.first}" if faults.first else ""
        raise fault(file.place, None, f"no rows{rest}", "Check that the file was written to its end.")
    faults.warn(file.place)
    return _select(Rows._read(values, file.place, unit, numbers, faults.counts), columns)


def _suffix(name):
    return os.path.splitext(name)[1].lower()


def _format(file, format):
    if format is not None:
        return _check.one_of("format", format, sorted(set(FORMATS.values())))
    found = FORMATS.get(_suffix(file.name))
    if found is None:
        expected = f"a name that ends in {', '.join(FORMATS)} (and {', '.join(PACKINGS)})"
        raise _check.invalid("path", expected, str(file.place), "Or pass `format`.")
    return found


def names(argument, names):
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names) or not names:
        raise _check.invalid(argument, "a list of names or None", names)
    if len(set(names)) < len(names):
        raise _check.invalid(argument, "distinct names", names)
    return list(names)


def _select(rows, columns):
    """The requested columns, in the requested order."""
    if columns is None:
        return rows
    rows._columns = {name: rows[name] for name in columns}
    return rows


def find_delimiter(lines, start, kind, header, quoting):
    """Returns the delimiter: the format's, unless the first record of a CSV file has no comma."""
    usual = {"tsv": "\t", "csv": ","}[kind]
    if kind == "tsv" or (header is not None and len(header) == 1):
        return usual

    def fits(delimiter):
        counts = _counts(lines, start, delimiter, quoting) or [0]
        width = counts[0] if header is None else len(header)
        # One broken row among the inspected ones must not hide the delimiter of the others.
        return width > 1 and counts.count(width) > len(counts) / 2

    is_usual = fits(usual) if header is not None else (_counts(lines, start, usual, quoting) or [0])[0] != 1
    return usual if is_usual else next(filter(fits, _OTHER_DELIMITERS), usual)


def _counts(lines, start, delimiter, quoting):
    """The number of fields of the first records; 0 for one that csv cannot read, which ends the list."""
    counts = []
    reader = csv.reader(iter(lines[start:]), delimiter=delimiter, quoting=quotes(quoting), strict=True)
    try:
        for fields in reader:
            counts.append(len(fields))
            if len(counts) == _SAMPLE:
                break
    except csv.Error:
        counts.append(0)
    return counts


def quotes(quoting):
    return csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE


def _read_separated(path, lines, kind, header, delimiter, quoting, faults):
    """Reads TSV and CSV: a dict of columns, and the line in which each row starts."""
    start = 0
    said = re.fullmatch(r"sep=(.)[\r\n]*", lines[0])
    if said and kind == "csv" and delimiter in (None, said[1]) and len(lines) > 1:  # a line for Excel
        start, delimiter = 1, said[1]
    if delimiter is None:
        delimiter = find_delimiter(lines, start, kind, header, quoting)
    records = _records(path, lines, start, delimiter, quoting, faults, header is None)
    has_index = False
    if header is None:
        line, header = next(records)
        has_index = len(header) > 1 and not header[0] and all(header[1:])
        if has_index:
            header[0] = index_name(header[1:])
        check_header(f"{path}, line {line}", header)
    rows, numbers = [], []
    for line, fields in records:
        place = f"{path}, line {line}"
        if len(fields) != len(header):
            remedy = f"Fix the line, check the delimiter ({delimiter!r}), or pass `on_error='skip'`."
            reason = "an empty line" if not fields else "wrong number of fields"
            detail = "" if not fields else f": {len(fields)} instead of {len(header)} ({', '.join(header)})"
            if len(fields) > len(header):
                detail += f", the first extra one is {shown(fields[len(header)])}"
            elif fields:
                detail += f", {header[len(fields)]!r} is the first missing one"
            faults.add(place, None, reason, detail, remedy)
        elif has_index and not fields[0]:
            check_header(f"{path}, line {start + 1}", ["", *header[1:]])  # not an index, so the column needs a name
        elif not has_bad_text(place, header, fields, faults):
            rows.append(fields)
            numbers.append(line)
    columns = zip(*rows, strict=True) if rows else [[] for _ in header]
    return dict(zip(header, map(list, columns), strict=True)), numbers


def index_name(others):
    """The name that pandas gives to an unnamed index that becomes a column."""
    return "index" if "index" not in others else "level_0"


def check_header(place, header):
    repeated = sorted({name for name in header if header.count(name) > 1})
    if not header or not all(header):
        problem = "a column without a name"
    elif repeated:
        problem = f"column {repeated[0]!r} appears twice"
    elif any(map(is_bad, header)):
        problem = BAD_TEXT
    else:
        return
    remedy = "If the file has no header line, name its columns: `header=[...]`."
    raise fault(place, None, f"{problem}, in the header {shown(header)}", remedy)


def _records(path, lines, start, delimiter, quoting, faults, has_header):
    """Yields (line, fields). A record that csv cannot read is reported, and reading continues on the next line."""
    options = {"delimiter": delimiter, "quoting": quotes(quoting), "strict": True}
    first = start
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
                remedy += " or pass `quoting=False` if a quote is an ordinary character in this file."
                if has_header and end == first:
                    raise fault(place, None, f"a header that csv cannot read ({error})", remedy) from error
                faults.add(place, None, "broken quotes", f" ({error})", remedy)
                start = end + 1
    finally:
        csv.field_size_limit(limit)


def _read_parquet(file, columns):
    path = file.place
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Reading Parquet needs pyarrow: `pip install pyarrow` or `pip install tfxfer[parquet]`."
        ) from error
    source = path if file.is_plain and path.stat().st_size else io.BytesIO(file.read())
    try:
        opened = pyarrow.parquet.ParquetFile(source)
        known = opened.schema_arrow.names
        wanted = None if columns is None else [name for name in columns if name in known]
        table = opened.read(columns=known if wanted is None or len(wanted) < len(columns) else wanted)
        found = table.to_pydict()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise fault(path, None, f"not a readable Parquet file ({error})") from error
    if not table.num_rows:
        raise fault(path, None, "no rows", "Check that the file was written to its end.")
    return Rows._read(found, path, "row", range(table.num_rows), {})
