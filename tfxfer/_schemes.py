"""Tags that mark spans of words, such as `B-PER I-PER O`: reading, checking, writing and repairing six schemes.

| scheme | other name | the adjacent spans `PER PER` and `PER`, then a word outside | meaning of the prefixes |
|---|---|---|---|
| `IOB1` | | `I-PER I-PER B-PER O` | `B` starts a span right after another of its type; everything else is `I` |
| `IOB2` | `BIO` | `B-PER I-PER B-PER O` | `B` starts every span |
| `IOE1` | | `I-PER E-PER I-PER O` | `E` ends a span right before another of its type; everything else is `I` |
| `IOE2` | | `I-PER E-PER E-PER O` | `E` ends every span |
| `IOBES` | `BIOES` | `B-PER E-PER S-PER O` | `B` starts, `E` ends, `S` is a span of one word |
| `BILOU` | | `B-PER L-PER U-PER O` | the same with `L` for `E` and `U` for `S` |

A span is `(type, start, end)`: a string, and two ints that count words from 0, `end` exclusive. The type is the part of
a tag after its first hyphen, and may be any string.

Reference: Ramshaw and Marcus, 1995, https://aclanthology.org/W95-0107; Tjong Kim Sang and Veenstra, 1999, on the
variants, https://aclanthology.org/E99-1023; Ratinov and Roth, 2009, on BILOU, https://aclanthology.org/W09-1119.
"""

import functools
import itertools
import numbers
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfxfer import _check

SCHEMES = ("IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU")
_ALSO = {"BIO": "IOB2", "BIOES": "IOBES"}

# In any scheme, a tag with a prefix in the first set starts a span, and one in the second set ends it.
_STARTING, _ENDING = frozenset("BSU"), frozenset("ESLU")
_PREFIXES = "BIESLU"
# The type of a bare `B`, as in seqeval.
_NO_TYPE = "_"

Span = tuple[str, int, int]


class _Rules(NamedTuple):
    """The prefixes of a scheme: all in order; those of a span's first word, of its last word, and of its only word."""

    prefixes: str
    first: str
    last: str
    only: str
    border: str = ""  # replaces `I` where a span touches another of its type

    @property
    def starts(self):
        return {self.first, self.only, self.border}

    @property
    def ends(self):
        return {self.last, self.only, self.border}


_RULES = {
    "IOB1": _Rules("BI", "I", "I", "I", "B"),
    "IOB2": _Rules("BI", "B", "I", "B"),
    "IOE1": _Rules("IE", "I", "I", "I", "E"),
    "IOE2": _Rules("IE", "I", "E", "E"),
    "IOBES": _Rules("BIES", "B", "E", "S"),
    "BILOU": _Rules("BILU", "B", "L", "U"),
}


def scheme(argument: str, value: str) -> str:
    """Returns the name of a scheme in `SCHEMES`; raises if there is no such scheme.

    >>> scheme("scheme", "BIO")
    'IOB2'
    """
    found = _check.one_of(argument, value, [*SCHEMES, *_ALSO], "IOB may mean IOB1 or IOB2, which is BIO.")
    return _ALSO.get(found, found)


@functools.lru_cache(maxsize=4096)
def split(tag: str) -> tuple[str, str]:
    """Returns the prefix and type of a tag; neither is checked.

    >>> split("B-creative-work"), split("O"), split("B")
    (('B', 'creative-work'), ('O', ''), ('B', ''))
    """
    prefix, _, kind = tag.partition("-")
    return prefix, kind


# === Reading ===


def spans(tags: Sequence[str], scheme: str | None = None) -> list[Span]:
    """Reads the spans of a row of tags.

    Without a scheme, reading is lenient, as in the script conlleval: a tag continues the span of the previous tag if
    both have the same type, the previous tag does not end a span (`E`, `S`) and this one does not start one (`B`, `S`).
    So a stray `I` starts a span.

    With a scheme, reading is strict: a span counts only if the scheme writes it with these tags.

    The results equal those of seqeval in its modes `default` and `strict`, except that:

    - `L` and `U` are read as `E` and `S` without a scheme too, while seqeval joins or loses adjacent spans of one type;
    - a type keeps all its hyphens in both modes, while seqeval strips them at its ends in strict mode;
    - a prefix in lower case, an `O` with a type and an empty tag are errors in both modes;
    - `IOE1` finds all spans, while seqeval, whose implementation is marked unfinished, misses spans of one word with
      `E`.

    As in seqeval, bare tags (`B`, `I`) have the type `_`, and `IOB1` skips a stray `B` but drops a span `B-x` right
    before a `B-y`.

    Args:
        tags: sequence of strings.
        scheme: name of a scheme for a strict reading.

    Returns:
        A list of `(type, start, end)`, in order.

    Raises:
        ValueError: if a tag's prefix is not in the scheme (without a scheme: in any scheme); it names the position.

    Example:

    >>> spans(["I-PER", "I-PER", "O", "B-LOC"]), spans(["I-PER", "I-PER", "O", "B-LOC"], "IOB2")
    ([('PER', 0, 2), ('LOC', 3, 4)], [('LOC', 3, 4)])

    Reference: seqeval 1.2.2, https://github.com/chakki-works/seqeval.
    """
    rules = None if scheme is None else _rules(scheme)
    read = _read(tags, rules)
    found = []
    start = 0
    for end in range(1, len(read) + 1):
        if end < len(read) and _goes_on(read[end - 1], read[end]):
            continue
        if read[start][0] != "O":
            begin = start if rules is None else _strict_start(read, start, end, rules)
            if begin is not None:
                found.append((read[start][1], begin, end))
        start = end
    return found


