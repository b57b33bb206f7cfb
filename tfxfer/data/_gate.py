"""Reads the data that users pass to `fit`, `evaluate`, `predict` and related methods.

| x | is read as |
|---|---|
| list, tuple, array, Series, column of a table or another sequence of strings | rows in memory |
| a tuple of such columns, a frame | rows of several texts |
| a dict, frame, table or list of dicts with the task's columns by name | rows in memory |
| `Examples`, the result of `labelled` and related functions | rows in memory |
| another `tf.data.Dataset` of single rows | rows that are read again in each epoch |
| `Batches`, another `tf.data.Dataset` of batches of rows or ids | batches |
| `keras.utils.PyDataset`, a generator of batches | batches |
| a generator of single rows | rows that can be read once |
| a dict of arrays of ids | arrays, as Keras accepts them |
"""

import collections.abc
import itertools
from collections.abc import Mapping
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check
from tfxfer.data._batches import Batches, batches
from tfxfer.data._columns import Column, LabelColumn
from tfxfer.data._examples import Examples, read_weights
from tfxfer.data._forms import read_inputs, row_count
from tfxfer.data._graph import as_it_is
from tfxfer.data._packer import Packer

ROWS, DATASET, BATCHES, ARRAYS = "rows", "dataset", "batches", "arrays"
_NAMES = ("x", "y", "sample_weight")
_CHUNK = 4096


