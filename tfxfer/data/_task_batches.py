"""Batches for several tasks in one training, each with its own dataset, inputs and targets."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._batches import Batches
from tfxfer.data._graph import as_it_is
from tfxfer.data._mix import Mixed, Plain, passes_of, source_of

MIXINGS = ("size", "temperature", "round_robin", "together")


class TaskRows:
    """The batches of one task.

    Args:
        argument: string. The name of the data in errors.
        dataset: `tf.data.Dataset` of batches with targets.
        gate: the task's `Gate`.
        class_weight: dict of class index to weight, or `None`; multiplies the weights of rows.
        count: bool. Whether the number of batches must be known.

    Attributes:
        steps: int. The number of batches; `None` if unknown.
        spec: the spec of a batch, (x, y) or (x, y, sample_weight).

    Raises:
        ValueError: if the batches have no targets, or their number is unknown although it must be known.

    Example:

    ```python
    gate = tx.data.Gate(classifier)
    train = tx.data.batches(rows, classifier, seed=0)
    TaskRows("intent", train, gate).steps  # as many as `len(train)`
    ```
    """

    def __init__(self, argument: str, dataset: Any, gate: Any, class_weight: Any = None, count: bool = True) -> None:
        self._gate = gate
        self._class_weight = class_weight
        self._is_encoded = gate.is_encoded(dataset)
        if count or isinstance(dataset, Batches):
            self._source = source_of(argument, dataset)
        else:
            _check.instance(argument, dataset, tf.data.Dataset, "rows, or a tf.data.Dataset of batches")
            self._source = Plain(dataset, None)
        self.steps = self._source.steps
        # A checkpoint identifies the rows by these.
        self._rows = getattr(self._source, "_rows", None)
        spec = self.epoch(tf.constant(0, tf.int64)).element_spec
        if not isinstance(spec, tuple) or len(spec) < 2:
            raise _check.invalid(argument, "batches with targets, (x, y) or (x, y, sample_weight)", spec)
        self.spec = spec

    def epoch(self, epoch: Any, skip: Any = 0) -> Any:
        """Returns the batches (x, y) or (x, y, sample_weight) of an epoch, as the model and the loss read them.

        Args:
            epoch: int64 tensor. The number of the epoch, from 0.
            skip: int or int64 tensor. The number of batches to skip.
        """
        batches = self._gate.ready(self._source.epoch(epoch, skip), self._is_encoded)
        if self._class_weight is None:
            return batches
        table = tf.constant([self._class_weight[i] for i in sorted(self._class_weight)], tf.float32)

        @as_it_is
        def weigh(x, y, weights=None):
            classes = tf.argmax(y, axis=1) if y.shape.rank == 2 else y
            found = tf.gather(table, tf.cast(classes, tf.int64))
            return x, y, found if weights is None else found * tf.cast(weights, tf.float32)

        return batches.map(weigh)


def task_batches(
    rows: Mapping[str, TaskRows], inputs: Mapping[str, Any], mixing: str, *, temperature: float = 2.0, seed: Any = None
) -> Batches:
    """Returns the batches for training on several tasks; see `models.MultiTask.fit` for the ways to mix.

    Args:
        rows: dict of task to its `TaskRows`.
        inputs: dict of every task to the dict of its Keras inputs.
        mixing: one of `MIXINGS`.
        temperature: float >= 1, for `"temperature"`.
        seed: int >= 0, for the order of the tasks. By default drawn from numpy's global generator.

    Returns:
        `Batches` of ({task: x}, {task: y}), or ({task: x}, {task: y}, {task: sample_weight}), with an entry for each
        task that has weights. A task that does not take part in a step has zero rows.

    Example:

    ```python
    rows = {"intent": TaskRows("intent", intents, gate), "topic": TaskRows("topic", topics, other_gate)}
    train = task_batches(rows, {"intent": first.input, "topic": second.input}, "size", seed=0)
    ```
    """
    seed = int(np.random.randint(2**31) if seed is None else seed)
    sources: list[Any] = [_Alone(name, rows, inputs) for name in rows]
    if mixing == "together":
        return Batches(_Together(rows, inputs, seed))
    order = task_order([source.steps for source in sources], mixing, temperature)
    return Batches(Mixed(sources, seed, order, shuffle=mixing != "round_robin"))


def task_order(steps: Any, mixing: str, temperature: float) -> np.ndarray:
    """Returns the index of the task of each batch of an epoch, an int array with one entry per batch.

    Args:
        steps: list of int. The number of batches of each task.
        mixing: `"size"`, `"temperature"` or `"round_robin"`.
        temperature: float >= 1.
    """
    counts = np.asarray(steps, "int64")
    total = int(counts.sum())
    if mixing == "round_robin":
        return np.arange(total) % len(counts)
    if mixing == "temperature":
        shares = counts.astype("float64") ** (1.0 / temperature)
        exact = total * shares / shares.sum()
        counts = np.maximum(np.floor(exact).astype("int64"), 1)
        # The rest goes to the largest remainders; a task that was raised to one batch keeps it.
        for k in np.argsort(counts - exact, kind="stable")[: max(total - int(counts.sum()), 0)]:
            counts[k] += 1
    return np.repeat(np.arange(len(counts)), counts)


def in_turn(rows: Mapping[str, TaskRows], inputs: Mapping[str, Any]) -> Any:
    """Returns a dataset of all batches, task after task, for evaluation.

    Args:
        rows: dict of task to its `TaskRows`.
        inputs: dict of every task to the dict of its Keras inputs.

    Returns:
        A `tf.data.Dataset` of batches as in `task_batches`.

    Example:

    ```python
    evaluation = in_turn(rows, {"intent": first.input, "topic": second.input})  # `rows` as for `task_batches`
    ```
    """
    found: Any = None
    for name in rows:
        batches = _Alone(name, rows, inputs).epoch(tf.constant(0, tf.int64))
        found = batches if found is None else found.concatenate(batches)
    return found.prefetch(tf.data.AUTOTUNE)


def no_rows(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns arrays of zero rows for a dict of Keras inputs.

    Args:
        inputs: dict of name to Keras input; unknown dimensions become 1.

    Returns:
        A dict of name to array `(0, ...)` with the dtype of the input.

    Example:

    >>> no_rows({"token_ids": keras.Input((None,), dtype="int32")})["token_ids"].shape
    (0, 1)
    """
    return {
        key: np.zeros([0, *(1 if size is None else size for size in tensor.shape[1:])], tensor.dtype)
        for key, tensor in inputs.items()
    }


