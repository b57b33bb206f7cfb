"""Tasks on texts combined with numbers, categories, vectors and images."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import keras
import numpy as np
from keras import ops

from tfxfer import _check, backbones, data, layers
from tfxfer.models import _logits, _reading
from tfxfer.models._classifier import Classifying, make_head
from tfxfer.models._from_preset import UNSET, given
from tfxfer.models._signatures import Signature
from tfxfer.models._stored_head import StoresHead
from tfxfer.models._task import TextTask

_Mixin: Any = object  # in the bases of a class, this mixin comes before `Multimodal`


class _FromPreset(_Mixin):
    """Mixin with `from_preset` of the multimodal tasks."""

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        columns: Mapping[str, Any] = UNSET,
        text: str = UNSET,
        fusion: Literal["concat", "gate", "attention"] | keras.layers.Layer = UNSET,
        image_backbone: keras.layers.Layer | None = UNSET,
        labels: Sequence[str] | Sequence[int] | np.ndarray = UNSET,
        multi_label: bool = UNSET,
        threshold: float | Mapping[Any, float] | Sequence[float] | None = UNSET,
        num_outputs: int = UNSET,
        pooling: str | Sequence[str] | keras.layers.Layer = UNSET,
        dropout: float = UNSET,
        head: Literal["linear", "probe", "mlp"] | keras.layers.Layer = UNSET,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = UNSET,
        name: str | None = UNSET,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Creates the model on a pretrained text encoder.

        Omitted arguments have the preset's value, or else the class's default. The arguments from `columns` to `name`
        are the constructor's; a classifier has `labels`, `multi_label` and `threshold`, a regressor `num_outputs`. The
        other arguments are those of `TextTask.from_preset`.

        Raises:
            TypeError: if the class does not have an argument.
            ValueError: as in `TextTask.from_preset`.
        """
        return cls._from_preset(preset, **given(locals()))