class Gate:
    """Reads data for one task model.

    Args:
        task: a task model: `input_columns()`, `target_columns()` and `input`, the dict of its Keras inputs.
        names: the names of inputs, targets and weights in errors.
        asks: bool. Whether the data are for prediction; the columns are then the task's `prediction_columns()`.

    Example:

    ```python
    gate = tx.data.Gate(classifier)
    form, rows = gate.read(["Where is my card?", "Thanks"], ["card", "chat"])  # "rows", `Examples`
    train = gate.ready(gate.batches(form, rows, batch_size=32))  # batches of ids and encoded targets
    ```
    """

    def __init__(self, task: Any, names: Any = _NAMES, *, asks: bool = False) -> None:
        self._task = task
        self._columns = task.prediction_columns() if asks else task.input_columns()
        self._packer = Packer(self._columns)
        self._targets = task.target_columns()
        self._x, self._y, self._weight = names

    @property
    def argument(self) -> str:
        """The name of the inputs in errors."""
        return str(self._x)

    @property
    def draws(self) -> bool:
        """Whether a column draws inputs and targets at random; rows then have no targets."""
        return self._packer.draws is not None

    # === Forms ===

    def read(self, x: Any, y: Any = None, sample_weight: Any = None, *, needs_y: bool = True) -> tuple[str, Any]:
        """Returns (form, data) for any of the forms of the table.

        Args:
            x: inputs.
            y: targets, for rows in memory and arrays of ids.
            sample_weight: weights, for rows in memory and arrays of ids.
            needs_y: bool. Whether rows must have targets.

        Returns:
            `("rows", Examples)`, `("dataset", tf.data.Dataset of single rows)`, `("batches", what Keras iterates over)`
            or `("arrays", (x, y, sample_weight))`.

        Raises:
            ValueError: for any other form; the message names the argument, and the row of an invalid value.
        """
        if x is None:
            raise _check.invalid(self._x, "texts, or batches", x)
        form, found = self._read(x, y, sample_weight, needs_y)
        if self._task.preprocessor is None and (form in (ROWS, DATASET) or self._is_raw(found)):
            remedy = "Pass batches of ids, or set `model.preprocessor`."
            raise _check.invalid(self._x, "token ids, for a model without a preprocessor", x, remedy)
        return form, found

    def _is_raw(self, batches):
        if not isinstance(batches, tf.data.Dataset):
            return False
        spec = batches.element_spec
        spec = spec[0] if isinstance(spec, tuple) else spec
        return not (isinstance(spec, dict) and set(spec) >= set(self._task.input))

    def _read(self, x, y, sample_weight, needs_y):
        if isinstance(x, tf.data.Dataset):
            self._refuse_targets(y, sample_weight, "a dataset")
            return self._dataset(x)
        if isinstance(x, keras.utils.PyDataset):
            self._refuse_targets(y, sample_weight, "a PyDataset")
            return BATCHES, _EncodedPyDataset(x, self)
        if self._are_ids(x):
            y = None if y is None else self.read_targets(y)
            if sample_weight is not None:
                sample_weight = read_weights(sample_weight, self._weight, len(next(iter(x.values()))))
            return ARRAYS, (x, y, sample_weight)
        if isinstance(x, collections.abc.Iterator):
            self._refuse_targets(y, sample_weight, "a generator")
            return self._generator(x, needs_y)
        return ROWS, self._rows(x, y, sample_weight, needs_y)

    def _refuse_targets(self, y, sample_weight, kind):
        for name, value in ((self._y, y), (self._weight, sample_weight)):
            if value is not None:
                raise _check.invalid(name, f"None if `{self._x}` is {kind}, which holds the targets", value)

    def _are_ids(self, x):
        names = set(self._task.input)
        return isinstance(x, dict) and set(x) == names and not set(x) <= set(self._columns)

    def _rows(self, x, y, sample_weight, needs_y):
        found = read_inputs(x, self._columns, self._x)
        count = row_count(found)
        if self.draws and y is not None:
            raise _check.invalid(self._y, "None: the texts make the targets", y)
        if y is None:
            if needs_y and not self.draws:
                raise _check.invalid(self._y, "a target for each row", y)
            if sample_weight is not None:
                raise _check.invalid(self._weight, f"None without `{self._y}`", sample_weight)
            return Examples(found) if count else _Empty(found)
        targets = self.read_targets(y)
        for values in tf.nest.flatten(targets):
            if row_count(values) != count:
                expected = f"{count} targets, one for each row of `{self._x}`"
                raise _check.invalid(self._y, expected, f"{row_count(values)} targets")
        if not count:
            raise _check.invalid(self._x, "at least one row", x)
        self._check_targets(targets, found)
        weights = None if sample_weight is None else read_weights(sample_weight, self._weight, count)
        return Examples(found, targets, weights, targets=self._targets)

    def _check_targets(self, targets, inputs):
        inputs = inputs if isinstance(inputs, dict) else {next(iter(self._columns)): inputs}
        if not isinstance(self._targets, dict):
            self._targets.check_inputs(targets, inputs, self._y)
            return
        for name, values in targets.items():
            self._targets[name].check_inputs(values, inputs, f"{self._y}[{name!r}]")

    def read_targets(self, y: Any) -> Any:
        """Returns the targets `y`, outside any pipeline, as the loss reads them; see `Column.read`."""
        if not isinstance(self._targets, dict):
            if isinstance(y, dict):
                raise _check.invalid(self._y, "the targets of one task", list(y))
            return self._targets.read(y, self._y)
        if not isinstance(y, dict) or set(y) - set(self._targets) or not y:
            raise _check.invalid(self._y, f"a dict with some of {', '.join(map(repr, self._targets))}", y)
        return {name: self._targets[name].read(values, f"{self._y}[{name!r}]") for name, values in y.items()}

    # === Datasets ===

    def _dataset(self, dataset):
        self._check_origin(dataset)
        if isinstance(dataset, Examples):
            if dataset.y is not None and isinstance(dataset.targets, type(self._targets)):
                self._targets.check_read(dataset.y, self._y)
            return ROWS, dataset
        if isinstance(dataset, Batches):
            return BATCHES, dataset
        x = dataset.element_spec[0] if isinstance(dataset.element_spec, tuple) else dataset.element_spec
        return (DATASET if self._is_row(x) else BATCHES), dataset

    def _is_row(self, spec):
        """Whether the spec of x is that of a single row."""
        if isinstance(spec, dict) and set(spec) == set(self._task.input) and not set(spec) <= set(self._columns):
            return False
        name, column = next(iter(self._columns.items()))
        if isinstance(spec, dict):
            if name not in spec:
                expected = f"rows or batches of {', '.join(map(repr, self._columns))}"
                expected += f", or batches of {', '.join(map(repr, self._task.input))}"
                raise _check.invalid(self._x, expected, list(spec))
            spec = spec[name]
        rank = tf.nest.flatten(spec)[0].shape.rank
        return rank == tf.nest.flatten(column.spec())[0].shape.rank

    def _check_origin(self, dataset):
        """Raises if targets are encoded with labels that differ from the task's."""
        labels = getattr(dataset, "labels", None)
        own = getattr(self._targets, "labels", None)
        if labels is not None and own is not None and list(labels) != list(own):
            name = "labels" if hasattr(self._task, "labels") else "tags"
            remedy = f"Pass `labels=model.{name}` when making the dataset, so that both have the same order."
            raise _check.invalid(self._x, f"rows whose labels are the model's, {own}", labels, remedy)

    def is_encoded(self, dataset: Any) -> bool:
        """Whether the targets of `dataset` are encoded for the loss."""
        return getattr(dataset, "targets", None) is not None

    def ready(self, dataset: Any, is_encoded: bool | None = None) -> Any:
        """Returns batches, of ids or raw, as batches of ids and of encoded targets.

        Args:
            dataset: `tf.data.Dataset` of batches; anything else that Keras iterates over is returned unchanged.
            is_encoded: bool. Whether the targets are encoded. By default as recorded in the dataset.
        """
        if not isinstance(dataset, tf.data.Dataset):
            return dataset
        spec, is_raw = dataset.element_spec, self._is_raw(dataset)
        is_encoded = self.is_encoded(dataset) if is_encoded is None else is_encoded
        has_targets = isinstance(spec, tuple) and len(spec) > 1
        if is_raw and has_targets and self.draws:
            raise _check.invalid(self._x, "batches of texts only, from which the targets are made", spec)
        if not is_raw and (not has_targets or (is_encoded and not self.finishes_targets)):
            return dataset

        @as_it_is
        def prepare(*row):
            x, *rest = row
            if is_raw:
                x = self.encode_inputs(x)
                if self.draws:
                    return self._packer.drawn(x)
            if rest:
                rest[0] = self.encode_targets(rest[0], x, is_read=is_encoded)
            return (x, *rest) if rest else x

        return dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)

    @staticmethod
    def is_endless(dataset: Any) -> bool:
        """Whether `dataset` is known to be infinite."""
        return isinstance(dataset, tf.data.Dataset) and bool(dataset.cardinality() == tf.data.INFINITE_CARDINALITY)

    def again(self, batches: Any) -> Any:
        """Returns ready batches to read in addition to training; `None` if they are infinite or can be read only once.

        For `Batches` this is the next epoch, which is not counted, without augmentation: it decides where a head
        starts and estimates performance on new texts.

        Args:
            batches: batches, raw or of ids, or another iterable that Keras accepts; a list is returned unchanged.
        """
        if isinstance(batches, list):
            return batches
        if not isinstance(batches, tf.data.Dataset) or self.is_endless(batches):
            return None
        is_encoded = self.is_encoded(batches)
        if isinstance(batches, Batches):
            batches = batches.plain().rest(batches.epoch)
        return self.ready(batches, is_encoded)

    def encode_inputs(self, x: Any) -> Any:
        """Turns `x`, a batch of raw inputs, into the tensors that the model reads."""
        found = {}
        for name, column in self._columns.items():
            value = x[name] if isinstance(x, dict) else x
            found |= column.batch(column.encode(value), name)
        return found

    @property
    def finishes_targets(self) -> bool:
        """Whether targets still need padding or alignment with the inputs of their batch after reading."""
        columns = self._targets.values() if isinstance(self._targets, dict) else [self._targets]
        return any(type(each).batch is not Column.batch or type(each).align is not Column.align for each in columns)

    def encode_targets(self, y: Any, x: Any = None, *, is_read: bool = False) -> Any:
        """Turns the targets of a batch in a pipeline into the targets of the loss; see `Column`.

        Args:
            y: targets, or a dict of them.
            x: dict of the tensors that the model reads, for targets that are aligned with them.
            is_read: bool. Whether `Column.read` has already encoded them.
        """
        if not isinstance(self._targets, dict):
            return self._target(self._targets, y, "y", x, is_read)
        if not isinstance(y, dict):
            raise _check.invalid(self._y, f"a dict with some of {', '.join(map(repr, self._targets))}", y)
        return {name: self._target(self._targets[name], value, name, x, is_read) for name, value in y.items()}

    def _target(self, column, y, name, x, is_read):
        made = column.batch(y if is_read else column.encode(y), name)[name]
        return made if x is None else column.align(made, x)

    def encode_batch(self, batch: Any, *, draws: bool = False) -> Any:
        """Turns a batch in Python, raw or of ids, into one of ids as arrays.

        Args:
            batch: (x,), (x, y) or (x, y, sample_weight).
            draws: bool. Whether to draw targets, if a column draws them at random.
        """
        parts = batch if isinstance(batch, tuple) else (batch,)
        x, y, weight = keras.utils.unpack_x_y_sample_weight(parts)
        found = None if self._are_ids(x) else read_inputs(x, self._columns, self._x)
        x = x if found is None else self.encode_inputs(found)
        if found is not None and draws and self.draws:
            if y is not None:
                raise _check.invalid(self._y, "None: the texts make the targets", y)
            x, y = self._packer.drawn(x)
            y = np.asarray(y)
        elif y is not None:
            targets = self.read_targets(y)
            if found is not None:
                self._check_targets(targets, found)
            y = keras.tree.map_structure(np.asarray, self.encode_targets(targets, x, is_read=True))
        x = {name: np.asarray(value) for name, value in x.items()}
        return keras.utils.pack_x_y_sample_weight(x, y, weight)

    def in_memory(self, x: Any, y: Any = None) -> tuple[Any, Any]:
        """Returns (inputs, targets) of finite rows, all in memory, with targets as an array for the loss.

        Targets whose rows differ in length, such as tags, are a ragged tensor.

        Args:
            x: inputs; see `read`.
            y: targets; see `read`.

        Raises:
            ValueError: as `read`, and for batches, arrays of ids and generators.
        """
        form, found = self.read(x, y)
        if form == DATASET and isinstance(found, tf.data.Dataset):
            if found.cardinality() == tf.data.INFINITE_CARDINALITY:
                raise _check.invalid(self._x, "a finite dataset", x, "Limit the rows: `.take(n)`.")
            rows = list(found.batch(_CHUNK))
            if not rows or not isinstance(rows[0], tuple) or len(rows[0]) < 2:
                raise _check.invalid(self._x, "a dataset of rows (x, y), at least one", x)
            parts = [
                tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *(row[i] for row in rows)) for i in (0, 1)
            ]
            form, found = ROWS, Examples(*parts, targets=getattr(found, "targets", None))
        if form != ROWS or found.y is None:
            raise _check.invalid(self._x, "rows with their targets", x)
        targets = found.y if self.is_encoded(found) else self.encode_targets(found.y)
        return found.x, keras.tree.map_structure(_in_memory, targets)

    # === Generators ===

    def _generator(self, x, needs_y):
        first = next(x, None)
        if first is None:
            raise _check.invalid(self._x, "a generator of at least one row or batch", x)
        rest = itertools.chain([first], x)
        inputs = first[0] if isinstance(first, tuple) and needs_y else first
        if not self._is_row_value(inputs):
            return BATCHES, (self.encode_batch(batch, draws=needs_y) for batch in rest)
        if not needs_y:
            return DATASET, rest
        if self.draws:
            return DATASET, self._streamed_inputs(rest, first)
        if not isinstance(first, tuple) or not 2 <= len(first) <= 3:
            raise _check.invalid(self._x, "a generator of rows (x, y) or (x, y, sample_weight)", first)
        return DATASET, self._streamed(rest, first)

    def _is_row_value(self, value):
        """Whether a single value is the inputs of one row."""
        if isinstance(value, dict):
            if self._are_ids(value):
                return False
            value = cast(Any, value).get(next(iter(self._columns)))
        rank = tf.nest.flatten(next(iter(self._columns.values())).spec())[0].shape.rank
        if rank:
            return _depth(value) == rank
        if isinstance(value, tuple) and value:
            value = value[0]
        return isinstance(value, (str, bytes)) or np.ndim(value) == 0

    def _streamed_inputs(self, rows, first):
        """Turns a generator of rows without targets into a dataset."""

        def read():
            for row in rows:
                yield read_inputs(_each(row), self._columns, self._x)

        x = tf.nest.map_structure(_spec, read_inputs(_each(first), self._columns, self._x))
        return tf.data.Dataset.from_generator(read, output_signature=x).unbatch()

    def _streamed(self, rows, first):
        """Turns a generator of rows into a dataset; each row is read as it comes."""

        def read():
            for row in rows:
                inputs, targets = read_inputs(_each(row[0]), self._columns, self._x), self.read_targets(_each(row[1]))
                self._check_targets(targets, inputs)
                yield (inputs, targets, *([np.float32(weight)] for weight in row[2:]))

        x = tf.nest.map_structure(_spec, read_inputs(_each(first[0]), self._columns, self._x))
        y = tf.nest.map_structure(_spec, self.read_targets(_each(first[1])))
        weight = [tf.TensorSpec((1,), tf.float32)] * (len(first) - 2)
        # Rows that differ in length can only be batched from slices of batches, here of one row.
        dataset = tf.data.Dataset.from_generator(read, output_signature=(x, y, *weight)).unbatch()
        dataset.targets = self._targets
        return dataset

    # === Batches ===

    def batches(self, form: str, found: Any, batch_size: int, **options: Any) -> Any:
        """Returns batches of data that `read` returned: `Batches` of rows, or the batches themselves; see `ready`.

        Args:
            form: the form that `read` returned.
            found: the data that `read` returned.
            batch_size: int. Rows in a batch.
            **options: further arguments of `data.batches`.
        """
        return batches(found, self._columns, batch_size, **options) if form in (ROWS, DATASET) else found

    def split(self, examples: Any, share: float) -> tuple[Any, Any]:
        """Splits rows in memory for training and validation; as in Keras, the last rows are for validation.

        Args:
            examples: `Examples`.
            share: float in `(0, 1)`. The share of rows for validation.
        """
        share = _check.number("validation_split", share, above=0.0, maximum=1.0)
        count = row_count(examples.x)
        at = int(count * (1 - share))
        if not 0 < at < count:
            raise _check.invalid("validation_split", f"a share that leaves rows on both sides, of {count}", share)
        return _part(examples, slice(0, at)), _part(examples, slice(at, None))

    def class_weights(self, class_weight: Mapping[Any, float] | str, found: Any) -> Any:
        """Returns `class_weight` by class index.

        Args:
            class_weight: dict of label to float, or `"balanced"`.
            found: the `Examples`, `Batches` or arrays (x, y, sample_weight) of the training.
        """
        column = self._targets
        if not isinstance(column, LabelColumn) or column.multi_label:
            expected = "None unless the model has one label a row"
            remedy = "For several labels per row: `losses.WeightedBinaryCrossentropy`."
            raise _check.invalid("class_weight", expected, class_weight, remedy)
        if isinstance(class_weight, str):
            _check.one_of("class_weight", class_weight, ("balanced",))
            y = self._all_targets(found)
            counts = np.bincount(y, minlength=len(column)).astype("float64")
            present = np.count_nonzero(counts)
            return {i: float(len(y) / (present * count)) if count else 1.0 for i, count in enumerate(counts)}
        _check.instance("class_weight", class_weight, dict, 'a dict of label to weight, or "balanced"')
        names = list(class_weight)
        indices = column.read(names, "class_weight").tolist()
        return {
            **dict.fromkeys(range(len(column)), 1.0),
            **{
                i: _check.number("class_weight", class_weight[n], minimum=0.0)
                for i, n in zip(indices, names, strict=True)
            },
        }

    def _all_targets(self, found):
        y = None
        if isinstance(found, Examples):
            y = found.y
        elif isinstance(found, Batches):
            y = found.kept_targets()
        elif isinstance(found, tuple):
            y = found[1]
        if y is None:
            remedy = "Pass rows in memory, or weights by label: `data.class_weights(y)`."
            raise _check.invalid("class_weight", "a dict, as the data are not in memory", "balanced", remedy)
        y = y if isinstance(found, tuple) or self.is_encoded(found) else self.encode_targets(y)
        y = np.asarray(y)
        if y.ndim != 1:
            raise _check.invalid("class_weight", "a dict, for targets that are shares", "balanced")
        return y


