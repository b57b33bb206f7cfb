"""Normalizers of Hugging Face's `tokenizers` as graph operations.

A normalizer is a list of steps, each a list of a name and its arguments: `["NFC"]`, `["NFD"]`, `["NFKC"]`, `["NFKD"]`,
`["StripAccents"]`, `["Lowercase"]`, `["Strip", left, right]`, `["Replace", string, content]`, `["Prepend", string]`,
`["Bert", lowercase, strip_accents]`. Unigram models also have `["Precompiled", map]` and `["Whitespace", which]`, which
SentencePiece and `_unigram` apply.
"""

import tensorflow as tf
import tensorflow_text as tf_text

from tfxfer.preprocessing import _unicode, _words

UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
# TensorFlow's lowercasing ends a string at NUL; a noncharacter replaces it temporarily.
_NUL = "\ufdd0"


class Normalizer:
    """A function of strings `(n,)`, valid UTF-8, that applies the steps in order.

    Args:
        steps: list of steps.
    """

    def __init__(self, steps):
        self.steps = [list(step) for step in steps]

    @property
    def is_local(self):
        """Whether the text between two spaces can be normalized by itself."""
        return all(step[0] in ("NFC", "NFD") for step in self.steps)

    def __call__(self, texts, plain=None):
        """Returns the normalized texts; `plain`, if known, tells which are ASCII without NUL."""
        if not self.steps:
            return texts
        if plain is None:
            plain = tf.strings.regex_full_match(texts, r"[\x01-\x7f]*")
        for step in self.steps:
            texts = apply(step, texts, plain)
        return texts


def step(step, texts):
    """Applies one step to texts `(n,)`, valid UTF-8."""
    return apply(step, texts, tf.strings.regex_full_match(texts, r"[\x01-\x7f]*"))


def apply(step, texts, plain):
    """Applies one step to texts; `plain` marks those that are ASCII without NUL."""
    kind, arguments = step[0], step[1:]
    if kind in UNICODE_FORMS:
        return _words.where(~plain, texts, lambda part: tf_text.normalize_utf8(part, kind))
    if kind == "StripAccents":
        return _words.where(~plain, texts, strip_accents)
    if kind == "Lowercase":
        return tf.where(plain, tf.strings.lower(texts), _words.where(~plain, texts, lowercase))
    if kind == "Strip":
        return tf.strings.regex_replace(texts, "|".join(_ends(*arguments)), "")
    if kind == "Replace":
        return tf.strings.regex_replace(texts, _words.escaped(arguments[0]), arguments[1].replace("\\", "\\\\"))
    if kind == "Prepend":
        return tf.where(tf.equal(texts, ""), texts, tf.strings.join([arguments[0], texts]))
    texts = tf.strings.regex_replace(texts, r"[\t\n\r]", " ")
    printable = tf.strings.regex_full_match(texts, "[ -~]*")
    rest = _words.where(~printable, texts, lambda part: bert(part, *arguments))
    return tf.where(printable, tf.strings.lower(texts), rest) if arguments[0] else rest


def _ends(left, right):
    return [f"^[{_words.WHITESPACE}]+"] * bool(left) + [f"[{_words.WHITESPACE}]+$"] * bool(right) or ["^$"]


def lowercase(texts):
    """Lowercases character by character, as Hugging Face does; ICU alone would apply the Greek final sigma rule."""
    texts = tf.strings.regex_replace(texts, "\u03a3", "\u03c3")
    has_nul = tf.strings.regex_full_match(texts, r"(?s).*\x{0}.*")
    texts = _words.where(has_nul, texts, lambda part: tf.strings.regex_replace(part, r"\x{0}", _NUL))
    texts = tf.strings.lower(texts, encoding="utf-8")
    return _words.where(has_nul, texts, lambda part: tf.strings.regex_replace(part, _NUL, b"\0"))


def strip_accents(texts):
    """Deletes the marks that `StripAccents` deletes."""
    return tf.strings.regex_replace(texts, f"[{_unicode.regex(_unicode.MARKS)}]", "")


def bert_characters(texts, lowercases, strips_accents):
    """Applies `BertNormalizer` without the spaces around Chinese characters."""
    replace = tf.strings.regex_replace
    texts = replace(texts, r"[\p{Z}\t\n\r]", " ")
    texts = replace(texts, f"[{_unicode.regex(_unicode.CONTROL)}]", "")
    if strips_accents:
        texts = tf_text.normalize_utf8(texts, "NFD")
        texts = replace(texts, f"[{_unicode.regex(_unicode.NONSPACING)}]", "")
    return lowercase(texts) if lowercases else texts


def bert(texts, lowercases, strips_accents):
    """Applies `BertNormalizer`."""
    texts = bert_characters(texts, lowercases, strips_accents)
    return tf.strings.regex_replace(texts, f"([{_unicode.regex(_unicode.IDEOGRAPHS)}])", r" \1 ")
