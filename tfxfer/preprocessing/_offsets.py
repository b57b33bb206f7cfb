"""The characters that each token of a text covers."""

import itertools
import re
from typing import Any, NamedTuple

import tensorflow as tf

from tfxfer import _check
from tfxfer.preprocessing import _aligned, _merges, _normalizers, _tokenizer, _unicode, _words

META_SPACE = "\u2581"
_BYTE = re.compile("<0x([0-9A-F]{2})>")


class Offsets(NamedTuple):
    """The result of `token_offsets`.

    Attributes:
        token_ids: int32 `RaggedTensor` `(n, None)`. The tokenizer's ids.
        starts: int32 `RaggedTensor` `(n, None)`. The start of each token in its text, in code points as in Python.
        ends: int32 `RaggedTensor` `(n, None)`. The end of each token.
    """

    token_ids: Any
    starts: Any
    ends: Any


def token_offsets(tokenizer: Any, texts: Any) -> Offsets:
    """Tokenizes raw texts, and returns the characters that each token covers.

    A token covers the characters of the text that it was made from: for `"café"` that is the whole word, even if the
    vocabulary has `"cafe"` or the text writes its last letter as two code points. Surrounding whitespace is excluded,
    even if it is part of the token. A token of only whitespace covers nothing; its position is the end of the
    whitespace. Several pieces of one character (its bytes) all cover that character. A space that the model prepends to
    a text counts as part of the first character.

    This runs in Python, for inspecting tokens and comparing with other libraries; the ids are the tokenizer's.

    Args:
        tokenizer: `Tokenizer`.
        texts: list of strings.

    Returns:
        `Offsets(token_ids, starts, ends)`, each an int32 `RaggedTensor` `(n, None)`.

    Raises:
        ValueError: if texts are not strings, or a text's tokens cannot be found in it; the message names the row.

    Example:

    ```python
    found = preprocessing.token_offsets(tokenizer, ["naïve café"])
    [tokenizer.id_to_token(i) for i in found.token_ids[0].numpy()]  # ["naive", "cafe"]
    found.starts.to_list(), found.ends.to_list()  # [[0, 6]], [[5, 10]]
    ```
    """
    _check.instance("tokenizer", tokenizer, _tokenizer.Tokenizer, "a tfxfer.preprocessing.Tokenizer")
    strings = _tokenizer.as_strings(texts)
    ids = tokenizer.tokenize(strings)
    texts = [string.decode() for string in _words.valid_utf8(strings).numpy()]
    state = tokenizer._loaded
    state.finder = state.finder or _Finder(tokenizer)
    spans = state.finder.spans(texts, ids.to_list())
    flat = [_trimmed(texts[row], *span) for row, found in enumerate(spans) for span in found]
    starts, ends = (ids.with_values(tf.constant([span[i] for span in flat], tf.int32)) for i in (0, 1))
    return Offsets(ids, starts, ends)


