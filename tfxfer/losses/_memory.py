"""A loss on labeled texts that remembers the texts of earlier batches."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from tfxfer import _check
from tfxfer.losses import _base
from tfxfer.losses._wrappers import _is_loss, _Wrapper

# Class ids are stored as four parts of 16 bits, which a float32 holds exactly; together they hold an int64.
_PARTS, _BASE = 4, 1 << 16


def cross_batch_memory(memory: Any, count: Any, new: Any) -> tuple[Any, Any, Any]:
    """Appends rows to a memory of fixed size and drops the oldest.

    Args:
        memory: tensor `(size, ...)`. Its last `count` rows are in use, the oldest first.
        count: int scalar. The number of rows in use.
        new: tensor `(rows, ...)`.

    Returns:
        (memory, count, own): the new memory and count, and a bool tensor `(rows, size)` that marks the position of each
        new row.

    >>> memory, count, own = cross_batch_memory(np.zeros((3, 1)), 0, np.array([[1.0], [2.0]]))
    >>> ops.convert_to_numpy(memory).ravel().tolist(), int(count), ops.convert_to_numpy(own).tolist()
    ([0.0, 1.0, 2.0], 2, [[False, True, False], [False, False, True]])
    """
    size, rows = memory.shape[0], ops.shape(new)[0]
    memory = ops.reshape(ops.concatenate([memory, new], axis=0)[rows:], memory.shape)
    places = ops.expand_dims(ops.arange(size, dtype="int32"), 0)
    own = places == ops.expand_dims(ops.arange(rows, dtype="int32") + (size - rows), 1)
    return memory, ops.minimum(count + rows, size), own


@keras.saving.register_keras_serializable("tfxfer")
class CrossBatchMemoryLoss(_Wrapper):
    """Compares each batch also with the texts of earlier batches (`cross_batch_memory`).

    The vectors of a batch replace the oldest in the memory, without gradient; then each text is compared with all
    others in the memory. A batch of 32 thus meets thousands of negatives at the cost of a batch of 32. This works
    because embeddings change slowly enough that those of recent batches are still useful.

    Rows: those of the wrapped loss: one text (or several of one class); `y_true` an int class id, which must be the
    same for a class in all batches.

    Choose it: for labeled texts of more classes than a batch that fits in memory can hold. Train a few hundred steps
    without it first, because vectors change fast at the start.

    See also: `MultiSimilarityLoss` and the other wrapped losses on their own, with larger batches;
    `Siamese(chunk_size=...)` allows batches of thousands, at their full cost in time.

    A task model of this package owns the memory: `.keras` files of the compiled model include it, and
    `callbacks.Resume` restores it, so an interrupted run resumes with the same texts. `evaluate` and `validation_data`
    compare with the memory and do not change it. Presets and exports omit it. In any other `keras.Model` every call of
    the loss stores its texts, and no file includes the memory. On JAX, where a step returns only the variables of its
    model, this raises an error.

    Args:
        loss: a loss on class ids that compares texts with others: `MultiSimilarityLoss`, `CircleLoss`,
            `SoftNearestNeighboursLoss`, `GeneralizedLiftedStructureLoss`, or your own `keras.losses.Loss` with a method
            `between(texts, others, positive, negative)`, which takes vectors `(n, dim)` and `(m, dim)` and two bool
            tensors `(n, m)` and returns a value for each text, `(n,)`. Its own `reduction` and `dtype` are ignored.
        dim: int. The size of a vector.
        size: int. The number of texts in the memory. Defaults to 4096.
        **kwargs: passed to `keras.losses.Loss`: `reduction`, `name`, `dtype`.

    Attributes:
        state_variables: list of the variables of the memory: vectors `(size, dim)`, class ids, and the number of texts.
        remembers: bool. Whether a call stores its texts in the memory.

    Raises:
        ValueError: if `loss` has no method `between`, `size` is below 1, vectors have another size, or `y_true` has a
            float dtype; on JAX, in the compiled step of a model that is not a task model of this package.

    Example:

    ```python
    loss = tx.losses.CrossBatchMemoryLoss(tx.losses.MultiSimilarityLoss(), dim=embedder.embedding_dim, size=2048)
    embedder.compile("adamw", loss=loss)
    ```

    Reference: Wang et al., 2020, Cross-Batch Memory for Embedding Learning, https://arxiv.org/abs/1912.06798.
    """

    def __init__(
        self, loss: keras.losses.Loss, dim: int, size: int = 4096, *, name: str = "cross_batch_memory", **kwargs: Any
    ) -> None:
        super().__init__(_is_loss(loss), name=name, **kwargs)
        if not callable(getattr(loss, "between", None)):
            remedy = "Use for example MultiSimilarityLoss(), CircleLoss() or SoftNearestNeighboursLoss()."
            raise _check.invalid("loss", "a loss on class ids with a method `between`", type(loss).__name__, remedy)
        self.dim, self.size = _check.integer("dim", dim), _check.integer("size", size)
        if self.dtype not in ("float32", "float64"):
            raise _check.invalid("dtype", "'float32' or 'float64'", self.dtype)
        options: dict[str, Any] = {"trainable": False, "initializer": "zeros"}
        self._texts = keras.Variable(shape=(self.size, self.dim), dtype=self.dtype, name="memory_texts", **options)
        self._ids = keras.Variable(shape=(self.size, _PARTS), dtype="float32", name="memory_ids", **options)
        self._count = keras.Variable(shape=(), dtype="int32", name="memory_count", **options)
        self.state_variables = [self._texts, self._ids, self._count]
        self.remembers = True
        # Whether the calling model owns the variables.
        self._is_kept = False

    @contextlib.contextmanager
    def remembering(self, value: bool) -> Iterator[None]:
        """Sets `remembers` to `value` within a `with` block, for a model that owns `state_variables`."""
        before = self.remembers, self._is_kept
        self.remembers, self._is_kept = bool(value), True
        try:
            yield
        finally:
            self.remembers, self._is_kept = before

    def reset(self) -> None:
        """Removes all texts from the memory."""
        for variable in self.state_variables:
            variable.assign(ops.zeros_like(variable))

    def targets(self, y_true: Any) -> Any:
        ids = _base.class_ids(y_true, type(self).__name__)
        if len(ids.shape) not in (1, 2) or (len(ids.shape) == 2 and ids.shape[1] not in (1, None)):
            raise _check.invalid("y_true", "class ids, shape (batch,) or (batch, 1)", tuple(ids.shape))
        return _in_parts(ops.reshape(ids, (-1,)))

    def call(self, y_true: Any, y_pred: Any) -> Any:
        texts = _base.texts(y_pred, "cross_batch_memory")
        if texts.shape[-1] != self.dim:
            expected = f"vectors of size dim={self.dim} for CrossBatchMemoryLoss"
            raise _check.invalid("y_pred", expected, tuple(y_pred.shape), "Set `dim` to the model's size.")
        if self.remembers and not self._is_kept and type(y_pred).__name__.endswith("Tracer"):
            remedy = "Train a task model of `tfxfer.models`, or compute the loss outside `jax.jit`."
            raise _check.invalid("loss", "a loss without a memory in a compiled step on JAX", self.name, remedy)
        ids = ops.cast(y_true, "float32")
        if len(y_pred.shape) == 3:
            shape = (*ops.shape(y_pred)[:2], _PARTS)
            ids = ops.reshape(ops.broadcast_to(ops.expand_dims(ids, 1), shape), (-1, _PARTS))
        count = ops.convert_to_tensor(self._count)
        memory, new_count, own = cross_batch_memory(self._texts, count, ops.stop_gradient(texts))
        memory_ids, _, _ = cross_batch_memory(self._ids, count, ids)
        if self.remembers:
            for variable, value in zip(self.state_variables, (memory, memory_ids, new_count), strict=True):
                variable.assign(value)
        same = ops.all(ops.expand_dims(ids, 1) == ops.expand_dims(memory_ids, 0), axis=-1)
        used = ops.expand_dims(ops.arange(self.size, dtype="int32") >= self.size - new_count, 0)
        positive = ops.logical_and(ops.logical_and(same, used), ops.logical_not(own))
        negative = ops.logical_and(ops.logical_not(same), used)
        values = self.loss.between(texts, memory, positive, negative)
        return _base.mean_over_columns(values, y_pred) if self.per_row else values

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dim": self.dim, "size": self.size}


def _in_parts(ids):
    """Splits class ids into numbers that any float holds exactly: int `(batch,)` -> `(batch, 4)`."""
    if keras.backend.standardize_dtype(ids.dtype) not in ("int32", "int64"):
        ids = ops.cast(ids, "int32" if "64" not in str(ids.dtype) and "uint32" not in str(ids.dtype) else "int64")
    parts = []
    for _ in range(_PARTS):
        parts.append(ids % _BASE)
        ids = ids // _BASE
    return ops.stack(parts, axis=-1)
