"""Linear-chain models: sums and maxima over all tag sequences, in `keras.ops`.

A sequence of tags `y` has the score `start[y_1] + sum of emissions[t, y_t] + sum of transitions[y_(t-1), y_t] +
end[y_n]`; its probability is the softmax of the score over all sequences (Lafferty, McCallum and Pereira, 2001,
https://repository.upenn.edu/cis_papers/159). A masked position is skipped: the chain leads from the position before it
to the one after it.

One scan runs over the positions from the last to the first and sums in log space. Taking `exp` of the scores and then
multiplying matrices would take half of the time, but in float32 loses everything more than 87 below the largest score.
Gradients do not run through that scan: XLA cannot compile the gradient of a loop on TensorFlow. The gradient of a sum
over all sequences consists of probabilities, which a second scan carries from the first position to the last.
"""

import types
from typing import Any, NamedTuple

import keras
from keras import ops

# Replaces minus infinity, whose differences and gradients would be NaN. Even the sum of a hundred million of them is
# finite in float32, and each absorbs any score added to it: `LOWEST + 1000 == LOWEST`.
LOWEST = -1e30
# The probability of a tag given the previous tag counts as zero below `exp` of this.
_LEAST_STEP = -700.0


class Chain(NamedTuple):
    """The scores of a batch of chains, made by `chain`.

    Args:
        emissions: float tensor `(batch, length, tags)`, 0 where the mask is false.
        mask: bool tensor `(batch, length)`.
        transitions: float tensor `(tags, tags)`, from row to column.
        start: float tensor `(tags,)`.
        end: float tensor `(tags,)`.
    """

    emissions: Any
    mask: Any
    transitions: Any
    start: Any
    end: Any


def chain(emissions: Any, mask: Any, transitions: Any, start: Any, end: Any) -> Chain:
    """Makes a `Chain`: at least float32, without infinite values, and with zeros at masked positions.

    Args:
        emissions: float tensor `(batch, length, tags)`. Float64 is kept; narrower dtypes become float32.
        mask: bool tensor `(batch, length)`, true at valid positions, which may have gaps between them. `None` if all
            positions are valid.
        transitions: float tensor `(tags, tags)`, from row to column. Minus infinity makes a step impossible.
        start: float tensor `(tags,)`, scores of the first tag.
        end: float tensor `(tags,)`, scores of the last tag.

    Returns:
        A `Chain`.
    """
    emissions = ops.convert_to_tensor(emissions)
    dtype = "float64" if keras.backend.standardize_dtype(emissions.dtype) == "float64" else "float32"
    emissions = ops.cast(emissions, dtype)
    mask = ops.ones_like(emissions[..., 0], dtype="bool") if mask is None else ops.cast(mask, "bool")
    emissions = ops.where(ops.expand_dims(mask, -1), _finite(emissions), ops.zeros_like(emissions))
    return Chain(emissions, mask, *(_finite(ops.cast(score, dtype)) for score in (transitions, start, end)))


def _finite(scores):
    return ops.maximum(scores, ops.cast(LOWEST, scores.dtype))


# === Sums over all sequences ===


def log_partition(chain: Chain) -> Any:
    """Returns the log of the sum of `exp(score)` over all sequences.

    Returns:
        A tensor `(batch,)`; 0 in a row without positions. First derivatives are exact; there are no second derivatives.
    """
    fixed, places = _fixed(chain), _places(chain.mask)
    raw, after = _sums(fixed)
    first = fixed.start + _at(after, places.first)
    shifts = ops.where(fixed.mask, ops.max(raw, axis=-1), ops.zeros_like(raw[..., 0]))
    value = ops.logsumexp(first, axis=-1) + ops.sum(shifts, axis=-1)
    value = ops.where(places.is_empty, ops.zeros_like(value), value)
    slopes = ops.expand_dims(_shares(first), 1) * _one_hot_first(fixed, places)
    return value + _with_gradient(chain, places, after, slopes)


