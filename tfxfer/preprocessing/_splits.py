"""Splits texts into words with regular expressions, as the pre-tokenizers of Hugging Face's `tokenizers` do."""

import tensorflow as tf

from tfxfer.preprocessing import _patterns, _words

WHITESPACE, SEPARATOR = _words.WHITESPACE, _words.SEPARATOR
# Marks of complete words; other words have lost the space before them. They are not bytes of valid UTF-8. In a word
# with the second mark, `SPACE` represents the spaces.
COMPLETE, PROTECTED = b"\xfe", b"\xfd"
SPACE = "\x01"
BEHAVIORS = ("isolated", "removed", "matches")


class Splitter:
    """Splits texts into words.

    If the pattern allows it (`is_local`), texts are first split before single spaces, which is fast, so each distinct
    word of a batch is processed once: `words = split(texts)`, then `finely(restore(words))`.

    Args:
        steps: list of `[behavior, pattern]`, with `pattern` in the dialect of `tokenizers`. Words are the matches and
            the text between them (`"isolated"`), only the text between them (`"removed"`), or only the matches
            (`"matches"`).
    """

    def __init__(self, steps):
        self._steps = [(behavior, _patterns.translate(pattern)) for behavior, pattern in steps]
        patterns = [pattern for _, pattern in self._steps]
        self.is_local = len(patterns) == 1 and steps[0][0] == "isolated" and patterns[0].local and patterns[0].covers
        self._marks = next((pattern.marks for pattern in patterns if pattern.marks), None)
        # A whitespace character may stay with the word after it; line breaks may stay with the word before them.
        word, runs = f"[{_patterns.NO_LINE_BREAK}]?[^{WHITESPACE}]+", f"[{WHITESPACE}]+"
        self._words = f"{word}|{runs}"
        if any(pattern.line_breaks for pattern in patterns):
            to_line_end = rf"[{WHITESPACE}]*[\r\n]+"
            self._words = f"{word}(?:{to_line_end})?|{to_line_end}|{runs}"

    def split(self, texts):
        """Splits texts before single spaces; runs of whitespace are separate words and stay whole."""
        ambiguous = tf.reduce_any(tf.strings.regex_full_match(texts, f"(?s).*{SPACE}.*"))
        return tf.cond(ambiguous, lambda: self._split_by_pattern(texts, COMPLETE), lambda: self._split_at_spaces(texts))

    def _split_at_spaces(self, texts):
        has_runs = tf.where(tf.strings.regex_full_match(texts, f"(?s).*(?:[{WHITESPACE}] .*| )"))
        words = self._split_by_pattern(tf.gather(texts, has_runs[:, 0]), PROTECTED)
        words = words.with_values(tf.strings.regex_replace(words.values, " ", SPACE))
        texts = tf.strings.join([COMPLETE, texts])
        texts = tf.tensor_scatter_nd_update(texts, has_runs, tf.strings.reduce_join(words, axis=-1, separator=" "))
        return tf.strings.split(texts, " ")

    def _split_by_pattern(self, texts, mark):
        if self._marks:
            texts = tf.strings.regex_replace(texts, self._marks, rb"\1" + SEPARATOR + rb"\2")
        texts = tf.strings.regex_replace(texts, self._words, mark + rb"\0" + SEPARATOR)
        return tf.strings.split(texts, SEPARATOR)

    @staticmethod
    def restore(words):
        """Restores the spaces of words from `split`."""
        mark = tf.strings.substr(words, tf.zeros_like(words, tf.int32), tf.ones_like(words, tf.int32))
        complete, protected = tf.equal(mark, COMPLETE), tf.equal(mark, PROTECTED)
        bare = tf.strings.substr(words, tf.cast(complete | protected, tf.int32), tf.fill(tf.shape(words), 2**31 - 1))
        whole = tf.where(complete | tf.equal(words, ""), bare, tf.strings.join([" ", words]))
        return tf.where(protected, tf.strings.regex_replace(bare, SPACE, " "), whole)

    def finely(self, words):
        """Splits strings by all patterns in turn; each split also leaves an empty word."""
        for behavior, pattern in self._steps:
            if pattern.marks:
                words = tf.strings.regex_replace(words, pattern.marks, rb"\1" + SEPARATOR + rb"\2")
            if behavior == "matches":
                words = _matches_alone(words, pattern.regex)
            else:
                match = b"" if behavior == "removed" else rb"\0" if pattern.covers else SEPARATOR + rb"\0"
                words = tf.strings.regex_replace(words, pattern.regex, match + SEPARATOR)
        return tf.strings.split(words, SEPARATOR)


def _matches_alone(words, regex):
    """Deletes the text between the matches."""
    marked = tf.strings.regex_replace(words, regex, SEPARATOR + COMPLETE + rb"\0" + SEPARATOR)
    parts = tf.strings.split(marked, SEPARATOR)
    values = parts.values
    first = tf.strings.substr(values, tf.zeros_like(values, tf.int32), tf.ones_like(values, tf.int32))
    rest = tf.strings.substr(values, tf.cast(values != "", tf.int32), tf.fill(tf.shape(values), 2**31 - 1))
    bare = tf.where(tf.equal(first, COMPLETE), rest, "")
    return tf.strings.reduce_join(parts.with_values(bare), axis=-1, separator=SEPARATOR)
