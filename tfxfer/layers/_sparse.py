"""From token vectors to a weight for each token of the vocabulary, and what keeps most of these weights at zero."""

from typing import Any

import keras
from keras import ops

from tfxfer import _check, _ops
from tfxfer.layers._token_logits import TokenLogits

TOKEN_POOLING = ("max", "sum")


class SparsePooling(TokenLogits):
    """`max or sum over a text's tokens of log(1 + relu(logits))`: one weight for each token of the vocabulary.

    The logits are those of a masked language model's head. They are computed for a part of the vocabulary at a time,
    and once more for the gradient: `batch * length * vocabulary_chunk` numbers are held, not `batch * length *
    vocabulary`.

    Args:
        embedding: as `TokenLogits` has it.
        token_pooling: `"max"` or `"sum"`.
        vocabulary_chunk: int. Tokens of the vocabulary computed at a time.
        **kwargs: those of `TokenLogits`.

    Call arguments:
        inputs: float tensor `(batch, length, hidden_dim)`.
        padding_mask: int tensor `(batch, length)`, 1 at tokens that count.

    Returns:
        A float32 tensor `(batch, vocabulary_size)`, zeros for a row without a token that counts.
    """

    def __init__(self, embedding: Any, *, token_pooling: str, vocabulary_chunk: int, **kwargs: Any) -> None:
        super().__init__(embedding, **kwargs)
        self.token_pooling = token_pooling
        self.vocabulary_chunk = vocabulary_chunk

    def build(self, inputs_shape: Any, padding_mask_shape: Any = None) -> None:
        super().build(inputs_shape)

    def call(self, inputs: Any, padding_mask: Any) -> Any:  # type: ignore[override]  # its base has no mask
        x = self.norm(self.activation(self.dense(inputs)))
        mask = ops.cast(ops.expand_dims(padding_mask > 0, -1), x.dtype)
        table = ops.cast(ops.convert_to_tensor(self._table().embeddings), "float32")
        bias = ops.convert_to_tensor(self.bias)
        size, chunk = self.vocabulary_size, self.vocabulary_chunk
        if size <= chunk:
            return self._pooled(x, mask, table, bias)
        compute = keras.remat(self._pooled)

        def step(carried, part):
            return carried, compute(x, mask, *part)

        chunks = size // chunk
        whole = chunks * chunk
        parts = (
            ops.reshape(table[:whole], (chunks, chunk, table.shape[1])),
            ops.reshape(bias[:whole], (chunks, chunk)),
        )
        start = ops.zeros((ops.shape(x)[0], chunk), x.dtype)  # TensorFlow's scan gives what has the form of this
        _, found = ops.scan(step, start, parts)
        found = ops.reshape(ops.transpose(found, (1, 0, 2)), (-1, whole))
        if whole == size:
            return found
        return ops.concatenate([found, compute(x, mask, table[whole:], bias[whole:])], axis=1)

    def _pooled(self, x, mask, table, bias):
        # What does not count is 0, which no weight is below.
        positive = ops.relu(ops.matmul(x, ops.transpose(table)) + bias) * mask
        if self.token_pooling == "max":  # of the logits: the logarithm keeps their order
            return ops.log1p(ops.max(positive, axis=1))
        return ops.sum(ops.log1p(positive), axis=1)

    def compute_output_shape(self, inputs_shape: Any, padding_mask_shape: Any = None) -> tuple:
        return (inputs_shape[0], self.vocabulary_size)

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError(
            "This head computes with its encoder's table of embeddings, which no config of the layer holds. "
            "`type(model).from_config(model.get_config())` makes a model like this one; `from_model` copies one."
        )


@keras.saving.register_keras_serializable("tfxfer")
class FLOPSRegularization(keras.layers.Layer):
    """Adds a loss in training that keeps sparse vectors sparse; the vectors pass as they are.

    `share * (query_weight * F(queries) + document_weight * F(documents))`, with
    `F(x) = sum over terms of (mean over texts of |x|)^2` and `share = min(1, step / warmup_steps)^2`. The term of a
    token that many texts have costs most, as it costs most in an inverted index. The share rises with the square of the
    step, so that the ranking is learned before terms go.

    It is the `decoder` of a `models.Siamese` over a `models.SparseEmbedder`: column 0 holds queries, the others
    documents. The number of steps is saved with the model, so that a training that continues does not start over.

    Args:
        query_weight: float >= 0. Defaults to 5e-5.
        document_weight: float >= 0. Defaults to 3e-5. The larger, the fewer terms a text has: adapt both to the number
            of terms that `encode` gives.
        warmup_steps: int >= 1. Steps until the weights are reached. Defaults to 1000; a third of the training is usual.

    Call arguments:
        inputs: float tensor `(batch, columns >= 2, dim)`.
        training: bool. The loss is added, and the step counted, in training alone.

    Returns:
        `inputs`.

    Raises:
        ValueError: for a weight below 0, or a number of steps below 1.

    Example:

    ```python
    model = tx.models.Siamese(sparse_embedder, decoder=tx.layers.FLOPSRegularization(warmup_steps=500))
    model.compile(loss=tx.losses.MultipleNegativesRankingLoss(1.0, similarity="dot"))
    ```

    Reference: Paria et al., 2020, FLOPS, https://arxiv.org/abs/2004.05665; Formal et al., 2021, its use and schedule in
    SPLADE, https://arxiv.org/abs/2107.05720.
    """

    # A decoder that leaves the embeddings as they are: without it the embedder is the same.
    changes_embeddings = False

    def __init__(
        self,
        query_weight: float = 5e-5,
        document_weight: float = 3e-5,
        warmup_steps: int = 1000,
        **kwargs: Any,
    ) -> None:
        # Not under the caller's dtype policy: squares of small means.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.query_weight = _check.number("query_weight", query_weight, minimum=0.0)
        self.document_weight = _check.number("document_weight", document_weight, minimum=0.0)
        self.warmup_steps = _check.integer("warmup_steps", warmup_steps)

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 3 or (input_shape[1] is not None and input_shape[1] < 2):
            remedy = "It is the decoder of a `models.Siamese` over a `models.SparseEmbedder`."
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
