"""Reader of texts with character spans, converted to words with tags."""

import bisect
import collections.abc
import numbers
import os
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from tfxfer import _check, _schemes, preprocessing
from tfxfer.data._datasets import with_texts
from tfxfer.data._files import File
from tfxfer.data._read import FORMATS, read
from tfxfer.data._rows import Faults, Rows, shown
from tfxfer.data._sources import CHUNK

# The keys of each format; dots separate nested keys.
_FORMATS = {
    None: ("text", "entities", "start", "end", "label"),
    "prodigy": ("text", "spans", "start", "end", "label"),
    "label_studio": ("data.text", "annotations", "value.start", "value.end", "value.labels"),
}
_MEND = "Fix the row, or pass `on_error='skip'`."
_DROP = "Fix it, or drop such spans with `on_error='drop'`."
_COUNT = "Offsets count code points, as Python does: not bytes, nor JavaScript's UTF-16 units (an emoji is two)."


def read_entities(
    rows: Any,
    text: str | None = None,
    entities: str | None = None,
    *,
    start: str | None = None,
    end: str | None = None,
    label: str | None = None,
    format: Literal["prodigy", "label_studio"] | None = None,
    scheme: str = "IOB2",
    split: Literal["punctuation", "whitespace"] = "punctuation",
    on_error: Literal["raise", "skip", "drop", "align"] = "raise",
) -> Rows:
    """Reads texts with character spans, and converts them to words with tags.

    A row is an object such as `{"text": "Ada wrote.", "entities": [{"start": 0, "end": 3, "label": "PER"}]}`; a span
    may also be a list `[start, end, label]`, as in doccano and spaCy. `start` and `end` count code points from 0, as
    Python does, and `end` is exclusive. If a span has its own text, at the key `text` next to `start`, it must equal
    the text at its position.

    | `format` | `text` | `entities` | `start` | `end` | `label` |
    |---|---|---|---|---|---|
    | by default | `text` | `entities` | `start` | `end` | `label` |
    | `"prodigy"` | `text` | `spans` | `start` | `end` | `label` |
    | `"label_studio"` | `data.text` | `annotations` | `value.start` | `value.end` | `value.labels` |

    A key with dots names a value inside nested objects, or lists, by index: `annotations.0.result`. A label may be a
    list of one string. With `"prodigy"`, rows whose `answer` is not `"accept"` are skipped and counted in
    `Rows.skipped`. With `"label_studio"`, a task must have exactly one annotation that was not canceled; its results
    of type `labels` are read.

    Args:
        rows: the path or URL of a file as in `data.read` (JSON Lines, or a `.json` file with an array), a list of such;
            `Rows`, or anything that `Rows.from_any` accepts, such as a list of dicts.
        text: key of the text; see the table.
        entities: key of the list of spans. A text without spans has an empty list.
        start: key of a span's first character.
        end: key of the character after a span's last.
        label: key of a span's type.
        format: the program that wrote the rows, for the keys that are not given.
        scheme: string. The scheme of the tags to make; see `read_conll`.
        split: how to split texts into words; see `preprocessing.split_words`.
        on_error: how to handle a span that cuts a word, overlaps another, is empty or lies outside the text. `"raise"`:
            the first error raises. `"align"` widens spans that cut a word to whole words; other errors raise. `"drop"`
            drops the span; of two that overlap, the one that starts later, or is shorter. `"skip"` skips the row, and
            rows with any other error. All but the first end with one warning, and with counts in `Rows.repaired`, or
            in `Rows.skipped` for rows.

    Returns:
        `Rows` with the columns `text`, a string; `words` and `tags`, lists of strings; `starts` and `ends`, lists of
        ints: the positions of the words in the text. A row's place is that of the source row.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a key does not exist, a text is missing, not a string or without a word, the spans are not a
            list, or a span is invalid as above; the message names row, span, its text and a remedy.

    Example:

    >>> rows = read_entities(
    ...     [{"text": "Ada Lovelace, née Byron.", "entities": [{"start": 0, "end": 12, "label": "PER"}]}]
    ... )
    >>> rows["words"][0], rows["tags"][0]
    (['Ada', 'Lovelace', ',', 'née', 'Byron', '.'], ['B-PER', 'I-PER', 'O', 'O', 'O', 'O'])
    >>> rows["starts"][0], rows["ends"][0]
    ([0, 4, 12, 14, 18, 23], [3, 12, 13, 17, 23, 24])
    >>> read_entities([{"text": "Ada", "label": [[0, 3, "PER"]]}], entities="label")["tags"]
    [['B-PER']]
    """
    keys = _keys(format, text, entities, start, end, label)
    scheme = _schemes.scheme("scheme", scheme)
    faults = Faults(on_error, also=("drop", "align"))
    rows = _rows(rows)
    found, left_out = _inputs(rows, keys, format, faults)
    reader = _Reader(keys, split, faults)
    made: dict[int, dict] = {}
    for i, words, (value, spans) in _split(found, split):
        place = rows.place(i)
        if not words.words:
            faults.add(place, keys.text, "a text without a word", f": {shown(value)}", _MEND)
            continue
        kept = reader.read(place, value, spans, words)
        if kept is not None:
            tags = _schemes.tags_of(kept, len(words.words), scheme)
            made[i] = {"text": value, "words": words.words, "tags": tags, "starts": words.starts, "ends": words.ends}
    if not made:
        raise _check.invalid("rows", "at least one row that can be used", rows, f"The first fault: {faults.first}")
    faults.warn(f"read_entities({rows!r})")
    return _result(rows, made, faults, left_out)


