"""Adds columns to a table with a function, one part at a time, in a run that can resume."""

import collections
import contextlib
import difflib
import hashlib
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from tfxfer import _check, _disk
from tfxfer.data import _files, _table_sinks, _table_sources
from tfxfer.data._rows import fault, shown

ON_ERROR = ("raise", "skip", "keep")
KINDS = ("text", "number", "vector", "texts", "flag", "json")
_STATE, _LOCK = "state.json", "lock"
# Seconds between updates of the progress line.
_PACE = 0.5


def map_table(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    function: Callable[[dict[str, list]], dict[str, tuple[str, Any]]],
    columns: str | Sequence[str] | Mapping[str, str] = "text",
    *,
    identity: Any = None,
    prefix: str = "",
    part_rows: int = 2048,
    on_error: Literal["raise", "skip", "keep"] = "raise",
    overwrite: bool = False,
    resume: bool = False,
    progress: bool | None = None,
    texts: Sequence[str] | None = None,
    format: str | None = None,
    output_format: str | None = None,
    header: Sequence[str] | None = None,
    delimiter: str | None = None,
    quoting: bool = True,
    encoding: str = "utf-8",
) -> dict[str, Any]:
    """Copies a table and adds columns with a function; `TextTask.predict_table` does so with a model's predictions.

    TSV, CSV, JSON Lines and Parquet, optionally compressed with gzip, bzip2 or xz, are read and written one part at a
    time, so memory does not grow with the table. All columns of the source are kept, in order: in Parquet with their
    types and the file's metadata, a line of JSON as written, a field of TSV or CSV as read, in UTF-8. TSV, CSV (fields
    are strings) and Parquet can be written to any format; JSON Lines only to JSON Lines, because its rows need not have
    the same names.

    | kind | TSV, CSV | JSON Lines | Parquet |
    |---|---|---|---|
    | `"text"` | the text | string | string |
    | `"number"` | shortest digits of the float32 | number | float |
    | `"flag"` | `true`, `false` | bool | bool |
    | `"vector"`, `"texts"` | JSON array | array | list of float or string |
    | `"json"` | JSON | any value | string of JSON |

    The parts are stored in a directory `<output>.parts` until all are complete; the output then appears atomically. A
    run that was killed resumes from its last complete part with `resume=True`; no row is lost or duplicated.

    A row is broken if it cannot be read (bad JSON, a wrong number of fields, bytes that are not text), or if one of
    `texts` is missing or not a string. Broken rows that do not raise are counted, and listed in `<output>.broken.jsonl`
    with their line (from 1), or in Parquet their row (from 0), and the reason.

    Args:
        source: path of the table, on the local disk.
        output: path of the table to write. Its extension determines the format.
        function: takes a dict of the names in `columns` to lists of values, and returns a dict of each added column's
            name to `(kind, values)`, with a value for each row or `None`. It is first called with empty lists, to get
            names and kinds, which must not change.
        columns: name of the column that the function reads, or names; or a dict of the name in the function to the name
            in the table.
        identity: a JSON value that identifies what the answers depend on besides the rows. A run with a different
            `identity` does not resume.
        prefix: string before the name of each added column.
        part_rows: int. Rows that are computed and written at a time.
        on_error: how to handle broken rows: `"raise"` at the first; `"skip"` drops them; `"keep"` keeps those that
            could be read, with the added columns empty, and drops the others.
        overwrite: bool. Whether to start over if there is an output or an unfinished run.
        resume: bool. Whether to resume an unfinished run; without one, a new run starts.
        progress: bool. Whether to show rows and rows per second on standard error. By default only in a terminal.
        texts: the names in `columns` that are texts. Defaults to all.
        format: `"tsv"`, `"csv"`, `"jsonl"` or `"parquet"`. By default inferred from the source's extension.
        output_format: the same for the output.
        header: list of names for a TSV or CSV file without a header line; the output has one.
        delimiter: string of one character that separates the fields of TSV or CSV; a CSV output uses its source's.
            Defaults to a tab for TSV, and is detected for CSV.
        quoting: bool. `False` for TSV or CSV files in which `"` is an ordinary character.
        encoding: string. The encoding of text files; a byte order mark sets it, unless an encoding other than UTF-8 is
            given.

    Returns:
        A dict: `output` (the path), `rows` (in the output), `answered`, `broken` (a dict of reason to count),
        `broken_file` (the path, or `None`), `continued_at` (records of the source completed by an earlier run),
        `seconds`, `rows_per_second` (of this run).

    Raises:
        FileExistsError: if there is an output or an unfinished run, without `overwrite` or `resume`.
        FileNotFoundError: if the source does not exist.
        ImportError: for Parquet without pyarrow.
        ValueError: if a row is broken, a column is missing, a name clashes, the output is the source, an unfinished run
            has another source, function or arguments, or the source changes meanwhile.

    Example:

    ```python
    tx.data.map_table("rows.csv", "rows.parquet", lambda c: {"length": ("number", [len(t) for t in c["text"]])})
    ```
    """
    _check.one_of("on_error", on_error, ON_ERROR)
    _check.integer("part_rows", part_rows)
    _check.instance("prefix", prefix, str, "a string")
    if overwrite and resume:
        raise _check.invalid("resume", "False with `overwrite=True`", resume, "Either resume a run or start over.")
    names = _named(columns)
    texts = list(names) if texts is None else list(texts)
    target = _disk.local_path("output", output, kind="file")
    packing = os.path.splitext(target.name)[1].lower()
    packing = packing if packing in _files.PACKINGS else ""
    kind = _table_sources.kind_of("output", target, output_format)
    if packing == ".zip" or (packing and kind == "parquet"):
        raise _check.invalid("output", "a name that ends in .gz, .bz2 or .xz, or none of them", str(output))
    options = {"header": header, "delimiter": delimiter, "quoting": quoting, "encoding": encoding}
    place = _files.File(source).place
    if isinstance(place, pathlib.Path) and target.exists() and os.path.samefile(place, target):
        raise _check.invalid("output", "another file than `source`", str(output))
    run = _Run(target, overwrite, resume)
    opened, source_kind = _table_sources.source("source", source, format=format, **options)
    with contextlib.closing(opened):
        for name in names.values():
            _check_column(opened, name)
        added = _added(function({name: [] for name in names}), prefix)
        _check_clash(opened.columns or (), added, prefix)
        sink = _table_sinks.Sink(kind, opened, source_kind, added)
        settings = {"format": [source_kind, kind, packing], "columns": names, "texts": texts, "added": added}
        settings.update(header=header, delimiter=delimiter, quoting=quoting, encoding=encoding)
        with run.locked():
            run.begin(place, {"settings": settings, "identity": _digest(identity)}, on_error, overwrite)
            call = _Call(function, names, texts, added, prefix, on_error, place)
            return run.finish(opened, sink, call, part_rows, packing, progress)


