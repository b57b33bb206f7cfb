"""Byte-level BPE, as in ByteLevel and BPE of Hugging Face's `tokenizers`."""

import tensorflow as tf

from tfxfer.preprocessing import _merges, _normalizers, _patterns, _splits, _words


def merging_model(pieces, byte_pieces=()):
    """Returns a tokenizer of TF Text that merges the characters of strings with SentencePiece's BPE.

    The ids are 0 for characters in no piece, then those of `pieces`, then those of `byte_pieces`.

    Args:
        pieces: list of `(string, score)`; of two possible merges, the piece with the higher score is made.
        byte_pieces: the names of the 256 pieces that represent the bytes of a character that is in no piece.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    kinds = model.SentencePiece
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = bool(byte_pieces)
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = False
    model.normalizer_spec.precompiled_charsmap = _words.EMPTY_MAP
    model.pieces.add(piece=_words.NO_PIECE, score=0.0, type=kinds.UNKNOWN)
    for piece, score in pieces:
        model.pieces.add(piece=piece, score=score, type=kinds.NORMAL)
    for piece in byte_pieces:
        model.pieces.add(piece=piece, score=0.0, type=kinds.BYTE)
    return _words.SentencePiece(model)


class BytePair:
    """The tokenization function of a byte-level BPE vocabulary; graph operations only.

    SentencePiece does the merging, on words with one character per byte (Latin-1), and with the rank of a token's merge
    as its score; `_merges.ranks` explains why the result is the same. KerasHub's tokenizer merges in a loop of
    TensorFlow operations, with a table that grows with each new word.

    Args:
        spec: a `Spec` of the kind `"bpe"`.
    """

    def __init__(self, spec):
        options = spec.options
        self._add_prefix_space = options["add_prefix_space"]
        self._normalizer = _normalizers.Normalizer(options.get("normalizer", []))
        self._splitter = _splits.Splitter(options.get("splits", [["isolated", _patterns.GPT2]]))
        # Bytes that the vocabulary lacks are in no piece and are dropped.
        pieces, self._ids = [], [-1]
        whole, outside = {}, spec.outside
        for i, (token, rank) in enumerate(zip(spec.tokens, options["ranks"], strict=False)):
            if token in outside or any(character not in _merges.ALPHABET for character in token):
                continue
            piece = bytes(_merges.ALPHABET[character] for character in token)
            if _words.SEPARATOR in piece:
                continue
            if rank is not None:
                pieces.append((piece.decode("latin-1"), -float(rank)))
                self._ids.append(i)
            if options.get("ignore_merges"):
                whole[piece] = i
        self._model = merging_model(pieces)
        candidates = [piece.encode("latin-1") for piece, _ in pieces]
        self._merge_or_find = _words.Shortcut(self._merge, candidates, whole)
        self.trackables = [self._model, self._merge_or_find.table]

    def normalize(self, texts):
        """Returns normalized texts `(n,)`, valid UTF-8."""
        return self._normalizer(texts)

    def __call__(self, texts, normalized=False):
        """Returns the ids, int32 `RaggedTensor` `(n, None)`, of texts `(n,)`."""
        ascii_only = tf.strings.regex_full_match(texts, r"[\x00-\x7f]*")
        texts = _words.where(~ascii_only, texts, _words.valid_utf8)
        if not normalized and not (self._normalizer.is_local and self._splitter.is_local):
            texts = self._normalizer(texts)
        if self._add_prefix_space:
            texts = tf.strings.regex_replace(texts, r"^([^ ])", r" \1")
        if not self._splitter.is_local:
            return _words.encode_by_word(texts, self._merge_or_find, self._splitter.finely)
        return _words.encode_by_word(texts, self._encode, self._splitter.split)

    def _encode(self, words):
        words = self._splitter.restore(words)
        if self._normalizer.is_local:
            words = self._normalizer(words)
        return _words.encode_by_word(words, self._merge_or_find, self._splitter.finely)

    def _merge(self, words):
        ids = self._model.tokenize(tf.strings.unicode_transcode(words, "ISO-8859-1", "UTF-8"))
        ids = ids.with_values(tf.gather(tf.constant(self._ids, tf.int32), ids.values))
        return _words.drop(ids, ids.values >= 0)
