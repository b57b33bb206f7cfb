"""The basic parts of an encoder: dense layers, norms, dropout, activations, embeddings.

A part knows the shapes of its weights before it is built, so that a checkpoint can be checked against them before
anything is allocated.
"""

import contextlib
import contextvars
import math

import keras
from keras import ops

from tfxfer import _ops, _tensors
from tfxfer._freezable import Freezable
from tfxfer._gradients import custom_gradient
from tfxfer.backbones import _fused
from tfxfer.backbones._unpadding import leaves_padding_out

_TRAINS = contextvars.ContextVar("trains", default=False)


@contextlib.contextmanager
def trains(training):
    """Context in which activations may use a form that is faster to differentiate."""
    token = _TRAINS.set(bool(training))
    try:
        yield
    finally:
        _TRAINS.reset(token)


def _gelu(x):
    """The exact GELU: `x / 2 * (1 + erf(x / sqrt(2)))`."""
    if _TRAINS.get() and keras.config.backend() == "tensorflow":

        def plain(x):
            return ops.cast(_differentiated_gelu(ops.cast(x, keras.backend.result_type(x.dtype, "float32"))), x.dtype)

        return _fused.either(_fused.gelu, plain, x)
    if keras.config.backend() != "jax" or keras.backend.standardize_dtype(x.dtype) not in ("bfloat16", "float16"):
        return _ops.gelu(x)
    # JAX's own keeps the digits of the tails with erfc, two polynomials and an exponential: 1.8 times as long on an
    # H100 (`benchmarks/gpu.py`). 16 bits do not hold those digits, and JAX rounds the argument to 16 bits: in float32,
    # the result is more accurate.
    wide = ops.cast(x, "float32")
    return ops.cast(0.5 * wide * (1.0 + ops.erf(wide * math.sqrt(0.5))), x.dtype)


def _gelu_approximate(x):
    """The GELU with a hyperbolic tangent."""

    def plain(x):
        return _ops.gelu(x, approximate=True)

    return _fused.either(_fused.gelu_approximate, plain, x) if _TRAINS.get() else plain(x)


@custom_gradient
def _differentiated_gelu(x):
    """The exact GELU for training on TensorFlow, with its gradient: 0.6 of the time of `keras.ops.gelu`."""
    share = 0.5 + 0.5 * ops.erf(x * math.sqrt(0.5))

    def gradient(*args, upstream=None):
        (upstream,) = args or (upstream,)
        density = ops.exp(ops.square(x) * -0.5 - 0.5 * math.log(2 * math.pi))
        return upstream * (share + x * density)

    return x * share, gradient


ACTIVATIONS = {
    "gelu": _gelu,
    "gelu_approximate": _gelu_approximate,
    "relu": ops.relu,
    "silu": ops.silu,
}


_ARE_LOADED = contextvars.ContextVar("are_loaded", default=False)


@contextlib.contextmanager
def loaded():
    """Initializes weights with zeros instead of random numbers in this context: a checkpoint replaces them."""
    token = _ARE_LOADED.set(True)
    try:
        yield
    finally:
        _ARE_LOADED.reset(token)


def _start():
    """Returns the initializer for matrices."""
    # Always created, because it draws a seed: layers created after an encoder start the same, loaded or not.
    start = keras.initializers.TruncatedNormal(stddev=0.02)
    return keras.initializers.Zeros() if _ARE_LOADED.get() else start


def dense(inputs, units, *, use_bias=True, activation=None, dtype, name):
    """Returns an unbuilt `keras.layers.Dense` from `inputs` to `units` features."""
    layer = keras.layers.Dense(
        units,
        use_bias=use_bias,
        activation=ACTIVATIONS[activation] if activation else None,
        kernel_initializer=_start(),
        dtype=dtype,
        name=name,
    )
    layer.input_spec = keras.InputSpec(min_ndim=2, axes={-1: inputs})
    return layer


def norm(kind, dim, epsilon, *, dtype, name):
    """Returns an unbuilt norm over `dim` features: `"layer"`, `"layer_without_bias"` or `"rms"`."""
    if kind == "rms":
        layer = RMSNorm(epsilon=epsilon, dtype=dtype, name=name)
    else:
        layer = LayerNorm(epsilon=epsilon, center=kind == "layer", dtype=dtype, name=name)
    layer.input_spec = keras.InputSpec(min_ndim=1, axes={-1: dim})
    return layer