class _Call:
    """Calls the function on the unbroken rows of a part."""

    def __init__(self, function, names, texts, added, prefix, on_error, place):
        self._function, self._names, self._texts, self._added = function, names, texts, added
        self._prefix, self._on_error, self._place = prefix, on_error, place

    def __call__(self, source, part):
        """Returns the positions of the kept rows, their added columns, and the broken rows."""
        values = {name: source.values(part, column) for name, column in self._names.items()}
        broken = list(part.broken)
        if source.columns is None:
            self._check_rows(source, part)
        good = []
        for i, number in enumerate(part.numbers):
            problem = next(filter(None, (_problem(self._names[name], values[name][i]) for name in self._texts)), None)
            if problem is None:
                good.append(i)
            else:
                broken.append(source.broken(number, *problem, None))
        broken.sort(key=lambda each: each[source.unit])
        if broken and self._on_error == "raise":
            raise self._error(source, broken[0])
        answers = self._answers({name: [column[i] for i in good] for name, column in values.items()}, len(good))
        if self._on_error == "skip" or len(good) == len(part.numbers):
            return good, answers, len(good), broken
        found: dict[str, list] = {}
        for name, column in answers.items():
            found[name] = [None] * len(part.numbers)
            for i, value in zip(good, column, strict=True):
                found[name][i] = value
        return list(range(len(part.numbers))), found, len(good), broken

    def _answers(self, values, count):
        if not count:
            return {name: [] for name in self._added}
        answers = self._function(values)
        if _added(answers, self._prefix) != self._added:
            received = {name: kind for name, (kind, _) in answers.items()}
            raise _check.invalid("function", f"the columns {self._added} for each part", received)
        found = {f"{self._prefix}{name}": column for name, (_, column) in answers.items()}
        for name, column in found.items():
            if len(column) != count:
                raise _check.invalid("function", f"{count} values of {name!r}, one for each row", len(column))
        return found

    def _check_rows(self, source, part):
        """Raises if an object has the name of an added column, or no object has a column to read."""
        for column in self._names.values():
            if part.rows and not any(column in row for row, _ in part.rows):
                known = list(dict.fromkeys(name for row, _ in part.rows for name in row))
                first, last = part.numbers[0], part.numbers[-1]
                raise _missing(f"{self._place}, lines {first} to {last}", column, known)
        taken = set(self._added)
        for number, (row, _) in zip(part.numbers, part.rows, strict=True):
            if not taken.isdisjoint(row):
                _check_clash(row, self._added, self._prefix, f"Line {number} has it.")

    def _error(self, source, broken):
        place = f"{self._place}, {source.unit} {broken[source.unit]}"
        place += " (counting from 0)" if source.unit == "row" else ""
        detail = f": {broken['detail']}" if broken["detail"] else ""
        remedy = "Fix it, or pass `on_error='skip'` or `on_error='keep'`."
        return fault(place, None, f"{broken['reason']}{detail}", remedy)


