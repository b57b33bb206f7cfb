"""The weights of an export: each stored once, in full or in a small dtype."""

import keras
import numpy as np
import tensorflow as tf

from tfxfer._narrow import narrow_kernels, replaced

DTYPES = ("bfloat16", "int8")
# Numbers that share a scale. With one scale per column, the error of all-MiniLM-L6-v2's vectors is several times as
# large. The scales, in float16, add a sixteenth to the size.
GROUP = 32
# Fewer numbers per scale would save little over float32.
_LEAST_GROUP = 8


class Untracked:
    """Hides a value from a `tf.Module`'s tracking, so that its variables are not saved a second time."""

    def __init__(self, value):
        self.value = value


class Weights(tf.Module):
    """Holds the variables to save, and runs a model on them.

    `model.export` stores every weight twice (keras issue 23553); a module that tracks the variables themselves does
    not.

    Kernels that layers cast to 16 bits when they compute are stored in 16 bits: half the bytes, the same answers, no
    cast in each request. With a small dtype, the matrices of the backbone are stored as bfloat16, or as int8 in groups
    of 32 with a scale each, and converted on use. Vectors (biases, layer norms) and the head keep their dtype. Only the
    rows of the token table for the tokens in the batch are converted, because the table is half of a small encoder.

    Args:
        model: a task model.
        dtype: `None`, `"bfloat16"` or `"int8"`.
        left_out: function of a weight that returns whether it is stored elsewhere. By default, none is.
        narrows: bool. `False` if the model also computes without this module, and so needs its own kernels.
    """

    def __init__(self, model, dtype=None, left_out=lambda weight: False, narrows=True):
        super().__init__()
        parts = model.served_parts().values()
        weights = list({id(weight): weight for part in parts for weight in part.weights}.values())
        heads = [layer for part in parts for layer in part.layer_groups().get("head", ())]
        head = {id(weight) for layer in heads for weight in layer.weights}
        chosen = [weight for weight in weights if dtype and id(weight) not in head and _is_matrix(weight, dtype)]
        narrow = {id(kernel): own for part in parts for kernel, own in narrow_kernels(part)} if narrows else {}
        dtypes = narrow | {id(weight): dtype for weight in chosen}
        small = [weight for weight in weights if id(weight) in dtypes]
        self._kept = [weight.value for weight in weights if id(weight) not in dtypes and not left_out(weight)]
        self._small = [_stored(weight, dtypes[id(weight)]) for weight in small]
        self._variables = Untracked(small)
        self._dtypes = Untracked([narrow.get(id(weight), weight.dtype) for weight in small])
        # A head that scores the whole vocabulary reads all rows of the table.
        is_whole = any(getattr(layer, "reads_token_table", False) for part in parts for layer in part.layers)
        by_token = () if is_whole else _of_tokens(model.backbone)
        self._tables = Untracked({id(weight) for weight in by_token} & dtypes.keys())

    def __call__(self, model, x):
        """Returns the output of a model, or of a part of it, for a batch of ids, in float32."""
        if not self._small:
            return tf.cast(model(x, training=False), tf.float32)
        tokens, tables = None, self._tables.value
        if tables:
            tokens, place = tf.unique(tf.reshape(x["token_ids"], [-1]))
            x = {**x, "token_ids": tf.reshape(place, tf.shape(x["token_ids"]))}
        values = []
        for variable, stored, dtype in zip(self._variables.value, self._small, self._dtypes.value, strict=True):
            if id(variable) in tables:
                stored = [tf.gather(part, tokens) for part in stored]
            values.append(_restored(stored, variable.shape, dtype))
        with replaced(self._variables.value, values):
            return tf.cast(model(x, training=False), tf.float32)


def _is_matrix(weight, dtype):
    name = weight.path.rsplit("/", 1)[-1]
    floating = keras.backend.is_float_dtype(weight.dtype)
    if not floating or len(weight.shape) < 2 or "bias" in name:
        return False
    return dtype == "bfloat16" or _group(weight.shape[-1]) >= _LEAST_GROUP


def _of_tokens(backbone):
    """Returns the weights with a row for each token of the vocabulary."""
    return [w for w in backbone.token_embedding.weights if w.shape[0] == backbone.vocabulary_size]


def _group(size):
    """Returns the largest divisor of `size` up to `GROUP`."""
    return next(group for group in range(GROUP, 0, -1) if size % group == 0)


def _stored(weight, dtype):
    """Returns a weight as a list of variables: the numbers, and for int8 their scales."""
    values = np.asarray(weight.numpy(), "float32")
    if dtype != "int8":
        return [tf.Variable(tf.cast(values, dtype), trainable=False)]
    grouped = values.reshape(*values.shape[:-1], -1, _group(values.shape[-1]))
    exact = np.abs(grouped).max(axis=-1, keepdims=True) / 127
    scale = exact.astype("float16")
    # Rounded up, so that the largest number of a group still fits; 1 if all of them are 0.
    scale = np.where(scale < exact, np.nextafter(scale, np.float16("inf")), scale)
    scale = np.where(exact > 0, scale, np.float16(1))
    codes = np.clip(np.rint(grouped / scale.astype("float32")), -127, 127).astype("int8")
    return [tf.Variable(codes, trainable=False), tf.Variable(scale, trainable=False)]


def _restored(stored, shape, dtype):
    """Returns the numbers of a weight of a shape, or of some of its rows, in a dtype."""
    if len(stored) == 1:
        return tf.cast(stored[0], dtype)
    values = tf.cast(stored[0], tf.float32) * tf.cast(stored[1], tf.float32)
    return tf.cast(tf.reshape(values, [-1, *shape[1:]]), dtype)
