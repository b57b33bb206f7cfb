"""Shared arithmetic of layers, losses and metrics: `keras.ops` only, gradients finite at zero."""

import math

import keras
from keras import ops

from tfxfer import _check
from tfxfer._gradients import remat

# Replaces minus infinity, which would make gradients NaN; within the range of float16.
LOWEST = -6e4


def unit_norm(x, axis=-1, epsilon=1e-12):
    """Scales vectors to Euclidean length 1: `x / ||x||`.

    `keras.ops.normalize` divides by zero in the gradient of a zero vector. Here, a vector of length `epsilon` or less
    becomes a zero vector with a zero gradient.

    Args:
        x: float tensor `(..., dim)`.
        axis: int. The axis of the components. Defaults to the last.
        epsilon: float. The length up to which a vector counts as zero. Defaults to 1e-12.

    Returns:
        A tensor of `x`'s shape and dtype.
    """
    squared = ops.sum(ops.square(x), axis=axis, keepdims=True)
    zero = squared <= epsilon * epsilon
    return ops.where(zero, ops.zeros_like(x), x) * reciprocal_sqrt(ops.where(zero, ops.ones_like(squared), squared))


def reciprocal_sqrt(x):
    """Returns `1 / sqrt(x)` of positive numbers, with bits that do not depend on a number's position.

    TensorFlow approximates `rsqrt` and `1 / x` in groups of eight numbers, and computes the remainder differently: the
    last rows of a batch would differ in their last bits. Roots and quotients round exactly. A number divided by a root
    does not help: TensorFlow would rewrite it to the approximated operation.
    """
    return ops.sqrt(x) / x


def sigmoid(x):
    """Returns the sigmoid of `(rows, ...)`, with bits that do not depend on the number of rows.

    TensorFlow approximates it in groups of eight numbers; see `reciprocal_sqrt`. Rows are padded to avoid a remainder.
    """
    if keras.config.backend() != "tensorflow" or isinstance(x, keras.KerasTensor):
        return ops.sigmoid(x)
    x = ops.convert_to_tensor(x)
    count, *shape = ops.shape(x)
    missing = 7 - (count + 7) % 8  # avoids the remainder of a negative number, which has its sign in ONNX
    return ops.sigmoid(ops.concatenate([x, ops.zeros((missing, *shape), x.dtype)]))[:count]


def gelu(x, approximate=False):
    """Returns the GELU, exact or with a hyperbolic tangent, with all digits of `x`'s dtype.

    TensorFlow rounds the constants to float32, whatever the dtype: in float64, its GELU is off by up to 5e-9.
    """
    if keras.backend.standardize_dtype(x.dtype) != "float64":
        return ops.gelu(x, approximate=approximate)
    if approximate:
        return x * (0.5 + 0.5 * ops.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * ops.square(x))))
    return x * (0.5 + 0.5 * ops.erf(x * math.sqrt(0.5)))


def safe_sqrt(x):
    """Returns the square root, with gradient 0 at 0, where that of `sqrt` is infinite; 0 for negative numbers."""
    positive = x > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, x, ops.ones_like(x))), ops.zeros_like(x))


# === Distances and similarities of rows: `(..., dim)`, `(..., dim)` -> `(...,)` ===


def cosine_similarity(x, y):
    """Returns the cosine of each row of `x` with the same row of `y`.

    Args:
        x: float tensor `(..., dim)`.
        y: float tensor `(..., dim)`.

    Returns:
        A tensor `(...,)` of values in `[-1, 1]`; 0 if one of the two is a zero vector.
    """
    return ops.sum(unit_norm(x) * unit_norm(y), axis=-1)


def dot_similarity(x, y):
    """Returns the dot product of each row of `x` with the same row of `y`."""
    return ops.sum(x * y, axis=-1)


def cosine_distance(x, y):
    """Returns `1 - cosine`, in `[0, 2]`; 1 if one of the two is a zero vector."""
    return 1.0 - cosine_similarity(x, y)


def squared_euclidean_distance(x, y):
    """`sum (x - y)^2`."""
    return ops.sum(ops.square(x - y), axis=-1)


def euclidean_distance(x, y):
    """Returns `||x - y||`, with gradient 0 where both are equal."""
    return safe_sqrt(squared_euclidean_distance(x, y))


def manhattan_distance(x, y):
    """`sum |x - y|`."""
    return ops.sum(ops.abs(x - y), axis=-1)


# === The same for all pairs of rows: `(n, dim)`, `(m, dim)` -> `(n, m)` ===


def pairwise_cosine_similarity(x, y):
    """Returns the cosine of every row of `x` with every row of `y`: `(n, dim)`, `(m, dim)` -> `(n, m)`."""
    return ops.matmul(unit_norm(x), ops.transpose(unit_norm(y)))