class _Run:
    """The directory of an unfinished run: its parts and progress.

    A part counts once it is recorded in `state.json`, which is replaced atomically after the part is on disk.
    """

    def __init__(self, target, overwrite, resume):
        self.target, self.folder = target, target.with_name(f"{target.name}.parts")
        self.side = target.with_name(f"{target.name}.broken.jsonl")
        self.state: dict[str, Any] = {}
        if overwrite or resume:
            return
        if (self.folder / _STATE).exists():
            message = f"An unfinished run is in {self.folder}: resume it (`resume=True`, --resume), or start over"
            raise FileExistsError(f"{message} (`overwrite=True`, --overwrite).")
        if target.exists():
            raise FileExistsError(f"{target} exists: pass `overwrite=True` (--overwrite), or name another output.")

    @contextlib.contextmanager
    def locked(self):
        """Locks out other processes; the system releases the lock of a process that dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / _LOCK, "wb") as file:
            with contextlib.suppress(ImportError):  # on systems without POSIX
                import fcntl

                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise FileExistsError(f"Another process is writing {self.target}.") from error
            try:
                yield
            finally:
                is_begun = self.state.get("parts") or not self.state
                if not is_begun or not (self.folder / _STATE).exists():  # nothing to resume
                    shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self, place, what, on_error, overwrite):
        """Reads the state of an earlier run, or creates a new one."""
        self._place, self._found = place, _seen(place)
        what = {**what, "source": {"bytes": os.path.getsize(place), "sha256": _sha256(place)}}
        file = self.folder / _STATE
        if overwrite:
            self._clear()
        if not file.exists():
            if self.target.exists() and not overwrite:
                remedy = "There is nothing to resume: its run is complete. `overwrite=True` starts over."
                raise FileExistsError(f"{self.target} exists. {remedy}")
            counts = {"records": 0, "parts": 0, "rows": 0, "answered": 0, "broken": {}}
            self.state = {**what, "on_error": on_error, **counts, "complete": False, "written": False}
            self._save()
            return
        reader = _disk.Reader("output", self.target, "an unfinished run", "`overwrite=True` starts over.")
        self.state = reader.json(file, {"records": int, "parts": int, "broken": dict, "source": dict})
        said = {"source": "another source, or one that changed", "identity": "another model, or another state of it"}
        said["settings"] = "other arguments"
        for key, other in said.items():
            if self.state.get(key) != json.loads(json.dumps(what[key])):
                remedy = f"The unfinished run in {self.folder} has {other}. `overwrite=True` starts over."
                raise _check.invalid("resume", "a run of the same source, model and arguments", True, remedy)
        if self.state["on_error"] not in ("raise", on_error):  # after "raise" the parts contain no broken rows
            remedy = f"The unfinished run has {self.state['on_error']!r}. `overwrite=True` starts over."
            raise _check.invalid("on_error", "the value that the run started with", on_error, remedy)
        self.state["on_error"] = on_error

    def finish(self, source, sink, call, part_rows, packing, progress):
        """Computes the missing parts, joins them, and returns a summary."""
        state, start, continued = self.state, time.perf_counter(), self.state["records"]
        rows_before = state["rows"]
        shown_progress = _Progress(progress)
        if not state["complete"]:
            for part in source.parts(part_rows, state["records"]):
                places, answers, answered, broken = call(source, part)
                self._add(sink, part, places, answers, answered, broken)
                shown_progress(state, time.perf_counter() - start, state["rows"] - rows_before, source.share())
            if _seen(self._place) != self._found:
                raise _check.invalid("source", "a file that does not change while it is read", str(self._place))
            state["complete"] = True
            self._save()
        if not state["written"]:
            self._join(sink, packing)
            state["written"] = True
            self._save()
        seconds = time.perf_counter() - start
        shown_progress(state, seconds, state["rows"] - rows_before, 1.0, last=True)
        self._clear()
        return {
            "output": str(self.target),
            "rows": state["rows"],
            "answered": state["answered"],
            "broken": state["broken"],
            "broken_file": str(self.side) if state["broken"] else None,
            "continued_at": continued,
            "seconds": seconds,
            "rows_per_second": (state["rows"] - rows_before) / max(seconds, 1e-9),
        }

    def _add(self, sink, part, places, answers, answered, broken):
        state = self.state
        with _disk.replacing(self._part(state["parts"])) as file:
            sink.write(file, part, places, answers)
        report = self._part(state["parts"], "broken")
        report.unlink(missing_ok=True)  # from an uncounted part of another size
        if broken:
            _disk.write_text(report, "".join(f"{_line(each)}\n" for each in broken))
        counts = collections.Counter(state["broken"])
        counts.update(each["reason"] for each in broken)
        state["broken"] = dict(counts)
        state["parts"] += 1
        state["records"] += part.records
        state["rows"] += len(places)
        state["answered"] += answered
        self._save()

    def _join(self, sink, packing):
        count = range(self.state["parts"])
        if self.state["broken"]:
            with _disk.writing(self.side) as file:
                for k in count:
                    path = self._part(k, "broken")
                    file.write(path.read_bytes() if path.exists() else b"")
        else:
            self.side.unlink(missing_ok=True)  # from an earlier run
        with _disk.replacing(self.target) as file:
            sink.join(file, [self._part(k) for k in count], packing)

    def _part(self, number, kind="part"):
        return self.folder / f"{number:09d}.{kind}"

    def _save(self):
        _disk.write_json(self.folder / _STATE, self.state)

    def _clear(self):
        """Removes the parts, then the state."""
        for path in self.folder.iterdir():
            if path.name not in (_STATE, _LOCK):
                path.unlink()
        (self.folder / _STATE).unlink(missing_ok=True)


class _Progress:
    """A line on standard error that is rewritten with each update."""

    def __init__(self, wanted):
        self._wanted = wanted if wanted is not None else bool(sys.stderr and sys.stderr.isatty())
        self._last = float("-inf")

    def __call__(self, state, seconds, rows, share, last=False):
        if not self._wanted or (seconds - self._last < _PACE and not last):
            return
        self._last = seconds
        broken = sum(state["broken"].values())
        line = f"{state['rows']:,} rows, {share:.0%}, {rows / max(seconds, 1e-9):,.0f} rows/s"
        line += f", {broken:,} broken" if broken else ""
        sys.stderr.write(f"\r{line:<70}{chr(10) if last else ''}")
        sys.stderr.flush()


# === Arguments ===


def _named(columns):
    """The columns as a dict of the name in the function to the name in the table."""
    if isinstance(columns, str):
        columns = {"text": columns}
    elif isinstance(columns, (list, tuple)):
        columns = {name: name for name in columns}
    is_right = isinstance(columns, dict) and columns
    if not is_right or not all(isinstance(name, str) and name for pair in columns.items() for name in pair):
        raise _check.invalid("columns", "the name of a column, or names", columns)
    return columns


def _check_column(source, name):
    if source.columns is not None and name not in source.columns:
        raise _missing(source.place, name, source.columns)


def _missing(place, name, known):
    alike = difflib.get_close_matches(name, known, 1)
    remedy = f"Did you mean {alike[0]!r}?" if alike else f"It has {shown(list(known))}."
    return fault(place, None, f"no column {name!r}", remedy)


def _added(answers, prefix):
    """The names of the added columns, with their kinds."""
    found = {}
    for name, (kind, _) in _check.instance("function", answers, dict, "a function that returns a dict").items():
        found[f"{prefix}{name}"] = _check.one_of("function", kind, KINDS)
    return found


def _check_clash(columns, added, prefix, where=""):
    clashing = [name for name in added if name in columns]
    if clashing:
        remedy = f"{where} Give another `prefix`, e.g. `prefix='model_'`.".strip()
        raise _check.invalid("prefix", f"one with which {clashing[0]!r} is no column of the table", prefix, remedy)


def _problem(name, value):
    """The problem with a text, as (reason, detail), or `None`."""
    if isinstance(value, str) and not _files.is_bad(value):
        return None
    if _check.is_missing(value):
        return "no text", f"in column {name!r}"
    if isinstance(value, str):
        return _files.BAD_TEXT, f"in column {name!r}"
    return "a text that is not a string", f"in column {name!r}: {shown(value)}"


def _line(value):
    """A broken row as JSON; invalid bytes are lone surrogates, which need escapes."""
    try:
        found = json.dumps(value, ensure_ascii=False)
        found.encode()
    except UnicodeEncodeError:
        found = json.dumps(value)
    return found


# === Dependencies of a run ===


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seen(path):
    """Values that change when a file is written."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns
