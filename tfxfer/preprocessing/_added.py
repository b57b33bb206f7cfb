"""Finds added tokens inside a text, as Hugging Face's `tokenizers` does."""

import tensorflow as tf

from tfxfer.preprocessing import _words

WHITESPACE, SEPARATOR = _words.WHITESPACE, _words.SEPARATOR
# Word characters in the library's regular expressions: letters, marks, digits, connectors, joiners.
WORD = (
    r"\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}"
    r"\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}"
)


def with_added_tokens(engine, added, special_too):
    """Makes a tokenization function that finds added tokens first and passes the text between them to an engine.

    Tokens that are not `normalized` are found in the raw text. The text between them is normalized, then the
    `normalized` tokens are found in it. If several tokens begin at the same position, the longest wins.

    Args:
        engine: object with `normalize(texts)`, which returns texts, and `__call__(texts, normalized)`, which returns
            ids, int32 `RaggedTensor` `(n, None)`.
        added: list of dicts made by `_spec.added_token`.
        special_too: bool. Whether to find special tokens too; otherwise they stay text.

    Returns:
        The function, from a string tensor `(n,)` to an int32 `RaggedTensor` `(n, None)`, and the list of tables that
        it needs.
    """
    raw, later = {}, {}
    added = sorted(added, key=lambda token: not token["special"])  # of two equal strings, the first wins
    normalized = iter(_normalized(engine, [token["content"] for token in added if token["normalized"]]))
    for token in added:
        if token["normalized"]:
            later.setdefault(next(normalized), token)
        else:
            raw.setdefault(token["content"], token)
    matchers = [_matcher(found, special_too) for found in (raw, later)]
    tables = [matcher.table for matcher in matchers if matcher is not None]

    def encode_raw(texts):
        if matchers[1] is None:
            return engine(texts)
        return matchers[1].encode(engine.normalize(texts), lambda parts: engine(parts, normalized=True))

    def tokenize(texts):
        if not tables:
            return encode_raw(texts)
        ascii_only = tf.strings.regex_full_match(texts, r"[\x00-\x7f]*")
        texts = _words.where(~ascii_only, texts, _words.valid_utf8)
        return encode_raw(texts) if matchers[0] is None else matchers[0].encode(texts, encode_raw)

    return tokenize, tables


def _normalized(engine, contents):
    """Returns the normalized contents of tokens."""
    if not contents:
        return []
    return [text.decode("utf-8") for text in engine.normalize(tf.constant(contents, tf.string)).numpy()]


def _matcher(tokens, special_too):
    """Returns a `_Matcher` of the tokens to find, or `None` if there are none."""
    tokens = {content: token for content, token in tokens.items() if content}
    active = {content for content, token in tokens.items() if special_too or not token["special"]}
    if not active:
        return None
    # A token that stays text hides other tokens that it overlaps.
    in_the_way = {content for content in tokens if content not in active and _overlaps(content, active)}
    return _Matcher({content: tokens[content] for content in tokens if content in active | in_the_way}, in_the_way)


def _overlaps(content, others):
    """Whether a match of `content` can overlap a match of another string."""
    inner = {content[i:j] for i in range(len(content)) for j in range(i + 1, len(content) + 1)}
    heads, tails = {content[:i] for i in range(1, len(content))}, {content[i:] for i in range(1, len(content))}
    return any(
        other in inner
        or content in other
        or any(other[-i:] in heads or other[:i] in tails for i in range(1, len(other)))
        for other in others
    )


class _Matcher:
    """Finds one set of tokens in texts.

    Args:
        tokens: dict from the string to find to an added token.
        ignored: set of the strings that stay text.
    """

    def __init__(self, tokens, ignored):
        self._pattern = trie_pattern(tokens)
        items = list(tokens.items())
        keys, values = tf.constant(list(tokens), tf.string), tf.range(len(items))
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), default_value=0)
        self._ids = [token["id"] for _, token in items]
        self._flags = {name: [token[name] for _, token in items] for name in ("lstrip", "rstrip", "single_word")}
        self._flags["ignored"] = [content in ignored for content, _ in items]

    def encode(self, texts, encode):
        """Returns the ids of texts; `encode` returns the ids of the text between the tokens."""
        parts, is_token, index = self._split(texts)
        if any(self._flags["single_word"]) or any(self._flags["ignored"]):
            parts, is_token, index = self._split_again(parts, is_token, index)
        content = self._strip(tf.where(is_token, "", parts.values), is_token, index)
        ids = tf.gather(tf.constant(self._ids, tf.int32), tf.boolean_mask(index, is_token))
        tokens = tf.RaggedTensor.from_row_lengths(ids, tf.cast(is_token, tf.int64), validate=False)
        ids = tf.concat([tokens, encode(content)], axis=1)
        return tf.RaggedTensor.from_row_splits(ids.values, tf.gather(ids.row_splits, parts.row_splits), validate=False)

    def _split(self, texts):
        """Returns alternating text and tokens, `(n, None)`, and for each part whether it is a token, and which one."""
        return self._parts(tf.strings.regex_replace(texts, self._pattern, SEPARATOR + rb"\0" + SEPARATOR))

    def _parts(self, marked):
        parts = tf.strings.split(marked, SEPARATOR)
        place = tf.ragged.range(parts.row_lengths()).values
        return parts, tf.equal(place % 2, 1), self.table.lookup(parts.values)

    def _split_again(self, parts, is_token, index):
        """Turns ignored tokens, and tokens that must be a word but are part of one, back into text."""
        discarded = self._flag("ignored", is_token, index)
        if any(self._flags["single_word"]):
            discarded |= self._flag("single_word", is_token, index) & ~_is_apart(parts)
        marked = tf.where(is_token & ~discarded, tf.strings.join([SEPARATOR, parts.values, SEPARATOR]), parts.values)
        marked = tf.strings.reduce_join(parts.with_values(marked), axis=-1)
        return self._parts(marked)

    def _strip(self, texts, is_token, index):
        """Removes the whitespace that an adjacent token includes."""
        # Each row begins and ends with a text, so rolling never carries a flag into another row.
        for flag, shift, pattern in (("rstrip", 1, f"^[{WHITESPACE}]+"), ("lstrip", -1, f"[{WHITESPACE}]+$")):
            if any(self._flags[flag]):
                neighbours = tf.roll(self._flag(flag, is_token, index), shift, 0)
                texts = _words.where(
                    neighbours, texts, lambda part, pattern=pattern: tf.strings.regex_replace(part, pattern, "")
                )
        return texts

    def _flag(self, name, is_token, index):
        return is_token & tf.gather(tf.constant(self._flags[name]), index)


def _is_apart(parts):
    """Whether neither the character before nor after each part is a word character."""
    values = parts.values
    place = tf.ragged.range(parts.row_lengths())
    first, last = place.values, tf.gather(parts.row_lengths(), place.value_rowids()) - 1 - place.values

    def neighbour(shift, distance):
        near, far = tf.roll(values, shift, 0), tf.roll(values, 2 * shift, 0)
        near = tf.where(distance >= 1, near, "")
        return tf.where(tf.equal(near, "") & (distance >= 2), far, near)

    before = tf.strings.regex_full_match(neighbour(1, first), f"(?s).*[{WORD}]")
    after = tf.strings.regex_full_match(neighbour(-1, last), f"(?s)[{WORD}].*")
    return ~before & ~after


def trie_pattern(strings):
    """Returns a regular expression that matches the longest of some strings that begins at a position.

    >>> trie_pattern(["ab", "abcd", "ax"])
    'a(?:b(?:cd)?|x)'
    """
    root: dict = {}
    for string in strings:
        node = root
        for character in string:
            node = node.setdefault(character, {})
        node[""] = {}
    return _branch(root)


def _branch(node):
    ends = "" in node
    options = []
    for character, child in node.items():
        if character:
            text = character
            while len(child) == 1 and "" not in child:
                ((more, child),) = child.items()
                text += more
            options.append(_words.escaped(text) + ("" if list(child) == [""] else _branch(child)))
    if not options:
        return ""
    pattern = "|".join(options)
    if ends:
        return f"(?:{pattern})?"
    return f"(?:{pattern})" if len(options) > 1 else pattern
