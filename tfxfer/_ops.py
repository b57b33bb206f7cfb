"""Shared arithmetic of layers, losses and metrics: `keras.ops` only, gradients finite at zero."""

from keras import ops

# Stands for minus infinity where an infinite value would make the gradient NaN; within float16.
LOWEST = -6e4


def unit_norm(x, axis=-1, epsilon=1e-12):
    """Scales vectors to Euclidean length 1: `x / max(||x||, epsilon)`; a zero vector stays zero.

    `keras.ops.normalize` divides by zero in the gradient of a zero vector; here the gradient is finite everywhere.

    Args:
        x: float tensor `(..., dim)`.
        axis: int. The axis of the components.
        epsilon: float. The least length that is divided by.

    Returns:
        A tensor of `x`'s shape and dtype.
    """
    squared = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return x / ops.sqrt(ops.maximum(squared, epsilon * epsilon))


def cosine_similarity(x, y):
    """The cosine of each row of `x` with the same row of `y`.

    Args:
        x: float tensor `(..., dim)`.
        y: float tensor `(..., dim)`.

    Returns:
        A tensor `(...,)` of values in `[-1, 1]`; 0 where one of the two is a zero vector.
    """
    return ops.sum(unit_norm(x) * unit_norm(y), axis=-1)


def pairwise_cosine_similarity(x, y):
    """The cosine of every row of `x` with every row of `y`: `(n, dim)`, `(m, dim)` -> `(n, m)`."""
    return ops.matmul(unit_norm(x), ops.transpose(unit_norm(y)))


def masked_sum(x, mask):
    """The sum over the tokens that `mask` keeps.

    Args:
        x: float tensor `(batch, length, dim)`.
        mask: tensor `(batch, length)` in `x`'s dtype, 1 at tokens that count (or their weights).

    Returns:
        A tensor `(batch, dim)`.
    """
    return ops.squeeze(ops.matmul(ops.expand_dims(mask, 1), x), axis=1)


def logsumexp_where(x, keep):
    """`log(1 + sum exp(x))` over the entries that `keep` selects: 0 where it selects none, finite gradients.

    Args:
        x: float tensor, any shape.
        keep: bool tensor of the same shape.

    Returns:
        A scalar.
    """
    x = ops.where(keep, x, ops.full_like(x, LOWEST))
    x = ops.concatenate([ops.zeros((1,), dtype=x.dtype), ops.reshape(x, (-1,))])
    return ops.logsumexp(x)