def _rules(name):
    return _RULES[scheme("scheme", name)]


def _read(tags, rules):
    """Returns the prefix and type of each tag; raises for the first prefix that is not in the scheme, or in any."""
    prefixes = _PREFIXES if rules is None else rules.prefixes
    found = []
    for i, tag in enumerate(_strings(tags)):
        prefix, kind = split(tag)
        if tag == "O":
            found.append((prefix, kind))
        elif len(prefix) == 1 and prefix in prefixes:
            found.append((prefix, kind or _NO_TYPE))
        else:
            raise _check.invalid("tags", _expected(prefixes), tag, f"It is at index {i} of its row (counting from 0).")
    return found


def _strings(tags):
    """Returns a row of tags; raises if it is not one, or for the first tag that is not a string."""
    if isinstance(tags, (str, bytes)) or not hasattr(tags, "__len__"):
        raise _check.invalid("tags", "a list of tags", tags, "One row at a time: `['B-PER', 'O']`.")
    for i, tag in enumerate(tags):
        if not isinstance(tag, str):
            raise _check.invalid("tags", "strings", tag, f"It is at index {i} of its row (counting from 0).")
    return tags


def _expected(prefixes):
    """Returns a phrase that names the tags with some prefixes."""
    listed = [f"'{prefix}-...'" for prefix in prefixes]
    return f"'O' or a tag {', '.join(listed[:-1])} or {listed[-1]}"


def _goes_on(before, after):
    """Whether a tag continues the span of the previous tag; either is `(prefix, type)`, or `None` outside the row."""
    if before is None or after is None or before[1] != after[1] or "O" in (before[0], after[0]):
        return False
    return before[0] not in _ENDING and after[0] not in _STARTING


def _touches(before, after):
    """Whether two tags have the same type, and neither is `O`."""
    return before is not None and after is not None and before[1] == after[1] and "O" not in (before[0], after[0])


def _strict_start(read, start, end, rules):
    """Returns where the span of the tags from `start` to `end` starts in a strict reading; `None` if it is no span."""
    first, last = read[start], read[end - 1]
    after = read[end] if end < len(read) else None
    if first[0] not in rules.starts or last[0] not in rules.ends:
        return None
    if rules.border == "B" and first[0] == "B":
        if not _touches(read[start - 1] if start else None, first):
            return start + 1 if start + 1 < end else None
        if end == start + 1 and after is not None and after[0] == "B" and after[1] != first[1]:
            return None  # as in seqeval, whose table of ends lacks this one
    if rules.border == "E" and last[0] == "E" and not _touches(last, after):
        return None
    return start


# === Checking ===


