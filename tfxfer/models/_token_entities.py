"""A tagger's predictions for tokens, merged into entities by the rules of transformers' token classification pipeline.

Reference: transformers 5.24.0, `TokenClassificationPipeline`.
"""

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.special

from tfxfer import preprocessing
from tfxfer.models import _entities

TokenEntity = collections.namedtuple("TokenEntity", ["label", "start", "end", "text", "score", "index"])
TokenEntity.__doc__ = """A result of `TokenTagger.extract_tokens`.

Attributes:
    label: string. The tag of a token, or the type of an entity of several.
    start: int. Where it begins in the text, in code points.
    end: int. Where it ends.
    text: string. `text[start:end]`.
    score: float from 0 to 1.
    index: int. The position of a single token in the row; `None` for several.
"""

# The tag to leave out of the results.
_OUTSIDE = "O"


def found(tagger: Any, texts: list, batch_size: int, *, aggregation: str) -> Iterator[list]:
    """Yields the list of `TokenEntity` of each text."""
    preprocessor, tags = tagger.preprocessor, tagger.tags
    tokens = preprocessing.token_offsets(preprocessor.tokenizer, texts)
    scores = _entities.runner(tagger).of_tokens(tokens.token_ids, batch_size).rows()
    columns = (tokens.token_ids.to_list(), tokens.starts.to_list(), tokens.ends.to_list())
    before = _special_tokens_before(preprocessor)
    is_continuing = _continuing(preprocessor.tokenizer)
    for text, row, ids, starts, ends in zip(texts, scores, *columns, strict=True):
        shares = scipy.special.softmax(row / np.float32(tagger.temperature), axis=-1)
        parts = [
            _Part(shares[i : i + 1], starts[i], ends[i], i + before, is_continuing(text, ids[i], starts[i]))
            for i in range(len(ids))
        ]
        yield [_answer(text, *each) for each in AGGREGATIONS[aggregation](parts, tags) if each[0] != _OUTSIDE]


def _answer(text, label, score, start, end, index):
    # The first or the last of several tokens may be whitespace.
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    end = start + len(part.strip())
    return TokenEntity(label, start, end, text[start:end], float(score), index)


# Probabilities `(tokens, tags)` of a token or a word, its position in the text, the position of the token in the row,
# and whether it continues the previous word.
_Part = collections.namedtuple("_Part", ["shares", "start", "end", "index", "continues"])
# The same with a tag: (tag, score, start, end, index).


def _special_tokens_before(preprocessor):
    return [item[0] for item in preprocessor.tokenizer.spec.single].index("A") if preprocessor.add_special_tokens else 0


def _continuing(tokenizer):
    """Returns a function of text, id and start that returns whether a token continues a word."""
    spec, unknown = tokenizer.spec, tokenizer.unk_token_id
    if spec.kind == "wordpiece" and spec.options["prefix"]:
        return lambda text, token, start: spec.tokens[token].startswith(spec.options["prefix"])
    # An unknown token always begins a word.
    return lambda text, token, start: token != unknown and start > 0 and " " not in text[start - 1 : start + 1]


def _each(parts, tags):
    """Tags each part with its most likely tag."""
    for part in parts:
        best = int(part.shares[0].argmax())
        yield tags[best], part.shares[0, best], part.start, part.end, part.index


def _words(parts, choose):
    """Merges tokens into words, with the result of `choose` for the probabilities of the tokens."""
    words: list = []
    for part in parts:
        if words and part.continues:
            words[-1].append(part)
        else:
            words.append([part])
    for word in words:
        shares = choose(np.concatenate([part.shares for part in word]))
        yield _Part(shares[np.newaxis], word[0].start, word[-1].end, None, False)


def _grouped(tagged):
    """Merges adjacent parts of one type, with the mean of their scores."""
    groups: list = []
    for each in tagged:
        prefix, kind = _split(each[0])
        if groups and prefix != "B" and kind == _split(groups[-1][-1][0])[1]:
            groups[-1].append(each)
        else:
            groups.append([each])
    for group in groups:
        # The type is the text after the first hyphen, even in a tag that neither begins nor continues an entity.
        label = group[0][0].partition("-")[2] or group[0][0]
        yield label, np.mean([each[1] for each in group]), group[0][2], group[-1][3], None


def _split(tag):
    """Prefix and type of a tag; a tag without a valid prefix is entirely its type."""
    prefix, hyphen, kind = tag.partition("-")
    return (prefix, kind) if hyphen and prefix in ("B", "I") else ("I", tag)


def _first(shares):
    return shares[0]


def _average(shares):
    return shares.mean(axis=0)


def _max(shares):
    return shares[shares.max(axis=1).argmax()]


def _by_word(choose):
    return lambda parts, tags: _grouped(_each(_words(parts, choose), tags))


# Functions from parts and tags to (label, score, start, end, index), by the name of the aggregation.
AGGREGATIONS: dict[str, Any] = {
    "none": _each,
    "simple": lambda parts, tags: _grouped(_each(parts, tags)),
    "first": _by_word(_first),
    "average": _by_word(_average),
    "max": _by_word(_max),
}
