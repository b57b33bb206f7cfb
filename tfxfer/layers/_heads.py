"""Heads on vectors, and decoders of several embeddings per row."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer._freezable import Freezable


@keras.saving.register_keras_serializable("tfxfer")
class Head(Freezable, keras.layers.Layer):
    """The head of a model: dropout, optional hidden layers and a linear output, in float32.

    `outputs = W_k a(... a(W_1 dropout(x) + b_1) ...) + b_k`, with dropout before each dense layer. The options after
    `dropout` reproduce the trained heads of checkpoints.

    Args:
        num_outputs: int. The size of the output: the number of classes, or of regression values.
        hidden_dims: sequence of ints. The sizes of the hidden layers. Defaults to none, BERT's linear head (Devlin et
            al., 2019, https://arxiv.org/abs/1810.04805).
        activation: activation of the hidden layers, `"gelu"` by default.
        dropout: float in `[0, 1)`. Defaults to 0.1, the rate for fine-tuning BERT.
        hidden_dropout: float in `[0, 1)`. The rate before the hidden layers. Defaults to `dropout`; use 0 for a pooler
            such as BERT's.
        use_bias: bool. Whether the output has a bias. Defaults to `True`.
        hidden_use_bias: bool. Whether the hidden layers have a bias. Defaults to `True`.
        norm_epsilon: optional float > 0. The epsilon of a layer norm without bias after each activation. Defaults to
            `None`, no norm.

    Call arguments:
        inputs: float tensor `(batch, features)`.

    Returns:
        A float32 tensor `(batch, num_outputs)`: logits, or values.

    Raises:
        ValueError: if a size is less than 1, or a rate or `norm_epsilon` is out of range.

    Example:

    >>> Head(3, hidden_dims=(8,))(keras.ops.ones((2, 4))).shape
    TensorShape([2, 3])
    """

    def __init__(
        self,
        num_outputs: int,
        hidden_dims: Sequence[int] = (),
        activation: str | Callable = "gelu",
        dropout: float = 0.1,
        *,
        hidden_dropout: float | None = None,
        use_bias: bool = True,
        hidden_use_bias: bool = True,
        norm_epsilon: float | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.num_outputs = _check.integer("num_outputs", num_outputs)
        self.hidden_dims = tuple(_check.integer("hidden_dims", size) for size in hidden_dims)
        self.activation = keras.activations.get(activation)
        self.dropout = _rate("dropout", dropout)
        self.hidden_dropout = self.dropout if hidden_dropout is None else _rate("hidden_dropout", hidden_dropout)
        self.use_bias = bool(use_bias)
        self.hidden_use_bias = bool(hidden_use_bias)
        self.norm_epsilon = (
            norm_epsilon if norm_epsilon is None else _check.number("norm_epsilon", norm_epsilon, above=0)
        )
        rates = [self.hidden_dropout] * len(self.hidden_dims) + [self.dropout]
        self.dropouts = [keras.layers.Dropout(rate, dtype="float32") for rate in rates]
        # Named, because `set_state_tree` finds weights by their paths.
        hidden = [
            self._dense(size, self.hidden_use_bias, self.activation, name=f"hidden_{i}")
            for i, size in enumerate(self.hidden_dims)
        ]
        self.denses = [*hidden, self._dense(self.num_outputs, self.use_bias, name="output")]
        self.norms = []
        if self.norm_epsilon is not None:
            options = {"epsilon": self.norm_epsilon, "center": False, "dtype": "float32"}
            self.norms = [
                keras.layers.LayerNormalization(**options, name=f"norm_{i}") for i in range(len(self.hidden_dims))
            ]

    def _dense(self, units, use_bias, activation=None, *, name):
        # BERT's initializer: small initial weights preserve the pretrained features.
        start = keras.initializers.TruncatedNormal(stddev=0.02)
        options = {"activation": activation, "use_bias": use_bias, "kernel_initializer": start, "dtype": "float32"}
        return keras.layers.Dense(units, **options, name=name)

    def build(self, input_shape: Any) -> None:
        for dense in self.denses:
            dense.build(input_shape)
            input_shape = (*input_shape[:-1], dense.units)
        for norm, size in zip(self.norms, self.hidden_dims, strict=True) if self.norms else ():
            norm.build((*input_shape[:-1], size))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x, training = inputs, self.is_training(training)
        for i, (dropout, dense) in enumerate(zip(self.dropouts, self.denses, strict=True)):
            x = dense(dropout(x, training=training))
            if i < len(self.norms):
                x = self.norms[i](x)
        return x

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return (*input_shape[:-1], self.num_outputs)

    @property
    def output_dense(self) -> keras.layers.Layer:
        """The dense layer that computes the outputs."""
        return self.denses[-1]

    def linear_output(self) -> keras.layers.Layer | None:
        """Returns the output layer if it is applied directly to the inputs; otherwise `None`."""
        return None if self.hidden_dims else self.output_dense

    def with_dropout(self, dropout: float) -> Self:
        """Returns a new head with another `dropout` rate, also before hidden layers that had the same rate."""
        config = {**self.get_config(), "dropout": _rate("dropout", dropout)}
        if self.hidden_dropout == self.dropout:
            config["hidden_dropout"] = None
        return type(self).from_config(config)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_outputs": self.num_outputs,
            "hidden_dims": list(self.hidden_dims),
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "hidden_dropout": self.hidden_dropout,
            "use_bias": self.use_bias,
            "hidden_use_bias": self.hidden_use_bias,
            "norm_epsilon": self.norm_epsilon,
        }


def _rate(argument, value):
    if _check.number(argument, value, minimum=0.0, maximum=1.0) == 1.0:
        raise _check.invalid(argument, "a number >= 0.0 and < 1.0", value)
    return float(value)


def _pair(inputs_shape, layer):
    if len(inputs_shape) != 3 or inputs_shape[1] not in (None, 2):
        raise _check.invalid(
            "inputs",
            f"the embeddings (batch, 2, dim) of pairs for {layer}",
            tuple(inputs_shape),
            "Pass two text columns.",
        )


FEATURES = {
    "u": lambda u, v: u,
    "v": lambda u, v: v,
    "|u-v|": lambda u, v: ops.abs(u - v),
    "u*v": lambda u, v: u * v,
}


@keras.saving.register_keras_serializable("tfxfer")
class SoftmaxDecoder(keras.layers.Layer):
    """Classifies a pair from its two embeddings: concat -> dense; the loss applies the softmax.

    `logits = Head([u; v; |u - v|])`, with any selection of `u`, `v`, `|u-v|` and `u*v`. Use it for pairs with a class,
    such as entailment, neutral or contradiction. The cosine of the embeddings is trained only through the features: if
    pairs have a score, a loss on the cosine itself gives better similarities (`losses.CoSENTLoss`).

    Args:
        num_classes: int. The number of classes.
        features: sequence of keys of `FEATURES`. Defaults to `u`, `v` and `|u-v|`, the best selection in table 6 of
            Sentence-BERT.
        hidden_dims: sequence of ints. The sizes of hidden layers. Defaults to none.
        dropout: float in `[0, 1)`. The rate before each dense layer. Defaults to 0.

    Call arguments:
        inputs: float tensor `(batch, 2, dim)`, the output of `SiameseTowers`.

    Returns:
        A float32 tensor `(batch, num_classes)` of logits.

    Raises:
        ValueError: if a feature is unknown, or `inputs` do not have two columns.

    Example:

    >>> SoftmaxDecoder(3)(keras.ops.ones((4, 2, 8))).shape
    TensorShape([4, 3])

    Reference: Reimers and Gurevych, 2019, Sentence-BERT, https://arxiv.org/abs/1908.10084.
    """

    def __init__(
        self,
        num_classes: int,
        features: Sequence[str] = ("u", "v", "|u-v|"),
        hidden_dims: Sequence[int] = (),
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.num_classes = _check.integer("num_classes", num_classes)
        self.features = tuple(features) if isinstance(features, (list, tuple)) else (features,)
        for name in self.features or (None,):
            _check.one_of("features", name, FEATURES)
        self.head = Head(num_classes, hidden_dims, dropout=dropout, name="head")

    def build(self, input_shape: Any) -> None:
        _pair(input_shape, "SoftmaxDecoder")
        self.head.build((input_shape[0], input_shape[2] * len(self.features)))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.head(self.compared(inputs), training=training)

    def compared(self, inputs: Any) -> Any:
        """Returns the features of `inputs` that the dense layers read, `(batch, features * dim)`."""
        u, v = inputs[:, 0], inputs[:, 1]
        return ops.concatenate([FEATURES[name](u, v) for name in self.features], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        _pair(input_shape, "SoftmaxDecoder")
        return (input_shape[0], self.num_classes)

    def get_config(self) -> dict[str, Any]:
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
    """Compares the first column with each of the others by a similarity or a distance.

    Args:
        measure: string. A key of `COMPARISONS`: a similarity, larger when closer, or a distance, smaller when closer.
            Defaults to `"cosine"`.

    Call arguments:
        inputs: float tensor `(batch, columns, dim)`, the output of `SiameseTowers`.

    Returns:
        A float32 tensor `(batch, columns - 1)`.

    Raises:
        ValueError: if `measure` is unknown, or `inputs` have fewer than two columns.

    Example:

    >>> rows = keras.ops.array([[[3.0, 4.0], [0.0, 4.0], [3.0, 0.0]]])
    >>> Comparison("euclidean_distance")(rows).numpy().tolist()
    [[3.0, 4.0]]
    """

    def __init__(self, measure: str = "cosine", **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.measure = _check.one_of("measure", measure, COMPARISONS)

    def build(self, input_shape: Any) -> None:
        self._check_shape(input_shape)
        self.built = True

    def call(self, inputs: Any) -> Any:
        return COMPARISONS[self.measure](inputs[:, :1], inputs[:, 1:])

    def compute_output_shape(self, input_shape: Any) -> tuple:
        self._check_shape(input_shape)
        return (input_shape[0], None if input_shape[1] is None else input_shape[1] - 1)

    def _check_shape(self, shape):
        if len(shape) != 3 or (shape[1] is not None and shape[1] < 2):
            raise _check.invalid(
                "inputs", "embeddings (batch, columns >= 2, dim)", tuple(shape), "Pass two or more text columns."
            )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "measure": self.measure}