def first_error(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
    """Finds the first tag that a scheme forbids in its position.

    Args:
        tags: sequence of strings.
        scheme: name of a scheme.

    Returns:
        `None`, or the tag's index and the reason: a prefix that the scheme does not have, a missing type, or a tag that
        may not follow the previous one. If the row ends inside a span, it is the last tag.

    Raises:
        ValueError: if tags are not strings.

    Example:

    >>> first_error(["B-PER", "O", "I-PER"], "IOB2")
    (2, "'I-PER' comes after 'O', but IOB2 allows it only after 'B-PER' or 'I-PER'")
    """
    name, rules = _named(scheme)
    before = None
    for i, tag in enumerate(_strings(tags)):
        reason = _fault(tag, name, rules)
        if reason:
            return i, reason
        if not _may_follow(before, split(tag), rules):
            return i, _reason(before, split(tag), name, rules)
        before = split(tag)
    if before is not None and not _may_follow(before, None, rules):
        return len(tags) - 1, _reason(before, None, name, rules)
    return None


def _named(name):
    name = scheme("scheme", name)
    return name, _RULES[name]


def _fault(tag, name, rules):
    """Returns what is wrong with a tag in any position; `None` if nothing is."""
    prefix, kind = split(tag)
    if tag == "O":
        return None
    if len(prefix) != 1 or prefix not in rules.prefixes:
        return f"{tag!r} is no tag of {name}, which has {_expected(rules.prefixes)}"
    return None if kind else f"{tag!r} has no type: {f'{prefix}-TYPE'!r} is expected"


def _may_follow(before, after, rules):
    """Whether a scheme allows a tag right after another; either is `(prefix, type)`, or `None` outside the row."""
    if rules.border == "B":
        return after is None or after[0] != "B" or _touches(before, after)
    if rules.border == "E":
        return before is None or before[0] != "E" or _touches(before, after)
    if _goes_on(before, after):
        return True
    starts = after is None or after[0] == "O" or after[0] in rules.starts
    return starts and (before is None or before[0] == "O" or before[0] in rules.ends)


def _reason(before, after, name, rules):
    """Returns the message for a pair of tags that `_may_follow` rejects."""
    listed = ["O", *(f"{prefix}-{kind}" for _, kind in filter(None, (before, after)) for prefix in rules.prefixes)]
    listed = [tag for tag in dict.fromkeys(listed) if not tag.endswith("-")]
    first, second = (each and (f"{each[0]}-{each[1]}" if each[1] else each[0]) for each in (before, after))
    if before is None or _may_follow(before, ("O", ""), rules):  # so the second tag is not allowed here
        fitting = [repr(tag) for tag in listed if _may_follow(split(tag), after, rules)]
        where = "starts the row" if before is None else f"comes after {first!r}"
        return f"{second!r} {where}, but {name} allows it only after {' or '.join(fitting)}"
    fitting = [repr(tag) for tag in listed if _may_follow(before, split(tag), rules)]
    where = "the row ends" if after is None else f"{second!r} comes"
    return f"{where} after {first!r}, but {name} allows only {' or '.join(fitting)} there"


def allowed(tags: Sequence[str], scheme: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns which tags may start a row, follow each other, and end a row.

    Args:
        tags: the distinct tags of a model, in its order.
        scheme: name of a scheme.

    Returns:
        Bool arrays: start `(tags,)`, transitions `(tags, tags)`, from row to column, and end `(tags,)`.

    Raises:
        ValueError: if a tag is not in the scheme, or is given twice.

    Example:

    >>> start, transitions, end = allowed(["O", "B-PER", "I-PER"], "IOB2")
    >>> start.tolist(), transitions[0].tolist(), end.tolist()
    ([True, True, False], [True, True, False], [True, True, True])
    """
    name, rules = _named(scheme)
    tags = list(_strings(tags))
    if not tags or len(set(tags)) < len(tags):
        raise _check.invalid("tags", "distinct tags, at least one", tags)
    for tag in tags:
        reason = _fault(tag, name, rules)
        if reason:
            raise _check.invalid("tags", f"tags of {name}", tag, f"{reason}.")
    pairs = [split(tag) for tag in tags]
    start = np.array([_may_follow(None, after, rules) for after in pairs])
    end = np.array([_may_follow(before, None, rules) for before in pairs])
    return start, np.array([[_may_follow(before, after, rules) for after in pairs] for before in pairs]), end


def guess(sequences: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Returns the schemes that allow all given rows of tags, in the order of `SCHEMES`; there may be several.

    Rows of only `I` and `O` fit `IOB1` and `IOE1`, and rows without spans fit all schemes.

    >>> guess([["B-PER", "I-PER", "O"], ["B-LOC"]]), guess([["I-PER", "O"]])
    (('IOB2',), ('IOB1', 'IOE1'))
    """
    seen: set[tuple[str | None, str | None]] = set()
    for row in sequences:
        row = [None, *_strings(row), None]
        seen.update(itertools.pairwise(row))
    tags = {tag for pair in seen for tag in pair if tag is not None}
    steps = [(before and split(before), after and split(after)) for before, after in seen]
    return tuple(
        name
        for name, rules in _RULES.items()
        if not any(_fault(tag, name, rules) for tag in tags)
        and all(_may_follow(before, after, rules) for before, after in steps)
    )


def fitting(tags: Sequence[str]) -> tuple[str, ...]:
    """Returns the schemes in which all given tags can occur, in the order of `SCHEMES`; there may be several.

    >>> fitting(["O", "B-PER", "I-PER"]), fitting(["O", "I-PER"]), fitting(["NOUN", "VERB"])
    (('IOB1', 'IOB2'), ('IOB1', 'IOE1'), ())
    """
    tags = list(_strings(tags))
    return tuple(
        name
        for name, rules in _RULES.items()
        if not any(_fault(tag, name, rules) for tag in tags) and _live(tags, name)
    )


def _live(tags, name):
    """Whether each tag occurs in some row that the scheme allows."""
    start, transitions, end = allowed(tags, name)
    for _ in tags:
        start, end = start | (start @ transitions), end | (transitions @ end)
    return bool((start & end).all())


# === Writing ===


def tag_names(types: Iterable[str], scheme: str) -> list[str]:
    """Returns all tags of some types: `O` first, then type by type, in the order `B`, `I`, `E` or `L`, `S` or `U`.

    >>> tag_names(["PER", "LOC"], "IOB2")
    ['O', 'B-PER', 'I-PER', 'B-LOC', 'I-LOC']
    """
    rules = _rules(scheme)
    listed = [types] if isinstance(types, str) else list(types)
    if isinstance(types, str) or len({*listed}) < len(listed) or not all(_is_type(each) for each in listed):
        raise _check.invalid("types", "a list of distinct non-empty strings", types)
    return ["O", *(f"{prefix}-{kind}" for kind in listed for prefix in rules.prefixes)]


def _is_type(value):
    return isinstance(value, str) and value != ""


def tags_of(spans: Iterable[Span], length: int, scheme: str) -> list[str]:
    """Writes spans as a row of tags.

    Args:
        spans: `(type, start, end)` of each span, in any order.
        length: int. The number of words.
        scheme: name of a scheme.

    Returns:
        A list of `length` tags.

    Raises:
        ValueError: if spans overlap, are empty or are outside the row.

    Example:

    >>> tags_of([("PER", 0, 2), ("PER", 2, 3)], 4, "IOB1")
    ['I-PER', 'I-PER', 'B-PER', 'O']
    """
    rules = _rules(scheme)
    length = _check.integer("length", length, minimum=0)
    ordered = _ordered(spans, length)
    tags = ["O"] * length
    for k, (kind, start, end) in enumerate(ordered):
        prefixes = ["I"] * (end - start)
        if end - start == 1:
            prefixes[0] = rules.only
        else:
            prefixes[0], prefixes[-1] = rules.first, rules.last
        if rules.border == "B" and k and ordered[k - 1][::2] == (kind, start):
            prefixes[0] = "B"
        if rules.border == "E" and k + 1 < len(ordered) and ordered[k + 1][:2] == (kind, end):
            prefixes[-1] = "E"
        tags[start:end] = [f"{prefix}-{kind}" for prefix in prefixes]
    return tags


def _ordered(spans, length):
    """Returns spans in order; raises if they are invalid, overlap or are outside the row."""
    found = []
    for span in spans:
        if not isinstance(span, (list, tuple)) or len(span) != 3 or not _is_type(span[0]):
            raise _check.invalid("spans", "(type, start, end) of each span, the type a string", span)
        places = span[1:]
        if any(isinstance(each, bool) or not isinstance(each, numbers.Integral) for each in places):
            raise _check.invalid("spans", "two ints, start and end, in each span", span)
        if not 0 <= places[0] < places[1] <= length:
            raise _check.invalid("spans", f"0 <= start < end <= {length}, the number of words", span)
        found.append((span[0], int(places[0]), int(places[1])))
    found.sort(key=lambda span: span[1:])
    for before, after in itertools.pairwise(found):
        if after[1] < before[2]:
            remedy = "A word has one tag: leave one of the two out."
            raise _check.invalid("spans", "spans that do not overlap", (before, after), remedy)
    return found


def convert(tags: Sequence[str], source: str, target: str) -> list[str]:
    """Writes a row of tags in another scheme.

    Raises:
        ValueError: if `source` forbids the tags: see `first_error` and `repair`.

    Example:

    >>> convert(["B-PER", "I-PER", "O", "B-LOC"], "IOB2", "IOBES")
    ['B-PER', 'E-PER', 'O', 'S-LOC']
    """
    source, target = scheme("source", source), scheme("target", target)
    error = first_error(tags, source)
    if error is not None:
        index, reason = error
        remedy = f"At index {index}: {reason}. Repair the row first, or convert from the scheme that it is in."
        raise _check.invalid("tags", f"tags as {source} allows them", list(tags), remedy)
    return tags_of(spans(tags, source), len(tags), target)


def repair(tags: Sequence[str], scheme: str) -> tuple[list[str], int]:
    """Reads a row of tags leniently (see `spans`) and writes it in a valid form of a scheme.

    A row that the scheme allows is unchanged.

    Returns:
        The tags, and the number of changed tags.

    Raises:
        ValueError: if a tag has a prefix that no scheme has.

    Example:

    >>> repair(["O", "I-PER", "I-PER", "I-LOC"], "IOB2")
    (['O', 'B-PER', 'I-PER', 'B-LOC'], 2)
    """
    found = tags_of(spans(tags), len(tags), scheme)
    return found, sum(before != after for before, after in zip(tags, found, strict=True))
