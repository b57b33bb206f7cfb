"""Byte-level BPE, as ByteLevel and BPE of Hugging Face's `tokenizers` do it."""

import itertools

import tensorflow as tf
import tensorflow_text as tf_text

from tfxfer.preprocessing import _segments, _words

WHITESPACE = _segments.WHITESPACE
SEPARATOR = _segments.SEPARATOR
# Marks of a word that is complete; others have lost the space before them. No bytes of valid UTF-8 either. In a word
# with the second mark `SPACE` stands for the spaces.
COMPLETE, PROTECTED = b"\xfe", b"\xfd"
SPACE = "\x01"
# The last character of a run of white space begins the next word. RE2 has no look-ahead, hence the two steps.
LAST_SPACE = f"([{WHITESPACE}])([{WHITESPACE}][^{WHITESPACE}])"
WORDS = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+| ?[^{WHITESPACE}\p{{L}}\p{{N}}]+|[{WHITESPACE}]+"


def _alphabet():
    """Returns the dict from the characters that stand for bytes in a vocabulary to the bytes."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {**{chr(byte): byte for byte in visible}, **{chr(256 + i): byte for i, byte in enumerate(hidden)}}


ALPHABET = _alphabet()


def ranks(tokens, merges):
    """Returns for each token when it is made: the rank of its merge, -1 for a byte, `None` for what is never made.

    Hugging Face merges by pairs: a token comes out of two certain parts. SentencePiece merges by the result alone. A
    token that is made at all is made from its own bytes alone, by the same merges in the same order wherever it
    stands, for merges beyond its borders would have kept it from being made. So one rank for each token says the same
    as the pairs, once those tokens are left out that their own bytes do not lead to.

    Args:
        tokens: list of strings in the order of their ids.
        merges: list of pairs of strings, the first to be applied first.
    """
    pairs = {tuple(pair): rank for rank, pair in enumerate(merges)}
    products = {left + right for left, right in pairs}
    return [_rank(token, pairs, products) for token in tokens]


def _rank(token, pairs, products):
    if any(character not in ALPHABET for character in token):
        return None
    if len(token) == 1:
        return -1
    if token not in products:
        return None
    parts, last = list(token), -1
    while len(parts) > 1:
        found = [(pairs[pair], i) for i, pair in enumerate(itertools.pairwise(parts)) if pair in pairs]
        if not found:
            return None
        last, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return last


def _split(texts):
    """Cuts texts before single spaces; runs of white space, which are words of their own, stay whole."""
    ambiguous = tf.reduce_any(tf.strings.regex_full_match(texts, f"(?s).*{SPACE}.*"))
    return tf.cond(ambiguous, lambda: _split_by_pattern(texts, COMPLETE), lambda: _split_at_spaces(texts))


def _split_at_spaces(texts):
    has_runs = tf.where(tf.strings.regex_full_match(texts, f"(?s).*(?:[{WHITESPACE}] .*| )"))
    words = _split_by_pattern(tf.gather(texts, has_runs[:, 0]), PROTECTED)
    words = words.with_values(tf.strings.regex_replace(words.values, " ", SPACE))
    texts = tf.strings.join([COMPLETE, texts])
    texts = tf.tensor_scatter_nd_update(texts, has_runs, tf.strings.reduce_join(words, axis=-1, separator=" "))
    return tf.strings.split(texts, " ")


def _split_by_pattern(texts, mark):
    texts = tf.strings.regex_replace(texts, LAST_SPACE, rb"\1" + SEPARATOR + rb"\2")
    texts = tf.strings.regex_replace(texts, f" ?[^{WHITESPACE}]+|[{WHITESPACE}]+", mark + rb"\0" + SEPARATOR)
    return tf.strings.split(texts, SEPARATOR)


def _restore(words):
    """Gives words from `_split` their spaces back."""
    mark = tf.strings.substr(words, tf.zeros_like(words, tf.int32), tf.ones_like(words, tf.int32))
    complete, protected = tf.equal(mark, COMPLETE), tf.equal(mark, PROTECTED)
    bare = tf.strings.substr(words, tf.cast(complete | protected, tf.int32), tf.fill(tf.shape(words), 2**31 - 1))
    whole = tf.where(complete | tf.equal(words, ""), bare, tf.strings.join([" ", words]))
    return tf.where(protected, tf.strings.regex_replace(bare, SPACE, " "), whole)


def _split_finely(words):
    """Cuts what stands between spaces into words, numbers and signs; each cut also leaves an empty word."""
    words = tf.strings.regex_replace(words, LAST_SPACE, rb"\1" + SEPARATOR + rb"\2")
    return tf.strings.split(tf.strings.regex_replace(words, WORDS, rb"\0" + SEPARATOR), SEPARATOR)


class BytePair:
    """The tokenising function of a byte-level BPE vocabulary; graph operations only.

    The merging is SentencePiece's, on words whose bytes stand as one character each (Latin-1), with the rank of a
    token's merge for its score: see `ranks` for why that is the same. KerasHub's tokenizer does the merging in a loop
    of TensorFlow operations with a table that grows by each new word.

    Args:
        spec: a `Spec` of the kind `"bpe"`.
    """

    def __init__(self, spec):
        from sentencepiece import sentencepiece_model_pb2

        self._add_prefix_space = spec.options["add_prefix_space"]
        model = sentencepiece_model_pb2.ModelProto()
        model.trainer_spec.model_type = model.trainer_spec.BPE
        model.normalizer_spec.add_dummy_prefix = False
        model.normalizer_spec.remove_extra_whitespaces = False
        model.normalizer_spec.escape_whitespaces = False
        model.normalizer_spec.precompiled_charsmap = _words.EMPTY_MAP
        # What is in no piece gets id 0 and is left out: bytes that the vocabulary lacks.
        model.pieces.add(piece="\u2047", score=0.0, type=model.SentencePiece.UNKNOWN)
        ids = [-1]
        for i, (token, rank) in enumerate(zip(spec.tokens, spec.options["ranks"], strict=True)):
            if rank is not None:
                piece = bytes(ALPHABET[character] for character in token)
                if SEPARATOR not in piece:
                    model.pieces.add(piece=piece.decode("latin-1"), score=-float(rank), type=model.SentencePiece.NORMAL)
                    ids.append(i)
        self._ids = ids
        self._model = tf_text.SentencepieceTokenizer(model.SerializeToString(), out_type=tf.int32)
        pieces = [piece.piece.encode("latin-1") for piece in model.pieces[1:]]
        self._merge_or_find = _words.Shortcut(self._merge, pieces)
        self.trackables = [self._model, self._merge_or_find.table]

    def __call__(self, texts):
        """Returns the ids, int32 `RaggedTensor` `(n, None)`, of texts `(n,)`."""
        ascii_only = tf.strings.regex_full_match(texts, r"[\x00-\x7f]*")
        texts = _words.where(~ascii_only, texts, _words.valid_utf8)
        if self._add_prefix_space:
            texts = tf.strings.regex_replace(texts, r"^([^ ])", r" \1")
        return _words.encode_by_word(texts, self._encode, _split)

    def _encode(self, words):
        return _words.encode_by_word(_restore(words), self._merge_or_find, _split_finely)

    def _merge(self, words):
        ids = self._model.tokenize(tf.strings.unicode_transcode(words, "ISO-8859-1", "UTF-8"))
        known = ids.values > 0
        kept = tf.concat([[0], tf.cumsum(tf.cast(known, tf.int64))], axis=0)
        values = tf.gather(tf.constant(self._ids, tf.int32), tf.boolean_mask(ids.values, known))
        return tf.RaggedTensor.from_row_splits(values, tf.gather(kept, ids.row_splits), validate=False)
