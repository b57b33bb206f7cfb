"""What explanations are made of, and how they look as HTML and in a terminal."""

import dataclasses
import html
import os
import sys
import unicodedata
from typing import Any

import numpy as np

# Red for what speaks against the answer, blue for what speaks for it: colours that the colour-blind tell apart.
_FOR, _AGAINST = "37,99,235", "220,38,38"
# The same among the 256 colours of terminals, from faint to full.
_SHADES_FOR, _SHADES_AGAINST = (153, 111, 69), (224, 217, 210)
# Shares of the largest value from which on a word is marked in a terminal.
_STEPS = (0.15, 0.4, 0.7)


@dataclasses.dataclass(frozen=True)
class Attribution:
    """What a word, or a token, of a text adds to the number that is explained.

    Attributes:
        text: string. The word: `texts[column][start:end]`.
        start: int. Where it begins, in code points.
        end: int. Where it ends.
        value: float. What it adds, by integrated gradients, in the unit of the explanation's `score`.
        column: int. Which of the row's texts it is in; 0 where there is one.
        erased: float. By how much the score falls without the word; `None` where that was not asked for.
    """

    text: str
    start: int
    end: int
    value: float
    column: int = 0
    erased: float | None = None


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why a model gives a number for a text: what `explain` returns for each row.

        sum of the words' values + rest = score - baseline, up to the error

    Attributes:
        texts: tuple of the row's texts.
        target: what is explained: a label, the number of an output, or `None` for a similarity.
        of: string. What `score` is: `"log-odds"`, `"value"` or `"similarity"`.
        score: float. The model's number for the row.
        baselines: tuple of floats. The number for the row without its words, one; for two texts that are encoded apart,
            two: without the words of the first, and without those of the second.
        words: list of `Attribution`, in order. Words that the model does not read (behind `sequence_length`) are left
            out.
        tokens: list of `Attribution`, one for each token but the special ones.
        rest: tuple of floats, as many as `baselines`. What tokens outside of all words add, such as those of a prompt.
        error: float >= 0. How far the sum is off, the worse of both sides where there are two baselines. It shrinks
            with more steps.
        steps: int. The points of the path that were computed.
        agreement: float. Spearman's rank correlation between `value` and `erased` of the words; `None` without erasure,
            with fewer than two words, and where all are equal.
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
        """Returns the `k` words whose values are largest in size, the largest first."""
        return sorted(self.words, key=lambda word: -abs(word.value))[:k]

    def to_html(self) -> str:
        """Returns the texts as HTML, each word with a background: blue for the answer, red against it.

        It is a `<div>` with styles inside, for any page: no script, nothing from elsewhere, all texts escaped.
        """
        largest = max((abs(word.value) for word in self.words), default=0.0)
        parts = [f'<div style="line-height:1.9"><div><small>{html.escape(self.title())}</small></div>']
        for column, text in enumerate(self.texts):
            words = [word for word in self.words if word.column == column]
            # Apart from what stands around: signs that turn the direction of writing end with the text.
            parts.append('<div dir="auto" style="unicode-bidi:isolate;white-space:pre-wrap;overflow-wrap:anywhere">')
            parts += [_span(piece, word, largest) for piece, word in _pieces(text, words)]
            parts.append("</div>")
        return "".join([*parts, "</div>"])

    def _repr_html_(self):
        return self.to_html()

    def to_terminal(self, color: bool | None = None) -> str:
        """Returns the texts for a terminal: backgrounds by ANSI colours, or without colour the largest values behind.

        Args:
            color: bool. By default whether standard output is a terminal and the variable `NO_COLOR` is not set.
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
        """Returns in one line what is explained, with its score."""
        if self.of == "log-odds":
            return f"{self.target}: probability {sigmoid(self.score):.3f} ({self.score:+.2f} log-odds)"
        return f"{self.of} {self.score:.4f}" + (f" of output {self.target}" if self.target else "")


def sigmoid(value: float) -> float:
    """Returns the probability of log-odds."""
    return float(np.exp(-np.logaddexp(0.0, -value)))


def _pieces(text, words):
    """Yields a text in pieces, each with its word or `None`."""
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
    """A text without what would move a terminal's cursor, colour it, or turn the direction of writing."""
    return "".join(
        " " if character.isspace() else "\ufffd" if _is_control(character) else character for character in text
    )


def _is_control(character):
    is_turn = unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return is_turn or unicodedata.category(character) == "Cc"