def path_score(chain: Chain, tags: Any) -> Any:
    """Returns the score of one sequence per row.

    Args:
        chain: `Chain`.
        tags: int tensor `(batch, length)`; ignored where the mask is false.

    Returns:
        A tensor `(batch,)`; 0 in a row without positions.
    """
    places, count = _places(chain.mask), chain.start.shape[0]
    tags = ops.where(chain.mask, ops.cast(tags, "int32"), 0)
    hot = ops.one_hot(tags, count, dtype=chain.emissions.dtype)
    before = ops.where(places.is_first, 0, _at(tags, places.previous))
    steps = ops.take(ops.reshape(chain.transitions, (-1,)), before * count + tags)
    steps = ops.where(places.is_first, ops.take(chain.start, tags), steps) + ops.sum(hot * chain.emissions, axis=-1)
    score = ops.sum(ops.where(chain.mask, steps, ops.zeros_like(steps)), axis=-1)
    last = ops.take(chain.end, _at(tags, places.last))
    return score + ops.where(places.is_empty, ops.zeros_like(last), last)


def marginals(chain: Chain) -> Any:
    """Returns the probability of each tag at each position, over all sequences.

    Returns:
        A tensor `(batch, length, tags)` without a gradient; 0 where the mask is false.
    """
    fixed, places = _fixed(chain), _places(chain.mask)
    _, after = _sums(fixed)
    return _marginals(fixed, places, after)


def conditional_log_probabilities(chain: Chain, tags: Any) -> Any:
    """Returns the log-probability of each tag of a sequence, given the previous tag and all emissions.

    The sum over a row is the log-probability of the sequence.

    Args:
        chain: `Chain`.
        tags: int tensor `(batch, length)`; ignored where the mask is false.

    Returns:
        A tensor `(batch, length)` without a gradient (`focal_loss` has one); 0 where the mask is false.
    """
    fixed, places = _fixed(chain), _places(chain.mask)
    _, after = _sums(fixed)
    tags, logs = _conditionals(fixed, places, after, tags)
    return _of_tags(fixed, logs, tags)


def log_likelihood(chain: Chain, tags: Any) -> Any:
    """Returns the log-probability of one sequence per row, `(batch,)`; 0 in a row without positions.

    It is more exact than `path_score - log_partition`, a difference of two large numbers; values and gradients are
    otherwise the same.
    """
    return -focal_loss(chain, tags)


def focal_loss(chain: Chain, tags: Any, weights: Any = None, gamma: float = 0.0) -> Any:
    """Returns the sum over positions of `-w * (1 - p)^gamma * log(p)`, `p` the probability of a tag given the previous.

    Args:
        chain: `Chain`.
        tags: int tensor `(batch, length)`; ignored where the mask is false.
        weights: float tensor `(batch, length)`: `w`, treated as a constant. Defaults to 1.
        gamma: float >= 0. Defaults to 0.

    Returns:
        A tensor `(batch,)`. First derivatives are exact; there are no second derivatives.
    """
    fixed, places = _fixed(chain), _places(chain.mask)
    _, after = _sums(fixed)
    tags, logs = _conditionals(fixed, places, after, tags)
    log_p = _of_tags(fixed, logs, tags)
    weights = ops.ones_like(log_p) if weights is None else ops.stop_gradient(ops.cast(weights, log_p.dtype))
    weights = ops.where(fixed.mask, weights, ops.zeros_like(weights))
    losses, slopes = _focal(log_p, gamma)
    hot = ops.one_hot(tags, logs.shape[-1], dtype=logs.dtype)
    slopes = ops.expand_dims(weights * slopes, -1) * (hot - ops.exp(logs))
    gradient = _with_gradient(chain, places, after, slopes, tags)
    return ops.sum(weights * losses, axis=-1) + gradient


def _focal(log_p, gamma):
    """Returns `-(1 - p)^gamma * log(p)` and its derivative with respect to `log(p)`."""
    if not gamma:
        return -log_p, -ops.ones_like(log_p)
    p, wrong = ops.exp(log_p), -ops.expm1(log_p)
    is_sure = wrong <= 0
    # log(p) / (1 - p) tends to -1 as p tends to 1.
    ratio = ops.where(is_sure, -ops.ones_like(p), log_p / ops.where(is_sure, ops.ones_like(p), wrong))
    factor = ops.power(ops.maximum(wrong, 0.0), gamma)
    return -factor * log_p, factor * (gamma * p * ratio - 1.0)


# === The best sequence ===


def viterbi(chain: Chain) -> tuple:
    """Returns the sequence with the highest score; ties are broken by the smallest first tag, second tag, and so on.

    Returns:
        A tuple of an int32 tensor `(batch, length)`, -1 where the mask is false, and the scores `(batch,)`.
    """
    fixed, places = _fixed(chain), _places(chain.mask)
    _, after = _messages(fixed, lambda scores: ops.max(scores, axis=-1))

    def step(before, inputs):
        scores, is_first, keep = inputs
        steps = ops.where(ops.expand_dims(is_first, -1), fixed.start, ops.take(fixed.transitions, before, axis=0))
        tags = ops.cast(ops.argmax(steps + scores, axis=-1), "int32")
        tags = ops.where(keep, tags, before)
        return tags, tags

    inputs = (_swap(after), _swap(places.is_first), _swap(fixed.mask))
    nothing = ops.cast(ops.zeros_like(after[:, 0, 0]), "int32")
    tags = _swap(_scan(step, nothing, inputs)[1])
    return ops.where(fixed.mask, tags, -1), path_score(chain, tags)


# === Parts of a sequence ===


def segment_log_probabilities(chain: Chain, rows: Any, starts: Any, ends: Any, *, path: Any, follow: Any) -> Any:
    """Returns the log-probability that positions have exactly the tags of a path, and that the next tag is in a set.

    Args:
        chain: `Chain`.
        rows: int tensor `(segments,)`.
        starts: int tensor `(segments,)`, the first position of each segment.
        ends: int tensor `(segments,)`, its last position. At least one position must be valid; masked ones are skipped.
        path: int tensor `(batch, length)`, the tags; ignored where the mask is false.
        follow: bool tensor `(segments, tags)`. The tag of the next valid position has to be one of these, unless the
            sequence ends first.

    Returns:
        A tensor `(segments,)` without a gradient.
    """
    fixed, places = _fixed(chain), _places(chain.mask)
    _, after = _sums(fixed)
    tags, logs = _conditionals(fixed, places, after, path)
    steps = _of_tags(fixed, logs, tags)
    rows, starts, ends = (ops.cast(x, "int32") for x in (rows, starts, ends))
    # If a segment begins or ends with a masked position: the next or the last valid position.
    starts = _pick(places.this_or_next, rows, starts)
    ends = ops.where(_pick(fixed.mask, rows, ends), ends, _pick(places.previous, rows, ends))
    tag = _pick(tags, rows, starts)
    marginal = ops.take_along_axis(_pick(_marginals(fixed, places, after), rows, starts), tag[:, None], axis=-1)[:, 0]
    least = ops.cast(_LEAST_STEP, steps.dtype)
    # Differences of sums: a step of LOWEST would absorb all others in its row.
    sums = ops.cumsum(ops.maximum(steps, least), axis=1)
    impossible = ops.cumsum(ops.cast(steps < least, "int32"), axis=1)
    inner = _pick(sums, rows, ends) - _pick(sums, rows, starts)
    inner = ops.where(_pick(impossible, rows, ends) > _pick(impossible, rows, starts), LOWEST, inner)
    following = ops.take(fixed.transitions, _pick(tags, rows, ends), axis=0)
    following += _pick(after, rows, _pick(places.next, rows, ends))
    followed = ops.where(ops.cast(follow, "bool"), following, ops.full_like(following, LOWEST))
    outer = ops.logsumexp(followed, axis=-1) - ops.logsumexp(following, axis=-1)
    outer = ops.where(_pick(places.is_last, rows, ends), ops.zeros_like(outer), outer)
    return _log(marginal) + inner + outer


def _log(probability):
    """Returns the log; for probabilities that underflowed to 0, the log of the least normal number."""
    is_double = keras.backend.standardize_dtype(probability.dtype) == "float64"
    return ops.log(ops.maximum(probability, 2.3e-308 if is_double else 1.2e-38))


