"""Splits raw texts into words with their positions, in the graph."""

import functools
from typing import Any, Literal, NamedTuple

import tensorflow as tf

from tfxfer import _check
from tfxfer.preprocessing._tokenizer import as_strings
from tfxfer.preprocessing._words import WHITESPACE

# Scripts that are written without spaces: Thai, Lao, Tibetan, Myanmar, Khmer, kana with their marks, Han.
UNSPACED = (
    r"\p{Thai}\p{Lao}\p{Tibetan}\p{Myanmar}\p{Khmer}\p{Hiragana}\p{Katakana}\p{Han}\x{3005}-\x{3007}\x{3021}-\x{302f}"
    r"\x{30fc}\x{ff66}-\x{ff9f}"
)
# Opening, closing and quotation marks, dashes, and punctuation between words of Chinese and Japanese.
_WALLS = (
    r"\p{Ps}\p{Pe}\p{Pi}\p{Pf}\"<>\x{2013}-\x{2015}\x{2026}\x{3001}-\x{3003}\x{30fb}\x{ff01}\x{ff0c}"
    r"\x{ff1a}-\x{ff1f}"
)
_CLASSES = {
    "space": rf"[{WHITESPACE}]",
    # Combining marks, variation selectors, joiners, tags of flags, skin tones.
    "attached": r"[\p{M}\x{200c}\x{200d}\x{1f3fb}-\x{1f3ff}\x{e0020}-\x{e007f}]",
    "joiner": r"\x{200d}",
    "flag": r"[\x{1f1e6}-\x{1f1ff}]",
    # Letters of these scripts; not the apostrophes among the closing quotation marks.
    "wall": rf"[{UNSPACED}{_WALLS}\p{{So}}]",
    "apostrophe": r"['\x{2019}]",
    "punctuation": r"[\p{P}]",
    "low_line": r"\p{Pc}",
    "sigil": r"[@#]",
    "dot": r"\.",
    "s": r"[sS]",
    "unspaced": rf"[{UNSPACED}]",
}
SPLITS = ("punctuation", "whitespace")


class Words(NamedTuple):
    """The result of `split_words`.

    Attributes:
        words: string `RaggedTensor` `(n, None)`.
        starts: int32 `RaggedTensor` `(n, None)`. The start of each word in its text, in code points as in Python.
        ends: int32 `RaggedTensor` `(n, None)`. The end of each word: `text[start:end]` is the word.
        byte_starts: int32 `RaggedTensor` `(n, None)`. The start in bytes of the text's UTF-8 encoding.
        byte_ends: int32 `RaggedTensor` `(n, None)`. The end in bytes.
    """

    words: Any
    starts: Any
    ends: Any
    byte_starts: Any
    byte_ends: Any


def split_words(texts: Any, split: Literal["punctuation", "whitespace"] = "punctuation") -> Words:
    """Splits raw texts into words with their positions.

    Whitespace is as defined by Unicode. Chinese, Japanese, Thai, Lao, Khmer, Myanmar and Tibetan are written without
    spaces between words, so each of their characters is a word. A combining mark, a joiner or a skin tone belongs to
    the character before it.

    With `"punctuation"`, words are roughly those of treebanks and of the CoNLL data sets:

    - brackets, quotation marks, dashes and emoji are always words;
    - other punctuation is split off at both ends of a word (`"London,"` is two words, `"..."` one) and kept inside
      (`"3.14"`, `"x-ray"`, `"http://a.b/c"`);
    - `"@"` and `"#"` stay before a word, and the last dot of `"U.S."` stays at its end;
    - a final `"'s"` is a word.

    Args:
        texts: strings `(n,)`: a list, an array or a tensor.
        split: `"punctuation"`, or `"whitespace"` to split only at whitespace and between characters of the scripts
            above. Defaults to `"punctuation"`.

    Returns:
        `Words(words, starts, ends, byte_starts, byte_ends)`, ragged tensors `(n, None)`. A byte that is not valid UTF-8
        counts as one character, U+FFFD.

    Raises:
        ValueError: if texts are not strings, or `split` has another value.

    Example:

    >>> found = split_words(["Anna lives in St. Ives, I think."])
    >>> [word.decode() for word in found.words.to_list()[0]]
    ['Anna', 'lives', 'in', 'St', '.', 'Ives', ',', 'I', 'think', '.']
    >>> found.starts.to_list()[0][:3]
    [0, 5, 11]
    """
    _check.one_of("split", split, SPLITS)
    texts = as_strings(texts)
    return _TRACED[split](texts) if tf.executing_eagerly() else _split(texts, split)


def _split(texts, split):
    points, offsets = tf.strings.unicode_decode_with_offsets(texts, "UTF-8", errors="replace")
    rows = points.value_rowids()
    attached, kind = _clusters(points)
    starts = _starts(kind, tf.boolean_mask(rows, ~attached), split)
    return _cut(texts, points, offsets, tf.cumsum(tf.cast(~attached, tf.int32)) - 1, kind["space"], starts)


