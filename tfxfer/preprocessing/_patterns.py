r"""Translates regular expressions of Hugging Face's pre-tokenizers to the dialect of TensorFlow's operations.

`tokenizers` uses Oniguruma; TensorFlow uses RE2, which has no look-ahead, matches only ASCII whitespace with `\s`, and
follows an older version of Unicode.
"""

import dataclasses
import re

import tensorflow as tf

from tfxfer.preprocessing import _words

WHITESPACE, SEPARATOR = _words.WHITESPACE, _words.SEPARATOR
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Letters, marks and numbers of Unicode 15.1 and 16, which RE2 lacks; measured like the classes in `_unicode`.
_YOUNG = {
    "L": r"\x{1c89}-\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3}\x{10d4a}-\x{10d65}\x{10d6f}-\x{10d85}"
    r"\x{10ec2}-\x{10ec4}\x{11380}-\x{11389}\x{1138b}\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3}"
    r"\x{11bc0}-\x{11be0}\x{13460}-\x{143fa}\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff}\x{1e5d0}-\x{1e5ed}\x{1e5f0}"
    r"\x{2ebf0}-\x{2ee5d}",
    "N": r"\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{16130}-\x{16139}\x{16d70}-\x{16d79}"
    r"\x{1ccf0}-\x{1ccf9}\x{1e5f1}-\x{1e5fa}",
    "M": r"\x{897}\x{10d69}-\x{10d6d}\x{10efc}\x{113b8}-\x{113c0}\x{113c2}\x{113c5}\x{113c7}-\x{113ca}"
    r"\x{113cc}-\x{113d0}\x{113d2}\x{113e1}-\x{113e2}\x{11f5a}\x{1611e}-\x{1612f}\x{1e5ee}-\x{1e5ef}",
    "Lu": r"\x{1c89}\x{a7cb}-\x{a7cc}\x{a7da}\x{a7dc}\x{10d50}-\x{10d65}",
    "Ll": r"\x{1c8a}\x{a7cd}\x{a7db}\x{10d70}-\x{10d85}",
    "Lt": "",
    "Lm": r"\x{10d4e}\x{10d6f}\x{16d40}-\x{16d42}\x{16d6b}-\x{16d6c}",
    "Lo": r"\x{105c0}-\x{105f3}\x{10d4a}-\x{10d4d}\x{10d4f}\x{10ec2}-\x{10ec4}\x{11380}-\x{11389}\x{1138b}\x{1138e}"
    r"\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3}\x{11bc0}-\x{11be0}\x{13460}-\x{143fa}\x{16100}-\x{1611d}"
    r"\x{16d43}-\x{16d6a}\x{18cff}\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2ebf0}-\x{2ee5d}",
    "P": r"\x{1b4e}-\x{1b4f}\x{1b7f}\x{10d6e}\x{113d4}-\x{113d5}\x{113d7}-\x{113d8}\x{11be1}\x{16d6d}-\x{16d6f}"
    r"\x{1e5ff}",
}
# The inside of brackets for each class. Only classes that mean the same in both dialects, once completed.
_CLASSES = {rf"\p{{{name}}}": rf"\p{{{name}}}{more}" for name, more in _YOUNG.items()}
_CLASSES |= {r"\s": WHITESPACE, r"\d": rf"\p{{Nd}}{_YOUNG['N']}"}
_OUTSIDE = {r"\S": f"[^{WHITESPACE}]", **{rf"\P{{{name}}}": rf"[^\p{{{name}}}{more}]" for name, more in _YOUNG.items()}}
_ESCAPES = {r"\r", r"\n", r"\t", r"\f", r"\v"}
# Whitespace other than line breaks; the inside of a character class.
NO_LINE_BREAK = r"\p{Z}\t\x0b\f\x{85}"
# Characters of all classes that patterns distinguish.
_ONE_OF_EACH = [
    *map(chr, range(128)),
    *"\x85\xa0\u2028\u3000\xe9\xc9\u01c5\u02b0\u4e2d\u0301\u0903\xb2\u2160\u0661\u203f\xab\u20ac\u200d\ue000",
]