class _Keys(NamedTuple):
    text: str
    entities: str
    start: str
    end: str
    label: str


class _Words(NamedTuple):
    words: list
    starts: list
    ends: list


def _keys(format, *given):
    if format is not None:
        _check.one_of("format", format, [name for name in _FORMATS if name])
    for argument, value in zip(_Keys._fields, given, strict=True):
        if value is not None and (not isinstance(value, str) or not value):
            raise _check.invalid(argument, "a key, a string", value)
    return _Keys(*(value or default for value, default in zip(given, _FORMATS[format], strict=True)))


def _rows(rows):
    paths = [rows] if isinstance(rows, (str, os.PathLike)) else rows
    if not isinstance(paths, (list, tuple)) or not paths or not isinstance(paths[0], (str, os.PathLike)):
        return Rows.from_any(rows)
    for path in paths:
        file = File(path)
        ending = os.path.splitext(file.name)[1].lower()
        if ending not in FORMATS and (ending or file.packing != ".zip"):
            remedy = "Read it first: `data.read(path, format='jsonl')`; or a CoNLL file with `data.read_conll(path)`."
            raise _check.invalid("rows", f"a name that ends in {', '.join(FORMATS)}", str(file.place), remedy)
    return read(rows)


def _result(rows, made, faults, left_out):
    """The remaining rows, with their places."""
    left = rows[list(made)]
    left._columns = {name: [row[name] for row in made.values()] for name in next(iter(made.values()))}
    left.repaired = dict(faults.repaired)
    for reason, count in (*faults.counts.items(), *left_out.items()):
        left.skipped[reason] = left.skipped.get(reason, 0) + count
    return left


# === Content of a row ===


class _Fault(Exception):
    """An error: its reason, details of this case, the remedy, and whether dropping the span fixes it."""

    def __init__(self, reason, detail, remedy, is_of_span=False):
        super().__init__(reason, detail, remedy)
        self.is_of_span = is_of_span


def _at(value, key):
    """The value at a key of nested objects and lists."""
    if isinstance(value, collections.abc.Mapping) and key in value:
        return value[key]
    for part in key.split("."):
        try:
            value = value[int(part)] if isinstance(value, (list, tuple)) else value[part]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            remedy = "Pass the right key: see `text`, `entities`, `start`, `end`, `label` and `format`."
            raise _Fault(f"no {part!r} for {key!r}", f", in {shown(value)}", remedy) from error
    return value


def _inputs(rows, keys, format, faults):
    """Returns (dict of row index to (text, spans), dict of answer to the number of rows skipped for it)."""
    found, left_out = {}, {}
    for key in (keys.text,) if format == "prodigy" else (keys.text, keys.entities):
        if key not in rows.columns:
            rows[key.partition(".")[0]]  # raises if no row has it
    for i, row in enumerate(rows):
        if format == "prodigy" and row.get("answer", "accept") != "accept":
            reason = f"answer {row['answer']!r}"
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        try:
            found[i] = _at(row, keys.text), _spans(row, keys, format)
        except _Fault as error:
            faults.add(rows.place(i), None, *error.args)
    order = list(found)
    texts = rows[order]
    texts._columns = {keys.text: [value for value, _ in found.values()]}
    kept = with_texts(texts, [keys.text], dict(enumerate(order)), faults)
    return {i: found[i] for i in kept.values()}, left_out


def _spans(row, keys, format):
    """The list of spans of a row."""
    try:
        spans = _at(row, keys.entities)
    except _Fault:
        if format != "prodigy":
            raise
        spans = None
    if format == "prodigy" and spans is None:
        return []  # Prodigy may omit the key if nothing was marked
    if format == "label_studio":
        spans = _annotated(spans)
    if not isinstance(spans, (list, tuple)):
        raise _Fault("no list of spans", f": {shown(spans)}", f"A text without spans has an empty list. {_MEND}")
    return spans


def _annotated(annotations):
    """The results of the one annotation of a task of Label Studio that mark spans."""
    if not isinstance(annotations, (list, tuple)):
        raise _Fault("no list of annotations", f": {shown(annotations)}", _MEND)
    done = [each for each in annotations if not each.get("was_cancelled")]
    if len(done) != 1:
        raise _Fault("not one annotation", f" but {len(done)}", f"Keep the one to train on. {_MEND}")
    return [each for each in _at(done[0], "result") if each.get("type", "labels") == "labels"]


def _split(found, split):
    """Yields the index of each row, its `_Words`, and its content."""
    items = list(found.items())
    for begin in range(0, len(items), CHUNK):
        part = items[begin : begin + CHUNK]
        with tf.device("CPU:0"):
            made = preprocessing.split_words([value for _, (value, _) in part], split)
        lists = (made.words.to_list(), made.starts.to_list(), made.ends.to_list())
        for (i, row), words, starts, ends in zip(part, *lists, strict=True):
            yield i, _Words([word.decode() for word in words], starts, ends), row


