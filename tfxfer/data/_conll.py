"""Reader of CoNLL files: one word and its tag per line, an empty line after each sentence."""

import collections
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tfxfer import _check, _schemes
from tfxfer.data._files import File, has_bad_text, lines, text
from tfxfer.data._rows import Faults, Rows, fault, shown
from tfxfer.data._tags import Checker, is_tag, known_scheme

_BLANKS = re.compile("[ \t]+")
_DOCUMENT = re.compile(r"-DOCSTART-([ \t]|$)")
# The start of comments that are recognized by default. A hashtag has no space after the "#".
_COMMENT = "# "
_MEND = "Fix the line, check `separator`, or pass `on_error='skip'`."


def read_conll(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    words: int = 0,
    tags: int | None = -1,
    *,
    columns: Mapping[str, int] | None = None,
    scheme: str | None = "IOB2",
    to: str | None = None,
    on_error: Literal["raise", "skip", "repair"] = "raise",
    separator: str | None = None,
    comments: str | None = None,
    document: str | None = None,
    encoding: str = "utf-8",
) -> Rows:
    r"""Reads sentences of tagged words from CoNLL files.

    Each line holds a word, with its tag in another column; an empty line ends a sentence. Lines of whitespace count as
    empty. A line whose first column is `-DOCSTART-` starts a document and is not a word.

    Columns are separated by a tab, or by runs of spaces and tabs. By default the file decides: tabs if every line has
    one, so that a word may contain spaces. A file that can be read both ways, with different words or tags, is an
    error. Every line must have the same number of columns.

    Comments, as in CoNLL-U, are recognized by default only if they cannot be words: in a file with tabs, lines without
    a tab that start with `"# "` and come before the first word of a sentence. A line such as `#tag O` is always a word.

    Args:
        path: a path or URL, or a list of them whose sentences are concatenated; compressed files and URLs as in
            `data.read`.
        words: int. Index of the column of words, from 0; negative numbers count from the last column.
        tags: int. Index of the column of tags. `None` for a file without tags.
        columns: optional dict of name to index, for further columns of the file, such as `{"pos": 1}`.
        scheme: string. The scheme of the file's tags: `"IOB2"` (also called BIO), `"IOB1"`, `"IOE1"`, `"IOE2"`,
            `"BIOES"` (also called IOBES) or `"BILOU"`.
            `None` for tags that do not mark spans, such as parts of speech; they are not checked.
        to: optional string. The scheme to convert the tags to.
        on_error: `"raise"`: the first error raises. `"skip"`: sentences with an error are skipped and counted in
            `Rows.skipped`. `"repair"`: tags that the scheme forbids in their position are changed, their words kept,
            and the changes counted in `Rows.repaired`; other errors raise. Both end with one warning.
        separator: optional string that separates the columns; `" "` means any run of spaces and tabs.
        comments: optional string that comments start with, such as `"# "` or `"//"`. All such lines are ignored; one
            that has the columns and the tag of a word is an error.
        document: optional string. The name of a column to add, with the index of each sentence's document, from 0.
        encoding: string. The encoding of the files; see `data.read`.

    Returns:
        `Rows`, one per sentence, with the columns `words` and `tags`, lists of strings of equal length; then those of
        `columns`, also lists of strings, and `document`, an int. A row's place is the line of its first word.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the file is empty or has no sentence, or a line has too few or too many columns, an empty word or
            tag, or a tag that the scheme does not have or forbids in this position; the message names file and line,
            and the schemes that fit.

    Example:

    >>> with open("train.conll", "w") as file:
    ...     _ = file.write("-DOCSTART- O\n\nAda B-PER\nLovelace I-PER\nwrote O\n\nHello O\n")
    >>> rows = read_conll("train.conll")
    >>> rows
    Rows(2 rows of words, tags; from train.conll)
    >>> rows[0]
    {'words': ['Ada', 'Lovelace', 'wrote'], 'tags': ['B-PER', 'I-PER', 'O']}
    >>> rows.place(1)
    'train.conll, line 7'
    >>> read_conll("train.conll", to="BIOES")["tags"][0]
    ['B-PER', 'E-PER', 'O']

    Reference: Tjong Kim Sang & De Meulder, 2003, https://aclanthology.org/W03-0419.
    """
    if isinstance(path, (list, tuple)) and not path:
        raise _check.invalid("path", "a path or a list of at least one path", path)
    wanted = _wanted(words, tags, columns, document)
    if tags is None and to is not None:
        raise _check.invalid("to", "None without tags", to)
    scheme, to = known_scheme(scheme), known_scheme(to, "to")
    if to is not None and scheme is None:
        raise _check.invalid("scheme", "the scheme of the file's tags, for `to`", scheme)
    for argument, value in (("separator", separator), ("comments", comments)):
        if value is not None and (not isinstance(value, str) or not value or "\n" in value):
            raise _check.invalid(argument, "a string of at least one character, or None", value)
    parts: list[Rows] = []
    count = 0
    for each in path if isinstance(path, (list, tuple)) else [path]:
        faults = Faults(on_error, also=("repair",))
        part, documents = _read(each, wanted, scheme, faults, separator, comments, encoding)
        faults.warn(part._sources[0][0])
        if to is not None and scheme is not None:
            part._columns["tags"] = [_schemes.convert(row, scheme, to) for row in part["tags"]]
        if document is not None:
            part._columns[document] = [count + number for number in documents]
            count += documents[-1] + 1
        parts.append(part)
    return parts[0] if len(parts) == 1 else Rows._concatenate(parts)