def _trimmed(text, start, end):
    """Returns the start and end of a part of a text without the whitespace at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


class _Finder:
    """Finds the tokens of one tokenizer in texts."""

    def __init__(self, tokenizer):
        spec, engine = tokenizer.spec, tokenizer._loaded.engine
        self._run = getattr(engine, "step", _normalizers.step)
        self._steps = spec.options.get("normalizer", [])
        if spec.kind == "wordpiece":
            self._steps = [*self._steps, ["Bert", spec.options["lowercase"], spec.options["strip_accents"]]]
        self._match = MATCHERS[spec.kind](spec)
        active = [token for token in spec.added if tokenizer.special_tokens_in_strings or not token["special"]]
        self._raw = {token["id"]: token for token in active if not token["normalized"]}
        later = [token for token in active if token["normalized"]]
        contents = self._normalized([_aligned.Aligned.of(token["content"]) for token in later])
        self._later = {
            token["id"]: {**token, "content": found.text} for token, found in zip(later, contents, strict=True)
        }

    def spans(self, texts, ids):
        """Returns for each text a list of the start and end of each token, whitespace included."""
        aligned = [_aligned.Aligned.of(text) for text in texts]
        whole = self._normalized(aligned)
        found = []
        for row, (text, known) in enumerate(zip(aligned, ids, strict=True)):
            spans = None
            if not self._raw.keys().isdisjoint(known):
                spans = _around(text, known, self._raw, self._between)
            if spans is None:
                spans = self._within(whole[row], known)
            if spans is None:
                expected = "a text whose tokens can be found in it"
                raise _check.invalid("texts", expected, text.text, f"It is row {row} (counting from 0).")
            found.append(spans)
        return found

    def _normalized(self, texts):
        return _aligned.normalized(texts, self._steps, self._run)

    def _between(self, text, ids):
        """Finds tokens in a raw text; returns `None` if they are not in it."""
        return self._within(self._normalized([text])[0], ids)

    def _within(self, text, ids):
        """Finds tokens in a normalized text; returns `None` if they are not in it."""
        return _around(text, ids, self._later, self._match)


def _around(text, ids, added, match):
    """Finds added tokens in a text, and with `match` the tokens between them; returns `None` if they are not in it."""
    spans, begin = [], 0
    places = [i for i, token in enumerate(ids) if token in added]
    for before, place in itertools.pairwise([-1, *places, len(ids)]):
        if before >= 0 and added[ids[before]]["rstrip"]:
            begin += len(text.text[begin:]) - len(_stripped(text.text[begin:], _aligned.LEADING))
        between, found = ids[before + 1 : place], None
        if place == len(ids):
            found = match(text.cut(begin), between)
            return None if found is None else spans + found
        token = added[ids[place]]
        start = begin - 1
        while found is None:
            start = text.text.find(token["content"], start + 1)
            if start < 0:
                return None
            end = start
            if token["lstrip"]:
                end = begin + len(_stripped(text.text[begin:start], _aligned.TRAILING))
            found = match(text.cut(begin, end), between)
        begin = start + len(token["content"])
        spans += [*found, (text.starts[start], text.ends[begin - 1])]
    return spans


def _stripped(text, pattern):
    return re.sub(pattern, "", text)


# === One matcher for each kind of tokenizer: from a normalized text and ids to spans, or `None` ===


class _WordPiece:
    """Words of `BertPreTokenizer`; a word without pieces is one unknown token."""

    def __init__(self, spec):
        apart = "".join(
            f"\\U{first:08x}-\\U{last:08x}"
            for first, last in [*_unicode.ranges(_unicode.PUNCTUATION), *_unicode.ranges(_unicode.IDEOGRAPHS)]
        )
        self._words = re.compile(f"[{apart}]|[^{apart}{_aligned.SPACES}]+")
        self._unknown = spec.unk_id
        self._tokens, self._prefix = spec.tokens, spec.options["prefix"]

    def __call__(self, text, ids):
        spans = []
        for word in self._words.finditer(text.text):
            start, end = word.span()
            if len(spans) < len(ids) and ids[len(spans)] == self._unknown:
                spans.append((text.starts[start], text.ends[end - 1]))
                continue
            place = start
            while place < end:
                if len(spans) == len(ids):
                    return None
                token = self._tokens[ids[len(spans)]]
                piece = token.removeprefix(self._prefix) if place > start else token
                if not piece or not text.text.startswith(piece, place, end):
                    return None
                spans.append((text.starts[place], text.ends[place + len(piece) - 1]))
                place += len(piece)
        return spans if len(spans) == len(ids) else None


class _Unigram:
    """Consecutive pieces, each word with a space before it; adjacent characters in no piece are one unknown token."""

    def __init__(self, spec):
        self._split, self._unknown = spec.options["whitespace_split"], spec.unk_id
        self._tokens = spec.tokens
        special = {token["id"] for token in spec.added if token["special"] or not token["in_model"]}
        self._single = {token for i, token in enumerate(spec.tokens) if len(token) == 1 and i not in special}

    def __call__(self, text, ids):
        if self._split:
            words = re.finditer(f"[^{_aligned.SPACES}]+", text.text)
            text = text.joined(self._spaced(text.cut(*word.span())) for word in words)
        else:
            text = self._spaced(text.replaced(" ", META_SPACE))
        surfaces = [None if token == self._unknown else self._tokens[token] for token in ids]
        return _matched(text, surfaces, self._run)

    def _spaced(self, text):
        return text if text.text.startswith(META_SPACE) else text.prefixed(META_SPACE)

    def _run(self, text, place):
        end = place
        while end < len(text) and text[end] not in self._single:
            end += 1
        return range(end - place, 0, -1)


class _Bytes:
    """The consecutive bytes of the tokens; the ids leave out bytes that the vocabulary lacks."""

    def __init__(self, spec):
        outside = spec.outside
        self._surfaces = [
            "".join(chr(_merges.ALPHABET[character]) for character in token)
            if token not in outside and all(character in _merges.ALPHABET for character in token)
            else token.encode().decode("latin-1")
            for token in spec.tokens
        ]
        self._space = spec.options["add_prefix_space"]
        splits = spec.options.get("splits", [])
        known = set(self._surfaces) if all(behavior == "isolated" for behavior, _ in splits) else set()
        self._lost = lambda character: character not in known

    def __call__(self, text, ids):
        if self._space and not text.text.startswith(" "):
            text = text.prefixed(" ")
        return _matched(text.encoded(), [self._surfaces[token] for token in ids], lost=self._lost)


class _Characters:
    """The consecutive characters of the tokens, or the bytes of characters in no token."""

    def __init__(self, spec):
        options, outside = spec.options, spec.outside
        self._bert, self._fuses = options["words"] == "bert", options["fuse_unk"]
        self._unknown = options["unk_id"]
        self._surfaces = []
        for token in spec.tokens:
            byte = _BYTE.fullmatch(token) if options["byte_fallback"] and token not in outside else None
            text = token.removesuffix(options["suffix"]) if options["suffix"] else token
            self._surfaces.append(chr(int(byte[1], 16)) if byte else text.encode().decode("latin-1"))

    def __call__(self, text, ids):
        text = text.replaced(f"[{_aligned.SPACES}]+", "") if self._bert else text
        surfaces = [None if token == self._unknown else self._surfaces[token] for token in ids]
        return _matched(text.encoded(), surfaces, self._run, lost=lambda _: self._unknown is None)

    def _run(self, text, place):
        """Returns the lengths in bytes of one unknown character, or of several."""
        ends = [i for i in range(place + 1, len(text) + 1) if i == len(text) or not 0x80 <= ord(text[i]) < 0xC0]
        return [end - place for end in (ends if self._fuses else ends[:1])]


MATCHERS = {"wordpiece": _WordPiece, "unigram": _Unigram, "bpe": _Bytes, "character_bpe": _Characters}


def _matched(text, surfaces, unknown=None, lost=None):
    """Finds consecutive strings in a text.

    Args:
        text: `Aligned`.
        surfaces: list of the strings; `None` for an unknown one.
        unknown: function from a text and a position to the possible lengths of an unknown string, the likeliest first.
        lost: function of a character of the text that returns whether it may be in no string.

    Returns:
        A list of `(start, end)` in the original text; `None` if the strings do not make up the text.
    """
    characters, size = text.text, len(text.text)
    spans, place, choices = [], 0, []
    while True:
        while len(spans) < len(surfaces) or place < size:
            surface = surfaces[len(spans)] if len(spans) < len(surfaces) else ""
            if surface is None:
                lengths = list(unknown(characters, place))
                choices.append((len(spans), place, lengths))
                break
            if surface and characters.startswith(surface, place):
                spans.append((text.starts[place], text.ends[place + len(surface) - 1]))
                place += len(surface)
            elif place < size and lost is not None and lost(characters[place]):
                place += 1
            else:
                break
        else:
            return spans
        # The unknown string just found, or the last one that may have another length.
        while choices and not choices[-1][2]:
            choices.pop()
        if not choices:
            return None
        count, place, lengths = choices[-1]
        length = lengths.pop(0)
        del spans[count:]
        spans.append((text.starts[place], text.ends[place + length - 1]))
        place += length
