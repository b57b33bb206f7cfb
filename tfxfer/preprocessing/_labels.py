"""Label names to indices, in the graph and outside."""

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check


@keras.saving.register_keras_serializable("tfxfer")
class LabelEncoder(keras.layers.Layer):
    """Turns label names into the targets that losses want, and indices back into names.

    | label comes as | single-label | multi-label |
    |---|---|---|
    | names (strings; numbers where labels are numbers) | index, int32 `(batch,)` | multi-hot, float32 `(batch, n)` |
    | int32 tensor of a `tf.data` pipeline | is an index already | - |
    | int64 tensor of a `tf.data` pipeline | is a label where labels are numbers, else an index | - |
    | multi-hot matrix | - | passes |

    Args:
        labels: sequence of distinct strings or ints, in the order of the model's outputs.
        multi_label: bool. Whether a text may have any number of labels.

    Raises:
        ValueError: for no labels, equal labels, or, when called on Python values, a label that is not among them (with
            its row).
        tf.errors.InvalidArgumentError: for an unknown label inside a `tf.data` pipeline.

    Example:

    >>> encoder = LabelEncoder(["card", "loan"])
    >>> encoder.encode(["loan", "card"]).tolist()
    [1, 0]
    >>> encoder.decode([1, 0])
    ['loan', 'card']
    """

    def __init__(self, labels, multi_label=False, **kwargs):
        super().__init__(**kwargs)
        labels = [label.item() if isinstance(label, np.generic) else label for label in labels]
        remedy = "Give each class's name once, in the order of the outputs."
        if not labels or len(set(map(str, labels))) != len(labels):
            raise _check.invalid("labels", "at least one label, all distinct", labels, remedy)
        if not (
            all(isinstance(label, str) for label in labels)
            or all(isinstance(label, int) and not isinstance(label, bool) for label in labels)
        ):
            raise _check.invalid("labels", "strings, or ints", labels, remedy)
        self.labels = labels
        self.multi_label = bool(multi_label)
        self._index = {label: i for i, label in enumerate(labels)}
        self._table = None
        self.built = True

    def encode(self, y):
        """Turns names (or ready targets) outside the graph into a numpy array of targets; see the table above."""
        if self.multi_label:
            return self._encode_multi_label(y)
        values = [value.item() if isinstance(value, np.generic) else value for value in np.asarray(y).reshape(-1)]
        if values and all(isinstance(value, (int, float)) for value in values) and isinstance(self.labels[0], str):
            return self._check_indices(values)
        return np.array([self._lookup(value, row) for row, value in enumerate(values)], "int32")

    def _check_indices(self, values):
        for row, value in enumerate(values):
            if value != int(value) or not 0 <= value < len(self.labels):
                raise _check.invalid(
                    "y", f"label names, or indices 0 to {len(self.labels) - 1}", value, f"It stands in row {row}."
                )
        return np.array(values, "int32")

    def _encode_multi_label(self, y):
        if not isinstance(y, np.ndarray) or y.dtype == object:
            rows = list(y)
            names = [row for row in rows if isinstance(row, (list, tuple, set))]
            if len(names) == len(rows) and any(isinstance(name, str) for row in names for name in row):
                targets = np.zeros((len(rows), len(self.labels)), "float32")
                for i, row in enumerate(rows):
                    targets[i, [self._lookup(name, i) for name in row]] = 1.0
                return targets
        targets = np.asarray(y, "float32")
        if targets.ndim != 2 or targets.shape[1] != len(self.labels) or not np.isin(targets, (0.0, 1.0)).all():
            raise _check.invalid(
                "y", f"a list of label names for each row, or a multi-hot matrix (rows, {len(self.labels)})", y
            )
        return targets

    def _lookup(self, value, row):
        value = value.decode() if isinstance(value, bytes) else value
        if value not in self._index:
            raise _check.invalid(
                "y",
                f"one of the {len(self.labels)} labels of the model ({', '.join(map(str, self.labels[:5]))}, ...)",
                value,
                f"It stands in row {row}. Build the model with all labels: `data.labels(rows, column)` finds them.",
            )
        return self._index[value]

    def decode(self, indices):
        """Turns indices into a list of names."""
        return [self.labels[int(index)] for index in indices]

    @tf.autograph.experimental.do_not_convert
    def __call__(self, y):
        # Not by way of `Layer.__call__`, which would turn lists of names into tensors.
        return self.call(y)

    def call(self, y):
        """Turns a tensor of a pipeline into targets: strings by a table, ints and multi-hot rows as they are."""
        y = tf.convert_to_tensor(y)
        if y.dtype == tf.int64 and isinstance(self.labels[0], int) and not self.multi_label:
            y = tf.strings.as_string(y)
        if y.dtype != tf.string:
            return tf.cast(y, tf.float32 if self.multi_label else tf.int32)
        indices = self._lookup_table().lookup(tf.reshape(y, (-1,)))
        unknown = tf.boolean_mask(tf.reshape(y, (-1,)), indices < 0)
        with tf.control_dependencies(
            [tf.debugging.Assert(tf.equal(tf.size(unknown), 0), ["Unknown labels in `y`:", unknown], summarize=5)]
        ):
            return tf.identity(tf.cast(indices, tf.int32))

    def _lookup_table(self):
        if self._table is None:
            with tf.init_scope():
                keys = tf.constant([str(label) for label in self.labels])
                values = tf.range(len(self.labels), dtype=tf.int64)
                self._table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1)
        return self._table

    def get_config(self):
        return {**super().get_config(), "labels": list(self.labels), "multi_label": self.multi_label}