class LayerNorm(keras.layers.LayerNormalization):
    """Keras's layer normalization; on TensorFlow, a token's result is bit-identical wherever it is in the batch.

    See `_ops.reciprocal_sqrt`.
    """

    def call(self, inputs):
        """Normalizes the last axis."""
        if not leaves_padding_out():
            return super().call(inputs)
        if not self.is_affine:
            return self.normalized(inputs, self.gamma, self.beta)
        return _fused.either(_fused.layer_norm, self.normalized, inputs, *self.tensors(), epsilon=self.epsilon)

    @property
    def is_affine(self):
        """Whether there are a scale and a shift."""
        return self.gamma is not None and self.beta is not None

    def tensors(self):
        """Returns the scale and the shift as tensors."""
        return tuple(ops.convert_to_tensor(each) for each in (self.gamma, self.beta))

    def normalized(self, inputs, gamma, beta):
        """Returns the normalized last axis, scaled and shifted."""
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        gamma, beta = (None if each is None else ops.cast(each, x.dtype) for each in (gamma, beta))
        if _TRAINS.get() and gamma is not None and beta is not None:
            x = custom_gradient(self._differentiated)(x, gamma, beta)
        else:
            x = self._moments_and_normalized(x, gamma, beta)[-1]
        return ops.cast(x, self.compute_dtype)

    def _moments_and_normalized(self, x, gamma, beta):
        mean, variance = ops.moments(x, axes=[-1], keepdims=True)
        inverse = _ops.reciprocal_sqrt(variance + self.epsilon)
        scale = inverse if gamma is None else inverse * gamma
        shift = -mean * scale
        return mean, inverse, x * scale + (shift if beta is None else shift + beta)

    def _differentiated(self, x, gamma, beta):
        """The norm for training on TensorFlow, with its gradient in fewer operations."""
        mean, inverse, found = self._moments_and_normalized(x, gamma, beta)

        def gradient(*args, upstream=None):
            (upstream,) = args or (upstream,)
            normalized = (x - mean) * inverse
            scaled = upstream * gamma
            products = ops.mean(scaled * normalized, axis=-1, keepdims=True)
            of_x = (scaled - ops.mean(scaled, axis=-1, keepdims=True) - normalized * products) * inverse
            rows = list(range(x.shape.rank - 1))
            return of_x, ops.sum(upstream * normalized, axis=rows), ops.sum(upstream, axis=rows)

        return found, gradient


class RMSNorm(keras.layers.RMSNormalization):
    """Keras's RMS normalization, with bit-identical results wherever a token is; see `LayerNorm`."""

    def call(self, inputs):
        """Normalizes the last axis."""
        if not leaves_padding_out():
            return super().call(inputs)
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        scale = _ops.reciprocal_sqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + self.epsilon)
        return ops.cast(x * scale * ops.cast(self.scale, x.dtype), self.compute_dtype)


def embedding(rows, dim, *, dtype, name):
    """Returns an unbuilt `keras.layers.Embedding`."""
    return keras.layers.Embedding(rows, dim, embeddings_initializer=_start(), dtype=dtype, name=name)


def width(layer):
    """Returns the number of input features of a dense layer or norm of this module."""
    return layer.input_spec.axes[-1]


class Dropout(keras.layers.Dropout):
    """Keras's dropout; on TensorFlow, with a gradient of its own and the same numbers."""

    def call(self, inputs, training=False):
        """Zeroes a share of the numbers in training, and scales the others so that the mean stays."""
        if keras.config.backend() != "tensorflow" or not self.is_active(training):
            return super().call(inputs, training=training)
        return _scaled(inputs, self.kept(inputs), self.scale)

    def is_active(self, training):
        """Returns whether the layer changes its input, and keeps some of it."""
        return bool(training) and 0 < self.rate < 1

    def kept(self, inputs):
        """Draws which numbers stay: booleans of the shape of `inputs`."""
        # Floats, as in Keras: XLA has no random integers for axes of unknown size.
        return _tensors.uniform(_tensors.shape(inputs), self.seed_generator) >= self.rate

    @property
    def scale(self):
        """The factor on the numbers that stay."""
        return 1.0 / (1.0 - self.rate)


def _scaled(x, kept, scale):
    """Returns `x * scale` where a number is kept, and 0 elsewhere; what it keeps for the gradient are booleans."""

    @custom_gradient
    def compute(x):
        def scaled(x):
            return x * (ops.cast(kept, x.dtype) * scale)

        def gradient(*args, upstream=None):
            (upstream,) = args or (upstream,)
            return scaled(upstream)

        return scaled(x), gradient

    return compute(x)


