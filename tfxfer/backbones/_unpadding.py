"""Unpadding: the real tokens of a batch in one matrix, regardless of the lengths of its rows.

Everything in a transformer except attention processes each token independently. With unpadding, its cost is that of the
real tokens, and a batch can mix short and long rows. Only attention uses padded rows: all of one length, or, in
training on batches of mixed lengths, in groups of similar length.
"""

import contextlib
import contextvars
import itertools
import math

import keras
from keras import ops

from tfxfer import _tensors
from tfxfer._gradients import custom_gradient
from tfxfer._lengths import are_mixed

# The number of values that TensorFlow sums at a time.
_GROUP = 16

# Where the groups of rows begin, as fractions of the batch, from the longest row to the shortest. Scores cost the
# square of a length, so the groups of long rows are small. More groups save little more, and each adds operations to
# the graph.
_GROUPS = (0, 1 / 8, 1 / 2)

# The largest number of times that a step draws numbers for one dropout layer of a block.
MOST_DRAWS = len(_GROUPS)

_PADDED = contextvars.ContextVar("padded", default=False)


def leaves_padding_out():
    """Returns whether the backend supports a number of tokens that is known only at run time."""
    return keras.config.backend() == "tensorflow" and not _PADDED.get()


@contextlib.contextmanager
def padded():
    """Computes every position in code traced in this context, for runtimes that infer all shapes from their inputs."""
    token = _PADDED.set(True)
    try:
        yield
    finally:
        _PADDED.reset(token)


def is_grouped(training):
    """Returns whether attention runs in groups of rows of similar length."""
    return training and are_mixed() and leaves_padding_out()


class TokenLayout(keras.layers.Layer):
    """Finds the real tokens of a batch.

    Call arguments:
        padding_mask: int tensor `(batch, length)`, 1 at real tokens.

    Returns:
        (tokens, slots): `tokens`, int32 `(real tokens,)`, is the index of each real token in the flattened batch.
        `slots`, int32 `(batch, length)`, is the number of the token at each position; at padding, that of some other
        token. Together with the padding mask, they are the `layout` that the functions and layers below take. The
        layout of the blocks also has the output of `LengthGroups`.

        If shapes must be known before the values (every backend except TensorFlow), every position counts as a token.
    """

    def call(self, padding_mask):
        """Finds the tokens; see the call arguments of the class."""
        size = ops.size(padding_mask)
        places = ops.arange(size, dtype="int32")
        if not leaves_padding_out():
            return places, ops.reshape(places, ops.shape(padding_mask))
        real = ops.reshape(_counted(padding_mask), (-1,))
        slots = ops.cumsum(ops.cast(real, "int32")) - 1
        tokens = ops.cast(ops.nonzero(real)[0], "int32")
        return tokens, ops.reshape(slots, ops.shape(padding_mask))

    def compute_output_spec(self, padding_mask):
        """Returns the symbolic output: any number of tokens, and slots of the mask's shape."""
        return keras.KerasTensor((None,), "int32"), keras.KerasTensor(padding_mask.shape, "int32")


def for_each(function, masks):
    """Returns the list of `function(mask)` for masks of the batch and its groups, computed once for the same mask."""
    made = {}
    for mask in masks:
        if id(mask) not in made:
            made[id(mask)] = function(mask)
    return [made[id(mask)] for mask in masks]


