"""A conditional random field over the tags of a text."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tfxfer import _chain, _check


class ForbiddenStep(NamedTuple):
    """A transition in a sequence of tags that a `CRF` forbids.

    Args:
        row: int. The index of the sequence.
        position: int. The position of the tag; for a forbidden end, the position of the last tag.
        previous: int or `None`. The previous tag; `None` at the start.
        tag: int or `None`. The tag; `None` at the end.
    """

    row: int
    position: int
    previous: int | None
    tag: int | None


@keras.saving.register_keras_serializable("tfxfer")
class CRF(keras.layers.Layer):
    """A linear-chain conditional random field, which scores whole sequences of tags instead of single tags.

    A sequence `y` has the score `start[y_1] + sum of emissions[t, y_t] + sum of transitions[y_(t-1), y_t] + end[y_n]`;
    a softmax over all sequences turns scores into probabilities.

    As a layer of a model it returns its inputs, the emissions, so that its weights belong to the model;
    `losses.ChainCrossentropy` trains them, and `decode` turns the model's outputs into tags. Weights start at zero,
    which makes the model a softmax at each position.

    Masked positions are skipped, both at the end of a text and within it: the tag after them follows the tag before
    them. The layer computes in float32, or in float64 if the emissions are float64.

    Args:
        num_tags: int. The number of tags.
        allowed: optional tuple `(start, transitions)` or `(start, transitions, end)` of bools, as arrays or nested
            lists `(num_tags,)`, `(num_tags, num_tags)` (from, to) and `(num_tags,)`. False marks what is impossible, in
            training and in decoding. Defaults to `None`: everything is possible.
        **kwargs: passed to `keras.layers.Layer`. A `dtype` other than float64 becomes float32.

    Call arguments:
        emissions: float tensor `(batch, length, num_tags)`, the score of each tag at each position.
        mask: optional bool tensor `(batch, length)`. Ignored; Keras passes it on.

    Returns:
        The emissions, in float32 (float64 with that dtype).

    Raises:
        ValueError: if `num_tags` is below 1; if `allowed` has another form or leaves no sequence of some length; if the
            number of tags of the emissions differs.

    Example:

    >>> layer = CRF(2, allowed=([True, False], [[True, True], [False, True]]))  # 0 first, and no way back from 1
    >>> emissions = keras.ops.convert_to_tensor([[[0.0, 9.0], [0.0, 1.0], [2.0, 0.0]]])
    >>> tags, scores = layer.decode(emissions)
    >>> tags.numpy().tolist(), scores.numpy().tolist()
    ([[0, 0, 0]], [2.0])

    Reference: Lafferty, McCallum and Pereira, 2001, Conditional Random Fields,
    https://repository.upenn.edu/cis_papers/159.
    """

    def __init__(self, num_tags: int, allowed: Sequence | None = None, **kwargs: Any) -> None:
        policy = keras.dtype_policies.get(kwargs.get("dtype") or keras.config.dtype_policy())
        kwargs["dtype"] = "float64" if policy.compute_dtype == "float64" else "float32"
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_tags = _check.integer("num_tags", num_tags)
        self._allowed = _allowed(allowed, self.num_tags)

    @property
    def allowed(self) -> tuple | None:
        """The allowed steps as three bool arrays, `(start, transitions, end)`; `None` if everything is possible."""
        return self._allowed

    def build(self, input_shape: Any) -> None:
        self._check_shape(input_shape)
        sizes = {"transitions": (self.num_tags, self.num_tags), "start": (self.num_tags,), "end": (self.num_tags,)}
        weights = {name: self.add_weight(shape=shape, initializer="zeros", name=name) for name, shape in sizes.items()}
        self.transitions, self.start, self.end = weights.values()
        self.built = True

    def call(self, emissions: Any, mask: Any = None) -> Any:
        self._check_shape(emissions.shape)
        return ops.cast(emissions, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return tuple(input_shape)

    def potentials(self) -> tuple:
        """Returns the scores that do not depend on the text, a tuple `(transitions, start, end)`.

        Returns:
            Tensors `(num_tags, num_tags)` (from, to), `(num_tags,)`, `(num_tags,)`; -1e30 for impossible steps.
        """
        if not self.built:
            self.build((None, None, self.num_tags))
        scores = [ops.convert_to_tensor(weight) for weight in (self.transitions, self.start, self.end)]
        if self._allowed is None:
            return tuple(scores)
        start, transitions, end = self._allowed
        flags = (transitions, start, end)
        lowest = ops.cast(_chain.LOWEST, self.compute_dtype)
        return tuple(ops.where(flag, score, lowest) for flag, score in zip(flags, scores, strict=True))

    def log_likelihood(self, emissions: Any, tags: Any, mask: Any = None) -> Any:
        """Returns the log-probability of one sequence of tags per row.

        Args:
            emissions: float tensor `(batch, length, num_tags)`.
            tags: int tensor `(batch, length)`.
            mask: optional bool tensor `(batch, length)`, True at the positions that count.

        Returns:
            A tensor `(batch,)`, with first-order gradients only; 0 for a row without positions that count.
        """
        return _chain.log_likelihood(self._chain(emissions, mask), tags)

    def decode(self, emissions: Any, mask: Any = None) -> tuple:
        """Returns the most probable sequence of tags of each row (Viterbi).

        Args:
            emissions: float tensor `(batch, length, num_tags)`.
            mask: optional bool tensor `(batch, length)`, True at the positions that count.

        Returns:
            A tuple of an int32 tensor `(batch, length)`, -1 where the mask is False, and the scores `(batch,)`. Ties
            are resolved by the smallest first tag, then the smallest second tag, and so on.
        """
        return _chain.viterbi(self._chain(emissions, mask))

    def marginals(self, emissions: Any, mask: Any = None) -> Any:
        """Returns the probability of each tag at each position, over all sequences.

        Args:
            emissions: float tensor `(batch, length, num_tags)`.
            mask: optional bool tensor `(batch, length)`, True at the positions that count.

        Returns:
            A tensor `(batch, length, num_tags)`, without a gradient; 0 where the mask is False.
        """
        return _chain.marginals(self._chain(emissions, mask))

    def log_partition(self, emissions: Any, mask: Any = None) -> Any:
        """Returns the log of the sum of `exp(score)` over all sequences of each row.

        Args:
            emissions: float tensor `(batch, length, num_tags)`.
            mask: optional bool tensor `(batch, length)`, True at the positions that count.

        Returns:
            A tensor `(batch,)`, with first-order gradients only; 0 for a row without positions that count.
        """
        return _chain.log_partition(self._chain(emissions, mask))

    def segment_log_probabilities(
        self, emissions: Any, mask: Any, *, rows: Any, starts: Any, ends: Any, path: Any, follow: Any
    ) -> Any:
        """Returns the log-probability of parts of sequences, regardless of the tags outside them.

        Use it for the confidence of a span: the probability that its words have exactly these tags, and that the next
        tag does not continue the span.

        Args:
            emissions: float tensor `(batch, length, num_tags)`.
            mask: bool tensor `(batch, length)`, True at the positions that count, or `None`.
            rows: int tensor `(segments,)`, the row of each part.
            starts: int tensor `(segments,)`, its first position.
            ends: int tensor `(segments,)`, its last position. One of its positions must count.
            path: int tensor `(batch, length)`: the tags, for example from `decode`.
            follow: bool tensor `(segments, num_tags)`, the tags that may follow the part. It is ignored if the sequence
                ends with the part.

        Returns:
            A tensor `(segments,)`, without a gradient.
        """
        chain = self._chain(emissions, mask)
        return _chain.segment_log_probabilities(chain, rows, starts, ends, path=path, follow=follow)

    def forbidden_step(self, tags: Any) -> ForbiddenStep | None:
        """Finds the first impossible step in sequences of tags; such a step would make a loss about 1e30.

        Args:
            tags: int array `(rows, length)`, or a sequence of sequences of ints; negative values are ignored.

        Returns:
            A `ForbiddenStep`, or `None` if every sequence is possible.

        Raises:
            ValueError: if a tag is not an int, or not below `num_tags`.

        Example:

        >>> CRF(2, ([True, False], [[True, True], [False, True]])).forbidden_step([[0, 0], [0, 1, -1, 0]])
        ForbiddenStep(row=1, position=3, previous=1, tag=0)
        """
        for row, sequence in enumerate(tags):
            found = self._forbidden_step(row, np.asarray(sequence))
            if found is not None:
                return found
        return None

    def _forbidden_step(self, row, sequence):
        if sequence.size and (sequence.dtype.kind not in "iu" or sequence.ndim != 1 or sequence.max() >= self.num_tags):
            expected = f"sequences of ints below {self.num_tags}, the number of tags"
            raise _check.invalid("tags", expected, sequence.tolist(), f"It is row {row} (counting from 0).")
        positions = np.flatnonzero(sequence >= 0)
        if self._allowed is None or not positions.size:
            return None
        start, transitions, end = self._allowed
        found = sequence[positions]
        if not start[found[0]]:
            return ForbiddenStep(row, int(positions[0]), None, int(found[0]))
        wrong = np.flatnonzero(~transitions[found[:-1], found[1:]])
        if wrong.size:
            at = wrong[0]
            return ForbiddenStep(row, int(positions[at + 1]), int(found[at]), int(found[at + 1]))
        return None if end[found[-1]] else ForbiddenStep(row, int(positions[-1]), int(found[-1]), None)

    def _chain(self, emissions, mask):
        emissions = ops.convert_to_tensor(emissions)
        self._check_shape(emissions.shape)
        return _chain.chain(emissions, mask, *self.potentials())

    def _check_shape(self, shape):
        if len(shape) != 3 or shape[-1] != self.num_tags:
            expected = f"a tensor (batch, length, {self.num_tags}), one score for each tag"
            raise _check.invalid("emissions", expected, tuple(shape))

    def get_config(self) -> dict[str, Any]:
        allowed = self._allowed
        return {
            **super().get_config(),
            "num_tags": self.num_tags,
            "allowed": allowed if allowed is None else [flags.tolist() for flags in allowed],
        }


def _allowed(given, count):
    """Returns flags as three bool arrays; raises for another form, or if no sequence of some length is possible."""
    if given is None:
        return None
    remedy = "Pass `(start, transitions)` or `(start, transitions, end)`; True is possible, transitions are (from, to)."
    shapes = ((count,), (count, count), (count,))
    expected = f"a tuple of bools of the shapes {shapes[0]}, {shapes[1]} and, optionally, {shapes[2]}"
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
        raise _check.invalid("allowed", expected, given, remedy)
    try:
        flags = [np.array(part) for part in given]
    except ValueError as error:  # lists of different lengths
        raise _check.invalid("allowed", expected, given, remedy) from error
    flags += [np.ones(count, "bool")] * (3 - len(flags))
    if any(part.dtype != "bool" or part.shape != shape for part, shape in zip(flags, shapes, strict=True)):
        raise _check.invalid("allowed", expected, given, remedy)
    start, transitions, end = flags
    length, reached, known = 1, start, set()
    while reached.tobytes() not in known:
        known.add(reached.tobytes())
        if not (reached & end).any():
            problem = f"No sequence of {length} position{'s' if length > 1 else ''} is possible."
            raise _check.invalid("allowed", "a sequence of tags for each length", given, problem)
        length, reached = length + 1, transitions[reached].any(axis=0)
    return start, transitions, end
