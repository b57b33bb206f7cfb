"""WordPiece, as in BertNormalizer, BertPreTokenizer and WordPiece of Hugging Face's `tokenizers`."""

import functools

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
from tensorflow_text.core.pybinds import pywrap_fast_wordpiece_tokenizer_model_builder as builder

from tfxfer.preprocessing import _normalizers, _unicode, _words

# Private use: BertNormalizer deletes these characters from every text, so they can represent others.
FIRST_PLACEHOLDER = 0xE000
LAST_PLACEHOLDER = 0xF8FF


@functools.lru_cache(maxsize=8)
def _model(vocabulary, max_bytes_per_word, prefix, unknown):
    """Returns the automaton with which TF Text matches a vocabulary, as bytes.

    Building it takes 50 to 300 ms, and models with the same vocabulary share it.
    """
    return builder.build_fast_wordpiece_model(list(vocabulary), max_bytes_per_word, prefix, unknown, False, False)


class WordPiece:
    """The tokenization function of a WordPiece vocabulary; graph operations only.

    A word of plain ASCII needs at most lowercasing before TF Text's `FastBertTokenizer` finds its pieces. All other
    words are normalized step by step as in `BertNormalizer`, because the normalizer of `FastBertTokenizer` folds more
    (compatibility forms, full case folding).

    Args:
        spec: a `Spec` of the kind `"wordpiece"`.
    """

    def __init__(self, spec):
        self._lowercase = spec.options["lowercase"]
        self._strip_accents = spec.options["strip_accents"]
        self._word_length = spec.options["max_input_chars_per_word"]
        self._before = _normalizers.Normalizer(spec.options.get("normalizer", []))
        outside = spec.outside
        tokens = [f"[added {i}]" if token in outside else token for i, token in enumerate(spec.tokens)]
        vocabulary = self._rename(tokens)
        # The limit is in bytes, while Hugging Face counts characters: `_normalize` handles long words.
        model = _model(tuple(vocabulary), 4 * self._word_length, spec.options["prefix"], spec.tokens[spec.unk_id])
        self._tokenizer = tf_text.FastBertTokenizer(
            token_out_type=tf.int32, fast_wordpiece_model_buffer=tf.constant(np.frombuffer(model, "uint8"))
        )
        self.trackables = [self._tokenizer]

    def _rename(self, tokens):
        """Replaces each character of the vocabulary at which only TF Text splits by a private character."""
        used = set("".join(tokens))
        free = (chr(code) for code in range(FIRST_PLACEHOLDER, LAST_PLACEHOLDER) if chr(code) not in used)
        self._unknown = next(free)
        strange = sorted(_unicode.characters(_unicode.SPLIT_ONLY_BY_FAST_BERT) & used)
        self._renamed = {character: next(free) for character in strange}
        table = str.maketrans(self._renamed)
        return [token.translate(table) for token in tokens] if strange else list(tokens)

    def normalize(self, texts):
        """Returns normalized texts `(n,)`, valid UTF-8."""
        return _normalizers.bert(self._before(texts), self._lowercase, self._strip_accents)

    def __call__(self, texts, normalized=False):
        """Returns the ids, int32 `RaggedTensor` `(n, None)`, of texts `(n,)`."""
        if self._before.steps and not normalized:
            texts = self._before(_words.valid_utf8(texts))
        # BertNormalizer does not change text that it has already normalized.
        return _words.encode_by_word(texts, self._encode)

    def _encode(self, words):
        plain = tf.strings.regex_full_match(
            words, rf"(?:[!-~]{{0,{self._word_length}}}[\t\n\r])*[!-~]{{0,{self._word_length}}}"
        )
        if self._lowercase:
            words = tf.where(plain, tf.strings.lower(words), words)
        return self._tokenizer.tokenize(_words.where(~plain, words, self._normalize))

    def _normalize(self, words):
        replace = tf.strings.regex_replace
        words = _normalizers.bert_characters(_words.valid_utf8(words), self._lowercase, self._strip_accents)
        words = replace(words, f"([{_unicode.regex(_unicode.SPLIT_ONLY_BY_HUGGING_FACE)}])", r" \1 ")
        for character, placeholder in self._renamed.items():
            words = replace(words, character, placeholder)
        words = replace(words, f"[{_unicode.regex(_unicode.SPLIT_ONLY_BY_FAST_BERT)}]", self._unknown)
        too_long = tf.strings.length(words, unit="UTF8_CHAR") > self._word_length
        return _words.where(too_long, words, self._replace_long_words)

    def _replace_long_words(self, words):
        apart = _unicode.regex(_unicode.PUNCTUATION) + _unicode.regex(_unicode.IDEOGRAPHS)
        words = tf.strings.regex_replace(words, rf"[\p{{Z}}\t\n{apart}]", r" \0 ")
        return tf.strings.regex_replace(words, rf"[^\p{{Z}}]{{{self._word_length + 1},}}", self._unknown)
