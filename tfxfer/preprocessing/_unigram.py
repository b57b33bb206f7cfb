"""SentencePiece Unigram, as Unigram and Metaspace of Hugging Face's `tokenizers` do it."""

import base64

import tensorflow as tf
import tensorflow_text as tf_text

from tfxfer.preprocessing import _normalizers, _words

WHITESPACE = _words.WHITESPACE
META_SPACE = "\u2581"
# White space that is no space, which alone Hugging Face's Metaspace splits at.
ODD_WHITESPACE = r"\t\n\x0b\f\r\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
# White space that SentencePiece's maps leave alone.
NEXT_LINE = "\u0085"


class Unigram:
    """The tokenising function of a Unigram model; graph operations only.

    The search for the best pieces, the map of characters and the white space are SentencePiece's; what Hugging Face's
    normalizer adds comes before. Each word is searched by itself, as Hugging Face does: scores of a whole text, summed
    in float32, could tip a choice between two close readings.

    Args:
        spec: a `Spec` of the kind `"unigram"`.
    """

    def __init__(self, spec):
        steps = spec.options["normalizer"]
        # SentencePiece carries out its map of characters; white space is dealt with below.
        self._normalizer = _normalizers.Normalizer(
            [step for step in steps if step[0] not in ("Precompiled", "Whitespace", "Strip")]
        )
        self._split = spec.options["whitespace_split"]
        strip = [step for step in steps if step[0] == "Strip"]
        # What becomes one space, where white space other than spaces is not split at.
        self._collapsed = rf"[{WHITESPACE}]{{2,}}|[\n\r\t]" if ["Whitespace", "unicode"] in steps else " {2,}"
        self._stripped = "|".join(
            [f"^[{WHITESPACE}]+"] * any(step[1] for step in strip)
            + [f"[{WHITESPACE}]+$"] * any(step[2] for step in strip)
        )
        self._model = tf_text.SentencepieceTokenizer(_model(spec), out_type=tf.int32)
        words = [token[1:] for token in spec.tokens if token.startswith(META_SPACE)]
        self._search_or_find = _words.Shortcut(self._model.tokenize, words)
        self.trackables = [self._model, self._search_or_find.table]

    def normalize(self, texts):
        """Returns what the normalizer makes of texts `(n,)`, valid UTF-8, SentencePiece's own map left out."""
        return self._normalizer(texts)

    def __call__(self, texts, normalized=False):
        """Returns the ids, int32 `RaggedTensor` `(n, None)`, of texts `(n,)`."""
        if not self._split:
            odd = tf.strings.regex_full_match(texts, f"(?s).*[{ODD_WHITESPACE}].*")
            texts = _words.where(odd, texts, self._clean_whitespace)
        return _words.encode_by_word(texts, self._encode_normalized if normalized else self._encode)

    def _clean_whitespace(self, texts):
        texts = tf.strings.regex_replace(_words.valid_utf8(texts), self._collapsed, " ")
        return tf.strings.regex_replace(texts, self._stripped, "")

    def _encode(self, words):
        plain = tf.strings.regex_full_match(words, r"[\x01-\x7f]*")
        words = _words.where(~plain, words, self._clean)
        return self._search_or_find(self._normalizer(words, plain))

    def _encode_normalized(self, words):
        plain = tf.strings.regex_full_match(words, r"[\x01-\x7f]*")
        return self._search_or_find(_words.where(~plain, words, self._clean))

    def _clean(self, words):
        # TensorFlow's Unicode operations end a string at NUL; a noncharacter is as unknown.
        words = tf.strings.regex_replace(_words.valid_utf8(words), r"\x{0}", "\uffff")
        return tf.strings.regex_replace(words, NEXT_LINE, " ") if self._split else words


def _model(spec):
    """Returns a serialised SentencePiece model whose ids are those of the `Spec`."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    kinds = model.SentencePiece
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    model.trainer_spec.unk_piece = spec.tokens[spec.unk_id]
    model.normalizer_spec.precompiled_charsmap = _words.EMPTY_MAP
    for step in spec.options["normalizer"]:
        if step[0] == "Precompiled":
            model.normalizer_spec.precompiled_charsmap = base64.b64decode(step[1])
    control = {token["id"] for token in spec.added} | set(spec.special.values())
    for i, (token, score) in enumerate(zip(spec.tokens, spec.options["scores"], strict=False)):
        kind = kinds.UNKNOWN if i == spec.unk_id else kinds.CONTROL if i in control else kinds.NORMAL
        model.pieces.add(piece=token, score=score, type=kind)
    return model.SerializeToString()
