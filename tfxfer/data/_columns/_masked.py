"""Texts with randomly masked tokens, for masked language modeling."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfxfer import _check, _random
from tfxfer.data._columns._text import TextColumn

# The purposes of the random numbers.
_CHOICE, _KIND, _TOKEN = 1, 2, 3


class MaskedTextColumn(TextColumn):
    """Texts as token ids, some of which are masked and become the targets.

    In each row a share of the tokens is chosen, at least one and never special tokens. Most of these become the mask
    token, some a random token, and the rest stay. The choice depends only on the seed, epoch and row of `data.batches`:
    each epoch masks different tokens, and a resumed run masks the same.

    Args:
        preprocessor: `preprocessing.TextPreprocessor` whose tokenizer has a mask token.
        rate: float in `[0, 1)`. The share of tokens to choose, rounded to a whole number. With 0 nothing is masked, and
            there are no targets. Defaults to 0.15.
        whole_words: bool. Whether to choose all tokens of a word together, word by word until the share is reached. A
            word is a token and the following tokens with WordPiece's prefix `##`; with other tokenizers, the text
            between two spaces. Defaults to `False`.
        mask_share: float in `[0, 1]`. The share of chosen tokens that become the mask token. Defaults to 0.8.
        random_share: float in `[0, 1]`. The share of chosen tokens that become a random token. Defaults to 0.1.

    Values: a column of strings. Batch: int32 `token_ids`, `padding_mask` and, for families that have them,
    `segment_ids` `(batch, length)`; `mask_positions` `(batch, predictions)`, the positions of the chosen tokens, or, if
    nothing is masked, of the mask tokens in the texts; -1 for rows with fewer. Targets: int32 `(batch, predictions)`,
    the original tokens, and -1.

    Raises:
        ValueError: if the tokenizer has no mask token, or a share is out of range.

    Example:

    ```python
    columns = {"text": tx.data.MaskedTextColumn(model.preprocessor, whole_words=True)}
    x, targets = next(iter(tx.data.batches(texts, columns, batch_size=8, seed=0)))
    ```

    Reference: Devlin et al., 2019, https://arxiv.org/abs/1810.04805, section 3.1 and appendix A.1.
    """

    def __init__(
        self,
        preprocessor: Any,
        rate: float = 0.15,
        *,
        whole_words: bool = False,
        mask_share: float = 0.8,
        random_share: float = 0.1,
    ) -> None:
        super().__init__(preprocessor, count=1)
        self.rate = _check.number("rate", rate, minimum=0.0, maximum=1.0)
        if rate == 1.0:
            raise _check.invalid("rate", "a number below 1: nothing would be left to read", rate)
        self.whole_words = _check.instance("whole_words", whole_words, bool, "a bool")
        self.mask_share = _check.number("mask_share", mask_share, minimum=0.0, maximum=1.0)
        self.random_share = _check.number("random_share", random_share, minimum=0.0, maximum=1.0)
        if self.mask_share + self.random_share > 1.0 + 1e-6:
            raise _check.invalid("random_share", f"at most {1 - self.mask_share:g} with `mask_share`", random_share)
        tokenizer = getattr(preprocessor, "tokenizer", None)
        if tokenizer is not None and tokenizer.has_vocabulary and tokenizer.mask_token_id is None:
            raise _check.invalid("preprocessor", "a tokenizer with a mask token", tokenizer)

    @property
    def draws(self) -> bool:
        """Whether tokens are masked."""
        return self.rate > 0

    @property
    def trackables(self) -> Any:
        """The tables of the tokenizer, which may differ from the model's."""
        return self.preprocessor.tokenizer.trackables

    def batch(self, kept: Any, name: str, multiple: int = 1) -> Any:
        """Pads the ids, and finds the mask tokens among them."""
        packed = super().batch(kept, name, multiple)
        is_mask = packed["token_ids"] == self.preprocessor.tokenizer.mask_token_id
        packed["mask_positions"] = _places(is_mask & (packed["padding_mask"] > 0), multiple)
        return packed

    def draw(self, tensors: Any, seeds: Any, multiple: int = 1) -> tuple[Any, Any]:
        """Masks tokens of a batch; see the class."""
        tokenizer = self.preprocessor.tokenizer
        ids = tensors["token_ids"]
        count = tokenizer.vocabulary_size()
        special = np.zeros(count, bool)
        special[[*tokenizer.special_token_ids, *tokenizer.spec.special.values()]] = True
        can_be = (tensors["padding_mask"] > 0) & ~tf.gather(tf.constant(special), ids)
        # Counted from the first token, so that left padding changes nothing.
        places = tf.maximum(tf.cumsum(tensors["padding_mask"], axis=1) - 1, 0)
        chosen = self._chosen(ids, can_be, places, seeds)
        kind = _random.shares(seeds, places, _KIND)
        usual = tf.constant(np.flatnonzero(~special), tf.int32)
        drawn = _random.integers(seeds, places, _TOKEN) % tf.size(usual, tf.int64)
        hidden = tf.where(kind < self.mask_share + self.random_share, tf.gather(usual, drawn), ids)
        hidden = tf.where(kind < self.mask_share, tf.constant(tokenizer.mask_token_id, tf.int32), hidden)
        positions = _places(chosen, multiple)
        targets = tf.gather(ids, tf.maximum(positions, 0), batch_dims=1)
        targets = tf.where(positions < 0, -1, targets)
        return {**tensors, "token_ids": tf.where(chosen, hidden, ids), "mask_positions": positions}, targets

    def _chosen(self, ids, can_be, places, seeds):
        """Which tokens are chosen, bool `(rows, length)`."""
        groups = places
        if self.whole_words:
            continues = tf.gather(tf.constant(_continuing(self.preprocessor.tokenizer)), ids)
            # A token that does not follow a token of a word starts one.
            before = tf.pad(can_be, [[0, 0], [1, 0]])[:, :-1]
            groups = tf.cumsum(tf.cast(can_be & ~(continues & before), tf.int32), axis=1)
        # The tokens of a group share one number; the groups with the smallest numbers are chosen.
        order = tf.where(can_be, _random.integers(seeds, groups, _CHOICE), tf.int64.max)
        counts = tf.reduce_sum(tf.cast(can_be, tf.int32), axis=1)
        budget = tf.maximum(tf.cast(tf.round(tf.cast(counts, tf.float32) * self.rate), tf.int32), 1)
        last = tf.gather(tf.sort(order, axis=1), budget - 1, batch_dims=1)
        return can_be & (order <= last[:, tf.newaxis])


def _continuing(tokenizer):
    """Which tokens of the vocabulary continue a word, bool `(tokens,)`."""
    spec = tokenizer.spec
    prefix = spec.options.get("prefix") if spec.kind == "wordpiece" else None
    if prefix:
        return np.array([token.startswith(prefix) for token in spec.tokens])
    return np.array([not token.startswith(("\u0120", "\u010a", "\u2581")) for token in spec.tokens])


def _places(flags, multiple):
    """The positions of the flags of each row, int32 `(rows, predictions)`, -1 for rows with fewer."""
    places = tf.broadcast_to(tf.range(tf.shape(flags)[1])[tf.newaxis], tf.shape(flags))
    found = tf.ragged.boolean_mask(places, flags).to_tensor(-1)
    count = tf.shape(found)[1]
    found = tf.pad(found, [[0, 0], [0, -count % multiple]], constant_values=-1)
    return tf.ensure_shape(found, (None, None))
