"""Decodes tag scores into tags, entities and their probabilities."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfxfer import _chain, _schemes

# Prefixes of tags that begin an entity, and of tags that continue one, in IOB2, IOBES and BILOU.
_BEGIN, GO_ON = "BSU", "IEL"


class EntityDecoder(keras.layers.Layer):
    """The most probable valid sequence of tags of each text, its entities and their probabilities.

    Args:
        tags: list of the tags, in the order of the scores.
        scheme: `"IOB2"`, `"IOBES"` or `"BILOU"`; `None` for tags without entities.
        crf: built `layers.CRF` whose weights are used, or `None` if tags are independent of each other.
        temperature: float. The divisor of the scores before they become probabilities.

    Call arguments:
        emissions: float tensor `(batch, words, tags)`.
        word_mask: int tensor `(batch, words)`.

    Returns:
        A dict: `tags`, int32 `(batch, words)`, the best sequence that the scheme allows, -1 where the mask is 0;
        `probabilities`, float32 `(batch, words, tags)`, of each tag at each word; and, with a scheme, `is_start`, bool
        `(batch, words)`, whether an entity begins at a word; `ends`, int32 `(batch, words)`, the last word of the
        entity that begins there; `log_probabilities`, float32 `(batch, words)`, the log-probability of exactly this
        entity.
    """

    def __init__(
        self,
        tags: Sequence[str],
        scheme: str | None,
        crf: Any = None,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self._tags, self._crf, self._temperature = list(tags), crf, float(temperature)
        self._scheme = scheme
        if scheme is not None:
            prefixes = [_schemes.split(tag)[0] for tag in tags]
            self._begins = np.array([prefix in _BEGIN for prefix in prefixes])
            self._goes_on = np.array([prefix in GO_ON for prefix in prefixes])
            self._allowed = _schemes.allowed(tags, scheme)

    def build(self, emissions_shape: Any, word_mask_shape: Any = None) -> None:
        self.built = True

    def call(self, emissions: Any, word_mask: Any) -> dict[str, Any]:
        mask = ops.cast(word_mask, "bool")
        chain = self._chain(emissions, mask)
        tags, _ = _chain.viterbi(chain)
        if self._crf is None:
            logs = ops.log_softmax(chain.emissions, axis=-1)
            found = {"tags": tags, "probabilities": ops.exp(logs) * ops.cast(mask, "float32")[..., None]}
        else:
            found = {"tags": tags, "probabilities": _chain.marginals(chain)}
        if self._scheme is None:
            return found
        is_start, ends, known = self._places(tags, mask)
        if self._crf is None:
            sums = ops.cumsum(
                ops.take_along_axis(logs, known[..., None], axis=-1)[..., 0] * ops.cast(mask, "float32"), 1
            )
            before = ops.pad(sums[:, :-1], [[0, 0], [1, 0]])
            log_probabilities = ops.take_along_axis(sums, ends, axis=1) - before
        else:
            log_probabilities = self._of_spans(chain, known, ends)
        return {**found, "is_start": is_start, "ends": ends, "log_probabilities": log_probabilities}

    def potentials(self) -> tuple[Any, Any, Any]:
        """Returns the scores that do not depend on the text, at temperature 1: `(transitions, start, end)`.

        Returns:
            Tensors `(tags, tags)` (from, to), `(tags,)`, `(tags,)`; -1e30 where the scheme forbids a transition.
        """
        if self._crf is not None:
            return self._crf.potentials()
        count = len(self._tags)
        flags = [np.ones((count, count), bool), np.ones(count, bool), np.ones(count, bool)]
        if self._scheme is not None:
            start, transitions, end = self._allowed
            flags = [transitions, start, end]
        found = [np.where(each, 0.0, _chain.LOWEST).astype("float32") for each in flags]
        return tuple(map(ops.convert_to_tensor, found))

    def _chain(self, emissions, mask):
        scores = (score / self._temperature for score in self.potentials())
        return _chain.chain(ops.cast(emissions, "float32") / self._temperature, mask, *scores)

    def _places(self, tags, mask):
        """Returns the starts of entities, the last word of each, and the tags with -1 replaced by 0."""
        known = ops.maximum(tags, 0)
        is_start = ops.logical_and(mask, ops.take(ops.convert_to_tensor(self._begins), known))
        goes_on = ops.logical_and(mask, ops.take(ops.convert_to_tensor(self._goes_on), known))
        inside = ops.logical_or(is_start, goes_on)
        # The next unmasked word: the unmasked position of the next rank.
        following = ops.take_along_axis(
            _padded(goes_on), _nth(mask, ops.cumsum(ops.cast(mask, "int32"), axis=1)), axis=1
        )
        is_end = ops.logical_and(inside, ops.logical_not(following))
        rank = ops.cumsum(ops.cast(is_end, "int32"), axis=1) - ops.cast(is_end, "int32")
        ends = ops.minimum(_nth(is_end, rank), ops.shape(tags)[1] - 1)
        return is_start, ends, known

    def _of_spans(self, chain, known, ends):
        batch, words = ops.shape(known)[0], ops.shape(known)[1]
        places = ops.broadcast_to(ops.expand_dims(ops.arange(words, dtype="int32"), 0), (batch, words))
        rows = ops.broadcast_to(ops.expand_dims(ops.arange(batch, dtype="int32"), 1), (batch, words))
        follow = ops.convert_to_tensor(~self._goes_on)[None, :]
        flat = [ops.reshape(each, (-1,)) for each in (rows, places, ops.maximum(ends, places))]
        found = _chain.segment_log_probabilities(chain, *flat, path=known, follow=follow)
        return ops.reshape(found, (batch, words))

    def compute_output_spec(self, emissions: Any, word_mask: Any) -> dict[str, Any]:
        shape = tuple(word_mask.shape)
        found = {
            "tags": keras.KerasTensor(shape, "int32"),
            "probabilities": keras.KerasTensor((*shape, len(self._tags)), "float32"),
        }
        if self._scheme is not None:
            found["is_start"] = keras.KerasTensor(shape, "bool")
            found["ends"] = keras.KerasTensor(shape, "int32")
            found["log_probabilities"] = keras.KerasTensor(shape, "float32")
        return found


def _padded(flags):
    """Appends False to each row of flags `(batch, words)`."""
    return ops.concatenate([flags, ops.zeros_like(flags[:, :1])], axis=1)


def _nth(flags, rank):
    """Returns the position of the `rank`-th true flag of each row, from 0; the row length if there are fewer."""
    count = ops.shape(flags)[1]
    places = ops.expand_dims(ops.arange(count, dtype="int32"), 0)
    order = ops.sort(ops.where(flags, places, count), axis=1)
    order = ops.concatenate([order, ops.full_like(order[:, :1], count)], axis=1)
    return ops.take_along_axis(order, ops.minimum(rank, count), axis=1)
