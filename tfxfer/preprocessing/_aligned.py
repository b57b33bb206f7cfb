"""Texts that track the origin of each of their characters through a normalizer."""

import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self

import tensorflow as tf

# The whitespace of `_words.WHITESPACE`, for Python's regular expressions: the inside of a character class.
SPACES = r" \t\n\x0b\f\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
LEADING, TRAILING = rf"\A[{SPACES}]+", rf"[{SPACES}]+\Z"
# What the step "Whitespace" of a Unigram model turns into one space, by its second entry; see `_unigram.RUNS`.
_RUNS = {"unicode": rf"[{SPACES}]{{2,}}|[\n\r\t]", "spaces": " {2,}", "unicode_runs": rf"[{SPACES}]{{2,}}"}
# Characters other than marks that may merge with the previous character: joiners, vowels and finals of Hangul,
# halfwidth sound marks.
_ATTACHED = re.compile("[\u200c\u200d\u1160-\u11ff\uff9e\uff9f]")


class Aligned(NamedTuple):
    """A text, and for each of its characters the start and end of its source in the original text."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    @classmethod
    def of(cls, text: str) -> Self:
        """Returns a text that is its own original."""
        return cls(text, range(len(text)), range(1, len(text) + 1))

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Concatenates several parts."""
        parts = list(parts)
        starts = [start for part in parts for start in part.starts]
        return cls("".join(part.text for part in parts), starts, [end for part in parts for end in part.ends])

    def cut(self, start: int, end: int | None = None) -> Self:
        """Returns a part of the text."""
        return type(self)(self.text[start:end], self.starts[start:end], self.ends[start:end])

    def spread(self, content: str) -> Self:
        """Returns a string in which the source of each character is this whole text."""
        return type(self)(content, [self.starts[0]] * len(content), [self.ends[-1]] * len(content))

    def mapped(self, contents: Iterable[str]) -> Self:
        """Returns the text with each character replaced by a string."""
        contents = list(contents)
        starts, ends = (
            [place for place, content in zip(places, contents, strict=True) for _ in content]
            for places in (self.starts, self.ends)
        )
        return type(self)("".join(contents), starts, ends)

    def replaced(self, pattern: str, content: str) -> Self:
        """Returns the text with each match of a regular expression replaced by a string."""
        parts, last = [], 0
        for match in re.finditer(pattern, self.text):
            parts += [self.cut(last, match.start()), self.cut(*match.span()).spread(content)]
            last = match.end()
        return self.joined([*parts, self.cut(last)]) if parts else self

    def prefixed(self, content: str) -> Self:
        """Returns the text with a prefix, which counts as part of its first character."""
        return self.joined([self.cut(0, 1).spread(content), self]) if self.text else self

    def encoded(self) -> Self:
        """Returns the text with one character for each byte of its UTF-8 encoding."""
        return self.mapped(character.encode().decode("latin-1") for character in self.text)


def normalized(texts: Sequence[Aligned], steps: Sequence[Sequence[Any]], run: Callable[[Any, Any], Any]) -> list:
    """Applies the steps of a normalizer to texts, and aligns the results.

    Args:
        texts: list of `Aligned`.
        steps: list of steps; see `_normalizers`.
        run: function from a step and strings `(n,)` to strings `(n,)`, in TensorFlow: the tokenizer's own.
    """
    found = list(texts)
    for step in steps:
        kind, arguments = step[0], step[1:]
        if kind == "Strip":
            for end, pattern in zip(arguments, (LEADING, TRAILING), strict=True):
                found = [text.replaced(pattern, "") for text in found] if end else found
        elif kind == "Whitespace":
            found = [text.replaced(_RUNS[arguments[0]], " ") for text in found]
        elif kind == "Replace":
            found = [text.replaced(re.escape(arguments[0]), arguments[1]) for text in found]
        elif kind == "Prepend":
            found = [text.prefixed(arguments[0]) for text in found]
        else:
            found = through(found, functools.partial(run, step))
    return found


def through(texts: Sequence[Aligned], function: Callable[[Any], Any]) -> list:
    """Applies a function of strings to texts, and aligns the results.

    The alignment is tried character by character, then by characters with their marks. A part of the result that
    neither explains is aligned with all of the text between the explained parts.

    Args:
        texts: list of `Aligned`.
        function: from strings `(n,)` to strings `(n,)`, in TensorFlow.
    """
    wholes = _results(function, [text.text for text in texts])
    characters = sorted({character for text in texts for character in text.text})
    of = dict(zip(characters, _results(function, characters), strict=True))
    found = [text.mapped(of[character] for character in text.text) for text in texts]
    odd = {i: _clusters(texts[i].text) for i, whole in enumerate(wholes) if found[i].text != whole}
    clusters = sorted({cluster for each in odd.values() for cluster in each} - set(of))
    of.update(zip(clusters, _results(function, clusters), strict=True))
    for i, each in odd.items():
        found[i] = _by_cluster(texts[i], each, of, wholes[i])
    return found


def _results(function, strings):
    return [string.decode() for string in function(tf.constant(strings, tf.string)).numpy()] if strings else []


def _clusters(text):
    """Splits a text into characters with their marks."""
    found = []
    for character in text:
        if found and (unicodedata.category(character)[0] == "M" or _ATTACHED.match(character)):
            found[-1] += character
        else:
            found.append(character)
    return found


def _by_cluster(text, clusters, of, whole):
    """Aligns a text by its clusters; `of` maps each cluster to its result."""
    if not clusters:
        return text
    ends = itertools.accumulate(map(len, clusters))
    sources = [text.cut(end - len(cluster), end) for cluster, end in zip(clusters, ends, strict=True)]
    parts = []
    for cluster, source in zip(clusters, sources, strict=True):
        alone = source.mapped(of[character] for character in cluster)
        parts.append(alone if alone.text == of[cluster] else source.spread(of[cluster]))
    contents = [part.text for part in parts]
    first = _agreeing(contents, whole)
    rest = whole[len("".join(contents[:first])) :]
    stop = len(parts) - _agreeing([content[::-1] for content in reversed(contents[first:])], rest[::-1])
    middle = rest[: len(rest) - len("".join(contents[stop:]))]
    source = text.joined(sources[first:stop] or sources[max(first - 1, 0) : max(stop, 1)])
    return text.joined([*parts[:first], source.spread(middle), *parts[stop:]])


def _agreeing(contents, whole):
    """Returns how many of the strings, concatenated in order, are a prefix of a text."""
    place = 0
    for count, content in enumerate(contents):
        if not whole.startswith(content, place):
            return count
        place += len(content)
    return len(contents)
