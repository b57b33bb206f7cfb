"""Several sets of low-rank adapters in one export; each row chooses its set."""

import copy
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check, data, freezing

INPUT = "adapter"
# Signatures of these kinds take the name of a set for each row.
KINDS = ("vectors", "classes", "values")


class Adapters(tf.Module):
    """The weights of all sets, and the choice among them.

    Rows of the same set are computed together, and a set without rows in the batch is not computed. The cost of a row
    does not depend on the number of sets.

    Args:
        model: a task model without adapters. It is not changed: the attribute `model` is a copy, with adapters of the
            largest rank on every part that some set adapts.
        sets: dict of name to the path of a file written by `freezing.save_adapters`, or of a PEFT directory.

    Attributes:
        model: the copy that computes.
        column: `data.CategoryColumn` of the names; `""`, the first one, is the model without adapters.
    """

    def __init__(self, model: Any, sets: Mapping[str, str | os.PathLike[str]]) -> None:
        super().__init__()
        _check_sets(model, sets)
        made = copy.deepcopy(model)
        head = [weight for layer in made.layer_groups().get("head", ()) for weight in layer.weights]
        heads = [[keras.ops.convert_to_numpy(weight) for weight in head]]
        found, settings = [], []
        for path in sets.values():
            freezing.load_adapters(made, path)
            settings.append(made.backbone.lora)
            factor = settings[-1]["alpha"] / settings[-1]["rank"]
            variables = made.backbone.lora_variables()
            values = {name: keras.ops.convert_to_numpy(variable) for name, variable in variables.items()}
            found.append({name: value * factor if name.endswith("/b") else value for name, value in values.items()})
            heads.append([keras.ops.convert_to_numpy(weight) for weight in head])
            made.backbone.remove_lora()
            for weight, value in zip(head, heads[0], strict=True):
                weight.assign(value)
        rank = max(each["rank"] for each in settings)
        parts = {
            key: list(dict.fromkeys(name for each in settings for name in each[key])) for key in ("targets", "groups")
        }
        made.backbone.enable_lora(rank, alpha=rank, **parts)
        stacked = [
            (variable, np.stack([_padded(each.get(name), variable.shape) for each in ({}, *found)]))
            for name, variable in made.backbone.lora_variables().items()
        ]
        for place, weight in enumerate(head):
            values = np.stack([each[place] for each in heads])
            if (values != values[:1]).any():
                stacked.append((weight, values))
        self.column = data.CategoryColumn(["", *sets], unknown="raise")
        self._hidden = lambda: (made, [variable for variable, _ in stacked])
        self._stacked = [tf.Variable(values, trainable=False) for _, values in stacked]

    @property
    def model(self) -> Any:
        """The copy that computes."""
        return self._hidden()[0]

    def stands_for(self, weight: Any) -> bool:
        """Whether the weights of the sets replace a weight of `model`."""
        return any(weight is variable for variable in self._hidden()[1])

    def __call__(self, compute: Any, x: dict[str, Any], sets: Any) -> Any:
        """Applies `compute` to a batch of ids, each row with the weights of its set.

        Args:
            compute: function from a dict of ids to a float32 tensor `(rows, ...)`, which reads the weights of `model`.
            x: dict of ids `(rows, length)`.
            sets: string tensor `(rows,)`.

        Returns:
            A float32 tensor `(rows, ...)`.
        """
        numbers, place = tf.unique(self.column.encode(sets))
        shape = self.model.output_shape[1:]
        variables = self._hidden()[1]

        def step(i, outputs, rows):
            own = tf.cast(tf.where(tf.equal(place, i))[:, 0], tf.int32)
            with keras.StatelessScope() as scope:
                for variable, stacked in zip(variables, self._stacked, strict=True):
                    scope.add_update((variable, tf.cast(stacked[numbers[i]], variable.dtype)))
                found = compute({key: tf.gather(value, own) for key, value in x.items()})
            return i + 1, outputs.write(i, tf.ensure_shape(found, [None, *shape])), rows.write(i, own)

        count = tf.size(numbers)
        options = {"infer_shape": False}
        start = (
            tf.constant(0),
            tf.TensorArray(tf.float32, count, element_shape=[None, *shape], **options),
            tf.TensorArray(tf.int32, count, element_shape=[None], **options),
        )
        _, outputs, rows = tf.while_loop(lambda i, *_: i < count, step, start, parallel_iterations=1)
        # Appends an empty part: a batch without rows leaves the array empty, and an empty array cannot be concatenated.
        flat = tf.concat([outputs.concat(), tf.zeros([0, *shape])], axis=0)
        return tf.gather(flat, tf.argsort(rows.concat()))


def _padded(value, shape):
    """Pads an adapter's matrix with zeros to a larger rank; all zeros if the set has no such adapter."""
    full = np.zeros(shape, "float32")
    if value is not None:
        full[tuple(slice(size) for size in value.shape)] = value
    return full


def _check_sets(model, sets):
    if not isinstance(sets, Mapping) or not sets or not all(isinstance(name, str) and name for name in sets):
        raise _check.invalid("adapters", "a dict of name to the path of an adapter file", sets)
    columns = model.input_columns() if len(model.served_parts()) == 1 else {}
    is_text = len(columns) == 1 and isinstance(next(iter(columns.values())), data.TextColumn)
    if not is_text or model.text_form == "separate" or model.served_model() is not model:
        remedy = "Export the embedder of a `Siamese`; export other models once per set."
        raise _check.invalid(
            "model", "a model of one text column, to choose adapters by row", type(model).__name__, remedy
        )
    if model.signatures()[0].kind not in KINDS:
        raise _check.invalid("model", "an embedder, classifier or regressor, to choose adapters by row", model.name)
    if model.backbone.lora is not None:
        remedy = "Save its adapters, and list the file in `adapters`."
        raise _check.invalid("model", "a model without adapters when `adapters` is given", model.name, remedy)
    if model.backbone.quantization is not None:
        raise _check.invalid("model", "a model that is not quantized, to choose adapters by row", model.name)