def _wanted(words, tags, columns, document):
    """The columns to read: a dict of name to index."""
    if columns is not None:
        _check.instance("columns", columns, Mapping, "a dict of column name to number, or None")
    wanted: dict[str, Any] = {"words": words} | ({} if tags is None else {"tags": tags})
    for name, number in (columns or {}).items():
        if not isinstance(name, str) or name in (*wanted, document):
            taken = ", ".join(map(repr, filter(None, (*wanted, document))))
            raise _check.invalid("columns", f"names other than {taken}", name)
        wanted[name] = number
    for name, number in wanted.items():
        argument = name if name in ("words", "tags") else "columns"
        if isinstance(number, bool) or not isinstance(number, int):
            raise _check.invalid(argument, "the index of a column, an int", number)
    if document is not None and (not isinstance(document, str) or not document or document in wanted):
        raise _check.invalid("document", f"a name other than {', '.join(map(repr, wanted))}, or None", document)
    return wanted


class _Line(NamedTuple):
    number: int
    content: str


class _Sentence(NamedTuple):
    document: int
    lines: list[_Line]


class _Layout(NamedTuple):
    """How a file's lines are split into columns, and the indices of the requested ones."""

    separator: str
    width: int
    numbers: dict[str, int]

    def fields(self, content):
        return _fields(content, self.separator)

    def pick(self, fields):
        return [fields[number] for number in self.numbers.values()]


def _read(path, wanted, scheme, faults, separator, comments, encoding):
    """Returns (`Rows` of one file, the index of each row's document)."""
    file = File(path)
    place = file.place
    sentences = _sentences(lines(text(place, file.read(), encoding)))
    if comments is not None:
        asked, sentences = _parted(sentences, lambda line, _: line.content.startswith(comments))
        layout = _found_layout(place, sentences, wanted, separator)
        for line in asked:
            _check_comment(place, line, layout, scheme)
    else:
        if separator in (None, "\t"):
            found, rest = _parted(sentences, _is_comment)
            # If the lines of words have no tab either, such a line may be a word.
            if found and rest and all("\t" in line.content for each in rest for line in each.lines):
                sentences = rest
        layout = _found_layout(place, sentences, wanted, separator)
    kept, rows = [], []
    for sentence in sentences:
        row = _row(place, sentence, layout, faults)
        if row is not None:
            kept.append(sentence)
            rows.append(row)
    if scheme is not None and "tags" in wanted:
        kept, rows = _with_tags(place, kept, rows, scheme, faults)
    if not rows:
        rest = f"; all were skipped, the first because: {faults.first}" if faults.first else ""
        raise fault(place, None, f"no sentence{rest}", "Check that the file was written to its end.")
    columns = {name: [row[name] for row in rows] for name in wanted}
    numbers = [sentence.lines[0].number for sentence in kept]
    made = Rows._read(columns, place, "line", numbers, faults.counts, faults.repaired)
    return made, [sentence.document for sentence in kept]


def _sentences(found):
    """Splits lines into sentences, each with the index of its document."""
    sentences, current, document, begun = [], [], 0, False
    for number, line in enumerate(found, 1):
        content = line.rstrip("\r\n")
        marks = _DOCUMENT.match(content) is not None
        if content.strip(" \t") and not marks:
            current.append(_Line(number, content))
            continue
        if current:
            sentences.append(_Sentence(document, current))
            current, begun = [], True
        if marks and begun:
            document, begun = document + 1, False
    if current:
        sentences.append(_Sentence(document, current))
    return sentences


def _parted(sentences, is_comment):
    """Returns (the comments, the sentences without them); `is_comment` takes a line and whether a word precedes it."""
    comments, rest = [], []
    for document, all_lines in sentences:
        words: list[_Line] = []
        for line in all_lines:
            (comments if is_comment(line, bool(words)) else words).append(line)
        if words:
            rest.append(_Sentence(document, words))
    return comments, rest


def _is_comment(line, has_words):
    return not has_words and line.content.startswith(_COMMENT) and "\t" not in line.content


def _check_comment(place, line, layout, scheme):
    """Raises for a line that starts like a comment, but has the columns and the tag of a word."""
    fields = layout.fields(line.content)
    if scheme is None or "tags" not in layout.numbers or len(fields) != layout.width:
        return
    tag = fields[layout.numbers["tags"]]
    if is_tag(tag, scheme):
        word = fields[layout.numbers["words"]]
        problem = f"a line that starts like a comment but may be the word {word!r} with the tag {tag!r}"
        remedy = "Pass a longer start of comments, such as `comments='# '`, or remove the line from the file."
        raise fault(f"{place}, line {line.number}", None, problem, remedy)


