"""Tables of candidate replacements for words, and their sources."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer._random import below
from tfxfer.preprocessing import split_words

_SPACE = re.compile(r"\s")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_PART = 4096  # texts, or words, at a time


def vocabulary(texts: Iterable[str], *, min_count: int = 1) -> list[str]:
    """Finds the words of texts, for which tables of candidates are built.

    Args:
        texts: sequence of strings.
        min_count: int. The minimum number of occurrences of a word. Defaults to 1.

    Returns:
        A list of lowercase words without digits, the most frequent first.

    Raises:
        ValueError: if a text is not a string; the error names its row.

    Example:

    >>> vocabulary(["My card, my money", "Card 7?"])
    ['my', 'card', 'money']
    """
    if isinstance(texts, (str, bytes)):
        raise _check.invalid("texts", "a list of strings", texts, "Wrap a single text in a list.")
    _check.integer("min_count", min_count)
    texts, counts = _check.strings("texts", list(texts)), {}
    for start in range(0, len(texts), _PART):
        for word in split_words(texts[start : start + _PART]).words.values.numpy():
            word = word.decode().lower()
            if _WORD.fullmatch(word):
                counts[word] = counts.get(word, 0) + 1
    found = sorted(counts, key=lambda word: -counts[word])
    return [word for word in found if counts[word] >= min_count]


@keras.saving.register_keras_serializable("tfxfer")
class Candidates:
    """A table of words and the candidates that can replace each.

    | source | candidates |
    |---|---|
    | a dict | your own words |
    | `from_embeddings(model, words)` | the nearest words by a model's vectors: same topic, not always same meaning |
    | `from_wordnet(words)` | synonyms; needs the extra `wordnet` and its data |
    | `ReplaceInContext.from_model` | words that fit their context, by a masked language model |

    Args:
        table: dict of word to a list of words, all without whitespace. Words are looked up in lower case.

    Attributes:
        table: dict of word in lower case to a tuple of candidates, without words that have none.

    Raises:
        ValueError: if the table is empty, or candidates are not words.

    Example:

    >>> Candidates({"Card": ["cards", "visa"], "my": []}).table
    {'card': ('cards', 'visa')}
    """

    def __init__(self, table: Mapping[str, Sequence[str]]) -> None:
        _check.instance("table", table, Mapping, "a dict of word to a list of words")
        made: dict[str, tuple[str, ...]] = {}
        for word, others in table.items():
            if isinstance(others, str) or not isinstance(others, Sequence):
                raise _check.invalid("table", "a list of words for each word", {word: others})
            for each in (word, *others):
                if not isinstance(each, str) or not each or _SPACE.search(each):
                    remedy = f"It is a candidate of {word!r}." if each is not word else None
                    raise _check.invalid("table", "words without whitespace", each, remedy)
            key = word.lower()
            known = (*made.get(key, ()), *(each for each in others if each.lower() != key))
            if known:
                made[key] = tuple(dict.fromkeys(known))
        if not made:
            raise _check.invalid("table", "candidates for at least one word", dict(table))
        self.table = made

    @classmethod
    def of(cls, value: Any) -> Self:
        """Returns `value` if it is `Candidates`, and converts a dict to `Candidates`."""
        if isinstance(value, Mapping):
            return cls(value)
        return _check.instance("candidates", value, cls, "`augmentation.Candidates`, or a dict of word to words")

    def __len__(self) -> int:
        return len(self.table)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidates) and self.table == other.table

    def __hash__(self) -> int:
        return hash(tuple(self.table.items()))

    def __repr__(self) -> str:
        return f"<Candidates for {len(self)} words>"

    # === Sources ===

    @classmethod
    def from_embeddings(
        cls,
        model: Any,
        words: Sequence[str],
        *,
        k: int = 5,
        min_similarity: float = 0.6,
        by: str | None = None,
        batch_size: int = 256,
    ) -> Self:
        """Creates candidates from the nearest words by a model's word vectors.

        Near words share a topic rather than a meaning ("cheap" and "expensive" are near). Inspect the table before you
        train with it, and raise `min_similarity` if it is too permissive.

        Args:
            model: a task model, whose tokenizer and token embedding are used; or anything with `encode(texts)`.
            words: list of strings, for example `vocabulary(texts)`.
            k: int. The maximum number of candidates per word. Defaults to 5.
            min_similarity: float. The minimum cosine of a candidate. Defaults to 0.6.
            by: optional string. `"tokens"`, the mean token embedding of a word's pieces; or `"encode"`, the embedding
                of the word as a text. Defaults to `"encode"` if the model has `encode`, otherwise to `"tokens"`.
            batch_size: int. The number of words encoded at a time. Defaults to 256.

        Returns:
            `Candidates`.

        Raises:
            ValueError: if there are fewer than two words, the model does not support `by`, or no two words are similar
                enough.

        Example:

        ```python
        words = tx.augmentation.vocabulary(train["text"], min_count=2)
        near = tx.augmentation.Candidates.from_embeddings(embedder, words)
        ```

        Reference: Wang and Yang, 2015, on neighbors of word vectors, https://aclanthology.org/D15-1306.
        """
        words = list(dict.fromkeys(word.lower() for word in _check.strings("words", list(words))))
        if len(words) < 2:
            raise _check.invalid("words", "at least two distinct words", words)
        _check.integer("k", k)
        _check.number("min_similarity", min_similarity, minimum=-1.0, maximum=1.0)
        by = ("encode" if hasattr(model, "encode") else "tokens") if by is None else by
        if _check.one_of("by", by, ("tokens", "encode")) == "encode":
            if not hasattr(model, "encode"):
                raise _check.invalid("model", "a model with `encode`", model, "Pass `by='tokens'`.")
            vectors = np.asarray(model.encode(words, batch_size=batch_size), "float32")
        else:
            vectors = _token_means(model, words)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(lengths, 1e-12)
        table = {}
        for start in range(0, len(words), _PART):
            cosines = vectors[start : start + _PART] @ vectors.T
            for row, values in enumerate(cosines, start):
                values[row] = -np.inf
                best = np.argsort(-values, kind="stable")[:k]
                table[words[row]] = [words[i] for i in best if values[i] >= min_similarity and lengths[i] > 0]
        if not any(table.values()):
            raise _check.invalid("min_similarity", "a cosine that some pair of words reaches", min_similarity)
        return cls(table)

    @classmethod
    def from_wordnet(cls, words: Sequence[str], *, language: str = "eng", k: int | None = None) -> Self:
        """Creates candidates from WordNet's synonyms, with `nltk`: the other words of all senses of a word.

        Needs the extra `wordnet` and its data, which are not downloaded automatically: `nltk.download("wordnet")`, and
        `nltk.download("omw-1.4")` for languages other than English. Synonyms of several words are skipped.

        Args:
            words: list of strings, for example `vocabulary(texts)`.
            language: string. The three-letter language code of Open Multilingual WordNet. Defaults to `"eng"`.
            k: optional int. The maximum number of candidates per word, from its most common senses. Defaults to all.

        Returns:
            `Candidates`.

        Raises:
            ImportError: if `nltk` is not installed.
            LookupError: if WordNet's data are not installed.
            ValueError: if WordNet has no synonym for any of the words.

        Example:

        ```python
        synonyms = tx.augmentation.Candidates.from_wordnet(tx.augmentation.vocabulary(train["text"]))
        model.fit(train["text"], train["label"], augment=tx.augmentation.EasyData(synonyms))
        ```

        Reference: Miller, 1995, https://doi.org/10.1145/219717.219748.
        """
        try:
            from nltk.corpus import wordnet
        except ImportError as error:
            raise ImportError("`from_wordnet` needs nltk: `pip install 'tfxfer[wordnet]'`.") from error
        _check.integer("k", k, optional=True)
        table = {}
        try:
            for word in dict.fromkeys(_check.strings("words", list(words))):
                lemmas = (
                    name for sense in wordnet.synsets(word, lang=language) for name in sense.lemma_names(language)
                )
                others = dict.fromkeys(name for name in lemmas if "_" not in name and name.lower() != word.lower())
                table[word] = list(others)[:k]
        except LookupError as error:
            raise LookupError(
                "WordNet's data are not installed: `python -m nltk.downloader wordnet omw-1.4`. They are not "
                "downloaded automatically."
            ) from error
        return cls(table)

    # === In a pipeline ===

    def find(self, words: Any) -> Any:
        """Returns the index of each of `words` in the table, int64 `(n,)`; -1 for words that are not in it."""
        return self._tensors[0].lookup(tf.strings.lower(words, encoding="utf-8"))

    def draw(self, numbers: Any, seeds: Any) -> Any:
        """Returns a random candidate for each word index in `numbers`, given `seeds`, string `(n,)`."""
        _, candidates, splits = self._tensors
        start = tf.gather(splits, numbers)
        return tf.gather(candidates, start + below(seeds, tf.gather(splits, numbers + 1) - start))

    @functools.cached_property
    def _tensors(self):
        with tf.init_scope(), tf.device("CPU:0"):
            return constants(self.table)

    def __getstate__(self):
        return {"table": self.table}  # tensors are recreated when needed

    # === Saving ===

    def get_config(self) -> dict[str, Any]:
        """Returns the table in a form for JSON."""
        return {"table": {word: list(others) for word, others in self.table.items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Creates candidates from `config`, the output of `get_config`."""
        return cls(**config)


