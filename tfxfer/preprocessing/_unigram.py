"""SentencePiece Unigram, as in Unigram and Metaspace of Hugging Face's `tokenizers`."""

import base64

import tensorflow as tf

from tfxfer.preprocessing import _normalizers, _words

WHITESPACE = _words.WHITESPACE
META_SPACE = "\u2581"
# Marks a space that does not begin a word. It consists of control characters, so no text contains it.
LONE_SPACE = "\x01\x02\x01"
# What the step "Whitespace" turns into one space, by its second entry.
RUNS = {"unicode": rf"[{WHITESPACE}]{{2,}}|[\n\r\t]", "spaces": " {2,}", "unicode_runs": rf"[{WHITESPACE}]{{2,}}"}
# Whitespace that SentencePiece's maps do not change.
NEXT_LINE = "\u0085"


class Unigram:
    """The tokenization function of a Unigram model; graph operations only.

    SentencePiece handles the search for the best pieces, the character map and whitespace; the additional steps of
    Hugging Face's normalizer come first. Each word is searched separately, as in Hugging Face: scores of a whole text,
    summed in float32, could change the choice between two close splits.

    Args:
        spec: a `Spec` of the kind `"unigram"`.
    """

    def __init__(self, spec):
        self._steps = spec.options["normalizer"]
        self._split = spec.options["whitespace_split"]
        kinds = [step[0] for step in self._steps]
        self._maps = [_words.SentencePiece(_map(spec), tf.string)] if "Precompiled" in kinds else []
        # Word by word: SentencePiece applies its own character map; whitespace is handled in whole texts.
        self._normalizer = _normalizers.Normalizer(
            [step for step in self._steps if step[0] not in ("Precompiled", "Whitespace", "Strip")]
        )
        self._model = _words.SentencePiece(_model(spec))
        words = [token[1:] for token in spec.tokens if token.startswith(META_SPACE)]
        pieces = spec.tokens[: spec.options["pieces"]]
        lone = {LONE_SPACE: pieces.index(META_SPACE) if META_SPACE in pieces else spec.unk_id}
        self._search_or_find = _words.Shortcut(self._model.tokenize, words, lone)
        self.trackables = [self._model, self._search_or_find.table, *self._maps]

    def normalize(self, texts):
        """Returns normalized texts `(n,)`, valid UTF-8."""
        for step in self._steps:
            texts = self.step(step, texts)
        return texts

    def step(self, step, texts):
        """Applies one step of the normalizer to texts."""
        if step[0] == "Precompiled":
            return tf.strings.reduce_join(self._maps[0].tokenize(texts), axis=-1)
        if step[0] == "Whitespace":
            return tf.strings.regex_replace(texts, RUNS[step[1]], " ")
        return _normalizers.step(step, texts)

    def __call__(self, texts, normalized=False):
        """Returns the ids, int32 `RaggedTensor` `(n, None)`, of texts `(n,)`."""
        encode = self._find if normalized else self._encode
        if self._split:
            return _words.encode_by_word(texts, encode)
        if not normalized:
            texts = _words.where(self._needs_whole(texts), texts, lambda part: self.normalize(_words.valid_utf8(part)))
        return _words.encode_by_word(texts, encode, _split_at_each_space)

    def _needs_whole(self, texts):
        """Whether a text has to be normalized as a whole: unless it is words with single spaces between them."""
        odd = r"(?s) .*|.* |.*(?:  |[\x00-\x1f\x7f]).*" + (r"|.*[^\x00-\x7f].*" if self._maps else "")
        return tf.strings.regex_full_match(texts, odd) | tf.strings.regex_full_match(
            texts,
            r"(?s).*[\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\p{Zl}\p{Zp}\x{202f}\x{205f}\x{3000}].*",
        )

    def _encode(self, words):
        plain = tf.strings.regex_full_match(words, r"[\x01-\x7f]*")
        words = _words.where(~plain, words, self._clean)
        return self._search_or_find(self._normalizer(words, plain))

    def _find(self, words):
        plain = tf.strings.regex_full_match(words, r"[\x01-\x7f]*")
        return self._search_or_find(_words.where(~plain, words, self._clean))

    def _clean(self, words):
        # TensorFlow's Unicode operations end a string at NUL; a noncharacter is just as unknown.
        words = tf.strings.regex_replace(_words.valid_utf8(words), r"\x{0}", "\uffff")
        return tf.strings.regex_replace(words, NEXT_LINE, " ") if self._split else words


def _split_at_each_space(texts):
    """Splits texts before each space as Metaspace does: a space that does not begin a word is a separate word."""
    texts = tf.strings.regex_replace(texts, META_SPACE, " ")
    words = tf.strings.split(texts, " ")
    place = tf.ragged.range(words.row_lengths()).values
    return words.with_values(tf.where(tf.equal(words.values, "") & (place > 0), LONE_SPACE, words.values))


def _model(spec):
    """Returns a SentencePiece model whose ids are those of the `Spec`."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    kinds = model.SentencePiece
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    model.trainer_spec.unk_piece = spec.tokens[spec.unk_id]
    model.normalizer_spec.precompiled_charsmap = _charsmap(spec)
    # A special token in user input is not a piece of the text.
    control = {token["id"] for token in spec.added if token["special"] or not token["in_model"]}
    control |= set(spec.special.values())
    for i, (token, score) in enumerate(zip(spec.tokens, spec.options["scores"], strict=False)):
        kind = kinds.UNKNOWN if i == spec.unk_id else kinds.CONTROL if i in control else kinds.NORMAL
        model.pieces.add(piece=token, score=score, type=kind)
    return model


def _charsmap(spec):
    return next((base64.b64decode(s[1]) for s in spec.options["normalizer"] if s[0] == "Precompiled"), _words.EMPTY_MAP)


def _map(spec):
    """Returns a SentencePiece model whose pieces are the mapped characters of a text."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = model.trainer_spec.CHAR
    model.normalizer_spec.precompiled_charsmap = _charsmap(spec)
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = False
    model.pieces.add(piece=_words.NO_PIECE, score=0.0, type=model.SentencePiece.UNKNOWN)
    model.pieces.add(piece="a", score=0.0, type=model.SentencePiece.NORMAL)
    return model
