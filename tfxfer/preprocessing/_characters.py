"""BPE over characters: GPT-1's within words, and SentencePiece's as in Hugging Face's `tokenizers`."""

import tensorflow as tf

from tfxfer.preprocessing import _bpe, _normalizers, _unicode, _words

META_SPACE = "\u2581"
SEPARATOR = _words.SEPARATOR
# Represents the suffix of a word, such as "</w>". BertNormalizer deletes it from every text.
END = "\ue000"
# Above all merges: a suffix belongs to its character from the start.
_FIRST = 1.0


class CharacterPair:
    """The tokenization function of a BPE vocabulary of characters; graph operations only.

    SentencePiece does the merging, with the rank of a token's merge as its score: see `_merges.ranks`.

    Args:
        spec: a `Spec` of the kind `"character_bpe"`, with these options: `normalizer`, a list of steps; `words`,
            `"bert"` for the words of `BertPreTokenizer` or `"none"` for no splitting; `suffix`, the marker of the end
            of a word in the vocabulary; `byte_fallback`, whether a character that is in no token becomes tokens of its
            bytes; `fuse_unk`, whether several such characters become one unknown token; `unk_id`; `ranks`.
    """

    def __init__(self, spec):
        options = spec.options
        self._normalizer = _normalizers.Normalizer(options["normalizer"])
        self._bert, self._suffix = options["words"] == "bert", options["suffix"]
        self._ids = [-1 if options["unk_id"] is None else options["unk_id"]]
        tokens = dict(self._reachable(spec))
        pieces = self._pieces(tokens, options)
        self._ids += [i for _, _, i in pieces]
        self._model = _bpe.merging_model([piece[:2] for piece in pieces], self._byte_pieces(spec))
        self._boundary = _boundary(tokens)
        words = [token.removesuffix(self._suffix) if self._suffix else token for token in tokens]
        self._merge_or_find = _words.Shortcut(self._merge, list(dict.fromkeys(words)))
        self.trackables = [self._model, self._merge_or_find.table]

    @staticmethod
    def _reachable(spec):
        outside = spec.outside
        for i, (token, rank) in enumerate(zip(spec.tokens, spec.options["ranks"], strict=False)):
            if rank is not None and token not in outside and token:
                yield token, (rank, i)

    def _pieces(self, tokens, options):
        """Returns `(string, score, id)` for each token that merges can make, with `END` for the suffix."""
        if not self._suffix:
            return [(token, -float(rank), i) for token, (rank, i) in tokens.items()]
        pieces = []
        for token, (rank, i) in tokens.items():
            if token.endswith(self._suffix) and token != self._suffix:
                pieces.append((token.removesuffix(self._suffix) + END, -float(rank) if rank >= 0 else _FIRST, i))
            else:
                pieces.append((token, -float(rank), i))
        # A last character that no token ends with is unknown, even if it is known in the middle of a word.
        unknown = -1 if options["unk_id"] is None else options["unk_id"]
        for token in [token for token in tokens if len(token) == 1]:
            if token + self._suffix not in tokens:
                pieces.append((token + END, _FIRST, unknown))
        return [*pieces, (END, _FIRST, -1)]

    def _byte_pieces(self, spec):
        """Returns the names of the tokens for bytes, and adds their ids."""
        names = [f"<0x{byte:02X}>" for byte in range(256)]
        if spec.options["byte_fallback"]:
            index = {token: i for i, token in enumerate(spec.tokens)}
            self._ids += [index[name] for name in names]
            return names
        if spec.options["fuse_unk"]:
            return ()
        # SentencePiece merges several unknown characters into one token, but not their bytes: the first byte of each
        # character represents it, and the others are dropped.
        self._ids += [-1 if 0x80 <= byte < 0xC0 else self._ids[0] for byte in range(256)]
        return names

    def normalize(self, texts):
        """Returns normalized texts `(n,)`, valid UTF-8."""
        return self._normalizer(texts)

    def __call__(self, texts, normalized=False):
        """Returns the ids, int32 `RaggedTensor` `(n, None)`, of texts `(n,)`."""
        ascii_only = tf.strings.regex_full_match(texts, r"[\x00-\x7f]*")
        texts = _words.where(~ascii_only, texts, _words.valid_utf8)
        if not normalized:
            texts = self._normalizer(texts)
        split = _bert_words if self._bert else self._split
        return _words.encode_by_word(texts, self._merge_or_find, split)

    def _split(self, texts):
        """Splits texts at positions that no token spans."""
        return tf.strings.split(tf.strings.regex_replace(texts, *self._boundary), SEPARATOR)

    def _merge(self, words):
        if self._suffix:
            words = tf.where(tf.equal(words, ""), words, tf.strings.join([words, END]))
        ids = self._model.tokenize(words)
        ids = ids.with_values(tf.gather(tf.constant(self._ids, tf.int32), ids.values))
        return _words.drop(ids, ids.values >= 0)


def _boundary(tokens):
    """Returns the pattern and rewrite that mark the positions before a space that no token spans."""
    across = {token[i] for token in tokens for i in range(len(token) - 1) if token[i + 1] == META_SPACE}
    kept = "".join(map(_words.escaped, sorted(across | {META_SPACE})))
    return f"([^{kept}]){META_SPACE}", rb"\1" + SEPARATOR + META_SPACE.encode()


def _bert_words(texts):
    """Splits texts as `BertPreTokenizer` does; each split also leaves an empty word."""
    texts = tf.strings.regex_replace(texts, f"[{_unicode.regex(_unicode.PUNCTUATION)}]", SEPARATOR + rb"\0" + SEPARATOR)
    return tf.strings.split(tf.strings.regex_replace(texts, f"[{_words.WHITESPACE}]+", SEPARATOR), SEPARATOR)