def constants(table):
    """Returns a lookup table of keys to indices, all candidates, and the start of each key's candidates."""
    keys = tf.constant(list(table), tf.string)
    initializer = tf.lookup.KeyValueTensorInitializer(keys, tf.range(len(table), dtype=tf.int64))
    splits = np.cumsum([0, *map(len, table.values())]).astype("int64")
    flat = [word for others in table.values() for word in others]
    return tf.lookup.StaticHashTable(initializer, -1), tf.constant(flat, tf.string), tf.constant(splits)


def _token_means(model, words):
    """Returns the mean token embedding of each word's pieces, float32 `(words, dim)`."""
    tower = model.tower() if hasattr(model, "tower") else model
    embedding = getattr(getattr(tower, "backbone", None), "token_embedding", None)
    preprocessor = getattr(tower, "preprocessor", None)
    if embedding is None or preprocessor is None:
        expected = "a task model with a preprocessor and a token embedding, or one with `encode`"
        raise _check.invalid("model", expected, model)
    tokenizer = preprocessor.tokenizer
    ids = tokenizer(words)
    table = np.asarray(keras.ops.convert_to_numpy(embedding.embeddings), "float32")
    known = ids.values.numpy() != (-1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id)
    rows = ids.value_rowids().numpy()[known]
    sums, counts = np.zeros((len(words), table.shape[1]), "float32"), np.zeros((len(words), 1), "float32")
    np.add.at(sums, rows, table[ids.values.numpy()[known]])
    np.add.at(counts, rows, 1.0)
    return sums / np.maximum(counts, 1.0)