def _clusters(points):
    """Finds the characters that belong to the one before; returns these, and the classes of the others by name."""
    values = points.values
    unique, index = tf.unique(values)
    characters = tf.strings.unicode_encode(unique[:, tf.newaxis], "UTF-8")
    of = {name: tf.gather(tf.strings.regex_full_match(characters, regex), index) for name, regex in _CLASSES.items()}
    is_first = _changes(points.value_rowids())
    free = ~is_first & ~_before(of["space"])
    # Flags are pairs of letters: every second letter of a run belongs to the one before.
    runs = tf.cumsum(tf.cast(is_first | (of["flag"] != _before(of["flag"])), tf.int32)) - 1
    places = tf.range(tf.size(runs))
    place = places - tf.gather(tf.math.segment_min(places, runs), runs)
    attached = free & (of["attached"] | _before(of["joiner"]) & ~of["space"] | of["flag"] & (place % 2 == 1))
    kept = {name: tf.boolean_mask(found, ~attached) for name, found in of.items()}
    kept["wall"] |= kept["flag"]
    kept["wall"] &= ~kept["apostrophe"]
    return attached, {"point": tf.boolean_mask(values, ~attached), **kept}


def _starts(kind, rows, split):
    """Whether a word begins at each character, excluding marks."""
    space, is_first = kind["space"], _changes(rows)
    wall = kind["wall"] if split == "punctuation" else kind["unspaced"]
    # Pieces are runs of characters between walls and spaces.
    piece = ~space & ~wall
    opens = piece & (is_first | ~_before(piece))
    starts = opens | wall & ~space
    if split == "whitespace":
        return starts
    number = tf.cumsum(tf.cast(opens, tf.int32))  # 0 before the first piece
    count = tf.reduce_max(tf.concat([[0], number], axis=0)) + 1
    solid = piece & (~kind["punctuation"] | kind["low_line"])
    places = tf.range(tf.size(rows))
    first = tf.math.unsorted_segment_min(tf.where(solid, places, places.dtype.max), number, count)
    last = tf.math.unsorted_segment_max(tf.where(solid, places, -1), number, count)
    first, last = tf.gather(first, number), tf.gather(last, number)
    dots = tf.concat([kind["dot"], [False]], axis=0)
    size = tf.size(rows)
    keeps_dot = tf.gather(dots, tf.clip_by_value(last - 1, 0, size)) & (last > first)
    edge = piece & (places < first) | piece & (places > last) & ~(keeps_dot & (places == last + 1) & kind["dot"])
    edge &= ~(kind["sigil"] & (places == first - 1))
    same = _before(edge) & (kind["point"] == _before(kind["point"])) & ~opens
    leaves_edge = piece & ~edge & _before(edge)
    possessive = kind["apostrophe"] & piece & (places == last - 1) & (places > first)
    possessive &= tf.concat([kind["s"][1:], [False]], axis=0)[: tf.size(rows)]
    return starts | edge & ~same | leaves_edge | possessive


def _cut(texts, points, offsets, cluster, space, starts):
    """Makes `Words` from the characters at which words begin."""
    number = tf.where(space, -1, tf.cumsum(tf.cast(starts, tf.int32)) - 1)
    number = tf.gather(number, cluster)  # the word of each code point, -1 for spaces
    inside = number >= 0
    number = tf.boolean_mask(number, inside)
    places = tf.boolean_mask(tf.range(tf.size(cluster)), inside)
    words = tf.RaggedTensor.from_value_rowids(tf.boolean_mask(points.values, inside), number, validate=False)
    first, last = tf.math.segment_min(places, number), tf.math.segment_max(places, number)
    row = tf.gather(points.value_rowids(), first)
    splits = points.row_splits
    begin = tf.cast(tf.gather(splits, row), tf.int32)
    following = tf.gather(tf.concat([offsets.values, [0]], axis=0), last + 1)
    is_last = tf.cast(last, tf.int64) + 1 == tf.gather(splits, row + 1)
    sizes = tf.cast(tf.gather(tf.strings.length(texts), row), tf.int64)
    parts = (
        tf.strings.unicode_encode(words, "UTF-8"),
        first - begin,
        last + 1 - begin,
        tf.cast(tf.gather(offsets.values, first), tf.int32),
        tf.cast(tf.where(is_last, sizes, following), tf.int32),
    )
    count = tf.size(texts, tf.int64)
    return Words(*(tf.RaggedTensor.from_value_rowids(part, row, nrows=count, validate=False) for part in parts))


def _before(values):
    """Returns the predecessor of each value; zero or false for the first one."""
    return tf.concat([tf.zeros_like(values[:1]), values[:-1]], axis=0)


def _changes(values):
    """Whether each value differs from the one before; true for the first."""
    return tf.concat([tf.ones_like(values[:1], tf.bool), values[1:] != values[:-1]], axis=0)


# Run eagerly, the many small operations would be slow.
_TRACED = {
    each: tf.function(
        functools.partial(_split, split=each), input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
    )
    for each in SPLITS
}
