"""Tables that are read one part at a time: TSV, CSV, JSON Lines and Parquet, of any size."""

import bz2
import codecs
import collections
import contextlib
import csv
import dataclasses
import gzip
import io
import itertools
import json
import lzma
import os
import pathlib
import re
import zlib
from typing import Any

from tfxfer import _check
from tfxfer.data import _files, _read
from tfxfer.data._rows import fault, shown

# The maximum characters of a record; beyond it a quote counts as unclosed.
_LONGEST = 1 << 24
# Lines to inspect for the delimiter.
_LOOKED_AT = 200
OPEN: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError)
SEPARATED = ("csv", "tsv")


@dataclasses.dataclass
class Part:
    """Some rows of a table, in order.

    Attributes:
        rows: list of rows as the source's format stores them; for Parquet an Arrow table.
        numbers: list of ints: the line or row of each.
        broken: list of dicts: records that could not be read.
        records: int. The number of records of the source in this part.
    """

    rows: Any
    numbers: list
    broken: list
    records: int


def kind_of(argument, path, format):
    """Returns the format of a file that is read or written in parts."""
    if format is None:
        name = pathlib.PurePath(path).name
        stem, suffix = os.path.splitext(name)
        format = _read.FORMATS.get(os.path.splitext(stem if suffix.lower() in _files.PACKINGS else name)[1].lower())
        if format is None:
            expected = f"a name that ends in {', '.join(_read.FORMATS)}"
            raise _check.invalid(argument, expected, str(path), "Or pass its format.")
    if format == "json":
        remedy = "Write one object per line (`frame.to_json(path, orient='records', lines=True)`): name it `.jsonl`."
        raise _check.invalid(argument, "a table that can be read a part at a time", str(path), remedy)
    return _check.one_of(
        "output_format" if argument == "output" else "format", format, [*SEPARATED, "jsonl", "parquet"]
    )