class _Empty:
    """An empty set of rows."""

    def __init__(self, x):
        self.x, self.y, self.sample_weight = x, None, None


class _EncodedPyDataset(keras.utils.PyDataset):
    """A PyDataset whose batches are encoded as they come."""

    def __init__(self, inner, gate):
        super().__init__(inner.workers, inner.use_multiprocessing, inner.max_queue_size)
        self._inner, self._gate = inner, gate

    @property
    def num_batches(self):
        """Batches in an epoch."""
        return self._inner.num_batches

    def __getitem__(self, index):
        return self._gate.encode_batch(self._inner[index], draws=True)

    def on_epoch_begin(self):
        self._inner.on_epoch_begin()

    def on_epoch_end(self):
        self._inner.on_epoch_end()


def _part(examples, rows):
    parts = (examples.x, examples.y, examples.sample_weight)
    taken = [None if part is None else tf.nest.map_structure(lambda values: values[rows], part) for part in parts]
    return Examples(*taken, targets=examples.targets)


def _depth(value):
    """The nesting depth of the first value, in lists or dimensions."""
    if isinstance(value, (list, tuple)):
        return 1 + (_depth(value[0]) if value else 0)
    return 0 if isinstance(value, (str, bytes)) else len(np.shape(value))


def _in_memory(values):
    return values if isinstance(values, tf.RaggedTensor) else np.asarray(values)


def _each(x):
    """A single row as a batch of rows."""
    if isinstance(x, dict):
        return {name: [value] for name, value in x.items()}
    return tuple([value] for value in x) if isinstance(x, tuple) else [x]


def _spec(value):
    if isinstance(value, tf.RaggedTensor):
        return tf.RaggedTensorSpec([1, *[None] * (value.shape.rank - 1)], value.dtype, value.ragged_rank)
    if isinstance(value, tf.Tensor):
        return tf.TensorSpec(value.shape, value.dtype)
    return tf.TensorSpec(np.shape(value), tf.as_dtype(np.asarray(value).dtype))
