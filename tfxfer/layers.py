"""Layers between an encoder and a loss: pooling, unit length, heads, Siamese towers."""

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer._freezable import Freezable


def _positions(mask):
    """1, 2, ... along the real tokens of each row, whichever side the padding is on; 0 at padding."""
    return ops.cumsum(mask, axis=-1) * mask


def _first(x, mask):
    return _ops.masked_sum(x, ops.cast(_positions(mask) == 1, x.dtype))


def _last(x, mask):
    positions = _positions(mask)
    return _ops.masked_sum(x, ops.cast(positions == ops.sum(mask, axis=-1, keepdims=True), x.dtype) * mask)


def _max(x, mask):
    highest = ops.max(ops.where(ops.expand_dims(mask, -1) > 0, x, _ops.LOWEST), axis=1)
    return ops.where(ops.any(mask > 0, axis=-1, keepdims=True), highest, ops.zeros_like(highest))


def _mean(x, mask):
    return _ops.masked_sum(x, mask) / ops.maximum(ops.sum(mask, axis=-1, keepdims=True), 1.0)


def _mean_sqrt_len(x, mask):
    return _ops.masked_sum(x, mask) / ops.sqrt(ops.maximum(ops.sum(mask, axis=-1, keepdims=True), 1.0))


def _weighted_mean(x, mask):
    weights = _positions(mask)
    return _ops.masked_sum(x, weights) / ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 1.0)


POOLING = {
    "cls": _first,
    "mean": _mean,
    "max": _max,
    "last": _last,
    "mean_sqrt_len": _mean_sqrt_len,
    "weighted_mean": _weighted_mean,
}


def pooling_modes(mode):
    """Returns `mode`, one name or several, as a tuple of names out of `POOLING`; raises on a name not there."""
    modes = (mode,) if isinstance(mode, str) else tuple(mode) if isinstance(mode, (list, tuple)) else (mode,)
    if not modes:
        raise _check.invalid("mode", f"one of {', '.join(map(repr, POOLING))}, or several", mode)
    for name in modes:
        _check.one_of("mode", name, POOLING)
    return modes


@keras.saving.register_keras_serializable("tfxfer")
class Pooling(keras.layers.Layer):
    """One vector a text out of its token vectors.

    | mode | value |
    |---|---|
    | `"cls"` | the first real token |
    | `"mean"` | mean over the real tokens |
    | `"max"` | maximum over the real tokens, component by component |
    | `"last"` | the last real token (decoders such as GPT-2) |
    | `"mean_sqrt_len"` | sum over the real tokens / sqrt(their number) |
    | `"weighted_mean"` | mean with weights 1, 2, ... n along the real tokens (Muennighoff, 2022, arXiv:2202.08904) |

    Several modes together are concatenated in the order given. Padding is masked, on whichever side it lies; a row
    without any real token gives zeros. It computes in float32 under every dtype policy, so that long sums stay exact.

    Args:
        mode: string, or a sequence of them. Defaults to `"mean"`, the choice of Sentence-BERT (Reimers and Gurevych,
            2019, https://arxiv.org/abs/1908.10084).

    Call arguments:
        inputs: float tensor `(batch, length, hidden_dim)`.
        padding_mask: int or bool tensor `(batch, length)`, 1 at real tokens.

    Returns:
        A float32 tensor `(batch, hidden_dim * number of modes)`.

    Example:

    >>> import numpy as np
    >>> tokens = np.array([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]], "float32")
    >>> Pooling("mean")(tokens, padding_mask=np.array([[1, 1, 0]])).numpy().tolist()
    [[2.0, 3.0]]
    """

    def __init__(self, mode="mean", **kwargs):
        # Not under the caller's dtype policy: in bfloat16 a mean over hundreds of tokens keeps two digits.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.modes = pooling_modes(mode)
        self.supports_masking = True

    def build(self, inputs_shape, padding_mask_shape=None):
        self.built = True

    def call(self, inputs, padding_mask):
        mask = ops.cast(padding_mask, inputs.dtype)
        pooled = [POOLING[mode](inputs, mask) for mode in self.modes]
        return pooled[0] if len(pooled) == 1 else ops.concatenate(pooled, axis=-1)

    def compute_output_shape(self, inputs_shape, padding_mask_shape=None):
        dim = inputs_shape[-1]
        return (inputs_shape[0], None if dim is None else dim * len(self.modes))

    def get_config(self):
        return {**super().get_config(), "mode": list(self.modes)}


