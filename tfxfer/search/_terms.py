"""Splits texts into the words that a lexical index counts."""

import functools
import itertools
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tfxfer import _check

# Scripts written without spaces: Thai and Lao, Myanmar with its extensions, Khmer, kana, Han.
_UNSPACED = (
    "\u0e01-\u0e4e\u0e81-\u0ece\u1000-\u103f\ua9e0-\ua9fe\uaa60-\uaa7f\u1780-\u17d3\u2e80-\u2fdf\u3005\u3007"
    "\u3021-\u3029\u3031-\u3035\u3038-\u303b\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
)
_SAID = "a function of a text to a list of words"


def words(text: str) -> list[str]:
    """Splits a text into the words that `BM25Index` counts, in any script.

    A word is a run of letters, digits and combining marks, as defined by Unicode, including an apostrophe inside a word
    and a dot or comma between digits. Compatibility forms (NFKC) and upper case are folded; accents are kept. Chinese,
    Japanese, Thai, Lao, Myanmar and Khmer are written without spaces: each pair of adjacent characters is a word, as is
    a character without a neighbor, as in Lucene's `CJKBigramFilter`.

    Args:
        text: string.

    Returns:
        A list of strings, in the order of the text.

    Example:

    >>> words("Don't pay £3.50 at the CAFÉ!")
    ["don't", 'pay', '3.50', 'at', 'the', 'café']
    >>> words("Straße 東京都 हिन्दी")
    ['strasse', '東京', '京都', 'हिन्दी']

    Reference: Unicode Standard Annex 29, on word boundaries, https://www.unicode.org/reports/tr29/.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if text.isascii():
        return _ascii().findall(text)
    whole, cluster = _any_script()
    found = []
    for match in whole.finditer(text.replace("\u2019", "'")):
        if match.lastgroup == "unspaced":
            characters = cluster.findall(match[0])
            pairs = [a + b for a, b in itertools.pairwise(characters)]
            found.extend(pairs or characters)
        else:
            found.append(match[0])
    return found


@functools.cache
def _ascii():
    return re.compile(r"\d+(?:[.,]\d+)+(?!\w)|\w+(?:'\w+)*")


@functools.cache
def _any_script():
    """Returns patterns for a word or a run of unspaced characters, and for one such character with its marks."""
    marks = _marks()
    letter = rf"(?:(?![{_UNSPACED}])\w[{marks}]*)"
    unspaced = rf"(?:[{_UNSPACED}][{marks}\u200d]*)"
    number = r"\d+(?:[.,]\d+)+(?!\w)"
    joined = rf"{letter}(?:[\u200c\u200d]?{letter})*"
    return re.compile(rf"(?P<unspaced>{unspaced}+)|{number}|{joined}(?:'{joined})*"), re.compile(unspaced)


def _marks():
    """Returns the combining marks as a regex class; `re` does not count them as letters and would cut Indic words."""
    ranges: list[list[int]] = []
    for point in range(sys.maxunicode + 1):
        if unicodedata.category(chr(point)).startswith("M"):
            if ranges and ranges[-1][1] == point - 1:
                ranges[-1][1] = point
            else:
                ranges.append([point, point])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


class Terms:
    """Splits texts into words: a tokenizer, then removal of stop words, then a stemmer.

    Args:
        tokenizer: function that splits a string into a list of strings; `None` for `words`.
        stopwords: iterable of words, or `None`. They are folded in the same way as the tokenizer folds texts.
        stemmer: function that maps a word to its stem, or `None`.
    """

    def __init__(
        self,
        tokenizer: Callable[[str], Sequence[str]] | None,
        stopwords: Iterable[str] | None,
        stemmer: Callable[[str], str] | None,
    ) -> None:
        for argument, value, expected in (
            ("tokenizer", tokenizer, _SAID),
            ("stemmer", stemmer, "a function of a word to its stem"),
        ):
            if value is not None and not callable(value):
                raise _check.invalid(argument, expected, value)
        self.tokenizer: Any = tokenizer
        self.stemmer: Any = stemmer
        if isinstance(stopwords, (str, bytes)):
            raise _check.invalid("stopwords", "a list of words", stopwords)
        given = _check.strings("stopwords", [] if stopwords is None else list(stopwords))
        self._stems: dict[str, str] = {}
        self.set_stopwords({folded for word in given for folded in (word, *self._split(word, None))})

    def set_stopwords(self, stopwords: Iterable[str]) -> None:
        """Sets stop words that are already folded."""
        self.stopwords = sorted(stopwords)
        self._stops = frozenset(self.stopwords)

    def __call__(self, text: str, row: int | None = None) -> list[str]:
        """Returns the words of a text; error messages name `row`."""
        found = self._split(text, row)
        if self._stops:
            found = [word for word in found if word not in self._stops]
        return found if self.stemmer is None else [self._stem(word) for word in found]

    def _split(self, text, row):
        if self.tokenizer is None:
            return words(text)
        found: Any = self.tokenizer(text)
        if isinstance(found, (str, bytes)) or not hasattr(found, "__iter__"):
            raise _check.invalid("tokenizer", _SAID, found, _where(row, text))
        found = list(found)
        if not all(isinstance(word, str) for word in found):
            raise _check.invalid("tokenizer", _SAID, found, _where(row, text))
        return found

    def _stem(self, word):
        stem = self._stems.get(word)
        if stem is None:
            stem = self.stemmer(word)
            if not isinstance(stem, str):
                remedy = f"That is its result for the word {word!r}."
                raise _check.invalid("stemmer", "a function of a word to its stem", stem, remedy)
            self._stems[word] = stem
        return stem


def _where(row, text):
    shown = text if len(text) <= 80 else f"{text[:80]}..."
    return f"That is its result for {shown!r}" + ("." if row is None else f", in row {row} (counting from 0).")