def _shares(scores):
    # Keras warns about a softmax over a single tag.
    return ops.softmax(scores, axis=-1) if scores.shape[-1] != 1 else ops.ones_like(scores)


# === The two scans ===


def _fixed(chain):
    return Chain(*(ops.stop_gradient(part) if part is not chain.mask else part for part in chain))


def _swap(x):
    """Swaps batch and length: a scan runs over the first axis."""
    return ops.swapaxes(x, 0, 1)


def _scan(step, start, inputs, reverse=False):
    """`ops.scan` over several inputs; for these, Keras 3.15 on TensorFlow needs a static length."""
    positions = ops.arange(ops.shape(inputs[0])[0], dtype="int32")

    def at(carried, position):
        return step(carried, [each[position] for each in inputs])

    return ops.scan(at, start, positions, reverse=reverse)


def _messages(chain, reduce):
    """Returns the scores of everything that follows each position, reduced over the tags there.

    Args:
        chain: `Chain`, without gradients.
        reduce: function of scores `(batch, tags, tags)`, which reduces their last axis.

    Returns:
        A tuple of two tensors `(batch, length, tags)`: the scores of everything after position `t` if `t` (or the valid
        position before it) has a tag; and the scores from position `t` on, including `t`, minus the maximum of the
        first at `t`.
    """

    def step(raw, inputs):
        emissions, keep = inputs
        # The maximum is subtracted at each position, so that rounding errors are those of single positions.
        scores = emissions + raw - ops.max(raw, axis=-1, keepdims=True)
        reduced = reduce(chain.transitions + ops.expand_dims(scores, 1))
        return ops.where(ops.expand_dims(keep, -1), reduced, raw), raw

    end = ops.broadcast_to(chain.end, ops.shape(chain.emissions[:, 0]))
    raw = _swap(_scan(step, end, (_swap(chain.emissions), _swap(chain.mask)), reverse=True)[1])
    return raw, chain.emissions + raw - ops.max(raw, axis=-1, keepdims=True)


def _sums(chain):
    return _messages(chain, lambda scores: ops.logsumexp(scores, axis=-1))


def _carry(chain, places, after, slopes):
    """Carries slopes from each position to the later ones: `u_t = u_(t-1) P_t + slopes_t`.

    `P_t` holds the probabilities of each tag at `t` given each previous tag.

    Returns:
        A tuple of `u` `(batch, length, tags)`, the last `u` `(batch, tags)`, `u` before each position (0 at the first
        position and at masked ones), and `P`; the last two have the length first.
    """
    # Length first, as scans require: a transposition would copy the largest tensor.
    scores = chain.transitions + ops.expand_dims(_swap(after), 2)
    steps = _shares(scores)

    def step(before, inputs):
        probabilities, slope, keep = inputs
        carried = ops.sum(ops.expand_dims(before, -1) * probabilities, axis=1) + slope
        carried = ops.where(ops.expand_dims(keep, -1), carried, before)
        return carried, carried

    nothing = ops.zeros_like(slopes[:, 0])
    last, carried = _scan(step, nothing, (steps, _swap(slopes), _swap(chain.mask)))
    before = ops.concatenate([nothing[None], carried[:-1]], axis=0)
    before = ops.where(_swap(chain.mask)[..., None], before, ops.zeros_like(before))
    return _swap(carried), last, before, steps


def _marginals(chain, places, after):
    first = _shares(chain.start + _at(after, places.first))
    slopes = ops.expand_dims(first, 1) * _one_hot_first(chain, places)
    carried = _carry(chain, places, after, slopes)[0]
    return ops.where(ops.expand_dims(chain.mask, -1), carried, ops.zeros_like(carried))


