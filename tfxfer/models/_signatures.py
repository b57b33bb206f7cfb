"""How a task describes itself to what works on tasks of any kind: exports, freezing, evaluation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from tfxfer import _check

_Mixin: Any = object  # what is mixed in here has the methods of a Keras model

KINDS = ("values", "classes", "vectors", "similarity", "rank", "search", "entities", "tags")


@dataclasses.dataclass(frozen=True)
class Signature:
    """A question that an exported model answers.

    | kind | inputs | outputs |
    |---|---|---|
    | `"values"` | the task's columns | `output`, or what `finish` names: numbers for each row |
    | `"classes"` | the task's columns | `labels`, `scores`, `probabilities`, and what `decide` gives |
    | `"vectors"` | `text` | `embedding` |
    | `"similarity"` | `text_a`, `text_b` | `similarity`: the cosine, or what `compare` gives |
    | `"rank"` | `query`, `documents` | `scores` |
    | `"search"` | `query`, `k` | `ids`, `texts`, `scores`, out of an index |
    | `"entities"`, `"tags"` | `text` | `labels`, `texts`, `scores`, places, `counts` |

    Attributes:
        name: string. The signature's name in the export.
        kind: see the table.
        purpose: string. What it answers, for people.
        output: string. The name of the numbers of a `"values"` signature.
        finish: function of the model's outputs to what is answered, of `keras.ops` only: numbers or a dict of numbers,
            probabilities `(rows, classes)`, or for `"rank"` scores `(rows,)`. By default the outputs themselves; for
            `"rank"` the cosines of the embedder's vectors.
        labels: list of class names, for `"classes"`.
        prompts: tuple of the texts set before each input, for embedders; two for `"similarity"` and `"rank"`.
        api: `"classify"` or `"regress"` for a second signature, `<name>_examples`, in TF Serving's API of that name;
            `None` for none.
        model: the task model that answers, where it is a part of the one that is exported. By default that one.
        pairs: bool. Whether that model itself reads two texts a row; `None` for what the export was told.
        forward: Keras model on the inputs and layers of that model that computes in its place, with an output of two
            dimensions for `finish` and `decide`. By default the model itself.
        compare: function of the outputs for two batches of texts to the scores of their rows, for `"similarity"` and
            `"rank"` of models whose outputs are not compared by the cosine; of `keras.ops` only.
        sides: tuple of two models as `forward` is one, for the first and the second text, with `compare`. By default
            both are the model itself.
        decide: function of the outputs to a dict of further tensors `(rows, ...)`, for `"classes"`: `in_scope`, `set`.

    Raises:
        ValueError: for an unknown kind.
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
    """What a task says of itself beside its columns; a mixin."""

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns what an export of the model answers, a list of `models.Signature`; the first is the default.

        Args:
            pairs: bool. Whether the model itself reads two texts a row.
        """
        return [Signature("predict", "values", "The model's outputs for each row.")]

    # Methods, not properties: Keras looks through all properties of a model as it saves and loads.

    def served_model(self) -> Any:
        """Returns the model that an export holds: this one, or the part of it that is of use after training."""
        return self

    def served_parts(self) -> dict[str, Any]:
        """Returns the models that an export holds, by name: `served_model()` as `""`, or one for each task."""
        return {"": self.served_model()}

    def tower(self) -> Any:
        """Returns the model that makes one vector of a text, in which layers are frozen: this one, or one within it.

        Its layer `"pooling"` is where the part ends that can be computed once; see `boundary`.
        """
        return self

    def boundary(self) -> tuple[Any, Any, Any]:
        """Returns where the encoder ends in the graph of this model: (sequence, mask, pooled), Keras tensors.

        `freezing.AboveFrozen` stores the sequence `(batch, length, dim)`, or what was pooled of it `(batch, ...)`; a
        task that makes no one vector of a text has `None` there. Where several layers are read (`read_layers`), the
        sequence is a list of their states. By default they are inputs and output of the layer called `"pooling"`; a
        task without one overrides this method.

        Raises:
            ValueError: if there is no such layer, or a column makes inputs at random: they differ from epoch to epoch,
                so that nothing of them can be stored.
        """
        if any(column.draws for column in self.input_columns().values()):
            raise _check.invalid("model", "a task that reads the same in each epoch", type(self).__name__)
        names = [layer.name for layer in self.layers]
        if "pooling" not in names:
            remedy = 'Call its pooling layer "pooling", or override `boundary`.'
            raise _check.invalid("model", 'a model with a layer "pooling"', names, remedy)
        pooling = self.get_layer("pooling")
        *sequence, mask = pooling.input
        return sequence[0] if self.read_layers() is None else sequence, mask, pooling.output

    def read_layers(self) -> tuple[int, ...] | None:
        """Returns the layers of the encoder whose states the task reads, numbered as `Backbone.hidden_states` does.

        `None`, the default, for the encoder's output alone.
        """
        return None

    def linear_head(self) -> tuple[Any, Any] | None:
        """Returns (features, dense): what the task's only dense layer reads, a tensor `(batch, ...)`, and that layer.

        `freezing.probe` makes this layer a regression on the features. By default it is the one that makes the output:
        a linear `keras.layers.Dense`, or that of a layer with the method `linear_output`, such as a `layers.Head`
        without hidden layers or a `layers.DenselyConnectedHead` with `connection="concat"`. Features of more than one
        dimension count one after another. `None` if there is no such layer: what is learned below the output, hidden
        layers, gates or convolutions, has no regression to start from.
        """
        for layer in self.layers:
            is_dense = isinstance(layer, keras.layers.Dense)
            if (is_dense or hasattr(layer, "linear_output")) and layer.output is self.output:
                dense = layer if is_dense else layer.linear_output()
                is_linear = dense is not None and dense.activation is keras.activations.linear
                return (layer.input, dense) if is_linear else None
        return None