def pairwise_dot_similarity(x, y):
    """Returns the dot product of every row of `x` with every row of `y`."""
    return ops.matmul(x, ops.transpose(y))


def pairwise_squared_euclidean_distance(x, y):
    """Returns `||x_i||^2 + ||y_j||^2 - 2 x_i.y_j`, in memory `n * m`; differences would take `n * m * dim`.

    The mean of `x` is first subtracted from both, which changes no distance: the terms that cancel are then no larger
    than the spread of the vectors. The distances of `x` to itself (`y is x`) have zeros on the diagonal.
    """
    centre = ops.stop_gradient(ops.mean(x, axis=0, keepdims=True))
    itself = y is x
    x = x - centre
    y = x if itself else y - centre
    products = ops.matmul(x, ops.transpose(y))
    # From the same products, so equal rows cancel exactly.
    x_squared = ops.diagonal(products) if itself else ops.sum(ops.square(x), axis=-1)
    y_squared = x_squared if itself else ops.sum(ops.square(y), axis=-1)
    return ops.relu(ops.expand_dims(x_squared, 1) + ops.expand_dims(y_squared, 0) - 2.0 * products)


def pairwise_euclidean_distance(x, y):
    """Returns the root of `pairwise_squared_euclidean_distance`, with gradient 0 where rows are equal."""
    return safe_sqrt(pairwise_squared_euclidean_distance(x, y))


def pairwise_manhattan_distance(x, y):
    """Returns `sum |x_i - y_j|`, in memory `n * m * dim`."""
    return manhattan_distance(ops.expand_dims(x, 1), ops.expand_dims(y, 0))


def _minus(function):
    return lambda x, y: -function(x, y)


# A distance is smaller when closer, a similarity larger. Each name is in all four tables.
DISTANCES = {
    "cosine": cosine_distance,
    "euclidean": euclidean_distance,
    "squared_euclidean": squared_euclidean_distance,
    "manhattan": manhattan_distance,
    "dot": _minus(dot_similarity),
}
PAIRWISE_DISTANCES = {
    "cosine": lambda x, y: 1.0 - pairwise_cosine_similarity(x, y),
    "euclidean": pairwise_euclidean_distance,
    "squared_euclidean": pairwise_squared_euclidean_distance,
    "manhattan": pairwise_manhattan_distance,
    "dot": _minus(pairwise_dot_similarity),
}
SIMILARITIES = {
    **{name: _minus(distance) for name, distance in DISTANCES.items()},
    "cosine": cosine_similarity,
    "dot": dot_similarity,
}
PAIRWISE_SIMILARITIES = {
    **{name: _minus(distance) for name, distance in PAIRWISE_DISTANCES.items()},
    "cosine": pairwise_cosine_similarity,
    "dot": pairwise_dot_similarity,
}


# === Sparse vectors, token vectors ===


def flops(x):
    """Returns `sum over j of (mean over i of |x_ij|)^2`, a smooth estimate of the products of two random sparse rows.

    Args:
        x: float tensor `(rows, dim)`.

    Returns:
        A scalar.

    >>> float(flops(ops.convert_to_tensor([[1.0, 0.0], [3.0, 1.0]])))
    4.25
    """
    return ops.sum(ops.square(ops.mean(ops.abs(x), axis=0)))


def counting_tokens(x):
    """Returns which vectors of `x` `(batch, length, dim)` are not zero and so are tokens, int32 `(batch, length)`."""
    return ops.cast(ops.any(x != 0, axis=-1), "int32")


