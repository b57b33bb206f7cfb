"""The base of all task models: presets, layer groups, saving. Other files handle data and predictions."""

import inspect
import os
import pathlib
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import keras
import keras_hub
import numpy as np

from tfxfer import _check, backbones, optimizers
from tfxfer._freezable import Freezable, TrainsInPart, layers_within, switch
from tfxfer._tracing import TracesOnce
from tfxfer.backbones import _presets
from tfxfer.models import _restoring, _save, _students, _training, _vocabulary
from tfxfer.models._explaining import Explains
from tfxfer.models._from_model import StartsFromModel
from tfxfer.models._from_preset import check_arguments, given, unexpected
from tfxfer.models._keras_methods import KerasMethods
from tfxfer.models._loss_state import KeepsLossState
from tfxfer.models._record import KeepsRecord
from tfxfer.models._rows import TakesRows
from tfxfer.models._search_space import Searchable
from tfxfer.models._signatures import DescribesItself
from tfxfer.models._tables import WritesTables


class TextTask(
    StartsFromModel,
    TakesRows,
    DescribesItself,
    WritesTables,
    Explains,
    KeepsRecord,
    KeepsLossState,
    KerasMethods,
    TrainsInPart,
    Searchable,
    TracesOnce,
    optimizers.TrainsAlone,
    keras_hub.models.Task,
):
    """Base of the task models: a functional model over a `backbone`, with a `preprocessor` for strings.

    Subclasses create their layers, call `super().__init__(inputs, outputs, backbone=..., ...)` and extend `get_config`.

    Args:
        inputs: the functional model's inputs.
        outputs: its outputs.
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`, or `None` for a model that takes ids only.
        top: list of the layers above the backbone that form the layer group `"head"`; or, for several groups, a dict of
            name to list, from the input up, of which `"head"` is the last.
        trainable: which layer groups train; see `set_trainable`. `None` keeps the flags of the layers.
        training_record: list of dicts: the past training runs of a saved model; see `training_record`.
        **kwargs: `name`, `compile`.

    Raises:
        TypeError: if there is any other argument.

    Example:

    ```python
    class Stars(tx.models.TextTask):
        def __init__(self, backbone, preprocessor=None, **kwargs):
            pooling, head = tx.layers.Pooling("mean", name="pooling"), keras.layers.Dense(1, name="head")
            pooled = pooling(backbone(backbone.input), padding_mask=backbone.input["padding_mask"])
            parts = {"backbone": backbone, "preprocessor": preprocessor, "top": [head]}
            super().__init__(backbone.input, head(pooled), **parts, **kwargs)

    model = Stars.from_preset("all_minilm_l6_v2")
    model.compile(loss="mse")
    model.fit(["Fits well.", "Too small."], [5.0, 2.0])
    ```
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        *,
        backbone: Any,
        preprocessor: Any,
        top: Sequence[keras.layers.Layer] | Mapping[str, Sequence[keras.layers.Layer]],
        trainable: bool | Mapping[str, bool] | Sequence[str] | None = None,
        training_record: Sequence[Mapping[str, Any]] = (),
        **kwargs: Any,
    ) -> None:
        check_arguments(type(self), TextTask, kwargs)
        self.backbone = backbone
        self.preprocessor = preprocessor
        self._upper_groups = [(name, list(found)) for name, found in _groups(top) if found]
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._runners = {}
        self._record = tuple(training_record)
        self._new_heads = set()
        self._probed_head = None
        if trainable is not None:
            self.set_trainable(trainable)
        self.frozen_dropout = backbone.frozen_dropout

    # Whether the layers above the backbone only serve to train it, so that nothing is lost without them.
    is_pretraining = False
    # Whether a model keeps a preset's embedding of texts (pooling and modules), as an embedder does.
    keeps_embedding = False

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike[str],
        *,
        load_weights: bool = True,
        sequence_length: int | None = None,
        dtype: Any = None,
        special_tokens_in_strings: bool | None = None,
        backbone_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the whole model from a preset of this class, or creates a model on the backbone of another preset.

        A folder that `save_to_preset` wrote gives the saved model, if it is of this class: head, labels, threshold,
        flags. If the preset is a trained model of another class, or has other labels, only its backbone is loaded, and
        a warning reports that the trained head is left out. The backbone stays as it was saved: with its adapters
        (`freezing.merge_lora` adds them to the weights), its quantization, its added tokens and, unless `trainable` is
        given, its trainable flags. Pooling is also loaded if the class has one.

        Args:
            preset: string or path. A name (`"all_minilm_l6_v2"`, see `backbones.presets`), a KerasHub preset, an
                `hf://user/name` handle, a local Hugging Face or sentence-transformers folder, or a folder written by
                `save_to_preset`.
            load_weights: bool. `False` gives random weights in the same architecture.
            sequence_length: int. The number of tokens to which texts are truncated, including special tokens. Defaults
                to the preset's.
            dtype: dtype policy of the backbone, e.g. `"mixed_bfloat16"`. Defaults to Keras's global policy; for a saved
                model, to its own.
            special_tokens_in_strings: bool. Whether a special token inside a text, such as `"[MASK]"`, becomes its id;
                see `preprocessing.Tokenizer`. Defaults to the preset's.
            backbone_only: bool. Whether to omit the layers trained above the backbone, without a warning.
            **kwargs: the constructor's arguments.

        Returns:
            A model of this class; for a saved model of a subclass, a model of the subclass.

        Raises:
            ValueError: if the preset has an unknown format or unsupported parts, or was trained with other values of
                the constructor's arguments.
        """
        return cls._from_preset(preset, **given(locals()))

    @classmethod
    def _from_preset(
        cls, preset, *, load_weights, sequence_length, dtype, special_tokens_in_strings, backbone_only, **own
    ):
        error = None if cls is TextTask else unexpected(cls, own)
        # Check before any download; a saved model may be of a subclass that has the argument.
        if error is not None and not pathlib.Path(str(preset), _presets.SAVED).is_file():
            raise error
        pretrained = backbones.load(
            preset,
            dtype=dtype,
            load_weights=load_weights,
            sequence_length=sequence_length,
            special_tokens_in_strings=special_tokens_in_strings,
        )
        if error is not None and (
            not isinstance(pretrained.task, cls) or unexpected(type(pretrained.task), own) is not None
        ):
            raise error
        model, notice = cls._from_pretrained(pretrained, own, backbone_only)
        if notice is not None:
            warnings.warn(notice, stacklevel=3)
        return model

    @classmethod
    def _from_pretrained(cls, pretrained, arguments, backbone_only):
        """Makes the model from the result of `backbones.load`.

        Returns:
            (model, notice): `notice` is a warning if a trained part is left out, otherwise `None`.
        """
        notice = None
        if not backbone_only:
            saved = _restoring.part_of(cls, pretrained.task)
            model = None if saved is None else saved._with(arguments)
            name = _restoring.left_out(cls, pretrained)
            if model is not None:
                return model, None if saved is pretrained.task else _restoring.notice(cls, name)
            notice = _restoring.notice(cls, name, getattr(saved, "labels", None))
        _restoring.check_not_keeping(arguments)
        arguments = cls._preset_arguments(pretrained.embedding, _restoring.without_keeping(arguments))
        return cls(backbone=pretrained.backbone, preprocessor=pretrained.preprocessor, **arguments), notice

    def _with(self, arguments):
        """Returns this saved model with the given constructor arguments, or `None` if they need another head."""
        return _restoring.changed(self, arguments, self._changeable())

    def _changeable(self):
        """Returns the names of the constructor's arguments that may change in a trained model."""
        return ("name",)

    @classmethod
    def _preset_arguments(cls, embedding, arguments):
        """Returns the constructor's arguments, completed with the preset's pooling."""
        if "pooling" in inspect.signature(cls.__init__).parameters:
            arguments.setdefault("pooling", embedding.pooling)
        return arguments

    def embedding_spec(self) -> backbones.EmbeddingSpec:
        """Returns how this model computes the vector of a text: a `backbones.EmbeddingSpec`."""
        return backbones.EmbeddingSpec(pooling=getattr(self, "pooling", (self.backbone.pooling,)))

    # === New heads ===

    # The `freezing.Probe` that initialized the last new head.
    head_probe: Any = None

    @property
    def starts_as_probe(self) -> bool:
        """Whether the first `fit` sets a new head to a regression on the frozen features, with any optimizer."""
        return False

    def has_new_head(self) -> bool:
        """Whether the linear head still has its initial weights: not trained, loaded or set."""
        return bool(self._new_heads) and self._head_sum() in self._new_heads

    def _mark_new_head(self):
        """Records that the head has just been created, for `has_new_head`; a constructor calls it."""
        self._new_heads = {self._head_sum()} - {None}

    def has_probed_head(self) -> bool:
        """Whether the linear head still has the weights from `freezing.probe`."""
        return self._probed_head is not None and self._head_sum() == self._probed_head

    def mark_probed_head(self) -> None:
        """Records that the head is a probe, for `has_probed_head`; `freezing.probe` calls it."""
        self._probed_head = self._head_sum()

    def _head_sum(self):
        found = self.linear_head()
        if found is None or not found[1].built:
            return None
        kernel = np.asarray(keras.ops.convert_to_tensor(found[1].kernel))
        return zlib.crc32(np.ascontiguousarray(kernel).view("uint8").data)

    def _auto_optimizer(self):
        """Returns the optimizer of `compile` without one."""
        if self.linear_head() is not None:
            return optimizers.Auto()
        has_own_head = not self.keeps_embedding or hasattr(self, "classify")
        if has_own_head and self.layer_groups().get("head"):
            return optimizers.Auto(multipliers={"head": 10.0})
        return optimizers.Auto(2e-5)

    # === Layer groups ===

    def layer_groups(self) -> dict[str, list]:
        """Returns the layer groups from the input up: `"embeddings"`, `"block_0"`, ..., `"head"`.

        Returns:
            A dict in that order of name to list of layers; every weight is in exactly one group.
        """
        return {**self.backbone.layer_groups(), **{name: list(found) for name, found in self._upper_groups}}

    def set_trainable(self, trainable: bool | Mapping[str, bool] | Sequence[str]) -> None:
        """Sets the trainable flags by layer group; takes effect at the next step of this model.

        A compiled step keeps the flags of its trace, so this model's step is retraced. Other models on the same layers
        need another `compile` to see the change. An optimizer that has made a step knows only the variables that
        trained then; to train others, compile again (`callbacks.GradualUnfreezing` unfreezes within one `fit`).

        Args:
            trainable: `True` or `False` for all groups, a dict of group to bool (unnamed groups keep their flags), or
                a sequence of the groups that train while all others are frozen. A group is a name or an `fnmatch`
                pattern (`"block_*"`, `"block_[0-3]"`).

        Raises:
            ValueError: if the model does not have a group, or if a group without adapters should train in a model with
                adapters.

        Example:

        ```python
        model.set_trainable(["block_5", "head"])  # fine-tune the output side
        model.set_trainable({"embeddings": False, "block_[0-3]": False})
        ```
        """
        groups = self.layer_groups()
        if isinstance(trainable, bool):
            flags = dict.fromkeys(groups, trainable)
        elif isinstance(trainable, dict):
            flags = {
                name: bool(flag)
                for pattern, flag in trainable.items()
                for name in _check.some_of("trainable", pattern, groups)
            }
        elif isinstance(trainable, (list, tuple, set)):
            named = _check.some_of("trainable", trainable, groups) if trainable else ()
            flags = {name: name in named for name in groups}
        else:
            raise _check.invalid("trainable", "a bool, a dict of group to bool, or a list of groups", trainable)
        if not isinstance(trainable, bool):
            self._check_adapters(flags)
        if hasattr(self, "jax_state_sync"):  # on JAX, the assignment of values to variables depends on the flags
            self.jax_state_sync()
        upper = dict(self._upper_groups)
        self.backbone.set_trainable({name: flag for name, flag in flags.items() if name not in upper})
        for name, found in upper.items():
            for layer in found if name in flags else ():
                switch(layer, flags[name])
        self._trace_anew()

    def _check_adapters(self, flags):
        lora = self.backbone.lora
        wanted = [name for name, flag in flags.items() if flag and name not in dict(self._upper_groups)]
        if lora is not None and wanted and not set(wanted) & set(lora["groups"]):
            remedy = "The other weights are frozen; `freezing.merge_lora(model)` removes the adapters."
            raise _check.invalid("trainable", f"groups with adapters, {', '.join(lora['groups'])}", wanted, remedy)

    def _trace_anew(self):
        _training.settle_optimizer(self)
        # Public in Keras: `fit` reads `train_function` at each step, so the next step is traced with the new flags.
        if self.train_function is not None:
            self.make_train_function(force=True)

    def thawable_groups(self) -> list[str]:
        """Returns the names of the groups with weights to train: in a model with adapters, those with adapters."""
        lora = self.backbone.lora
        held = set(self.backbone.layer_groups()) - set(lora["groups"]) if lora is not None else set()
        groups = self.layer_groups()
        return [name for name in groups if name not in held and any(layer.weights for layer in groups[name])]

    @property
    def frozen_dropout(self) -> bool:
        """Whether frozen layers keep their dropout, as in Keras; `False` by default. It takes effect like flags.

        A custom head always keeps its dropout.
        """
        return self.backbone.frozen_dropout

    @frozen_dropout.setter
    def frozen_dropout(self, value: bool) -> None:
        self.backbone.frozen_dropout = value
        for layer in (each for _, found in self._upper_groups for top in found for each in layers_within(top)):
            if isinstance(layer, Freezable):
                layer.frozen_dropout = bool(value)
        self._trace_anew()

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training steps compute each block of the encoder again in the backward pass; `False` by default.

        A step then keeps only the input of each block, most of its memory is free for longer texts or larger batches,
        and it costs one more forward pass, about a third of the time. Gradients are the same. The setting is saved
        with the encoder and takes effect like flags. `Siamese(chunk_size=...)` saves more where a batch of texts is
        large; this saves more where texts are long or the encoder is deep.

        Raises:
            ValueError: if set on a model whose encoder's blocks are KerasHub's layers.

        Reference: Chen et al., 2016, https://arxiv.org/abs/1604.06174.
        """
        return self.backbone.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self.backbone.gradient_checkpointing = value
        self._trace_anew()

    @property
    def fused_elementwise(self) -> bool:
        """Whether XLA compiles what lies between the matrix products of training steps on batches without padding.

        `False` by default. It pays for texts that are cut to one length, such as documents longer than the sequence
        length: a step is then about 1.1 times as fast. A program serves one number of tokens and takes about a second
        to compile; batches with padding are computed as without the setting. Numbers change by rounding. Without effect
        on JAX, where a whole step is compiled, in eager execution, and on attention. The setting is saved with the
        encoder and takes effect like flags.

        Raises:
            ValueError: if set on a model whose encoder's blocks are KerasHub's layers.

        Example:

        ```python
        model.fused_elementwise = True
        model.fit(documents, labels)  # each document fills the sequence length
        ```
        """
        return self.backbone.fused_elementwise

    @fused_elementwise.setter
    def fused_elementwise(self, value: bool) -> None:
        self.backbone.fused_elementwise = value
        self._trace_anew()

    def _trainable_config(self):
        # Flags that differ within a group are not stored by group: the backbone saves the flags of its layers itself.
        flags = {
            name: {flag for layer in found for flag in (layer.trainable, *(w.trainable for w in layer.weights))}
            for name, found in self.layer_groups().items()
        }
        return {name: found.pop() for name, found in flags.items() if len(found) == 1}

    def compile(self, optimizer: Any = "auto", *args: Any, **kwargs: Any) -> None:
        """Configures training like `keras.Model.compile`.

        Args:
            optimizer: as in Keras. The default, `"auto"`, is an `optimizers.Auto` with a peak of 1e-4 for models with a
                head (ten times that for a head with hidden layers) and of 2e-5 for embedders and towers. An
                `optimizers.Layerwise` gets the model's layer groups.
            *args: as in `keras.Model.compile`.
            **kwargs: as in `keras.Model.compile`.
        """
        args = (self._auto_optimizer() if isinstance(optimizer, str) and optimizer == "auto" else optimizer, *args)
        super().compile(*args, **kwargs)
        bound = inspect.signature(keras.Model.compile).bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = {**bound.arguments, "jit_compile": self.jit_compile}
        del arguments["self"], arguments["auto_scale_loss"]
        self._compile_arguments = lambda: arguments  # hidden from Keras, which would track the contents of a dict
        self.bind_optimizer()

    @property
    def compile_arguments(self) -> Any:
        """The arguments of the last `compile`, a new dict on each access; `None` before."""
        return _training.with_subset(self._compile_arguments(), self.optimizer) if self.compiled else None

    # === Vocabulary ===

    def with_added_tokens(self, tokens: Sequence[str], *, special: bool = False) -> Any:
        """Returns a copy of this model with new tokens in its tokenizer and a row of the embedding table for each.

        A new token's row starts as the mean of the rows of its previous subword tokens. All other weights are those of
        this model. Compile the copy before training.

        Args:
            tokens: list of strings. Tokens already in the vocabulary stay unchanged.
            special: bool. Whether the tokens are special: see `preprocessing.Tokenizer.add_tokens`.

        Returns:
            A model of this class.

        Raises:
            ValueError: if `tokens` are not strings, or the model has no preprocessor.

        Example:

        ```python
        model = model.with_added_tokens(["IBAN", "SEPA"])
        ```
        """
        return _vocabulary.with_added_tokens(self, tokens, special)

    def with_blocks(self, number: int) -> Any:
        """Returns a copy of this model with only the first blocks of its encoder: smaller, faster, less accurate.

        The copy has this model's weights in all its layers: embeddings, the first `number` blocks, a final norm,
        and everything above. A head trained above the last block is only a starting point: train the copy on the same
        rows or on this model's outputs (`losses.EmbeddingDistillationLoss`, or its probabilities as targets).

        Args:
            number: int. The number of blocks to keep, from the input up.

        Returns:
            An uncompiled model of this class, with this model's flags.

        Raises:
            ValueError: if the encoder has fewer blocks, is an unconverted KerasHub encoder or repeats groups of blocks,
                or if the model has adapters, quantized weights, or a head with weights for each block.

        Example:

        ```python
        small = model.with_blocks(3)
        ```

        Reference: Sajjad et al., 2023, on dropping layers, https://arxiv.org/abs/2004.03844.
        """
        return _students.with_blocks(self, number)

    def _check_vocabulary(self):
        if self.preprocessor is None:
            return
        size = self.preprocessor.tokenizer.vocabulary_size()
        if size > self.backbone.vocabulary_size:
            remedy = "Add tokens with `model.with_added_tokens`, which also extends the table."
            expected = f"a tokenizer of at most {self.backbone.vocabulary_size} tokens, the rows of the embedding table"
            raise _check.invalid("preprocessor", expected, size, remedy)

    # === Saving ===

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "trainable": self._trainable_config(), **self._record_config()}

    def save_to_preset(
        self,
        preset_dir: str | os.PathLike[str],
        format: Literal["tfxfer", "sentence-transformers", "huggingface"] = "tfxfer",
        *,
        metadata: Mapping[str, Any] | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        """Saves the model as a folder, with a model card.

        | format | contents | read by |
        |---|---|---|
        | `"tfxfer"` | the whole model: optimizer, flags, adapters | `from_preset` |
        | `"sentence-transformers"` | an embedder; a classifier as `CrossEncoder` | the library, `from_preset` |
        | `"huggingface"` | an encoder, a classifier of texts or of tokens | transformers 5, `from_preset` |

        For sentence-transformers, a whole embedder is written, with pooling, modules and prompts; for transformers,
        only its encoder. A classifier or regressor becomes `*ForSequenceClassification` if it has the head of its
        family's class; otherwise transformers has no such class, and the error names the head that it would have. A
        tagger becomes `*ForTokenClassification`, with a linear head on the first token of a word. For
        sentence-transformers 6, any pooling with a `layers.Head` becomes a `CrossEncoder`.

        The last two formats give the same results in those libraries (up to float rounding) and contain only weights:
        adapters are merged, and the optimizer is left out. Their tokenizers map special tokens inside a text to their
        ids; that of this package does so only with `special_tokens_in_strings`.

        A model already in the folder is replaced atomically: if writing fails, for example on a full disk, the old one
        stays. Other files in the folder stay, and so does a README.md that this method did not write, unless you pass
        `metadata`.

        Args:
            preset_dir: string or path. The folder, on the local disk; created if missing.
            format: string, see the table.
            metadata: dict of contents of the model card, all optional: `name`, `description`, `repo_id`
                (`"user/name"` on the hub), `license`, `license_name`, `license_link`, `language`, `base_model`,
                `datasets`, `data` (a text about them), `metrics` (a dict of names to numbers, or of data sets to such
                dicts, for example the result of `evaluation.classification`, with its intervals), `tags`. `language`,
                `base_model`, `datasets` and `tags` may be lists. The card takes training runs and the decision rules of
                a classifier from the model.
            dtype: `"float32"`, `"bfloat16"` or `"float16"`, the dtype of the weights in the other libraries' formats.

        Raises:
            ValueError: if `preset_dir` is a URL such as `gs://...` (save locally and copy the folder), if a key of
                `metadata` is unknown, if the format cannot represent the model, or if the folder has files of another
                format.

        Example:

        ```python
        embedder.save_to_preset(
            "card-search",
            format="sentence-transformers",
            metadata={"repo_id": "me/card-search", "license": "apache-2.0", "metrics": {"ndcg@10": 0.61}},
        )
        # To the Hugging Face hub, after `hf auth login`:
        api = huggingface_hub.HfApi()
        api.create_repo("me/card-search", exist_ok=True)
        api.upload_folder(repo_id="me/card-search", folder_path="card-search")
        ```
        """
        _save.save(self, preset_dir, format, metadata, dtype)

    # The name of the task in the list of a hub.
    pipeline_tag = "feature-extraction"

    def write_checkpoint(self, folder: str | os.PathLike[str], format: str, dtype: Any) -> None:
        """Writes the model's files in another library's format; tasks that support it override this method.

        Args:
            folder: path of an existing folder.
            format: `"sentence-transformers"` or `"huggingface"`.
            dtype: string. The dtype of the weights.

        Raises:
            ValueError: if the format does not support this task.
        """
        remedy = "To write only its encoder, make a `TextEmbedder` of its `backbone` and `preprocessor`"
        raise _check.invalid("format", f"'tfxfer' for a `{type(self).__name__}`", format, remedy)

    def card_rows(self) -> dict[str, str]:
        """Returns rows of the model card: a dict of names to strings."""
        return {}

    def usage(self, format: str, repo_id: str) -> dict[str, str]:
        """Returns the Python code of the model card for `format` and `repo_id`: a dict of libraries to code."""
        return {}


def _groups(top):
    """Layers above the backbone as pairs (name, layers)."""
    return list(top.items()) if isinstance(top, Mapping) else [("head", top)]