# === Columns ===


def _fields(content, separator):
    if separator == " ":
        return _BLANKS.split(content.strip(" \t"))
    return [field.strip(" ") for field in content.split(separator)]


def _found_layout(place, sentences, wanted, separator):
    every = [line for sentence in sentences for line in sentence.lines]
    if not every:
        raise fault(place, None, "no sentence", "Check that the file was written to its end.")
    if separator is None:
        separator = _separator(place, every, wanted)
    # The most frequent width: the first line may be broken.
    width = collections.Counter(len(_fields(line.content, separator)) for line in every).most_common(1)[0][0]
    numbers = _numbers(wanted, width)
    columns = f"{width} column{'s' if width > 1 else ''} by {separator!r}"
    if numbers is None:
        name, number = next((n, k) for n, k in wanted.items() if not -width <= k < width)
        argument = name if name in ("words", "tags") else "columns"
        remedy = f"{place} has {columns}. Pass the separator of the columns, `separator=...`."
        raise _check.invalid(argument, f"the index of a column, from {-width} to {width - 1}", number, remedy)
    if "tags" in numbers and numbers["tags"] == numbers["words"]:
        problem = f"{columns}, so that words and tags are the same, in {shown(every[0].content)}"
        remedy = "Pass the separator of the columns, `separator=...`; or read a file of words only with `tags=None`."
        raise fault(f"{place}, line {every[0].number}", None, problem, remedy)
    return _Layout(separator, width, numbers)


def _numbers(wanted, width):
    """The requested columns, counted from 0; `None` if the file lacks one of them."""
    if not all(-width <= number < width for number in wanted.values()):
        return None
    return {name: number % width for name, number in wanted.items()}


def _separator(place, every, wanted):
    """Finds the separator of the columns; raises if tabs and whitespace yield different words or tags."""
    if not all("\t" in line.content for line in every):
        return " "
    if not any(" " in line.content or "\t\t" in line.content for line in every):
        return "\t"
    readings = {}
    for separator in ("\t", " "):
        rows = [_fields(line.content, separator) for line in every]
        numbers = _numbers(wanted, len(rows[0]))
        if numbers is not None and len({len(row) for row in rows}) == 1:
            readings[separator] = [[row[number] for number in numbers.values()] for row in rows]
    if len(readings) < 2:
        return next(iter(readings), "\t")
    for line, tabs, blanks in zip(every, *readings.values(), strict=True):
        if tabs != blanks:
            problem = f"columns that can be read in two ways: {shown(tabs)} by tabs, {shown(blanks)} by whitespace"
            remedy = "Pass the right one: `separator='\\t'` or `separator=' '`."
            raise fault(f"{place}, line {line.number}", None, problem, remedy)
    return "\t"


# === Rows ===


def _row(place, sentence, layout, faults):
    """One sentence as a dict of lists; `None` if it has an error that is skipped."""
    row: dict[str, list[str]] = {name: [] for name in layout.numbers}
    for line in sentence.lines:
        where = f"{place}, line {line.number}"
        fields = layout.fields(line.content)
        if len(fields) != layout.width:
            detail = f": {len(fields)} instead of {layout.width} by {layout.separator!r}, in {shown(line.content)}"
            return faults.add(where, None, "wrong number of columns", detail, _remedy(_MEND, line))
        values = layout.pick(fields)
        if has_bad_text(where, row, values, faults):
            return None
        for (name, column), value in zip(row.items(), values, strict=True):
            if not value and name in ("words", "tags"):
                return faults.add(where, None, f"an empty {name[:-1]}", f", in {shown(line.content)}", _MEND)
            column.append(value)
    return row


def _remedy(remedy, line):
    if line.content.startswith("#"):
        remedy += " If it is a comment, pass the start of comments: `comments='# '`."
    return remedy


def _with_tags(place, kept, rows, scheme, faults):
    """Returns the sentences, and their rows, with tags that the scheme allows, unchanged or repaired."""
    checker = Checker(scheme, [row["tags"] for row in rows])
    good = []
    for sentence, row in zip(kept, rows, strict=True):
        error = checker.error(row["tags"])
        if error is not None:
            line = sentence.lines[error[0]]
            where = f"{place}, line {line.number}"
            found = checker.repaired(row["tags"]) if faults.on_error == "repair" else None
            if found is None:
                faults.add(where, None, checker.reason, f": {error[1]}", _remedy(checker.remedy(row["tags"]), line))
                continue
            row["tags"] = found[0]
            faults.repair(where, checker.reason, f": {error[1]}", found[1])
        good.append((sentence, row))
    return [sentence for sentence, _ in good], [row for _, row in good]