# === Spans ===


class _Span(NamedTuple):
    number: int
    label: str
    text: str
    first: int  # its first word
    last: int  # the word after its last


class _Reader:
    """Reads the spans of rows as words."""

    def __init__(self, keys, split, faults):
        self._keys = keys
        self._split = split
        self._faults = faults

    def read(self, place, text, spans, words):
        """Returns (label, first word, word after the last) of each span; `None` if the row is skipped."""
        found = []
        for number, span in enumerate(spans):
            where = f"{place}, span {number} (counting from 0)"
            try:
                label, start, end = self._parts(span, text)
                found.append(self._words(where, number, label, start, end, text, words))
            except _Fault as error:
                if not self._leaves_out(where, error):
                    return None
        kept: list[_Span] = []
        for span in sorted(found, key=lambda span: (span.first, -span.last, span.number)):
            before = kept[-1] if kept else None
            if before is not None and span.first < before.last:
                where = f"{place}, span {span.number} (counting from 0)"
                if not self._leaves_out(where, _overlap(span, before)):
                    return None
                continue
            kept.append(span)
        return [(span.label, span.first, span.last) for span in kept]

    def _leaves_out(self, where, error):
        """Records an error; returns whether only its span is dropped, and not the row."""
        reason, detail, remedy = error.args
        if error.is_of_span and self._faults.on_error == "drop":
            self._faults.repair(where, f"{reason}, dropped", detail)
            return True
        self._faults.add(where, None, reason, detail, remedy)
        return False

    def _parts(self, span, text):
        """Returns (label, start, end) of a span inside the text."""
        if isinstance(span, (list, tuple)) and len(span) == 3:
            start, end, label = span
        elif isinstance(span, collections.abc.Mapping):
            start, end, label = (_at(span, key) for key in self._keys[2:])
        else:
            remedy = f"A span is an object, or a list [start, end, label]. {_MEND}"
            raise _Fault("a span that is neither an object nor a list of three", f": {shown(span)}", remedy)
        if isinstance(label, (list, tuple)) and len(label) == 1:
            label = label[0]
        if not isinstance(label, str) or not label:
            raise _Fault("a span whose label is not a string", f": {shown(label)}, in {shown(span)}", _MEND)
        for value in (start, end):
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                detail = f": {shown(value)}, in {shown(span)}"
                raise _Fault("a span whose start or end is not a whole number", detail, _MEND)
        if not 0 <= start <= len(text) or end > len(text):
            detail = f": {start}..{end} ({label}), in a text of {len(text)} code points"
            raise _Fault("a span outside of the text", detail, f"{_DROP} {_COUNT}", True)
        if end <= start:
            raise _Fault("an empty span", f": {start}..{end} ({label})", _DROP, True)
        self._check_text(span, text, start, end)
        return label, int(start), int(end)

    def _check_text(self, span, text, start, end):
        """Raises if a span's own text differs from the text at its position."""
        if not isinstance(span, collections.abc.Mapping):
            return
        inside, dot, _ = self._keys.start.rpartition(".")
        try:
            own = _at(span, f"{inside}{dot}text")
        except _Fault:
            return
        if isinstance(own, str) and _letters(own) != _letters(text[start:end]):
            detail = f": {shown(own)}, but {start}..{end} is {shown(text[start:end])}"
            raise _Fault("a span with another text than the one in its place", detail, f"{_COUNT} {_MEND}")

    def _words(self, where, number, label, start, end, text, words):
        """Returns a span as a `_Span` of whole words."""
        first = bisect.bisect_right(words.ends, start)
        last = bisect.bisect_left(words.starts, end)
        inside = text[start:end]
        if first >= last:
            raise _Fault("a span without a word", f": {start}..{end}, {inside!r} ({label})", _DROP, True)
        begin, finish = words.starts[first], words.ends[last - 1]
        if start > begin or end < finish:
            detail = f": {start}..{end}, {shown(inside)} ({label}), of {shown(text[begin:finish])} at {begin}..{finish}"
            if self._faults.on_error != "align":
                remedy = "Fix it, widen such spans to whole words with `on_error='align'`, or drop them with "
                remedy += "`on_error='drop'`."
                if self._split != "punctuation":
                    remedy += " `split='punctuation'` makes words without the punctuation around them."
                raise _Fault("a span that cuts a word", detail, remedy, True)
            self._faults.repair(where, "a span that cuts a word, widened", detail)
        return _Span(number, label, inside, first, last)


def _overlap(span, before):
    detail = f": {shown(span.text)} ({span.label}) and {shown(before.text)} ({before.label}), span {before.number}"
    remedy = "A word has one tag: remove one of the two, or pass `on_error='drop'`, which keeps the one that starts "
    remedy += "first, or is longer."
    return _Fault("a span that overlaps another", detail, remedy, True)


def _letters(text):
    return "".join(filter(str.isalnum, text.casefold()))