def normed_sum(part, x, dropout, norm, training):
    """Returns `norm(dropout(part) + x)`."""
    if not (_fused.is_fused() and training and type(norm) is LayerNorm and norm.is_affine and 0 <= dropout.rate < 1):
        add = _tensors.add if training else ops.add
        return norm(add(dropout(part, training=training), x))

    def plain(part, x, gamma, beta, *kept):
        part = _scaled(part, kept[0], dropout.scale) if kept else part
        return norm.normalized(ops.add(part, x), gamma, beta)

    # Drawn here: neither a branch nor the backward pass may change the seed.
    kept = (dropout.kept(part),) if dropout.is_active(training) else ()
    constants = {"scale": dropout.scale, "epsilon": norm.epsilon}
    return _fused.either(_fused.normed_sum, plain, part, x, *norm.tensors(), given=kept, **constants)


class Embeddings(Freezable, keras.layers.Layer):
    """The embedding part: tokens (+ positions) (+ segments), scaled or normalized, dropout, optionally projected.

    Args:
        vocabulary_size: int. Rows of the token table.
        embedding_dim: int. Size of the tables' vectors.
        hidden_dim: int. Size of the output. If it differs from `embedding_dim`, a dense layer projects the vectors.
        num_positions: int. Rows of the position table; 0 for no table.
        num_segments: int. Rows of the segment table; 0 for no table.
        norm: kind of norm, see `norm`; `None` for no norm.
        epsilon: float. Epsilon of the norm.
        dropout: float. Dropout rate.
        scale: float. Factor on the token vectors.
        projected: bool. Whether there is a projection even if the sizes are equal.

    Call arguments:
        token_ids: int tensor `(real tokens,)`.
        positions: int tensor `(real tokens,)`.
        segment_ids: int tensor `(real tokens,)`, if there is a segment table.

    Returns:
        A float tensor `(real tokens, hidden_dim)`.
    """

    def __init__(
        self,
        vocabulary_size,
        embedding_dim,
        hidden_dim,
        *,
        num_positions=0,
        num_segments=0,
        norm=None,
        epsilon=1e-12,
        dropout=0.0,
        scale=1.0,
        projected=False,
        dtype=None,
        name="embeddings",
    ):
        super().__init__(dtype=dtype, name=name)
        self.embedding_dim = embedding_dim
        self.hidden_dim = hidden_dim
        self.scale = scale
        policy = self.dtype_policy
        self.token_embedding = embedding(vocabulary_size, embedding_dim, dtype=policy, name="token_embedding")
        self.position_embedding = self.segment_embedding = self.norm = self.projection = None
        if num_positions:
            self.position_embedding = embedding(num_positions, embedding_dim, dtype=policy, name="position_embedding")
        if num_segments:
            self.segment_embedding = embedding(num_segments, embedding_dim, dtype=policy, name="segment_embedding")
        if norm is not None:
            self.norm = _norm(norm, embedding_dim, epsilon, dtype=policy, name="norm")
        self.dropout = Dropout(dropout, dtype=policy, name="dropout")
        if projected or embedding_dim != hidden_dim:
            self.projection = dense(embedding_dim, hidden_dim, dtype=policy, name="projection")

    def build(self, *shapes, **named_shapes):
        """Builds the tables, the norm and the projection."""
        for table in (self.token_embedding, self.position_embedding, self.segment_embedding):
            if table is not None:
                table.build((None,))
        for layer in (self.norm, self.projection):
            if layer is not None:
                layer.build((None, self.embedding_dim))
        self.built = True

    def call(self, token_ids, positions, segment_ids=None, training=None):
        """Embeds tokens; see the call arguments of the class."""
        x = self.token_embedding(token_ids)
        if self.scale != 1.0:
            x = x * ops.cast(self.scale, x.dtype)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        if self.segment_embedding is not None:
            x = x + self.segment_embedding(segment_ids)
        if self.norm is not None:
            x = self.norm(x)
        x = self.dropout(x, training=self.is_training(training))
        return x if self.projection is None else self.projection(x)

    def compute_output_spec(self, token_ids, positions, segment_ids=None, training=None):
        """Returns the symbolic output: a vector of size `hidden_dim` for each token."""
        return keras.KerasTensor((*token_ids.shape, self.hidden_dim), self.compute_dtype)

    def get_config(self):
        """Raises `NotImplementedError`: an encoder is copied as a whole."""
        # `keras.models.clone_model` requests the config of each layer of an encoder, this layer first.
        raise NotImplementedError(
            "The layers of an encoder have no individual configs. Copy the encoder as a whole: "
            "`copy.deepcopy(backbone)`, or `type(backbone).from_config(backbone.get_config())` without the weights."
        )


_norm = norm  # the argument of `Embeddings` has the same name