# The alternative that matches a run of whitespace without its last character if a word follows.
LOOK_AHEAD = r"\s+(?!\S)"
# Alternatives for whitespace that split a run into the same pieces wherever the text is split before it.
_RUNS = {LOOK_AHEAD, r"\s+", r"\s"}
_RUNS_TO_LINE_END = {r"\s*[\r\n]+", r"\s*[\r\n]"}
_TO_LINE_END = re.compile(r"\[\\r\\n/?\]\*$")
# Possessive quantifiers whose class is disjoint from what follows: plain quantifiers match the same.
_POSSESSIVE = {
    r"[^\r\n\p{L}\p{N}]?+\p{L}": r"[^\r\n\p{L}\p{N}]?\p{L}",
    r"[^\s\p{L}\p{N}]++[\r\n]*": r"[^\s\p{L}\p{N}]+[\r\n]*",
}
_PART = re.compile(
    r"\\[pP]\{\^?\w+\}|\\x\{[0-9a-fA-F]+\}|\\.|\[|\]|\(\?[^:)]*:|\(\?|\(|\)|\||\{[\d,]+\}|[*+?]|.", re.DOTALL
)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A regular expression in RE2's dialect.

    Attributes:
        regex: string.
        covers: whether matches leave no text between them.
        marks: pattern of the positions, between its two groups, where whitespace has to be split before `regex` is
            applied; `None` without a look-ahead.
        local: whether text can first be split before single spaces, with runs of whitespace kept whole: no match
            continues past the end of a word and the whitespace after it, except line breaks.
        line_breaks: whether line breaks stay with the text before them.
    """

    regex: str
    covers: bool
    marks: str | None = None
    local: bool = False
    line_breaks: bool = False


class Unsupported(ValueError):
    """A regular expression that RE2 does not support."""


def translate(pattern):
    """Returns the `Pattern` of a regular expression in Oniguruma's dialect; raises `Unsupported`."""
    for possessive, plain in _POSSESSIVE.items():
        pattern = pattern.replace(possessive, plain)
    alternatives = _alternatives(pattern)
    line_breaks = any(alternative in _RUNS_TO_LINE_END for alternative in alternatives)
    local = all(_is_local(alternative, line_breaks) for alternative in alternatives)
    marks = None
    if LOOK_AHEAD in alternatives:
        before = alternatives[: alternatives.index(LOOK_AHEAD)]
        late = any(alternative in _RUNS_TO_LINE_END for alternative in alternatives[len(before) :])
        if not local or late or not set(alternatives[len(before) :]) <= _RUNS:
            raise Unsupported(pattern)
        last = NO_LINE_BREAK if line_breaks else WHITESPACE
        marks = f"([{WHITESPACE}])([{last}][^{WHITESPACE}])"
    regex = "|".join(_dialect(r"\s+" if alternative == LOOK_AHEAD else alternative) for alternative in alternatives)
    # Without a look-ahead, a run of whitespace may end elsewhere; "[\\r\\n/]*" also matches after a line break.
    local = bool(marks) and local and r"[\r\n/]*" not in pattern
    return Pattern(regex, _covers(regex, pattern), marks, local, line_breaks)


def _covers(regex, pattern):
    """Whether a match begins at each character, so matches leave no text between them."""
    try:
        return bool(tf.reduce_all(tf.strings.regex_full_match(_ONE_OF_EACH, regex)))
    except tf.errors.InvalidArgumentError as error:
        raise Unsupported(pattern) from error


def _alternatives(pattern):
    """Returns the top-level alternatives of a pattern."""
    parts, depth, brackets = [""], 0, False
    for part in _PART.findall(pattern):
        brackets = part == "[" if not brackets else part != "]"
        depth += 0 if brackets else part.startswith("(") - (part == ")")
        if part == "|" and not depth and not brackets:
            parts.append("")
        else:
            parts[-1] += part
    return parts


def _dialect(alternative):
    """Returns an alternative in RE2's dialect."""
    found, inside = [], False
    for part in _PART.findall(alternative):
        if part in _CLASSES:
            found.append(_CLASSES[part] if inside else f"[{_CLASSES[part]}]")
        elif part in _OUTSIDE and not inside:
            found.append(_OUTSIDE[part])
        elif _is_foreign(part, inside):
            raise Unsupported(alternative)
        else:
            found.append(part)
        inside = part == "[" if not inside else part != "]"
    text = "".join(found)
    if "&&" in alternative or re.search(r"[*+?]\+|\}\+", text):
        raise Unsupported(alternative)
    return text


def _is_foreign(part, inside):
    """Whether a part of a pattern has another meaning in RE2."""
    if part.startswith("(?"):
        return part not in ("(?:", "(?i:")
    if part == "[":
        return inside
    if part.startswith("\\"):
        return part[1].isalnum() and part not in _ESCAPES and not part.startswith(r"\x{")
    return part in ("^", "$") and not inside


def _is_local(alternative, line_breaks):
    """Whether no match includes whitespace, except at its start and, with `line_breaks`, at its end."""
    if alternative in _RUNS or alternative in _RUNS_TO_LINE_END:
        return True
    if line_breaks:
        alternative = _TO_LINE_END.sub("", alternative)
    return not any(_matches_whitespace(atom) for atom in _atoms(alternative)[1:]) and not re.match(
        r"(\[[^\]]*\]|\\?.)[*+{]", alternative if _matches_whitespace(_atoms(alternative)[0]) else ""
    )


def _atoms(alternative):
    """Returns the characters, classes and quantifiers of an alternative, with groups flattened."""
    atoms, inside = [], False
    for part in _PART.findall(alternative):
        if inside:
            atoms[-1] += part
        elif not part.startswith("(") and part not in "|)*+?" and not re.match(r"\{[\d,]+\}", part):
            atoms.append(part)
        inside = part == "[" if not inside else part != "]"
    return atoms or [""]


def _matches_whitespace(atom):
    if not atom:
        return False
    return bool(tf.reduce_any(tf.strings.regex_full_match([" ", "\t", "\n", "\r", "\u00a0", "\u2028"], _dialect(atom))))