def import_arrow():
    """Returns pyarrow, with its module `parquet`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        message = "Tables in Parquet need pyarrow: `pip install pyarrow` or `pip install tfxfer[parquet]`."
        raise ImportError(message, name="pyarrow") from error
    return pyarrow


# === Reading ===


class Lines:
    """The lines of a text file, with the option to put lines back.

    Args:
        place: path.
        packing: `".gz"`, `".bz2"`, `".xz"` or `""`.
        encoding: string.

    Attributes:
        taken: list of the lines taken since it was last cleared.
    """

    def __init__(self, place, packing, encoding):
        self._place = place
        self._raw = open(place, "rb")
        self._size = max(os.fstat(self._raw.fileno()).st_size, 1)
        self._back: collections.deque = collections.deque()
        self.taken: list = []
        self._is_first = True
        try:
            self._binary = self._raw if not packing else OPEN[packing](self._raw)
            self._text = io.TextIOWrapper(self._binary, self._marked(encoding), errors="surrogateescape", newline="")
        except (LookupError, TypeError) as error:
            self._raw.close()
            raise _check.invalid("encoding", "an encoding that Python knows", encoding) from error
        except BaseException:
            self._raw.close()
            raise

    def _marked(self, encoding):
        """The encoding of a byte order mark, if no encoding other than UTF-8 was given."""
        with self._guard():
            head = self._binary.read(4)
        self._binary.seek(0)
        if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii"):
            return next((marked for mark, marked in _files.MARKS if head.startswith(mark)), encoding)
        return encoding

    def __iter__(self):
        return self

    def __next__(self):
        if self._back:
            line = self._back.popleft()
        else:
            with self._guard():
                line = self._text.readline(_LONGEST)
            if not line:
                raise StopIteration
            if self._is_first:
                line, self._is_first = line.removeprefix("\ufeff"), False
                self._check(line)
        self.taken.append(line)
        return line

    def put_back(self, lines):
        """Puts lines back, to be read again in this order."""
        self._back.extendleft(reversed(lines))

    def peek(self, count):
        """Returns the next lines without taking them."""
        found = list(itertools.islice(self, count))
        self.put_back(found)
        self.taken.clear()
        return found

    def share(self):
        """Returns how much of the file has been read, in [0, 1]."""
        return min(self._raw.tell() / self._size, 1.0)

    def close(self):
        self._text.close()
        self._raw.close()

    def _check(self, line):
        if line[:1000].count("\0") > len(line[:1000]) / 4:
            remedy = "Pass `encoding='utf-16-le'` or `encoding='utf-16-be'` if it is one."
            problem = "NUL characters, as in a UTF-16 file without a byte order mark"
            raise fault(f"{self._place}, line 1", None, problem, remedy)

    @contextlib.contextmanager
    def _guard(self):
        try:
            yield
        except UnicodeDecodeError as error:
            problem = f"bytes that are not {error.encoding} ({error.reason})"
            raise fault(self._place, None, problem, "Pass the right `encoding`.") from error
        except _DAMAGED as error:
            raise fault(self._place, None, f"not a whole packed file ({error})", _files.END) from error


class _Source:
    """Base of the sources of records.

    Attributes:
        columns: list of names; `None` if each row has its own.
    """

    columns: Any
    unit = "line"
    place: pathlib.Path

    def _records(self):
        """Yields (number, row, problem): a row, or a problem as (reason, detail, content)."""
        raise NotImplementedError

    def parts(self, size, skip=0):
        """Yields the table in parts of `size` records, after the first `skip` records."""
        records = itertools.islice(self._records(), skip, None)
        while taken := list(itertools.islice(records, size)):
            part = Part([], [], [], len(taken))
            for number, row, problem in taken:
                if problem is None:
                    part.rows.append(row)
                    part.numbers.append(number)
                else:
                    part.broken.append(self.broken(number, *problem))
            yield part

    def broken(self, number, reason, detail, content):
        """Returns the entry of a record in the side file."""
        return {self.unit: number, "reason": reason, "detail": detail, "content": content}

    def kept(self, part, places):
        """Returns the rows of a part at these positions."""
        return [part.rows[i] for i in places]


class Separated(_Source):
    """A TSV or CSV file; a row is a list of strings."""

    def __init__(self, path, kind, packing, *, header=None, delimiter=None, quoting=True, encoding="utf-8"):
        self.place, self.kind, self.quoting = path, kind, quoting
        self._start, self._has_index = 0, False
        self._lines = Lines(path, packing, encoding)
        try:
            self._read_head(header, delimiter)
        except BaseException:
            self.close()
            raise

    def _read_head(self, header, delimiter):
        """Finds the delimiter, and the names of the columns."""
        first = self._lines.peek(_LOOKED_AT)
        if not "".join(first).strip("\r\n"):
            raise fault(self.place, None, "the file is empty", _files.END)
        said = re.fullmatch(r"sep=(.)[\r\n]*", first[0])
        if said and self.kind == "csv" and delimiter in (None, said[1]) and len(first) > 1:
            self._start, delimiter = 1, said[1]
            next(self._lines)
        self.delimiter = delimiter or _read.find_delimiter(first, self._start, self.kind, header, self.quoting)
        # The header is written unchanged.
        self.written = self.columns = header
        self._found = self._parsed()
        if header is not None:
            return
        number, fields, problem = next(self._found)
        place = f"{self.place}, line {number}"
        if problem is not None:
            raise fault(place, None, f"a header that csv cannot read ({problem[1]})", _QUOTES)
        self.written = list(fields)
        self._has_index = len(fields) > 1 and not fields[0] and all(fields[1:])
        if self._has_index:
            fields[0] = _read.index_name(fields[1:])
        _read.check_header(place, fields)
        self.columns = fields

    def values(self, part, column):
        """Returns the values of a column, a list."""
        k = self.columns.index(column)
        return [row[k] for row in part.rows]

    def share(self):
        return self._lines.share()

    def close(self):
        self._lines.close()

    def _parsed(self):
        """Yields (line, fields, problem); after a record that csv cannot read, its second line is read as the next."""
        options = {"delimiter": self.delimiter, "quoting": _read.quotes(self.quoting), "strict": True}
        lines, line = self._lines, self._start
        lines.taken.clear()
        while True:
            reader = csv.reader(lines, **options)
            limit = csv.field_size_limit(_LONGEST)
            try:
                for fields in reader:
                    first, line = line + 1, line + len(lines.taken)
                    lines.taken.clear()
                    csv.field_size_limit(limit)
                    yield first, fields, None
                    csv.field_size_limit(_LONGEST)
                return
            except csv.Error as error:
                line += 1
                bad, rest = lines.taken[0], lines.taken[1:]
                lines.put_back(rest)
                lines.taken.clear()
                yield line, None, ("broken quotes", str(error), bad.rstrip("\r\n")[:_SHOWN])
            finally:
                csv.field_size_limit(limit)

    def _records(self):
        empty = []
        for line, fields, problem in self._found:
            if problem is None and not fields:
                empty.append(line)  # ignored at the end of a file
                continue
            for number in empty:
                yield number, None, ("an empty line", "", "")
            empty.clear()
            yield line, fields, problem or self._problem(line, fields)

    def _problem(self, line, fields):
        if len(fields) != len(self.columns):
            detail = f"{len(fields)} instead of {len(self.columns)} ({', '.join(self.columns)})"
            return "wrong number of fields", detail, fields
        if self._has_index and not fields[0]:
            _read.check_header(f"{self.place}, line {self._start + 1}", self.written)
        for name, value in zip(self.columns, fields, strict=True):
            if _files.is_bad(value):
                return _files.BAD_TEXT, f"in column {name!r}: {shown(value)}", fields
        return None


_SHOWN = 10_000  # the stored characters of a broken record
_QUOTES = "Double the quotes inside the field or pass `quoting=False` if a quote is an ordinary character."


class JSONLines(_Source):
    """A file with a JSON object on each line; a row is a tuple of the object and its line."""

    columns = None

    def __init__(self, path, packing, *, encoding="utf-8"):
        self.place = path
        self._lines = Lines(path, packing, encoding)

    def values(self, part, column):
        return [row.get(column) for row, _ in part.rows]

    def share(self):
        return self._lines.share()

    def close(self):
        self._lines.close()

    def _records(self):
        empty = []
        for number, line in enumerate(self._lines, 1):
            self._lines.taken.clear()
            content = line.strip()
            if not content:
                empty.append(number)
                continue
            for each in empty:
                yield each, None, ("an empty line", "", "")
            empty.clear()
            try:
                row = json.loads(content)
            except (ValueError, RecursionError) as error:
                yield number, None, ("bad JSON", str(error), content[:_SHOWN])
                continue
            if not isinstance(row, dict):
                if number == 1 and isinstance(row, list):
                    remedy = "Write one object per line, `frame.to_json(path, orient='records', lines=True)`."
                    raise fault(self.place, None, "a JSON array, not a JSON object on each line", remedy)
                yield number, None, ("a line that is not a JSON object", "", content[:_SHOWN])
                continue
            bad = [name for name, value in row.items() if isinstance(value, str) and _files.is_bad(value)]
            problem = (_files.BAD_TEXT, f"in {bad[0]!r}", content[:_SHOWN]) if bad else None
            yield number, (row, content), problem


class Parquet(_Source):
    """A Parquet file; the rows of a part are an Arrow table, with the file's types."""

    unit = "row"

    def __init__(self, path):
        self.place, self._arrow = path, import_arrow()
        try:
            self._file = self._arrow.parquet.ParquetFile(path)
        except (self._arrow.ArrowException, OSError) as error:
            raise fault(path, None, f"not a readable Parquet file ({error})") from error
        self.schema = self._file.schema_arrow
        self.columns = list(self.schema.names)
        double = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if double:
            raise fault(path, None, f"column {double[0]!r} appears twice")
        self._count, self._done = max(self._file.metadata.num_rows, 1), 0

    def parts(self, size, skip=0):
        """Yields parts of at most `size` rows, after the first `skip`."""
        self._done = skip
        sizes = [self._file.metadata.row_group(k).num_rows for k in range(self._file.num_row_groups)]
        first, rest = 0, skip
        while first < len(sizes) and sizes[first] <= rest:
            rest -= sizes[first]
            first += 1
        groups = list(range(first, len(sizes)))
        found = self._file.iter_batches(batch_size=size, row_groups=groups) if groups else ()
        try:
            for batch in found:
                table = self._arrow.Table.from_batches([batch], schema=self.schema).slice(min(rest, batch.num_rows))
                rest = max(rest - batch.num_rows, 0)
                if table.num_rows:
                    numbers = list(range(self._done, self._done + table.num_rows))
                    self._done += table.num_rows
                    yield Part(table, numbers, [], table.num_rows)
        except (self._arrow.ArrowException, OSError) as error:
            raise fault(self.place, None, f"not a readable Parquet file ({error})") from error

    def values(self, part, column):
        return part.rows.column(column).to_pylist()

    def kept(self, part, places):
        return part.rows.take(self._arrow.array(places, self._arrow.int64()))

    def share(self):
        return self._done / self._count

    def close(self):
        self._file.close()


def source(argument, path, *, format=None, **options):
    """Opens a table; `options` are the options of TSV and CSV, and `encoding`."""
    file = _files.File(path)
    if not isinstance(file.place, pathlib.Path):
        raise _check.invalid(argument, "a path on the local disk", path, "Copy the file there first.")
    if file.packing == ".zip":
        raise _check.invalid(argument, "a file that is not zipped", str(path), "Unpack it first, or use gzip.")
    kind = kind_of(argument, file.place, format)
    if kind not in SEPARATED:
        for name in ("header", "delimiter"):
            if options.get(name) is not None:
                raise _check.invalid(name, f"None for a {kind} file", options[name])
    if kind == "parquet":
        if file.packing:
            raise _check.invalid(argument, "a Parquet file that is not packed", str(path), "Unpack it first.")
        return Parquet(file.place), kind
    if kind == "jsonl":
        return JSONLines(file.place, file.packing, encoding=options["encoding"]), kind
    delimiter = options.get("delimiter")
    if delimiter is not None and (not isinstance(delimiter, str) or len(delimiter) != 1):
        raise _check.invalid("delimiter", "a string of one character", delimiter)
    options["header"] = _read.names("header", options.get("header"))
    return Separated(file.place, kind, file.packing, **options), kind
