"""A convolutional head over token states."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
from keras import ops

from tfxfer import _check
from tfxfer._freezable import Freezable
from tfxfer.layers._heads import Head
from tfxfer.layers._pooling import Pooling

MODES = ("max", "mean")


@keras.saving.register_keras_serializable("tfxfer")
class SeparableConvHead(Freezable, keras.layers.Layer):
    """Depthwise-separable convolutions of several widths over token states, pooled, then a linear output.

    For each kernel size `k`: a depthwise convolution, `d_t = sum_j w_j * x_(t + j - (k - 1) // 2)`, with a weight for
    each of the `k` positions and each feature; a pointwise convolution, `c_t = activation(d_t P + b)`, with `filters`
    features; the maximum over the real tokens. The results of all widths are concatenated and pass through dropout to
    the output.

    The head finds phrases of `k` tokens at any position, which a mean over tokens blurs. A separable convolution has
    `k * hidden_dim + hidden_dim * filters` weights per width; a plain convolution has `k * hidden_dim * filters`.

    Padding counts as zeros, like the positions beyond the ends of a text, so its amount and side do not change the
    output. A row without real tokens gives the output of zero features.

    The convolutions are learned, so no linear probe can initialize the head (`freezing.probe` raises). In a task the
    head reads the encoder's token states (`reads = "sequence"`, see `DenselyConnectedHead`) instead of the task's
    pooling; `freezing.AboveFrozen` caches the token states.

    Args:
        num_outputs: int. The number of classes, or of values.
        kernel_sizes: sequence of ints. The widths in tokens. Defaults to 3, 4 and 5, as in Kim's text CNN.
        filters: int. The number of features per width. Defaults to 100, as in Kim's text CNN.
        pooling: string. `"max"` (default) detects whether a phrase occurs; `"mean"` measures its share of the text.
        activation: activation after the pointwise convolution. Defaults to `"relu"`.
        dropout: float in `[0, 1)`. The rate before the output. Defaults to 0.1, as in `Head`.

    Call arguments:
        inputs: float tensor `(batch, length, hidden_dim)`.
        padding_mask: int or bool tensor `(batch, length)`, 1 at real tokens.

    Returns:
        A float32 tensor `(batch, num_outputs)`.

    Raises:
        ValueError: if a size is less than 1, widths are missing or repeated, `pooling` is unknown, or `dropout` is out
            of range.

    Example:

    >>> head = SeparableConvHead(3, kernel_sizes=(2, 3), filters=8)
    >>> head(keras.ops.ones((2, 5, 4)), padding_mask=keras.ops.ones((2, 5))).shape
    TensorShape([2, 3])

    ```python
    head = tx.layers.SeparableConvHead(77, kernel_sizes=(2, 3, 5))
    model = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=labels, head=head)
    ```

    References:
        - [Chollet, 2017](https://arxiv.org/abs/1610.02357), separable convolutions
        - [Kim, 2014](https://arxiv.org/abs/1408.5882), convolutions of several widths over a text
    """

    reads = "sequence"

    def __init__(
        self,
        num_outputs: int,
        kernel_sizes: Sequence[int] = (3, 4, 5),
        filters: int = 100,
        *,
        pooling: str = "max",
        activation: str | Callable = "relu",
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        if not isinstance(kernel_sizes, (list, tuple)) or not kernel_sizes:
            raise _check.invalid("kernel_sizes", "a list of ints, such as (3, 4, 5)", kernel_sizes)
        self.kernel_sizes = tuple(_check.integer("kernel_sizes", each) for each in kernel_sizes)
        if len(set(self.kernel_sizes)) < len(self.kernel_sizes):
            raise _check.invalid(
                "kernel_sizes", "each width once", kernel_sizes, "Increase `filters` for the same effect."
            )
        self.filters = _check.integer("filters", filters)
        self.pooling = Pooling(_check.one_of("pooling", pooling, MODES), name="pooling")
        self.activation = keras.activations.get(activation)
        self.head = Head(num_outputs, dropout=dropout, name="head")
        self.num_outputs = self.head.num_outputs
        options = {"activation": self.activation, "dtype": "float32"}
        self.pointwise = [keras.layers.Dense(filters, name=f"pointwise_{k}", **options) for k in self.kernel_sizes]
        self.depthwise: list = []

    @property
    def output_dense(self) -> keras.layers.Layer:
        """The dense layer that computes the outputs."""
        return self.head.output_dense

    def build(self, inputs_shape: Any, padding_mask_shape: Any = None) -> None:
        dim = inputs_shape[-1]
        self.depthwise = [
            self.add_weight(shape=(k, dim), initializer="glorot_uniform", name=f"depthwise_{k}")
            for k in self.kernel_sizes
        ]
        for layer in self.pointwise:
            layer.build((None, None, dim))
        self.head.build((None, self.filters * len(self.kernel_sizes)))
        self.built = True

    def call(self, inputs: Any, padding_mask: Any, training: bool | None = None) -> Any:
        pooled = self.convolved(inputs, padding_mask)
        return self.head(pooled, training=self.is_training(training))

    def convolved(self, inputs: Any, padding_mask: Any) -> Any:
        """Returns the inputs of the output layer, `(batch, filters * widths)`.

        `inputs` and `padding_mask` are those of a call.
        """
        x = ops.cast(inputs, "float32")
        x = ops.where(ops.expand_dims(ops.cast(padding_mask, "bool"), -1), x, ops.zeros_like(x))
        found = [
            self.pooling(dense(depthwise_convolution(x, kernel)), padding_mask=padding_mask)
            for kernel, dense in zip(self.depthwise, self.pointwise, strict=True)
        ]
        return ops.concatenate(found, axis=-1)

    def compute_output_shape(self, inputs_shape: Any, padding_mask_shape: Any = None) -> tuple:
        return (inputs_shape[0], self.num_outputs)

    def with_dropout(self, dropout: float) -> Self:
        """Returns a new head with the same configuration and another `dropout` rate."""
        return type(self).from_config({**self.get_config(), "dropout": dropout})

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_outputs": self.num_outputs,
            "kernel_sizes": list(self.kernel_sizes),
            "filters": self.filters,
            "pooling": self.pooling.modes[0],
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.head.dropout,
        }


def depthwise_convolution(x: Any, kernel: Any) -> Any:
    """Returns `sum_j kernel_j * x_(t + j - (size - 1) // 2)`, with zeros beyond the ends.

    A sum of shifted products runs on every backend and in every export runtime, and its gradient is again such a sum.

    Args:
        x: float tensor `(batch, length, dim)`, zeros at padding.
        kernel: float tensor `(size, dim)`.
    """
    size, length = kernel.shape[0], ops.shape(x)[1]
    before = (size - 1) // 2
    padded = ops.pad(x, ((0, 0), (before, size - 1 - before), (0, 0)))
    return sum(kernel[j] * padded[:, j : j + length] for j in range(size))
