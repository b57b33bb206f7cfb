"""A dataset for a tagger from rows of tagged words."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import tensorflow as tf

from tfxfer import _check, _schemes
from tfxfer.data._columns import TagsColumn
from tfxfer.data._columns._base import as_list
from tfxfer.data._columns._words import ragged
from tfxfer.data._examples import Examples
from tfxfer.data._rows import Faults, Rows, fault, shown
from tfxfer.data._tags import Checker, check_names, is_tag, known_scheme, unknown

_MEND = "Fix the row, drop it, or pass `on_error='skip'`."


def tagged(
    rows: Any,
    words: str = "words",
    tags: str = "tags",
    *,
    labels: Sequence[str] | None = None,
    scheme: str | None = "IOB2",
    on_error: Literal["raise", "skip", "repair"] = "raise",
) -> Examples:
    """Makes a dataset of words with tags, for a tagger.

    Args:
        rows: `Rows`, as returned by `read_conll` and `read_entities`, or anything that `Rows.from_any` accepts, for
            example a list of `{"words": [...], "tags": [...]}`.
        words: name of the column of words, a list of strings in each row.
        tags: name of the column of tags, a list of equally many strings.
        labels: optional list of the model's tags, in its order. Defaults to `data.tag_names(rows, tags, scheme)`.
        scheme: string. The scheme of the tags, and of `labels`; see `read_conll`. `None` for tags that do not mark
            spans, such as parts of speech.
        on_error: `"raise"`; `"skip"` skips broken rows, warns once and counts them in the dataset's `skipped`;
            `"repair"` changes tags that the scheme forbids in their position, warns once and counts them in the
            dataset's `repaired`; other errors raise.

    Returns:
        Finite `tf.data.Dataset` (`Examples`) of (x, y), in the order of the rows. x: the words, string `(words,)`; y:
        int32 `(words,)`, indices into `labels`. The dataset's `labels` are those tags.

    Raises:
        ValueError: if a column does not exist, a row has no words, words and tags differ in number, a word or tag is
            not a string, or a tag is not in `labels`, or not in the scheme or forbidden in its position; the message
            names file, line and column. Also if `labels` do not follow the scheme.

    Example:

    >>> data = tagged([{"words": ["Ada", "wrote"], "tags": ["B-PER", "O"]}])
    >>> data.labels
    ['O', 'B-PER', 'I-PER']
    >>> [(x.tolist(), y.tolist()) for x, y in data.as_numpy_iterator()]
    [([b'Ada', b'wrote'], [1, 0])]
    """
    rows, faults, scheme = Rows.from_any(rows), Faults(on_error, also=("repair",)), known_scheme(scheme)
    known = None if labels is None else _known("labels", labels, scheme)
    found = _lists(rows, words, tags, faults)
    found = _allowed(
        rows, tags, found, Checker(scheme, [row for _, row in found.values()], converts=bool(known)), faults
    )
    if known is None:
        known = _names(rows, tags, {i: row for i, (_, row) in found.items()}, scheme) if found else []
    found = _of_the_model(rows, tags, found, known, scheme, faults)
    if not found:
        raise _check.invalid("rows", "at least one row that can be used", rows, f"The first fault: {faults.first}")
    faults.warn(f"tagged({rows!r})")
    index = {tag: k for k, tag in enumerate(known)}
    x = ragged([row for row, _ in found.values()], tf.string)
    y = ragged([[index[tag] for tag in row] for _, row in found.values()], tf.int32)
    targets = TagsColumn(known, scheme)
    return Examples(x, y, targets=targets, skipped=faults.counts, repaired=faults.repaired)


def tag_names(rows: Any, column: str = "tags", scheme: str | None = "IOB2") -> list[str]:
    """Returns the tags that a model needs for rows.

    Args:
        rows: `Rows` or anything that `Rows.from_any` accepts.
        column: string. The name of the column of tags, a list of strings in each row.
        scheme: string. The scheme of the tags; see `tagged`.

    Returns:
        List of strings: `"O"`, then every tag that the scheme has for the types in the rows, type by type in
        alphabetical order, including tags that do not occur. For `scheme=None`, the sorted tags that occur.

    Raises:
        ValueError: if a row has no list of strings, a tag is not in the scheme, or the rows have no tag but `"O"`; the
            message names file, line and column.

    Example:

    >>> tag_names({"tags": [["O", "B-PER"], ["B-LOC"]]})
    ['O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER']
    >>> tag_names({"tags": [["NOUN", "VERB"]]}, scheme=None)
    ['NOUN', 'VERB']
    """
    rows, faults = Rows.from_any(rows), Faults("raise")
    found = {i: _strings(rows, i, column, "tag", faults) for i in range(len(rows))}
    return _names(rows, column, found, known_scheme(scheme))


def convert_tags(sequences: Iterable[Sequence[str]], source: str, target: str) -> list[list[str]]:
    """Converts the tags of rows to another scheme.

    Args:
        sequences: a list of the rows' lists of tags.
        source: string. The scheme of the tags; see `read_conll`.
        target: string. The scheme to convert to.

    Returns:
        A list of lists of tags that mark the same spans.

    Raises:
        ValueError: if a tag is not in `source`, or forbidden in its position; the message names its row.

    Example:

    >>> convert_tags([["B-PER", "I-PER", "O"], ["B-LOC"]], "IOB2", "BIOES")
    [['B-PER', 'E-PER', 'O'], ['S-LOC']]
    """
    source, target = _schemes.scheme("source", source), _schemes.scheme("target", target)
    found = [_row(row, i) for i, row in enumerate(as_list(sequences, "sequences", "a list of lists of tags"))]
    checker = Checker(source, found, repairs=False)
    for i, row in enumerate(found):
        error = checker.error(row)
        if error is not None:
            where = f"It is in row {i} (counting from 0), at index {error[0]}: {error[1]}."
            fitting = [each for each in _schemes.guess(found) if each != source]
            if fitting:
                where += f" All the tags fit {' or '.join(f'`source={each!r}`' for each in fitting)}."
            raise _check.invalid("sequences", f"tags as {source} allows them", row, where)
    return [_schemes.convert(row, source, target) for row in found]


def _row(row, i):
    if isinstance(row, (str, bytes)) or not hasattr(row, "__len__") or isinstance(row, dict):
        raise _check.invalid("sequences", "a list of tags in every row", row, f"It is in row {i} (counting from 0).")
    row = _texts(row)
    for tag in row:
        if not isinstance(tag, str):
            remedy = f"It is in row {i} (counting from 0)."
            raise _check.invalid("sequences", "tags that are strings", tag, remedy)
    return row


def _texts(values):
    return [value.decode() if isinstance(value, bytes) else value for value in values]


def _known(argument, labels, scheme):
    """A model's tags as a list."""
    known = TagsColumn(labels).tags
    check_names(argument, known, scheme)
    return known


