"""Integrated gradients along the path of token embeddings from a baseline to the text, batched over texts and steps.

The embeddings are the input of the first block (after positions, segments and norm), which every family has. The
baseline is the same row with another token at each position of the text; special tokens stay.
"""

import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from tfxfer import _check, _gradients
from tfxfer.backbones import _unpadding

BASELINES = ("pad", "mask", "unknown", "zero")
# Lengths are rounded up to a multiple of this if each shape is compiled separately.
_MULTIPLE = 8
# Smaller sums of attributions are noise; their error is meaningless.
_LEAST = 1e-3


def baseline_id(tokenizer, baseline):
    """Returns the id that the baseline has at each position of a text; `None` for zeros.

    Args:
        tokenizer: `preprocessing.Tokenizer`.
        baseline: one of `BASELINES`, or `None` for the first one that the tokenizer has.

    Raises:
        ValueError: if the tokenizer does not have the token.
    """
    ids = {"pad": tokenizer.pad_token_id, "mask": tokenizer.mask_token_id, "unknown": tokenizer.unk_token_id}
    if baseline is None:
        return next((found for found in ids.values() if found is not None), None)
    if baseline == "zero":
        return None
    if ids[baseline] is None:
        has = [name for name, found in ids.items() if found is not None]
        remedy = f"The tokenizer has {', '.join(map(repr, [*has, 'zero']))}."
        raise _check.invalid("baseline", "a token that the tokenizer has", baseline, remedy)
    return ids[baseline]


def parts(tower, output):
    """Splits a model in two: from ids to token embeddings, and from embeddings and padding mask to an output.

    Args:
        tower: task model with `boundary()`.
        output: Keras tensor above the boundary that depends on no other input of the task.
    """
    sequence, mask, _ = tower.boundary()
    sequence = list(sequence) if isinstance(sequence, (list, tuple)) else [sequence]
    below, blocks = tower.backbone.split(0, tower.read_layers())
    states = keras.Input(batch_shape=below.output.shape, dtype=below.output.dtype, name="token_embeddings")
    rows = keras.Input((None,), dtype="int32", name="padding_mask")
    read = blocks([states, rows])
    read = list(read) if isinstance(read, (list, tuple)) else [read]
    found = keras.Model([*sequence, mask], output, name="top")([*read, rows])
    return below, keras.Model([states, rows], found)


def attribute(below, above, number, x):
    """Returns the numbers of points on paths and the contribution of each position there.

    Args:
        below: model from ids to embeddings, from `parts`.
        above: model from embeddings and padding mask to an output.
        number: function of the output and `x` that returns the numbers `(n,)` to explain.
        x: dict of tensors: the model's ids, `baseline_ids` `(n, length)`, `kept` float `(n, length)`, 0 where the
            baseline is zero, and `share` float `(n,)`, the position on the path from the baseline (0) to the text (1).

    Returns:
        (numbers, products): float `(n,)`, and float32 `(n, length)`: gradient times (text - baseline), summed over the
        components of each position; 0 at padding.
    """
    ids, mask = {name: x[name] for name in below.input}, x["padding_mask"]
    states = below(ids, training=False)
    spread, gather = _between(states, mask)
    base = below({**ids, "token_ids": x["baseline_ids"]}, training=False)
    base = base * ops.cast(spread(x["kept"]), states.dtype)
    difference = states - base
    share = spread(ops.broadcast_to(ops.expand_dims(x["share"], 1), ops.shape(mask)))
    point = base + ops.cast(share, states.dtype) * difference
    numbers, gradient = _gradients.value_and_gradient(
        lambda point: number(above([point, mask], training=False), x), point
    )
    products = ops.sum(ops.cast(gradient, "float32") * ops.cast(difference, "float32"), axis=-1, keepdims=True)
    return numbers, gather(products)[..., 0] * ops.cast(mask, "float32")


def _between(states, mask):
    """Returns functions between values of positions `(n, length)` and values of states with a last dimension of 1."""
    if len(states.shape) == 3:
        return lambda values: ops.expand_dims(values, -1), lambda values: values
    layout = (*_unpadding.TokenLayout()(mask), mask)
    return lambda values: _unpadding.unpad(ops.expand_dims(values, -1), layout), lambda values: _unpadding.pad(
        values, layout
    )


def evaluate(below, above, number, x):
    """Returns the numbers `(n,)` of unchanged rows; `x` as in `attribute`, of which only the ids are read."""
    states = below({name: x[name] for name in below.input}, training=False)
    return number(above([states, x["padding_mask"]], training=False), x)


