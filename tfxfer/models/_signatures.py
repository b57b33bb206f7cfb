"""How a task describes itself to code that works on any task: exports, freezing, evaluation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from tfxfer import _check

_Mixin: Any = object  # classes that use the mixin have the methods of a Keras model

KINDS = ("values", "classes", "vectors", "similarity", "rank", "search", "entities", "tags")


@dataclasses.dataclass(frozen=True)
class Signature:
    """A signature of an exported model.

    | kind | inputs | outputs |
    |---|---|---|
    | `"values"` | the task's columns | `output`, or the names from `finish`: numbers for each row |
    | `"classes"` | the task's columns | `labels`, `scores`, `probabilities`, and the results of `decide` |
    | `"vectors"` | `text` | `embedding` |
    | `"similarity"` | `text_a`, `text_b` | `similarity`: the cosine, or the result of `compare` |
    | `"rank"` | `query`, `documents` | `scores` |
    | `"search"` | `query`, `k` | `ids`, `texts`, `scores`, from an index |
    | `"entities"`, `"tags"` | `text` | `labels`, `texts`, `scores`, positions, `counts` |

    Attributes:
        name: string. The signature's name in the export.
        kind: see the table.
        purpose: string. A description of its outputs for people.
        output: string. The output name of a `"values"` signature.
        finish: function from the model's outputs to the signature's, using only `keras.ops`: numbers or a dict of
            numbers, probabilities `(rows, classes)` or, for `"rank"`, scores `(rows,)`. By default, the outputs
            unchanged; for `"rank"`, the cosines of the embedder's vectors.
        labels: list of class names, for `"classes"`.
        prompts: tuple of the texts to prepend to each input, for embedders; two for `"similarity"` and `"rank"`.
        api: `"classify"` or `"regress"` for a second signature, `<name>_examples`, in TF Serving's API of that name;
            `None` for none.
        model: the task model that computes the outputs, if it is a part of the exported one. By default, the exported
            model.
        pairs: bool. Whether that model itself reads two texts per row; `None` to follow the export's option.
        forward: Keras model on the inputs and layers of that model to run instead of it, with an output of two
            dimensions for `finish` and `decide`. By default, the model itself.
        compare: function from the outputs for two batches of texts to the scores of their rows, using only `keras.ops`,
            for `"similarity"` and `"rank"` of models that do not compare outputs by the cosine.
        sides: tuple of two models like `forward`, for the first and the second text, with `compare`. By default, both
            are the model itself.
        decide: function from the outputs to a dict of further tensors `(rows, ...)`, for `"classes"`: `in_scope`,
            `set`.

    Raises:
        ValueError: if the kind is unknown.

    Example:

    >>> def stars(outputs):
    ...     return 1 + 4 * keras.ops.sigmoid(outputs)
    >>> rate = tx.models.Signature("rate", "values", "Stars, 1 to 5.", output="stars", finish=stars)
    >>> float(rate.finish(0.0))
    3.0
    """

    name: str
    kind: str
    purpose: str = ""
    output: str = "outputs"
    finish: Callable | None = None
    labels: list | None = None
    prompts: tuple = ("", "")
    api: str | None = None
    model: Any = None
    pairs: bool | None = None
    forward: Any = None
    decide: Callable | None = None
    compare: Callable | None = None
    sides: tuple = (None, None)

    def __post_init__(self):
        _check.one_of("kind", self.kind, KINDS)


class DescribesItself(_Mixin):
    """Mixin with a task's description of itself, in addition to its columns."""

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns the signatures of an export of the model, a list of `models.Signature`; the first is the default.

        Args:
            pairs: bool. Whether the model itself reads two texts per row.
        """
        return [Signature("predict", "values", "The model's outputs for each row.")]

    # These are methods, not properties: Keras visits all properties of a model when it saves and loads it.

    def served_model(self) -> Any:
        """Returns the model that an export contains: this one, or the part of it that is useful after training."""
        return self

    def served_parts(self) -> dict[str, Any]:
        """Returns the models that an export contains, by name: `served_model()` as `""`, or one for each task."""
        return {"": self.served_model()}

    def tower(self) -> Any:
        """Returns the model that encodes one text and in which layers are frozen: this one, or one within it.

        Its layer `"pooling"` ends the part whose output can be cached; see `boundary`.
        """
        return self

    def boundary(self) -> tuple[Any, Any, Any]:
        """Returns where the encoder ends in the graph of this model: (sequence, mask, pooled), Keras tensors.

        `freezing.AboveFrozen` stores the sequence `(batch, length, dim)` or its pooled form `(batch, ...)`; the latter
        is `None` for a task that does not pool a text into one vector. If the task reads several layers
        (`read_layers`), the sequence is a list of their states. By default, the tensors are the inputs and the output
        of the layer named `"pooling"`; a task without one overrides this method.

        Raises:
            ValueError: if there is no such layer, or if a column generates random inputs: they differ in each epoch, so
                their states cannot be stored.
        """
        if any(column.draws for column in self.input_columns().values()):
            raise _check.invalid("model", "a task with the same inputs in each epoch", type(self).__name__)
        names = [layer.name for layer in self.layers]
        if "pooling" not in names:
            remedy = 'Name its pooling layer "pooling", or override `boundary`.'
            raise _check.invalid("model", 'a model with a layer "pooling"', names, remedy)
        pooling = self.get_layer("pooling")
        *sequence, mask = pooling.input
        return sequence[0] if self.read_layers() is None else sequence, mask, pooling.output

    def input_features(self) -> dict[str, Any]:
        """Returns features that the graph of this model computes from one input each.

        `freezing.AboveFrozen` stores them if no layer in front of them trains or draws random numbers.

        Returns:
            Dict of the name of an input to a Keras tensor `(batch, dim)`. Empty by default.
        """
        return {}

    def read_layers(self) -> tuple[int, ...] | None:
        """Returns the layers of the encoder whose states the task reads, numbered as `Backbone.hidden_states` does.

        `None`, the default, means only the encoder's output.
        """
        return None

    def linear_head(self) -> tuple[Any, Any] | None:
        """Returns (features, dense): the input of the task's only dense layer, a tensor `(batch, ...)`, and that layer.

        `freezing.probe` sets this layer to a regression on the features. By default, it is the output layer: a linear
        `keras.layers.Dense`, or that of a layer with the method `linear_output`, such as a `layers.Head` without hidden
        layers or a `layers.DenselyConnectedHead` with `connection="concat"`. Features of more than one dimension are
        flattened. The result is `None` if there is no such layer: a regression cannot start hidden layers, gates or
        convolutions below the output.
        """
        for layer in self.layers:
            is_dense = isinstance(layer, keras.layers.Dense)
            if (is_dense or hasattr(layer, "linear_output")) and layer.output is self.output:
                dense = layer if is_dense else layer.linear_output()
                is_linear = dense is not None and dense.activation is keras.activations.linear
                return (layer.input, dense) if is_linear else None
        return None