class LengthGroups(keras.layers.Layer):
    """Groups the rows of a batch by length, if `is_grouped`.

    Call arguments:
        padding_mask: int tensor `(batch, length)`.
        tokens, slots: the output of `TokenLayout`.

    Returns:
        (places, columns, lengths, slots, masks): `places`, int32 `(real tokens,)`, is the index of each real token in
        the groups' padded rows, one group after the other; `columns` is its index in its row, and `lengths` the length
        of its group's rows. `slots` and `masks` are lists of int tensors `(rows, length)`, one of each for each group:
        the number of the token at each position (at padding, of some other token), and the padding mask. A group is as
        long as its longest row, counted from a row's first real token to its last one. Without groups, the tensors are
        those of the whole batch.
    """

    def call(self, padding_mask, tokens, slots, training=None):
        """Groups the rows; see the call arguments of the class."""
        if not is_grouped(training):
            length = ops.ones_like(tokens) * ops.shape(padding_mask)[1]
            return tokens, tokens % length, length, [slots] * len(_GROUPS), [padding_mask] * len(_GROUPS)
        count, length = ops.shape(padding_mask)
        real = ops.cast(_counted(padding_mask), "int32")
        start = ops.cast(ops.argmax(real, axis=1), "int32")
        end = length - ops.cast(ops.argmax(ops.flip(real, axis=1), axis=1), "int32")
        extent = ops.where(ops.any(real > 0, axis=1), end - start, 1)
        order = ops.argsort(-extent)
        bounds = [ops.cast(ops.ceil(share * ops.cast(count, "float32")), "int32") for share in _GROUPS] + [count]
        below, first, sizes, found, masks = 0, [], [], [], []
        for i, j in itertools.pairwise(bounds):
            rows = order[i:j]
            # The longest row is the first one. No group is shorter than two positions, not even one without rows: Keras
            # warns about a softmax over one.
            size = ops.max(ops.concatenate([2 * ops.ones(1, "int32"), _tensors.rows(extent, rows[:1])]))
            at = ops.expand_dims(_tensors.rows(start, rows), 1) + ops.arange(size, dtype="int32")
            is_within = at < length
            at = ops.minimum(at, length - 1)
            found.append(ops.take_along_axis(_tensors.rows(slots, rows), at, axis=1))
            masks.append(
                ops.take_along_axis(_tensors.rows(padding_mask, rows), at, axis=1)
                * ops.cast(is_within, padding_mask.dtype)
            )
            first.append(below + size * ops.arange(j - i, dtype="int32"))
            sizes.append(ops.ones_like(rows) * size)
            below = below + size * (j - i)
        rows, back = tokens // length, ops.argsort(order)
        first, sizes = (_tensors.rows(_tensors.rows(ops.concatenate(x), back), rows) for x in (first, sizes))
        columns = tokens % length - _tensors.rows(start, rows)
        return first + columns, columns, sizes, found, masks

    def compute_output_spec(self, padding_mask, tokens, slots, training=None):
        """Returns the symbolic output: any number of tokens, and of rows and positions in each group."""

        def rows(like):
            return [keras.KerasTensor((None, None), like.dtype) for _ in _GROUPS]

        numbers = (keras.KerasTensor(tokens.shape, "int32") for _ in range(3))
        return *numbers, rows(slots), rows(padding_mask)


class Widen(keras.layers.Layer):
    """Pads the padding mask for attention to a multiple of 16, in inference on TensorFlow.

    Attention's softmax sums a row in groups of 16 numbers and a remainder. If lengths are multiples of 16, padding adds
    zeros at the end of the same sums: a row's results are bit-identical regardless of the other rows' lengths.
    """

    def call(self, padding_mask, training=None):
        """Pads `(batch, length)`; see the class."""
        if training or not leaves_padding_out():
            return padding_mask
        missing = -ops.shape(padding_mask)[1] % _GROUP
        rows = ops.zeros((ops.shape(padding_mask)[0], missing), padding_mask.dtype)
        return ops.concatenate([padding_mask, rows], axis=1)

    def compute_output_spec(self, padding_mask, training=None):
        """Returns the symbolic output: any length."""
        return keras.KerasTensor((padding_mask.shape[0], None), padding_mask.dtype)


class Unpad(keras.layers.Layer):
    """Extracts the real tokens from a padded int tensor: `(batch, length)` to `(real tokens,)`."""

    def call(self, inputs, layout):
        """Extracts the tokens from `inputs`; `layout` as in `TokenLayout`."""
        flat = ops.reshape(inputs, (-1,))
        return _tensors.rows(flat, layout[0]) if leaves_padding_out() else flat

    def compute_output_spec(self, inputs, layout):
        """Returns the symbolic output: any number of tokens."""
        return keras.KerasTensor((None,), inputs.dtype)


class Pad(keras.layers.Layer):
    """Puts token vectors back into rows: `(real tokens, dim)` to `(batch, length, dim)`."""

    def call(self, inputs, layout, training=None):
        """Places the vectors `inputs` at their positions; `layout` as in `TokenLayout`."""
        return pad(inputs, layout, training)

    def compute_output_spec(self, inputs, layout, training=None):
        """Returns the symbolic output: the batch's rows of vectors."""
        return keras.KerasTensor((*layout[1].shape, inputs.shape[-1]), inputs.dtype)


def unpad(x, layout):
    """Returns the real tokens of `(batch, length, ...)` as `(real tokens, dim)`; further axes become one."""
    flat = _flat(x)
    return _tensors.rows(flat, layout[0]) if leaves_padding_out() else flat


def _flat(x):
    return ops.reshape(x, (-1, math.prod(x.shape[2:])))