class Path:
    """Attributions of one number of a task, compiled once.

    Args:
        task: the task model, whose variables are used.
        tower: the model that reads the tokens, the task or a part of it.
        output: Keras tensor of `tower` that `number` reads.
        number: see `attribute`.
    """

    def __init__(self, task: Any, tower: Any, output: Any, number: Any) -> None:
        below, above = parts(tower, output)
        variables = list({id(each): each for each in [*task.variables, *tower.variables]}.values())
        self._attribute = _gradients.compiled(functools.partial(attribute, below, above, number), variables)
        self._evaluate = _gradients.compiled(functools.partial(evaluate, below, above, number), variables)
        self._apart = getattr(tower.backbone, "depends_on_padding", False)
        self._left = tower.preprocessor.padding_side == "left"

    def check_erasure(self) -> None:
        """Raises if the encoder reads tokens that the padding mask hides."""
        if self._apart:
            expected = "False for an encoder whose results depend on padding"
            raise _check.invalid("erasure", expected, True, "Its mask does not hide words.")

    def integrate(self, x: dict, steps: int, batch_size: int) -> tuple:
        """Integrates along the paths of rows by Gauss-Legendre quadrature.

        Args:
            x: dict of arrays of the rows, as in `attribute` but without `share`.
            steps: int. The number of points per path.
            batch_size: int. Points per batch.

        Returns:
            (scores, baselines, products): float64 `(n,)`, `(n,)` and `(n, length)`.
        """
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        count, width = x["token_ids"].shape
        shares = np.tile(np.concatenate([[1.0, 0.0], (nodes + 1) / 2]).astype("float32"), count)
        weights = np.tile(np.concatenate([[0.0, 0.0], weights / 2]), count)
        rows = np.repeat(np.arange(count), steps + 2)
        numbers, found = np.zeros(len(rows)), np.zeros((count, width))
        for batch, places, (values, products) in self._run(self._attribute, x, rows, batch_size, {"share": shares}):
            numbers[batch] = values
            inner = weights[batch] > 0  # at the ends there may be no gradient
            batch, products = batch[inner], np.asarray(products, "float64")[inner]
            np.add.at(found, (rows[batch][:, np.newaxis], places), weights[batch, np.newaxis] * products)
        numbers = numbers.reshape(count, steps + 2)
        return numbers[:, 0], numbers[:, 1], found

    def numbers(self, x: dict, batch_size: int) -> np.ndarray:
        """Returns the number of each row, float64 `(n,)`; `x` as in `integrate`."""
        found = np.zeros(len(x["token_ids"]))
        for batch, _, values in self._run(self._evaluate, x, np.arange(len(found)), batch_size, {}):
            found[batch] = values
        return found

    def _run(self, function, x, rows, batch_size, more):
        """Yields (points, positions, results of a function) for batches of points whose rows have similar lengths.

        `rows` is the row of each point; `more` holds what differs between points of a row. Data are copied for one
        batch at a time.
        """
        lengths, width = x["padding_mask"].sum(axis=1), x["padding_mask"].shape[1]
        if "length" in x:  # of rows whose mask hides words
            lengths, x = x["length"], {name: values for name, values in x.items() if name != "length"}
        lengths = lengths[rows]
        order = np.argsort(-lengths, kind="stable")
        compiles = keras.config.backend() == "jax"
        for batch in _batches(order, lengths, batch_size, self._apart):
            longest = max(int(lengths[batch].max(initial=0)), 1)
            longest = min(-(-longest // _MULTIPLE) * _MULTIPLE, width) if compiles else longest
            places = np.arange(width - longest, width) if self._left else np.arange(longest)
            # A different number of rows would be a new shape.
            points = np.resize(batch, batch_size) if compiles else batch
            given = {
                name: values[rows[points]][:, places] if name in _OF_PLACES else values[rows[points]]
                for name, values in x.items()
            }
            given |= {name: values[points] for name, values in more.items()}
            found = keras.tree.map_structure(lambda values, batch=batch: values[: len(batch)], function(given))
            yield batch, places, found


# Keys with a value for each position of a row.
_OF_PLACES = ("token_ids", "padding_mask", "segment_ids", "baseline_ids", "kept")


def _batches(order, lengths, size, apart):
    """Yields rows in batches of a size; with `apart`, each of one length, as padding would change the results."""
    start = 0
    for end in range(1, len(order) + 1):
        is_last = end == len(order)
        if is_last or end - start == size or (apart and lengths[order[end]] != lengths[order[start]]):
            yield order[start:end]
            start = end


def errors(scores, baselines, products):
    """Returns the errors of sums of attributions, float `(n,)`, and relative to the sums of absolute values."""
    off = np.abs(products.sum(axis=1) - (scores - baselines))
    return off, off / np.maximum(np.abs(products).sum(axis=1), _LEAST)