def maxsim(queries, documents, chunk_size=8):
    """Returns for each query and document the sum over query tokens of the maximum dot product with a document token.

    Padding is a vector of zeros: the maximum ignores it in documents, and it adds 0 in queries. A document without
    tokens scores 0.

    Args:
        queries: float tensor `(n, query length, dim)`.
        documents: float tensor `(m, document length, dim)`.
        chunk_size: int. Queries computed at a time: `chunk_size * query length * m * document length` products are held
            at once, also in the backward pass, which computes them again. Defaults to 8.

    Returns:
        A tensor `(n, m)`.
    """
    count, length = ops.shape(queries)[:2]
    rows, places, dim = ops.shape(documents)
    keep = ops.expand_dims(counting_tokens(documents) > 0, (0, 1))
    flat = ops.reshape(documents, (-1, dim))
    chunks = -(-count // chunk_size)
    filled = ops.pad(queries, ((0, chunks * chunk_size - count), (0, 0), (0, 0)))

    @remat
    def compute(some, flat):
        products = ops.reshape(ops.matmul(some, ops.transpose(flat)), (chunk_size, length, rows, places))
        return ops.sum(masked_max(products, keep), axis=1)

    def step(carried, some):
        return carried, compute(some, flat)

    start = ops.zeros((chunk_size, rows), queries.dtype)  # sets the structure of the result of TensorFlow's scan
    _, scores = ops.scan(step, start, ops.reshape(filled, (chunks, chunk_size, length, dim)))
    return ops.reshape(scores, (chunks * chunk_size, rows))[:count]


# === Masked reductions ===


def masked_sum(x, mask):
    """Returns the sum over the tokens that `mask` keeps.

    Args:
        x: float tensor `(batch, length, dim)`.
        mask: tensor `(batch, length)` in `x`'s dtype, 1 at valid tokens (or their weights).

    Returns:
        A tensor `(batch, dim)`.
    """
    return ops.squeeze(ops.matmul(ops.expand_dims(mask, 1), x), axis=1)


def masked_max(x, keep, axis=-1):
    """Returns the maximum of the entries that `keep` selects, along one axis; 0 where it selects none."""
    # Below every entry, so that no entry ties with a masked one: a tie shares the gradient.
    below = ops.stop_gradient(ops.min(x, axis=axis, keepdims=True)) - 1.0
    greatest = ops.max(ops.where(keep, x, below), axis=axis)
    return ops.where(ops.any(keep, axis=axis), greatest, ops.zeros_like(greatest))


def masked_min(x, keep, axis=-1):
    """Returns the minimum of the entries that `keep` selects, along one axis; 0 where it selects none."""
    return -masked_max(-x, keep, axis=axis)


def masked_mean(x, keep, axis=None):
    """Returns the mean of the entries that `keep` selects; 0 where it selects none."""
    count = ops.sum(ops.cast(keep, x.dtype), axis=axis)
    return ops.sum(ops.where(keep, x, ops.zeros_like(x)), axis=axis) / ops.maximum(count, ops.ones_like(count))


def masked_logsumexp(x, keep, axis=-1):
    """Returns `log(sum exp(x))` over the entries that `keep` selects, along one axis; 0 where it selects none.

    Args:
        x: float tensor.
        keep: bool tensor of the same shape.
        axis: int.

    Returns:
        A tensor of `x`'s shape without `axis`; gradients are finite, and 0 for entries that are not selected.
    """
    highest = ops.stop_gradient(masked_max(x, keep, axis=axis))
    # Masked before `exp`: an entry that is not selected may be too large for it.
    shifted = ops.where(keep, x - ops.expand_dims(highest, axis), ops.zeros_like(x))
    total = ops.sum(ops.where(keep, ops.exp(shifted), ops.zeros_like(x)), axis=axis)
    selected = ops.any(keep, axis=axis)
    value = ops.log(ops.where(selected, total, ops.ones_like(total))) + highest
    return ops.where(selected, value, ops.zeros_like(value))


def logsumexp_where(x, keep):
    """Returns `log(1 + sum exp(x))` over the entries that `keep` selects; 0 where it selects none; finite gradients.

    Args:
        x: float tensor, any shape.
        keep: bool tensor of the same shape.

    Returns:
        A scalar.
    """
    x, keep = ops.reshape(x, (-1,)), ops.reshape(keep, (-1,))
    one = ops.zeros((1,), dtype=x.dtype)  # exp(0)
    return masked_logsumexp(ops.concatenate([one, x]), ops.concatenate([ops.ones((1,), dtype="bool"), keep]))


def holds_shares(y_true, y_pred):
    """Whether targets are shares of each class, in the shape of `y_pred`, instead of a class index per row.

    Args:
        y_true: tensor of `y_pred`'s shape (shares), or of that shape without the class axis or with size 1 there.
        y_pred: tensor `(..., classes)`.

    Raises:
        ValueError: if the shape is any other.

    >>> holds_shares(np.zeros((3, 4)), np.zeros((3, 4))), holds_shares(np.zeros((3,)), np.zeros((3, 4)))
    (True, False)
    """
    found, expected = tuple(y_true.shape), tuple(y_pred.shape)
    if len(expected) < 2 or expected[-1] == 1:
        raise _check.invalid("y_pred", "a tensor (batch, classes) of at least two classes", expected)

    def fits(shape):
        pairs = zip(found, shape, strict=True) if len(found) == len(shape) else [(0, 1)]
        return all(a is None or b is None or a == b for a, b in pairs)

    if fits(expected[:-1]) or (found[-1:] == (1,) and fits((*expected[:-1], 1))):
        return False
    if fits(expected):
        return True
    shapes = f"class indices of shape {expected[:-1]}, or a share of each class of shape {expected}"
    raise _check.invalid("y_true", shapes, found)
