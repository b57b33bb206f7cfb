"""Texts with randomly deleted tokens to reconstruct: the noise of denoising autoencoders."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfxfer import _check, _random
from tfxfer.data._columns._text import TextColumn


class DeletedTextColumn(TextColumn):
    """Texts as token ids with some tokens deleted, and the whole text as the decoder's input and target.

    Each token is deleted with probability `rate`. Special tokens are never deleted, and at least one other token of a
    text is kept. The choice depends only on the seed, epoch and row of `data.batches`: each epoch deletes different
    tokens.

    Args:
        preprocessor: `preprocessing.TextPreprocessor`.
        rate: float in `[0, 1)`. The probability of deleting a token. With 0 nothing is deleted, and there are no
            targets. Defaults to 0.6.

    Values: a column of strings. Batch: int32 `token_ids`, `padding_mask` and, for families that have them,
    `segment_ids` `(batch, length)` of the remaining tokens; `decoder_ids` and `decoder_mask`
    `(batch, whole length - 1)`, the whole text without its last token. Targets: int32 `(batch, whole length - 1)`, the
    next token for each of these, and -1 at padding.

    Raises:
        ValueError: if `rate` is out of range.

    Example:

    ```python
    columns = {"text": tx.data.DeletedTextColumn(embedder.preprocessor, rate=0.6)}
    x, targets = next(iter(tx.data.batches(texts, columns, batch_size=8, seed=0)))
    ```

    Reference: Wang et al., 2021, TSDAE, https://arxiv.org/abs/2104.06979.
    """

    def __init__(self, preprocessor: Any, rate: float = 0.6) -> None:
        super().__init__(preprocessor, count=1)
        self.rate = _check.number("rate", rate, minimum=0.0, maximum=1.0)
        if rate == 1.0:
            raise _check.invalid("rate", "a number below 1: nothing would be left to read", rate)

    @property
    def draws(self) -> bool:
        """Whether tokens are deleted."""
        return self.rate > 0

    @property
    def trackables(self) -> Any:
        """The tokenizer's tables."""
        return self.preprocessor.tokenizer.trackables

    def batch(self, kept: Any, name: str, multiple: int = 1) -> Any:
        """Pads the ids, and makes the inputs and targets of the decoder."""
        packed = super().batch(kept, name, multiple)
        # Padding on the right, whichever side the preprocessor pads.
        ids, mask = (_compacted(packed[key], packed["padding_mask"] > 0) for key in ("token_ids", "padding_mask"))
        packed["decoder_ids"], packed["decoder_mask"] = ids[:, :-1], mask[:, 1:]
        packed["decoder_targets"] = tf.where(mask[:, 1:] > 0, ids[:, 1:], -1)
        if not self.draws:
            del packed["decoder_targets"]
        return packed

    def draw(self, tensors: Any, seeds: Any, multiple: int = 1) -> tuple[Any, Any]:
        """Deletes tokens of a batch; see the class."""
        tensors = dict(tensors)
        targets = tensors.pop("decoder_targets")
        tokenizer = self.preprocessor.tokenizer
        is_real = tensors["padding_mask"] > 0
        special = np.zeros(tokenizer.vocabulary_size(), bool)
        special[[*tokenizer.special_token_ids, *tokenizer.spec.special.values()]] = True
        can_go = is_real & ~tf.gather(tf.constant(special), tensors["token_ids"])
        # Counted from the first token, so that left padding changes nothing.
        places = tf.maximum(tf.cumsum(tensors["padding_mask"], axis=1) - 1, 0)
        drawn = _random.shares(seeds, places, 1)
        highest = tf.reduce_max(tf.where(can_go, drawn, -1.0), axis=1, keepdims=True)
        stays = is_real & (~can_go | (drawn >= self.rate) | (drawn == highest))
        for name in ("token_ids", "padding_mask", "segment_ids"):
            if name in tensors:
                tensors[name] = _compacted(tensors[name], stays, multiple)
        return tensors, targets


def _compacted(values, flags, multiple=1):
    """The values of each row with a flag set, left-aligned and padded with zeros: `(rows, longest)`."""
    found = tf.ragged.boolean_mask(values, flags).to_tensor(0)
    length = tf.shape(found)[1]
    # At least one position, for a batch without a token.
    missing = tf.maximum(-(-length // multiple) * multiple, 1) - length
    return tf.ensure_shape(tf.pad(found, [[0, 0], [0, missing]]), (None, None))