class Multimodal(StoresHead, TextTask):
    """Base class of tasks that read a text and other columns: their features are fused and passed to a head.

    The features of each column:

    | column | features |
    |---|---|
    | `data.NumberColumn` | `(x - mean) / scale`; with `missing="nan"` also 1 if missing (`layers.ScaledNumbers`) |
    | `data.CategoryColumn` | one-hot: 1 at its index, 0 elsewhere (`layers.OneHot`) |
    | `data.VectorColumn`, or a custom kind with one vector per row | unchanged |
    | `data.ImageColumn` | the output of `image_backbone`, averaged over all but the last dimension |

    All numbers form one mode of `layers.Fusion`, all categories another, and each vector and image its own.

    A subclass defines `target_columns`, and a default loss in `compile`.

    Args:
        backbone: `backbones.Backbone`, of the text.
        preprocessor: `preprocessing.TextPreprocessor`.
        columns: dict of name to `data.Column`, as in `MultimodalClassifier`.
        text: string. The name of the text's column.
        fusion: as in `MultimodalClassifier`.
        image_backbone: as in `MultimodalClassifier`; `None` without columns of images.
        pooling: as in `TextClassifier`.
        dropout: float in `[0, 1)`. Rate before the dense layers of the head.
        head: as in `TextClassifier`, but only layers that read pooled features.
        num_outputs: int. The number of outputs of the head.
        trainable: which layer groups train; see `set_trainable`.
        **kwargs: `name`.

    Raises:
        ValueError: as in `MultimodalClassifier`.

    Example:

    ```python
    class Price(tx.models.Multimodal):
        def __init__(self, backbone, preprocessor=None, **kwargs):
            super().__init__(backbone, preprocessor, num_outputs=1, **kwargs)

        def target_columns(self):
            return tx.data.ValuesColumn(1)
    ```
    """

    _layer_arguments = ("head", "pooling", "fusion", "image_backbone")

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any,
        *,
        columns: Mapping[str, Any],
        text: str,
        fusion: str | keras.layers.Layer,
        image_backbone: keras.layers.Layer | None,
        pooling: Any,
        dropout: float,
        head: Any,
        num_outputs: int,
        trainable: bool | Mapping[str, bool] | Sequence[str] | None,
        **kwargs: Any,
    ) -> None:
        self.backbone = backbone = backbones.adopt(backbone)
        found = _check_columns(columns, text, backbone.input)

        # === Layers ===
        reads = _reading.of(head)
        if reads != "pooled":
            remedy = "Other columns have no tokens and no blocks: use such a head with `models.TextClassifier`."
            raise _check.invalid("head", 'a layer that reads one vector per row, `reads = "pooled"`', reads, remedy)
        features = _reading.pooling_layer(pooling, reads)
        self.pooling = features.modes if isinstance(features, layers.Pooling) else features
        self.text_name, self.dropout, self._head_argument = text, dropout, head
        self.fusion = fusion
        self.image_backbone = _check_images(image_backbone, found)
        is_new_head = isinstance(head, str) or not head.built
        fuse = fusion if isinstance(fusion, keras.layers.Layer) else layers.Fusion(fusion, name="fusion")
        self.head = make_head(head, num_outputs, dropout, backbone.hidden_dim)

        # === Functional Model ===
        inputs = dict(backbone.input)
        pooled = features(backbone(backbone.input), padding_mask=inputs["padding_mask"])
        modes: dict[Any, list] = {"text": [ops.cast(pooled, "float32")], "numbers": [], "categories": []}
        images = {}
        for place, (name, column) in enumerate(found.items()):
            inputs[name] = _input(name, column)
            mode, made = _features(name, column, place, inputs[name], self.image_backbone)
            modes.setdefault(place if mode is None else mode, []).append(made)
            if isinstance(column, data.ImageColumn):
                images[name] = made
        together = [_joined(mode, made) for mode, made in modes.items() if made]
        outputs = self.head(fuse(together))
        if len(outputs.shape) != 2 or outputs.shape[-1] != num_outputs:
            raise _check.invalid("head", f"a layer with outputs (batch, {num_outputs})", tuple(outputs.shape))
        top = {
            "image": [self.image_backbone] if self.image_backbone is not None else [],
            "head": [*([features] if features.weights else []), *([fuse] if fuse.weights else []), self.head],
        }
        self._columns, self._images = lambda: found, lambda: images  # hidden from Keras, which would wrap the dicts
        super().__init__(
            inputs, outputs, backbone=backbone, preprocessor=preprocessor, top=top, trainable=trainable, **kwargs
        )
        if is_new_head:
            self._mark_new_head()

    @property
    def columns(self) -> dict[str, Any]:
        """Dict of name to `data.Column`: the columns other than the text."""
        return dict(self._columns())

    def input_columns(self) -> dict[str, Any]:
        """Returns a dict of name to column: the text first, then the others."""
        return {self.text_name: data.TextColumn(self.preprocessor), **self.columns}

    def input_features(self) -> dict[str, Any]:
        """Returns the features of the images, a dict of column to Keras tensor."""
        return dict(self._images())

    @property
    def starts_as_probe(self) -> bool:
        """Whether the first `fit` starts the new head as a regression on frozen features, with any optimizer."""
        return self._head_argument == "probe"

    def embedding_spec(self) -> backbones.EmbeddingSpec:
        """Returns the pooling as a `backbones.EmbeddingSpec`, without the layers above it."""
        modes = self.pooling if isinstance(self.pooling, tuple) else getattr(self.pooling, "modes", ("mean",))
        return backbones.EmbeddingSpec(pooling=modes)

    def get_config(self) -> dict[str, Any]:
        columns = {name: keras.saving.serialize_keras_object(column) for name, column in self.columns.items()}
        return {**super().get_config(), "columns": columns, "text": self.text_name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        read = keras.saving.deserialize_keras_object
        config["columns"] = {
            name: read(column) if isinstance(column, dict) else column for name, column in config["columns"].items()
        }
        return super().from_config(config)


@keras.saving.register_keras_serializable("tfxfer")
class MultimodalClassifier(_FromPreset, Classifying, Multimodal):
    """Classifies rows of a text and other columns: one label per row, or any number with `multi_label`.

    Backbone and pooling encode the text, the other columns become features (see `Multimodal`), both are fused, and a
    head computes logits. Rows are dicts, frames or `data.Rows` with the columns by name, in training, prediction and
    the export.

    Args:
        backbone: `backbones.Backbone`, of the text.
        preprocessor: `preprocessing.TextPreprocessor`.
        columns: dict of name to `data.Column`: the columns other than the text. `data.tabular_columns` creates it from
            training rows, with means and scales of numbers and names of categories.
        labels: sequence of the class names, as in `TextClassifier`.
        multi_label: bool. Whether a row may have any number of labels.
        threshold: as in `TextClassifier`.
        text: string. The name of the text's column. Defaults to `"text"`.
        fusion: `"concat"`, `"gate"` or `"attention"`, see `layers.Fusion`; or a Keras layer from a list of
            `(batch, size_i)` to `(batch, size)`. Defaults to `"concat"`, whose linear head starts as a probe.
        image_backbone: a Keras layer or model, for columns of images: from float32 `(batch, height, width, channels)`
            in `[0, 255]` to `(batch, ..., dim)`. For a KerasHub backbone with scaling:
            `keras.Sequential([keras.layers.Rescaling(1 / 255), backbone])`. It is the layer group `"image"`.
        pooling: as in `TextClassifier`.
        dropout: float in `[0, 1)`. Rate before the dense layers of the head. Defaults to 0.1.
        head: as in `TextClassifier`. `"mlp"` learns interactions between columns; `"linear"` adds their contributions.
        trainable: which layer groups train; see `set_trainable`.
        **kwargs: `name`.

    Input: dict of the backbone's inputs and one input per column: float32 `(batch,)` for a number, int32 `(batch,)` for
    a category, and so on. Output: float32 logits `(batch, classes)`.

    Raises:
        ValueError: if there are no columns, a column has the name of the text or of a backbone's input, a kind of
            column does not have one vector per row, or images lack an `image_backbone`; and as in `TextClassifier`.

    Example:

    ```python
    train = tx.data.read("reviews.tsv")
    columns = tx.data.tabular_columns(train, numbers=["age"], categories=["department"])
    model = tx.models.MultimodalClassifier.from_preset(
        "all_minilm_l6_v2", text="review", columns=columns, labels=["0", "1"], sequence_length=128
    )
    model.compile()
    model.fit(tx.data.examples(train, model, "recommended"), epochs="auto")
    model.classify({"review": ["Too small"], "age": [39], "department": ["Dresses"]}).labels
    ```

    Reference: Gu and Budhkar, 2021, A Package for Learning on Tabular and Text Data with Transformers,
    https://aclanthology.org/2021.maiworkshop-1.10/.
    """

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any = None,
        *,
        columns: Mapping[str, Any],
        labels: Sequence[str] | Sequence[int] | np.ndarray,
        multi_label: bool = False,
        threshold: float | Mapping[Any, float] | Sequence[float] | None = None,
        text: str = "text",
        fusion: str | keras.layers.Layer = "concat",
        image_backbone: keras.layers.Layer | None = None,
        pooling: str | Sequence[str] | keras.layers.Layer = "mean",
        dropout: float = 0.1,
        head: str | keras.layers.Layer = "linear",
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self._label_column = data.LabelColumn(labels, multi_label)
        self.threshold = threshold
        super().__init__(
            backbone,
            preprocessor,
            columns=columns,
            text=text,
            fusion=fusion,
            image_backbone=image_backbone,
            pooling=pooling,
            dropout=dropout,
            head=head,
            num_outputs=len(self._label_column),
            trainable=trainable,
            **kwargs,
        )

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns `classify`; see `DescribesItself.signatures`."""
        return [self._classes("The classes of each row", "`assets/labels.txt`")]

    def score_pairs(self, first: Any, second: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Not supported: rows are not pairs of texts, `first` and `second`. Call `classify`."""
        raise _check.invalid("model", "a classifier of pairs of texts", type(self).__name__, "Call `classify`.")

    def _changeable(self):
        return (*super()._changeable(), "threshold")

    def _output_dense(self):
        return getattr(self.head, "output_dense", None)


@keras.saving.register_keras_serializable("tfxfer")
class MultimodalRegressor(_FromPreset, Multimodal):
    """Predicts numbers from rows of a text and other columns.

    Like `MultimodalClassifier`, with values instead of logits.

    Args:
        backbone: `backbones.Backbone`, of the text.
        preprocessor: `preprocessing.TextPreprocessor`.
        columns: dict of name to `data.Column`, as in `MultimodalClassifier`.
        num_outputs: int. Number of values per row. Defaults to 1.
        text: string. The name of the text's column. Defaults to `"text"`.
        fusion: as in `MultimodalClassifier`.
        image_backbone: as in `MultimodalClassifier`.
        pooling: as in `TextRegressor`.
        dropout: float in `[0, 1)`. Rate before the dense layers of the head. Defaults to 0, as in `TextRegressor`.
        head: as in `TextRegressor`.
        trainable: which layer groups train; see `set_trainable`.
        **kwargs: `name`.

    Input: as in `MultimodalClassifier`. Output: float32 `(batch, num_outputs)`.

    Raises:
        ValueError: as in `MultimodalClassifier`.

    Example:

    ```python
    columns = tx.data.tabular_columns(train, numbers=["age"])
    model = tx.models.MultimodalRegressor.from_preset("all_minilm_l6_v2", text="review", columns=columns)
    model.compile()
    model.fit(tx.data.examples(train, model, "rating"), epochs="auto")
    ```
    """

    def __init__(
        self,
        backbone: Any,
        preprocessor: Any = None,
        *,
        columns: Mapping[str, Any],
        num_outputs: int = 1,
        text: str = "text",
        fusion: str | keras.layers.Layer = "concat",
        image_backbone: keras.layers.Layer | None = None,
        pooling: str | Sequence[str] | keras.layers.Layer = "mean",
        dropout: float = 0.0,
        head: str | keras.layers.Layer = "linear",
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_outputs = _check.integer("num_outputs", num_outputs)
        super().__init__(
            backbone,
            preprocessor,
            columns=columns,
            text=text,
            fusion=fusion,
            image_backbone=image_backbone,
            pooling=pooling,
            dropout=dropout,
            head=head,
            num_outputs=self.num_outputs,
            trainable=trainable,
            **kwargs,
        )

    def compile(self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any) -> None:
        """Configures training; like `keras.Model.compile`, with the defaults of `TextRegressor`.

        Args:
            optimizer: Defaults to `"auto"`: `optimizers.Auto`.
            loss: Defaults to the mean squared error.
            metrics: Defaults to the mean absolute error.
            **kwargs: passed to `keras.Model.compile`.

        Raises:
            ValueError: if a crossentropy of Keras reads probabilities (`from_logits=False`) or class indices; the
                outputs are numbers or logits.
        """
        super().compile(
            optimizer=optimizer,
            loss=keras.losses.MeanSquaredError() if loss == "auto" else _logits.loss_on_logits(loss, "numbers"),
            metrics=_logits.metrics_on_logits(
                [keras.metrics.MeanAbsoluteError(name="mae")] if metrics == "auto" else metrics, "numbers"
            ),
            **kwargs,
        )

    def target_columns(self) -> Any:
        """Returns a `data.ValuesColumn` of `num_outputs` numbers."""
        return data.ValuesColumn(self.num_outputs)

    def signatures(self, pairs: bool = False) -> list[Signature]:
        """Returns `regress`; see `DescribesItself.signatures`."""
        return [Signature("regress", "values", "The values of each row.", output="values")]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_outputs": self.num_outputs}


def _check_columns(columns, text, taken):
    """Returns columns as a dict; raises if there are no columns, or names are taken."""
    if not isinstance(columns, Mapping) or not columns:
        remedy = "`data.tabular_columns` creates it from training rows. For text only, use `models.TextClassifier`."
        raise _check.invalid("columns", "a dict of column name to `data.Column`", columns, remedy)
    _check.instance("text", text, str, "the name of the text's column")
    for name, column in columns.items():
        _check.instance(f"columns[{name!r}]", column, data.Column, "a `data.Column`")
        if name == text or name in taken:
            whose = "of the text's column" if name == text else "of an input of the backbone"
            raise _check.invalid(
                "columns", f"names other than {text!r} and {', '.join(taken)}", name, f"It is {whose}."
            )
    return dict(columns)


def _check_images(backbone, columns):
    """Returns the image backbone; raises if it is missing, or there are no images."""
    images = [name for name, column in columns.items() if isinstance(column, data.ImageColumn)]
    if backbone is None:
        if images:
            remedy = "It encodes images as vectors: for example a KerasHub backbone after `keras.layers.Rescaling`."
            raise _check.invalid("image_backbone", f"a layer for the column {images[0]!r}", None, remedy)
        return None
    if not images:
        raise _check.invalid("image_backbone", "None without a `data.ImageColumn`", type(backbone).__name__)
    return _check.instance("image_backbone", backbone, keras.layers.Layer, "a Keras layer or model")


def _input(name, column):
    """Returns the Keras input for a column."""
    spec = column.spec()
    is_index = isinstance(column, data.CategoryColumn)
    dtype = "int32" if is_index else "float32"
    return keras.Input(tuple(spec.shape), dtype=dtype, name=name)


def _features(name, column, place, tensor, image_backbone):
    """Returns the mode of a column (`None` for a separate mode) and its features `(batch, size)`."""
    if isinstance(column, data.NumberColumn):
        # Layers are numbered because Keras does not accept every column name as a layer name.
        has_missing, layer = column.missing == "nan", f"column_{place}_scaled"
        scaled = layers.ScaledNumbers(column.mean, column.scale, has_missing=has_missing, name=layer)
        return "numbers", scaled(tensor)
    if isinstance(column, data.CategoryColumn):
        return "categories", layers.OneHot(column.size, name=f"column_{place}_one_hot")(tensor)
    if isinstance(column, data.ImageColumn):
        made = image_backbone(tensor)
        if isinstance(made, (dict, list, tuple)) or len(made.shape) < 2 or made.shape[-1] is None:
            expected = "a layer whose output is one tensor (batch, ..., dim)"
            raise _check.invalid("image_backbone", expected, made)
        if len(made.shape) > 2:
            made = ops.mean(ops.cast(made, "float32"), axis=tuple(range(1, len(made.shape) - 1)))
        return None, ops.cast(made, "float32")
    if len(tensor.shape) != 2 or tensor.shape[-1] is None:
        expected = "a kind of column with one vector per row"
        raise _check.invalid(f"columns[{name!r}]", expected, type(column).__name__, f"It has shape {tensor.shape[1:]}.")
    return None, tensor


def _joined(mode, parts):
    """Joins the features of a mode to one tensor."""
    return parts[0] if len(parts) == 1 else keras.layers.Concatenate(name=f"{mode}_features", dtype="float32")(parts)