class _Alone:
    """The batches of one task, with zero rows for all other tasks."""

    def __init__(self, name, rows, inputs):
        self._name = name
        self._rows_of = rows[name]
        self._all = rows
        self._inputs = inputs
        self.steps = self._rows_of.steps
        self._rows = self._rows_of._rows

    def epoch(self, epoch, skip=0):
        """Returns the batches of an epoch after the first `skip`."""
        specs = {name: each.spec for name, each in self._all.items()}
        weighted = [name for name, spec in specs.items() if len(spec) > 2]

        @as_it_is
        def among(*batch):
            own = dict(enumerate(batch))
            xs = {
                name: _inputs(own[0] if name == self._name else no_rows(tensors), tensors)
                for name, tensors in self._inputs.items()
            }
            ys = {name: _targets(own[1] if name == self._name else None, spec[1]) for name, spec in specs.items()}
            if not weighted:
                return xs, ys
            weights = {name: _targets(own[2] if name == self._name else None, specs[name][2]) for name in weighted}
            return xs, ys, weights

        return self._rows_of.epoch(epoch, skip).map(among)


class _Together:
    """A batch of each task in each step; as many steps as the largest dataset has batches."""

    def __init__(self, rows, inputs, seed):
        self.seed = seed
        self._inputs = inputs
        self._names = list(rows)
        self._sources = list(rows.values())
        self.steps = max(source.steps for source in self._sources)

    def epoch(self, epoch, skip=0):
        """Returns the batches of an epoch after the first `skip`; small datasets start over."""
        skip = tf.cast(skip, tf.int64)
        parts = tuple(passes_of(source, -(-self.steps // source.steps), epoch, skip) for source in self._sources)

        @as_it_is
        def join(*parts):
            found = dict(zip(self._names, parts, strict=True))
            xs = {name: _inputs(part[0], self._inputs[name]) for name, part in found.items()}
            ys = {name: part[1] for name, part in found.items()}
            weights = {name: part[2] for name, part in found.items() if len(part) > 2}
            return (xs, ys, weights) if weights else (xs, ys)

        return tf.data.Dataset.zip(parts).map(join)


def _inputs(x, tensors):
    return {key: _open(x[key], tensor.shape) for key, tensor in tensors.items()}


def _targets(values, spec):
    """Targets or weights with a spec; without values, zero rows."""

    def make(each, value=None):
        if value is None:
            value = tf.zeros([0, *(1 if size is None else size for size in each.shape[1:])], each.dtype)
        return _open(value, each.shape)

    return tf.nest.map_structure(make, spec) if values is None else tf.nest.map_structure(make, spec, values)


def _open(value, shape):
    """A tensor with an unknown static number of rows, so that batches with and without rows have one spec."""
    return tf.compat.v1.placeholder_with_default(tf.convert_to_tensor(value), [None, *shape[1:]])
