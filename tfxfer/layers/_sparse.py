"""Sparse pooling of token vectors to vocabulary weights, and a regularizer that keeps the weights sparse."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer._gradients import remat
from tfxfer.layers._token_logits import TokenLogits

TOKEN_POOLING = ("max", "sum")


class SparsePooling(TokenLogits):
    """The maximum or sum of `log(1 + relu(logits))` over a text's tokens: one weight per vocabulary token.

    The logits come from a masked language model's head. They are computed for one chunk of the vocabulary at a time and
    recomputed for the gradient, so `batch * length * vocabulary_chunk` numbers are held instead of
    `batch * length * vocabulary`.

    Args:
        embedding: see `TokenLogits`.
        token_pooling: string. `"max"` or `"sum"`.
        vocabulary_chunk: int. The number of vocabulary tokens computed at a time.
        **kwargs: passed to `TokenLogits`.

    Call arguments:
        inputs: float tensor `(batch, length, hidden_dim)`.
        padding_mask: int tensor `(batch, length)`, 1 at tokens to pool.
        training: bool. Only in training is something recomputed; exports have no gradient of their own.

    Returns:
        A float32 tensor `(batch, vocabulary_size)`, zeros for a row without tokens to pool.
    """

    def __init__(self, embedding: Any, *, token_pooling: str, vocabulary_chunk: int, **kwargs: Any) -> None:
        super().__init__(embedding, **kwargs)
        self.token_pooling = token_pooling
        self.vocabulary_chunk = vocabulary_chunk

    def build(self, inputs_shape: Any, padding_mask_shape: Any = None) -> None:
        super().build(inputs_shape)

    def call(  # type: ignore[override]  # the base class has no mask
        self, inputs: Any, padding_mask: Any, training: bool | None = None
    ) -> Any:
        x = self.norm(self.activation(self.dense(inputs)))
        mask = ops.cast(ops.expand_dims(padding_mask > 0, -1), x.dtype)
        table = ops.cast(ops.convert_to_tensor(self._table().embeddings), "float32")
        bias = ops.convert_to_tensor(self.bias)
        size, chunk = self.vocabulary_size, self.vocabulary_chunk
        if size <= chunk:
            return self._pooled(x, mask, table, bias)
        compute = remat(self._pooled) if training else self._pooled

        def step(carried, part):
            return carried, compute(x, mask, *part)

        chunks = size // chunk
        whole = chunks * chunk
        parts = (
            ops.reshape(table[:whole], (chunks, chunk, table.shape[1])),
            ops.reshape(bias[:whole], (chunks, chunk)),
        )
        start = ops.zeros((ops.shape(x)[0], chunk), x.dtype)  # TensorFlow's scan takes its output shape from this
        _, found = ops.scan(step, start, parts)
        found = ops.reshape(ops.transpose(found, (1, 0, 2)), (-1, whole))
        if whole == size:
            return found
        return ops.concatenate([found, compute(x, mask, table[whole:], bias[whole:])], axis=1)

    def _pooled(self, x, mask, table, bias):
        # Masked tokens become 0, the minimum of all weights.
        positive = ops.relu(ops.matmul(x, ops.transpose(table)) + bias) * mask
        if self.token_pooling == "max":  # of the logits, because the logarithm keeps their order
            return ops.log1p(ops.max(positive, axis=1))
        return ops.sum(ops.log1p(positive), axis=1)

    def compute_output_shape(self, inputs_shape: Any, padding_mask_shape: Any = None) -> tuple:
        return (inputs_shape[0], self.vocabulary_size)

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError(
            "This head uses its encoder's embedding table, which a layer config cannot hold. "
            "`type(model).from_config(model.get_config())` creates a model like this one; `from_model` copies one."
        )


@keras.saving.register_keras_serializable("tfxfer")
class FLOPSRegularization(keras.layers.Layer):
    """Adds a training loss that keeps sparse vectors sparse; the vectors pass through unchanged.

    `share * (query_weight * F(queries) + document_weight * F(documents))`, with
    `F(x) = sum over terms of (mean over texts of |x|)^2` and `share = min(1, step / warmup_steps)^2`. Terms shared by
    many texts cost most, as they do in an inverted index. The share grows with the square of the step, so that the
    model learns to rank before terms vanish.

    Use it as the `decoder` of a `models.Siamese` over a `models.SparseEmbedder`: column 0 holds queries, the others
    documents. The step count is saved with the model, so a resumed run does not repeat the warmup.

    Args:
        query_weight: float >= 0. Defaults to 5e-5.
        document_weight: float >= 0. Defaults to 3e-5. Larger weights leave fewer terms per text: tune both by the
            number of terms that `encode` returns.
        warmup_steps: int >= 1. The number of steps until the full weights are reached. Defaults to 1000; a third of the
            training is usual.

    Call arguments:
        inputs: float tensor `(batch, columns >= 2, dim)`.
        training: bool. The loss is added and the step counted only in training.

    Returns:
        `inputs`.

    Raises:
        ValueError: if a weight is below 0, or `warmup_steps` is below 1.

    Example:

    ```python
    model = tx.models.Siamese(sparse_embedder, decoder=tx.layers.FLOPSRegularization(warmup_steps=500))
    model.compile(loss=tx.losses.MultipleNegativesRankingLoss(1.0, similarity="dot"))
    ```

    Reference: Paria et al., 2020, FLOPS, https://arxiv.org/abs/2004.05665; Formal et al., 2021, its use and schedule in
    SPLADE, https://arxiv.org/abs/2107.05720.
    """

    # This decoder does not change the embeddings: without it the embedder is the same.
    changes_embeddings = False

    def __init__(
        self,
        query_weight: float = 5e-5,
        document_weight: float = 3e-5,
        warmup_steps: int = 1000,
        **kwargs: Any,
    ) -> None:
        # Ignores the caller's dtype policy, because it squares small means.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.query_weight = _check.number("query_weight", query_weight, minimum=0.0)
        self.document_weight = _check.number("document_weight", document_weight, minimum=0.0)
        self.warmup_steps = _check.integer("warmup_steps", warmup_steps)

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 3 or (input_shape[1] is not None and input_shape[1] < 2):
            remedy = "Use it as the decoder of a `models.Siamese` over a `models.SparseEmbedder`."
            raise _check.invalid("inputs", "a tensor (batch, columns >= 2, dim)", tuple(input_shape), remedy)
        self.steps = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="steps")
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if training:
            done = ops.cast(self.steps, "float32") + 1.0
            share = ops.square(ops.minimum(done / self.warmup_steps, 1.0))
            documents = ops.reshape(inputs[:, 1:], (-1, inputs.shape[-1]))
            parts = self.query_weight * _ops.flops(inputs[:, 0]) + self.document_weight * _ops.flops(documents)
            self.add_loss(share * parts)
            self.steps.assign(self.steps + 1)
        return inputs

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "query_weight": self.query_weight,
            "document_weight": self.document_weight,
            "warmup_steps": self.warmup_steps,
        }
