"""Explanations and their attributions, with their rendering as HTML and in a terminal."""

import dataclasses
import html
import os
import sys
import unicodedata
from typing import Any

import numpy as np

# Red is evidence against the answer, blue evidence for it: color-blind readers can distinguish them.
_FOR, _AGAINST = "37,99,235", "220,38,38"
# The same hues among the 256 colors of terminals, from faint to full.
_SHADES_FOR, _SHADES_AGAINST = (153, 111, 69), (224, 217, 210)
# Thresholds for marking a word in a terminal, as shares of the largest value.
_STEPS = (0.15, 0.4, 0.7)


@dataclasses.dataclass(frozen=True)
class Attribution:
    """The contribution of one word, or one token, to the explained number.

    Attributes:
        text: string. The word: `texts[column][start:end]`.
        start: int. Start of the word, in code points.
        end: int. End of the word (exclusive), in code points.
        value: float. Contribution by integrated gradients, in the unit of the explanation's `score`.
        column: int. Index of the word's text among the row's texts; 0 if there is only one.
        erased: float. Drop of the score when the word is left out; `None` without `erasure`.

    Example:

    >>> word = tx.models.Attribution("card", start=3, end=7, value=1.4)
    >>> "my card"[word.start : word.end], word.value
    ('card', 1.4)
    """

    text: str
    start: int
    end: int
    value: float
    column: int = 0
    erased: float | None = None


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Explains the number that a model computes for a row. `explain` returns one for each row.

        sum of the words' values + rest = score - baseline, up to the error

    Attributes:
        texts: tuple of the row's texts.
        target: the explained target: a label, the index of an output, or `None` for a similarity.
        of: string. The kind of `score`: `"log-odds"`, `"value"` or `"similarity"`.
        score: float. The model's number for the row.
        baselines: tuple of floats. One number, for the row without its words. Two numbers for two texts that are
            encoded separately: without the words of the first, and without those of the second.
        words: list of `Attribution`, in order, without the words that the model does not read (those beyond
            `sequence_length`).
        tokens: list of `Attribution`, one for each token except special tokens.
        rest: tuple of floats, one for each of `baselines`. Contribution of tokens outside all words, for example those
            of a prompt.
        error: float >= 0. Absolute error of the sum; with two baselines, the larger of the two. More steps reduce it.
        steps: int. Number of points on the path.
        agreement: float. Spearman's rank correlation between `value` and `erased` of the words; `None` without erasure,
            with fewer than two words, or if all values are equal.

    Example:

    >>> words = [tx.models.Attribution("my", 0, 2, 0.1), tx.models.Attribution("card", 3, 7, 1.4)]
    >>> why = tx.models.Explanation(
    ...     ("my card",), "card", "log-odds", 2.0, (0.5,), words=words, tokens=[], rest=(0.0,), error=0.0, steps=32
    ... )
    >>> why.top(1)[0].text
    'card'
    >>> print(why.to_terminal(color=False))
    card: probability 0.881 (+2.00 log-odds)
    my card[+1.40]
    """

    texts: tuple[str, ...]
    target: Any
    of: str
    score: float
    baselines: tuple[float, ...]
    words: list[Attribution]
    tokens: list[Attribution]
    rest: tuple[float, ...]
    error: float
    steps: int
    agreement: float | None = None

    def top(self, k: int = 5) -> list[Attribution]:
        """Returns the `k` words with the largest absolute values, the largest first."""
        return sorted(self.words, key=lambda word: -abs(word.value))[:k]

    def to_html(self) -> str:
        """Returns the texts as HTML. A word's background is blue if it supports the answer, red if it opposes it.

        The result is a `<div>` with inline styles that fits into any page. It has no scripts, loads no external
        resources, and escapes all texts.
        """
        largest = max((abs(word.value) for word in self.words), default=0.0)
        parts = [f'<div style="line-height:1.9"><div><small>{html.escape(self.title())}</small></div>']
        for column, text in enumerate(self.texts):
            words = [word for word in self.words if word.column == column]
            # Isolated from the surrounding page: characters that change the writing direction end with the text.
            parts.append('<div dir="auto" style="unicode-bidi:isolate;white-space:pre-wrap;overflow-wrap:anywhere">')
            parts += [_span(piece, word, largest) for piece, word in _pieces(text, words)]
            parts.append("</div>")
        return "".join([*parts, "</div>"])

    def _repr_html_(self):
        return self.to_html()

    def to_terminal(self, color: bool | None = None) -> str:
        """Returns the texts for a terminal, with ANSI background colors, or with the largest values in brackets.

        Args:
            color: bool. Whether to use colors. By default, `True` if standard output is a terminal and the environment
                variable `NO_COLOR` is not set.
        """
        if color is None:
            color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        largest = max((abs(word.value) for word in self.words), default=0.0)
        lines = [_printable(self.title())]
        for column, text in enumerate(self.texts):
            words = [word for word in self.words if word.column == column]
            lines.append("".join(_marked(piece, word, largest, color) for piece, word in _pieces(text, words)))
        return "\n".join(lines)

    def title(self) -> str:
        """Returns one line with the explained target and its score."""
        if self.of == "log-odds":
            return f"{self.target}: probability {sigmoid(self.score):.3f} ({self.score:+.2f} log-odds)"
        return f"{self.of} {self.score:.4f}" + (f" of output {self.target}" if self.target else "")


def sigmoid(value: float) -> float:
    """Returns the probability that belongs to log-odds."""
    return float(np.exp(-np.logaddexp(0.0, -value)))


def _pieces(text, words):
    """Yields the pieces of a text, each with its word or `None`."""
    place = 0
    for word in words:
        if word.start > place:
            yield text[place : word.start], None
        yield text[word.start : word.end], word
        place = word.end
    if place < len(text):
        yield text[place:], None


def _span(piece, word, largest):
    shown = html.escape(piece)
    if word is None or not largest:
        return shown
    share, rgb = abs(word.value) / largest, _FOR if word.value >= 0 else _AGAINST
    tip = f"{word.value:+.4f}" + ("" if word.erased is None else f", without it {-word.erased:+.4f}")
    style = f"background:rgba({rgb},{0.6 * share:.3f});border-radius:3px"
    return f'<span style="{style}" title="{tip}">{shown}</span>'


def _marked(piece, word, largest, color):
    shown = _printable(piece)
    if word is None or not largest:
        return shown
    level = sum(abs(word.value) >= step * largest for step in _STEPS) - 1
    if level < 0:
        return shown
    if not color:
        return f"{shown}[{word.value:+.2f}]"
    shade = (_SHADES_FOR if word.value >= 0 else _SHADES_AGAINST)[level]
    return f"\033[30;48;5;{shade}m{shown}\033[0m"


def _printable(text):
    """Replaces characters that would move a terminal's cursor, color it, or change the writing direction."""
    return "".join(
        " " if character.isspace() else "\ufffd" if _is_control(character) else character for character in text
    )


def _is_control(character):
    is_turn = unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return is_turn or unicodedata.category(character) == "Cc"