# === Rows ===


def _lists(rows, words, tags, faults):
    """Returns a dict of row number to (words, tags), lists of one length."""
    found = {}
    for i in range(len(rows)):
        row = _strings(rows, i, words, "word", faults)
        if row is None:
            continue
        theirs = _strings(rows, i, tags, "tag", faults)
        if theirs is None:
            continue
        if len(theirs) != len(row):
            detail = f": {len(row)} and {len(theirs)}, in {shown(row)} and {shown(theirs)}"
            faults.add(rows.place(i), tags, "words and tags that differ in count", detail, _MEND)
            continue
        found[i] = row, theirs
    return found


def _strings(rows, i, column, what, faults):
    """The list of strings in a row; `None` if it is invalid (the error is recorded)."""
    value, place = rows[column][i], rows.place(i)
    if _check.is_missing(value) or (hasattr(value, "__len__") and not len(value)):
        return faults.add(place, column, f"no {what}s", f": {shown(value)}", _MEND)
    if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__len__") or not hasattr(value, "__iter__"):
        remedy = "Pass lists of strings. For texts with character spans, use `data.read_entities`."
        return faults.add(place, column, f"{what}s that are not a list", f": {shown(value)}", remedy)
    row = _texts(value)
    for k, each in enumerate(row):
        if type(each) is str and each.isascii():
            continue
        if not isinstance(each, str):
            remedy = "Convert the column to strings first"
            remedy += ", `[names[i] for i in row]` for indices." if what == "tag" else "."
            detail = f", at index {k}: {shown(each)}"
            return faults.add(place, column, f"a {what} that is not a string", detail, remedy)
        try:
            each.encode("utf-8")
        except UnicodeEncodeError:
            detail = f", at index {k}: {shown(each)}"
            return faults.add(place, column, f"a {what} that UTF-8 cannot hold", detail, _MEND)
    return row


def _allowed(rows, tags, found, checker, faults):
    """The entries of `found` with tags that the scheme allows, unchanged or repaired."""
    kept = {}
    for i, (words, row) in found.items():
        error = checker.error(row)
        if error is not None:
            detail = f", at index {error[0]}: {error[1]}"
            repaired = checker.repaired(row) if faults.on_error == "repair" else None
            if repaired is None:
                faults.add(rows.place(i), tags, checker.reason, detail, checker.remedy(row))
                continue
            row = repaired[0]
            faults.repair(rows.place(i), checker.reason, detail, repaired[1])
        kept[i] = words, row
    return kept


def _of_the_model(rows, tags, found, known, scheme, faults):
    """The entries of `found` with tags of the model only."""
    names = set(known)
    kept = {}
    for i, (words, row) in found.items():
        strange = next((k for k, tag in enumerate(row) if tag not in names), None)
        if strange is None:
            kept[i] = words, row
            continue
        remedy = f"{unknown(row[strange], known, scheme)} Add it to `labels`, fix the row, or pass `on_error='skip'`."
        faults.add(rows.place(i), tags, "unknown tag", f" {row[strange]!r}, at index {strange}", remedy)
    return kept


def _names(rows, column, found, scheme):
    """The tags of a model for rows, given as a dict of row index to tags."""
    first: dict[str, int] = {}
    for i, row in found.items():
        for tag in row:
            first.setdefault(tag, i)
    if scheme is None:
        return sorted(first)
    types = set()
    for tag, i in first.items():
        if not is_tag(tag, scheme):
            remedy = Checker(scheme, list(found.values()), repairs=False).remedy([tag])
            raise fault(rows.place(i), column, f"{tag!r}, which is not a tag of {scheme}", remedy)
        if tag != "O":
            types.add(_schemes.split(tag)[1])
    if not types:
        raise fault(rows.place(0), column, "no tag but 'O' in any row", "Check the column, and the scheme.")
    return _schemes.tag_names(sorted(types), scheme)