@keras.saving.register_keras_serializable("tfxfer")
class UnitNorm(keras.layers.Layer):
    """Scales each vector to Euclidean length 1: `x / max(||x||, 1e-12)`.

    As `keras.layers.UnitNormalization`, but in float32 under every dtype policy and with a finite gradient at the zero
    vector.

    Call arguments:
        inputs: float tensor `(..., dim)`.

    Returns:
        A float32 tensor of the same shape.

    Example:

    >>> float(UnitNorm()(keras.ops.array([[3.0, 4.0]]))[0, 0])  # 3 / 5, in float32
    0.6000000238418579
    """

    def __init__(self, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        self.built = True

    def call(self, inputs):
        return _ops.unit_norm(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("tfxfer")
class Head(Freezable, keras.layers.Layer):
    """The new top of a model: dropout, optional hidden layers, a linear output, in float32.

    `outputs = W_k a(... a(W_1 dropout(x) + b_1) ...) + b_k`, dropout before each dense layer.

    Args:
        num_outputs: int. Size of the output: the number of classes, or of values to regress on.
        hidden_dims: sequence of ints. Sizes of the hidden layers; none by default, which is BERT's linear head (Devlin
            et al., 2019, https://arxiv.org/abs/1810.04805).
        activation: activation of the hidden layers, `"gelu"` by default.
        dropout: float in `[0, 1)`. Defaults to 0.1, the rate that BERT is fine-tuned with.

    Call arguments:
        inputs: float tensor `(batch, features)`.

    Returns:
        A float32 tensor `(batch, num_outputs)`: logits, or values.

    Example:

    >>> Head(3, hidden_dims=(8,))(keras.ops.ones((2, 4))).shape
    TensorShape([2, 3])
    """

    def __init__(self, num_outputs, hidden_dims=(), activation="gelu", dropout=0.1, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.num_outputs = _check.integer("num_outputs", num_outputs)
        self.hidden_dims = tuple(_check.integer("hidden_dims", size) for size in hidden_dims)
        self.activation = keras.activations.get(activation)
        self.dropout = _check.number("dropout", dropout, minimum=0.0, maximum=1.0)
        if self.dropout == 1.0:
            raise _check.invalid("dropout", "a number >= 0.0 and < 1.0", dropout)
        sizes = (*self.hidden_dims, self.num_outputs)
        self.dropouts = [keras.layers.Dropout(self.dropout, dtype="float32") for _ in sizes]
        self.denses = [
            keras.layers.Dense(
                size,
                activation=self.activation if i < len(self.hidden_dims) else None,
                # BERT's initializer: a head that starts small leaves the pretrained features in place.
                kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
                dtype="float32",
            )
            for i, size in enumerate(sizes)
        ]

    def build(self, input_shape):
        for dense in self.denses:
            dense.build(input_shape)
            input_shape = (*input_shape[:-1], dense.units)
        self.built = True

    def call(self, inputs, training=None):
        x, training = inputs, self.is_training(training)
        for dropout, dense in zip(self.dropouts, self.denses, strict=True):
            x = dense(dropout(x, training=training))
        return x

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.num_outputs)

    def get_config(self):
        return {
            **super().get_config(),
            "num_outputs": self.num_outputs,
            "hidden_dims": list(self.hidden_dims),
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
        }


def _pair(inputs_shape, layer):
    if len(inputs_shape) != 3 or inputs_shape[1] not in (None, 2):
        raise _check.invalid(
            "inputs",
            f"the embeddings (batch, 2, dim) of pairs for {layer}",
            tuple(inputs_shape),
            "Give two text columns.",
        )


FEATURES = {
    "u": lambda u, v: u,
    "v": lambda u, v: v,
    "|u-v|": lambda u, v: ops.abs(u - v),
    "u*v": lambda u, v: u * v,
}


@keras.saving.register_keras_serializable("tfxfer")
class SoftmaxDecoder(keras.layers.Layer):
    """Classes of a pair out of its two embeddings: concat -> dense -> softmax, the softmax being the loss's.

    `logits = Head([u; v; |u - v|])`, with any choice out of `u`, `v`, `|u-v|` and `u*v`. For rows with a class for each
    pair, such as entailment, neutral, contradiction. The cosine of the embeddings is trained only through the features:
    where rows have a score, a loss on the cosine itself gives better similarities (`losses.CoSENTLoss`).

    Args:
        num_classes: int.
        features: sequence of names out of `FEATURES`. Defaults to `u`, `v` and `|u-v|`, the best choice of
            Sentence-BERT's table 6.
        hidden_dims: sequence of ints. Sizes of hidden layers; none by default.
        dropout: float in `[0, 1)`. Rate before each dense layer. Defaults to 0.

    Call arguments:
        inputs: float tensor `(batch, 2, dim)`, as `SiameseTowers` gives it.

    Returns:
        A float32 tensor `(batch, num_classes)` of logits.

    Raises:
        ValueError: for an unknown feature, or inputs of another number of columns.

    Example:

    >>> SoftmaxDecoder(3)(keras.ops.ones((4, 2, 8))).shape
    TensorShape([4, 3])

    Reference: Reimers and Gurevych, 2019, Sentence-BERT, https://arxiv.org/abs/1908.10084.
    """

    def __init__(self, num_classes, features=("u", "v", "|u-v|"), hidden_dims=(), dropout=0.0, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.num_classes = _check.integer("num_classes", num_classes)
        self.features = tuple(features) if isinstance(features, (list, tuple)) else (features,)
        for name in self.features or (None,):
            _check.one_of("features", name, FEATURES)
        self.head = Head(num_classes, hidden_dims, dropout=dropout, name="head")

    def build(self, input_shape):
        _pair(input_shape, "SoftmaxDecoder")
        self.head.build((input_shape[0], input_shape[2] * len(self.features)))
        self.built = True

    def call(self, inputs, training=None):
        u, v = inputs[:, 0], inputs[:, 1]
        return self.head(ops.concatenate([FEATURES[name](u, v) for name in self.features], axis=-1), training=training)

    def compute_output_shape(self, input_shape):
        _pair(input_shape, "SoftmaxDecoder")
        return (input_shape[0], self.num_classes)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "features": list(self.features),
            "hidden_dims": list(self.head.hidden_dims),
            "dropout": self.head.dropout,
        }


COMPARISONS = {**_ops.SIMILARITIES, **{f"{name}_distance": distance for name, distance in _ops.DISTANCES.items()}}


@keras.saving.register_keras_serializable("tfxfer")
class Comparison(keras.layers.Layer):
    """How near the first column lies to each of the others: a similarity or a distance.

    Args:
        measure: a similarity, larger when nearer, or a distance, smaller when nearer: a name out of `COMPARISONS`.
            Defaults to `"cosine"`.

    Call arguments:
        inputs: float tensor `(batch, columns, dim)`, as `SiameseTowers` gives it.

    Returns:
        A float32 tensor `(batch, columns - 1)`.

    Raises:
        ValueError: for an unknown measure, or inputs without columns.

    Example:

    >>> rows = keras.ops.array([[[3.0, 4.0], [0.0, 4.0], [3.0, 0.0]]])
    >>> Comparison("euclidean_distance")(rows).numpy().tolist()
    [[3.0, 4.0]]
    """

    def __init__(self, measure="cosine", **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.measure = _check.one_of("measure", measure, COMPARISONS)

    def build(self, input_shape):
        self._check_shape(input_shape)
        self.built = True

    def call(self, inputs):
        return COMPARISONS[self.measure](inputs[:, :1], inputs[:, 1:])

    def compute_output_shape(self, input_shape):
        self._check_shape(input_shape)
        return (input_shape[0], None if input_shape[1] is None else input_shape[1] - 1)

    def _check_shape(self, shape):
        if len(shape) != 3 or (shape[1] is not None and shape[1] < 2):
            raise _check.invalid(
                "inputs", "embeddings (batch, columns >= 2, dim)", tuple(shape), "Give two or more text columns."
            )

    def get_config(self):
        return {**super().get_config(), "measure": self.measure}


@keras.saving.register_keras_serializable("tfxfer")
class SiameseTowers(keras.layers.Layer):
    """Runs every text column through ONE shared encoder in one pass (Siamese network, Bromley et al., 1993).

    The columns of a row (the two texts of a pair, the three of a triplet) lie side by side in one tensor; they are laid
    under one another, encoded as one batch of `batch * columns` texts and laid side by side again.

    With `chunk_size`, the texts go through the encoder so many at a time, and what the backward pass needs of a chunk
    is computed again when its turn comes, so that the memory of a training step is that of a chunk, however large the
    batch: in-batch negatives by the thousands (gradient caching, Gao et al., 2021, https://arxiv.org/abs/2101.06983).
    Loss and gradients are those of one pass (with dropout, of one pass with other random numbers); a step costs one
    forward pass more. Texts of like length share a chunk.

    Args:
        encoder: a model from a dict of `(rows, length)` tensors to `(rows, dim)` vectors, such as
            `models.TextEmbedder`.
        chunk_size: int. Texts in a chunk; 64 is a good number on CPU. By default all at once.

    Call arguments:
        inputs: dict of int tensors `(batch, columns, length)` with the encoder's keys: `token_ids`, `padding_mask`, and
            `segment_ids` where it has them. The number of columns may vary from call to call.

    Returns:
        A float tensor `(batch, columns, dim)`.

    Raises:
        ValueError: if `chunk_size` is less than 1.

    Example:

    ```python
    embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2")
    pairs = {"token_ids": ids, "padding_mask": mask, "segment_ids": zeros}  # each (32, 2, length)
    tx.layers.SiameseTowers(embedder)(pairs).shape  # (32, 2, 384)
    ```
    """

    def __init__(self, encoder, chunk_size=None, **kwargs):
        # Not under the caller's dtype policy: the sums of the chunks' gradients are formed in this layer's dtype.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.encoder = encoder
        self.chunk_size = _check.integer("chunk_size", chunk_size, optional=True)

    def build(self, input_shape):
        self.built = True

    def call(self, inputs, training=None):
        shape = ops.shape(inputs["token_ids"])
        rows = {key: ops.reshape(value, (-1, shape[2])) for key, value in inputs.items()}
        if self.chunk_size is None:
            vectors = self.encoder(rows, training=training)
        else:
            vectors = _chunked(self.encoder, rows, self.chunk_size, training)
        return ops.reshape(vectors, (shape[0], shape[1], vectors.shape[-1]))

    @property
    def metrics(self):
        """None: where the encoder was trained by itself, its metrics are not those of the towers."""
        return []

    def compute_output_shape(self, input_shape):
        batch, columns, _ = input_shape["token_ids"]
        return (batch, columns, self.encoder.output_shape[-1])

    def get_config(self):
        encoder = keras.saving.serialize_keras_object(self.encoder)
        return {**super().get_config(), "encoder": encoder, "chunk_size": self.chunk_size}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["encoder"] = keras.saving.deserialize_keras_object(config["encoder"])
        return cls(**config)


def _chunked(encoder, rows, size, training):
    """`encoder(rows)`, `size` rows at a time, without keeping anything but the vectors for the backward pass."""
    count = ops.shape(rows["token_ids"])[0]
    chunks = -(-count // size)
    order = ops.argsort(ops.sum(rows["padding_mask"], axis=-1))
    # The rows that fill up the first chunk have no tokens, and stand where the short ones do.
    filled = {
        key: ops.reshape(
            ops.pad(ops.take(value, order, axis=0), ((chunks * size - count, 0), (0, 0))),
            (chunks, size, ops.shape(value)[1]),
        )
        for key, value in rows.items()
    }
    # The encoder as a function of its weights' values: what is computed twice must not read a variable that changes,
    # as the seeds of dropout do. Each chunk has a seed of its own, the same in both computations.
    trainable = [variable.value for variable in encoder.trainable_variables]
    others = encoder.non_trainable_variables
    values = [ops.stop_gradient(variable) for variable in others]

    def encode(_, number):
        states = [
            _advanced(value, number) if _is_seed(variable) else value
            for variable, value in zip(others, values, strict=True)
        ]
        x = _trimmed({key: ops.take(value, number, axis=0) for key, value in filled.items()})

        @keras.remat
        def compute(weights):
            return encoder.stateless_call(weights, states, x, training=training)[0]

        vectors = compute(trainable)
        return vectors, vectors

    start = ops.zeros((size, encoder.output_shape[-1]), encoder.outputs[0].dtype)
    _, vectors = ops.scan(encode, start, ops.arange(chunks, dtype="int32"))
    for variable, value in zip(others, values, strict=True):
        if training and _is_seed(variable):
            variable.assign(_advanced(value, chunks))
    vectors = ops.reshape(vectors, (-1, encoder.output_shape[-1]))
    return ops.take(vectors, ops.argsort(order) + (chunks * size - count), axis=0)


def _is_seed(variable):
    return variable.name == "seed_generator_state"


def _advanced(state, steps):
    """The state that a seed generator has after so many draws."""
    return state + ops.cast(ops.stack([0, steps]), state.dtype)


def _trimmed(x):
    """Cuts off the places where all rows are padding, where the backend knows shapes that depend on values."""
    if keras.config.backend() != "tensorflow":
        return x
    mask = x["padding_mask"]
    real = ops.any(mask > 0, axis=0)
    places = ops.arange(ops.shape(mask)[1], dtype="int32")
    start = ops.minimum(ops.min(ops.where(real, places, ops.shape(mask)[1])), ops.shape(mask)[1] - 1)
    end = ops.maximum(ops.max(ops.where(real, places + 1, 0)), start + 1)
    return {key: value[:, start:end] for key, value in x.items()}