def pad(x, layout, training=None):
    """Returns `(real tokens, ...)` as `(batch, length, ...)`.

    The values at padding are finite and meaningless. No gradient may flow back from them: whatever reads the result
    must mask its padding.
    """
    tokens, slots, *_ = layout
    if not leaves_padding_out():
        return ops.reshape(x, (*ops.shape(slots), *x.shape[1:]))
    return _gathered(x, [slots], tokens)[0] if training else _tensors.rows(x, slots)


def _gathered(x, slots, places):
    """Returns the rows of `x` that each element of `slots` names, with a gradient from one position of each token.

    TensorFlow's own gradient of a gather is a sum over all positions, which takes twice as long.
    """

    @custom_gradient
    def rows(x):
        def gradient(*upstream):
            return _picked(upstream, x.shape[1:], places)

        return tuple(_tensors.rows(x, numbers) for numbers in slots), gradient

    return rows(x)


def _picked(tensors, axes, places):
    """Returns the vectors, of the shape `axes`, at `places`, which count through all tensors."""
    flat = [ops.reshape(each, (-1, *axes)) for each in tensors]
    return _tensors.rows(flat[0] if len(flat) == 1 else ops.concatenate(flat), places)


class HeadRows:
    """Vectors of attention heads, between the real tokens and padded rows of each head.

    The padded rows are a list of float tensors `(rows, heads, length, size)`: one tensor for each of the `LengthGroups`
    if rows are grouped, else one for the batch. Matrix products of a head then need no transposition, because a single
    gather pads and transposes.

    Args:
        layout: see `TokenLayout`; the mask in it is that of the padded rows.
        heads: int. Number of heads.
        training: bool. Whether gradients leave padding out.
    """

    def __init__(self, layout, heads, training=None):
        self.is_grouped = len(layout) > 3 and is_grouped(training)
        self._within, self._training = layout, training
        if not leaves_padding_out():
            return
        places, slots, masks, *groups = layout
        if self.is_grouped:
            places, columns, lengths, slots, masks = groups[0]
            lengths = ops.expand_dims(lengths, 1)
        else:
            lengths = ops.shape(slots)[1]
            columns, slots, masks = places % lengths, [slots], [masks]
        own = ops.arange(heads, dtype="int32")
        self._masks = masks
        self._slots = [ops.expand_dims(each * heads, 1) + ops.expand_dims(own, 1) for each in slots]
        self._places = ops.expand_dims(heads * places - (heads - 1) * columns, 1) + own * lengths

    def pad(self, x):
        """Returns `(real tokens, heads, size)` as padded rows.

        As with the function `pad`, no gradient may flow back from padding; in training it is ignored.
        """
        if not leaves_padding_out():
            return [ops.swapaxes(pad(x, self._within), 1, 2)]
        x = ops.reshape(x, (-1, x.shape[-1]))
        if self._training:
            return list(_gathered(x, self._slots, self._places))
        return [_tensors.rows(x, each) for each in self._slots]

    def unpad(self, rows):
        """Returns the real tokens of such rows as `(real tokens, heads * size)`."""
        if not leaves_padding_out():
            return unpad(ops.swapaxes(rows[0], 1, 2), self._within)
        _, heads, _, size = rows[0].shape
        tokens = self._tokens_in_training if self._training else self._tokens
        return ops.reshape(tokens(*rows), (-1, heads * size))

    def _tokens(self, *rows):
        return _picked(rows, rows[0].shape[-1:], self._places)

    def _tokens_in_training(self, *rows):
        """Returns `_tokens`, with a gradient that is a gather too: padding reads a row of zeros."""

        @custom_gradient
        def tokens(*rows):
            def gradient(upstream):
                size = upstream.shape[-1]
                upstream = ops.reshape(upstream, (-1, size))
                zeros = ops.shape(upstream)[0]
                upstream = ops.concatenate([upstream, ops.zeros((1, size), upstream.dtype)])
                found = []
                for mask, slots in zip(self._masks, self._slots, strict=True):
                    slots = ops.where(ops.expand_dims(mask, 1) > 0, slots, zeros)
                    found.append(_tensors.rows(upstream, slots))
                return tuple(found)

            return self._tokens(*rows), gradient

        return tokens(*rows)


def _counted(padding_mask):
    """Returns which positions count as tokens: the real ones, and the first one of the batch.

    So a batch of padding only also has a token.
    """
    places = ops.reshape(ops.arange(ops.size(padding_mask), dtype="int32"), ops.shape(padding_mask))
    return ops.logical_or(padding_mask > 0, places == 0)
