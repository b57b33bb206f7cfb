"""Typos and changes of letter case."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfxfer import _check
from tfxfer._random import below, fold, uniform
from tfxfer.augmentation._base import Augmentation
from tfxfer.augmentation._candidates import constants
from tfxfer.augmentation._rows import WordRows, true_at
from tfxfer.augmentation._words import LONG, capitalized, like

# The letters of a keyboard by row; the second row is shifted right by a quarter of a key, the third by another half.
LAYOUTS = {
    "qwerty": ("qwertyuiop", "asdfghjkl", "zxcvbnm"),
    "qwertz": ("qwertzuiopü", "asdfghjklöä", "yxcvbnm"),
    "azerty": ("azertyuiop", "qsdfghjklm", "wxcvbn"),
}
_OFFSETS = (0.0, 0.25, 0.75)
KINDS = ("keyboard", "swap", "delete", "insert")
CASES = ("lower", "upper", "title")


def key_neighbours(layout: str) -> dict[str, str]:
    """Returns the letters on adjacent keys for each letter, a dict of letter to string.

    >>> key_neighbours("qwerty")["s"]
    'weadzx'
    """
    rows = LAYOUTS[_check.one_of("layout", layout, LAYOUTS)]
    keys = {c: (y, x + _OFFSETS[y]) for y, row in enumerate(rows) for x, c in enumerate(row)}

    def touch(a, b):
        (row, x), (other, z) = keys[a], keys[b]
        return a != b and (abs(x - z) <= 1 if row == other else abs(row - other) == 1 and abs(x - z) < 1)

    return {a: "".join(b for b in keys if touch(a, b)) for a in keys}


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class Typos(Augmentation):
    """Misspells words with one typo each.

    | kind | "their" becomes, for example |
    |---|---|
    | `"keyboard"` | "thrir": an adjacent key instead of the right one |
    | `"swap"` | "thier": two letters swapped, but not the first or last in words of four or more letters |
    | `"delete"` | "ther": a missing letter |
    | `"insert"` | "thweir": an adjacent key hit in addition |

    Only words that consist of letters of the keyboard are misspelled, not numbers, addresses or names with other
    letters. Capitals stay capitals. Words of tagged entities are also misspelled, because their tags stay correct.

    Args:
        rate: float in `[0, 1]`. The probability for each word. Defaults to 0.1.
        kinds: sequence of strings. Kinds of the table, all equally likely. Defaults to all.
        layout: `"qwerty"`, `"qwertz"`, `"azerty"`, or a dict of letter to a string of its neighbors on the keyboard.
            Defaults to `"qwerty"`.
        min_length: int >= 2. The minimum number of letters of a word. Defaults to 4.
        probability: float in `[0, 1]`. The share of rows that are changed. Defaults to 1.

    Raises:
        ValueError: if a kind or layout is unknown, or a number is out of range.

    Example:

    >>> Typos(1.0, kinds=("swap",))(["Where is my card? It costs £10."]).numpy()[0].decode()
    'Wehre is my crad? It cotss £10.'

    Reference: Belinkov and Bisk, 2018, https://arxiv.org/abs/1711.02173, section 3.
    """

    rate: float = 0.1
    kinds: Sequence[str] = KINDS
    layout: str | Mapping[str, str] = "qwerty"
    min_length: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rate("rate", self.rate)
        kinds = (self.kinds,) if isinstance(self.kinds, str) else tuple(self.kinds)
        self._set("kinds", tuple(_check.one_of("kinds", kind, KINDS) for kind in kinds or (None,)))
        self._set("min_length", _check.integer("min_length", self.min_length, minimum=2))
        if isinstance(self.layout, str):
            _check.one_of("layout", self.layout, LAYOUTS, "Or pass a dict of letter to its neighbors.")
            return
        _check.instance("layout", self.layout, Mapping, f"one of {', '.join(map(repr, LAYOUTS))}, or a dict")
        for letter, others in self.layout.items():
            if not all(isinstance(each, str) for each in (letter, others)) or len(letter) != 1 or not others:
                raise _check.invalid("layout", "letters, and strings of their neighbors", {letter: others})
        if not self.layout:
            raise _check.invalid("layout", "at least one letter", self.layout)
        self._set("layout", dict(self.layout))

    def __hash__(self) -> int:
        return hash((self.rate, self.kinds, str(self.layout), self.min_length, self.probability))

    @functools.cached_property
    def _keys(self):
        found = key_neighbours(self.layout) if isinstance(self.layout, str) else self.layout
        with tf.init_scope(), tf.device("CPU:0"):
            return constants({letter.lower(): list(others) for letter, others in found.items()}), list(found)

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "_keys"}

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        (table, letters, splits), keys = self._keys
        either = {ord(c) for key in keys for c in (*key.lower(), *key.upper())}
        members = "".join(f"\\x{{{c:x}}}" for c in sorted(either))
        regex = f"[{members}]{{{min(self.min_length, 1000)},}}"
        mask = tf.strings.regex_full_match(rows.words, regex) & rows.of_row(active)
        mask &= uniform(rows.draw(seeds, 0)) < self.rate
        index = true_at(mask)
        words, drawn = tf.gather(rows.words, index), tf.gather(rows.draw(seeds, 1), index)
        size = tf.strings.length(words, unit="UTF8_CHAR")
        kind = tf.gather(tf.constant([KINDS.index(each) for each in self.kinds]), below(drawn, len(self.kinds)))
        is_swap = kind == KINDS.index("swap")
        # The first and the last letter stay if the word is long enough.
        inner = tf.where(size >= 4, 1, 0)
        place = fold(drawn, 0)
        anywhere, swapped = below(place, size), below(place, size - 1 - 2 * inner)
        place = tf.where(is_swap, tf.cast(swapped, tf.int32) + inner, tf.cast(anywhere, tf.int32))

        def part(start, length):
            return tf.strings.substr(words, tf.minimum(start, size), length, unit="UTF8_CHAR")

        one, many = tf.ones_like(size), tf.fill(tf.shape(size), LONG)
        head, letter, rest = part(tf.zeros_like(size), place), part(place, one), part(place + 1, many)
        number = table.lookup(tf.strings.lower(letter, encoding="utf-8"))
        start = tf.gather(splits, number)
        beside = tf.gather(letters, start + below(fold(drawn, 1), tf.gather(splits, number + 1) - start))
        beside = like(beside, letter)
        made = {
            "keyboard": [head, beside, rest],
            "swap": [head, part(place + 1, one), letter, part(place + 2, many)],
            "delete": [head, rest],
            "insert": [head, letter, beside, rest],
        }
        for name in self.kinds:
            words = tf.where(kind == KINDS.index(name), tf.strings.join(made[name]), words)
        return rows.with_words(index, words)


@keras.saving.register_keras_serializable("tfxfer")
@dataclasses.dataclass(frozen=True)
class Case(Augmentation):
    """Changes whole texts to lower case, upper case or title case.

    For cased models; uncased models do not see the change.

    Args:
        cases: sequence of `"lower"`, `"upper"` and `"title"`, all equally likely. Defaults to all.
        probability: float in `[0, 1]`. The share of rows that are changed. Defaults to 0.1, because most texts that a
            model sees have normal case.

    Raises:
        ValueError: if a case is unknown.

    Example:

    >>> Case("title", probability=1.0)(["where is my card?"]).numpy().tolist()
    [b'Where Is My Card?']
    """

    cases: Sequence[str] = CASES
    probability: float = dataclasses.field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        cases = (self.cases,) if isinstance(self.cases, str) else tuple(self.cases)
        self._set("cases", tuple(_check.one_of("cases", case, CASES) for case in cases or (None,)))

    def apply(self, rows: WordRows, seeds: Any, active: Any) -> WordRows:
        chosen = below(fold(seeds, 0), len(self.cases))
        words = rows.words
        made: dict[str, Any] = {
            "lower": functools.partial(tf.strings.lower, encoding="utf-8"),
            "upper": functools.partial(tf.strings.upper, encoding="utf-8"),
            "title": lambda words: capitalized(tf.strings.lower(words, encoding="utf-8")),
        }
        for i, case in enumerate(self.cases):
            words = tf.where(rows.of_row(active & (chosen == i)), made[case](rows.words), words)
        return dataclasses.replace(rows, words=words)