def _with_gradient(chain, places, after, slopes, tags=None):
    """Returns zeros `(batch,)` with the gradient of a function that has the given slopes.

    Args:
        chain: `Chain`, with gradients.
        places: `_places`.
        after: scores from each position on.
        slopes: float tensor `(batch, length, tags)`: derivatives with respect to the score of each tag at each
            position, given the previous tag in `tags`, without the contributions of the previous positions.
        tags: optional int tensor `(batch, length)`.
    """
    fixed = _fixed(chain)
    slopes = ops.where(ops.expand_dims(fixed.mask, -1), slopes, ops.zeros_like(slopes))
    carried, last, before, steps = _carry(fixed, places, after, slopes)
    count = slopes.shape[-1]
    # For each transition: what is carried over it, and the slope itself, which started from one tag.
    by_step = ops.sum(ops.expand_dims(before, -1) * steps, axis=0)
    if tags is not None:
        hot = ops.one_hot(ops.where(places.is_first, -1, _at(tags, places.previous)), count, dtype=slopes.dtype)
        by_step += ops.matmul(ops.swapaxes(hot, 1, 2), slopes)
    by_tag = ops.where(ops.expand_dims(fixed.mask, -1), carried, ops.zeros_like(carried))
    first = ops.sum(carried * _one_hot_first(fixed, places), axis=1)
    by_step, by_tag, first, last = (ops.stop_gradient(x) for x in (by_step, by_tag, first, last))
    linear = ops.sum(by_step * chain.transitions, axis=(1, 2)) + ops.sum(by_tag * chain.emissions, axis=(1, 2))
    linear += ops.sum(first * chain.start + last * chain.end, axis=-1)
    return linear - ops.stop_gradient(linear)


def _conditionals(chain, places, after, tags):
    """Returns tags (0 where the mask is false), and the log-probabilities of all tags, given the previous tag."""
    tags = ops.where(chain.mask, ops.cast(tags, "int32"), 0)
    steps = ops.take(chain.transitions, _at(tags, places.previous), axis=0)
    steps = ops.where(ops.expand_dims(places.is_first, -1), chain.start, steps)
    return tags, ops.log_softmax(steps + after, axis=-1)


def _of_tags(chain, logs, tags):
    picked = ops.take_along_axis(logs, ops.expand_dims(tags, -1), axis=-1)[..., 0]
    return ops.where(chain.mask, picked, ops.zeros_like(picked))


# === Positions ===


def _places(mask):
    """Returns the valid positions: a namespace of tensors `(batch, length)`, `first` to `is_empty` `(batch,)`.

    `previous` and `next` are the valid positions before and after each position, 0 if there is none.
    """
    length = ops.shape(mask)[1]
    positions = ops.arange(length, dtype="int32")
    counts = ops.cast(mask, "int32")
    # The valid positions, in order, then the others.
    order = ops.cast(ops.argsort(ops.where(mask, positions, positions + length), axis=1), "int32")
    through = ops.cumsum(counts, axis=1)
    total = through[:, -1:]
    before = through - counts

    def at(rank):
        known = ops.logical_and(rank >= 0, rank < total)
        return ops.where(known, ops.take_along_axis(order, ops.clip(rank, 0, length - 1), axis=1), 0)

    return types.SimpleNamespace(
        previous=at(before - 1),
        next=at(through),
        this_or_next=at(before),
        is_first=ops.logical_and(mask, before == 0),
        is_last=ops.logical_and(mask, through == total),
        first=at(ops.zeros_like(total))[:, 0],
        last=at(total - 1)[:, 0],
        is_empty=total[:, 0] == 0,
    )


def _one_hot_first(chain, places):
    return ops.expand_dims(ops.cast(places.is_first, chain.emissions.dtype), -1)


def _at(x, positions):
    """Picks positions: `(batch, length, ...)` at `(batch,)` or `(batch, length)`."""
    if len(positions.shape) == 1:
        return _at(x, positions[:, None])[:, 0]
    if len(x.shape) == 3:
        positions = ops.expand_dims(positions, -1)
    return ops.take_along_axis(x, positions, axis=1)


def _pick(x, rows, positions):
    """Picks positions of rows: `(batch, length, ...)` at `(segments,)` and `(segments,)`."""
    shape = ops.shape(x)
    flat = ops.reshape(x, (shape[0] * shape[1], *x.shape[2:]))
    return ops.take(flat, rows * shape[1] + positions, axis=0)
