"""What all task models share: presets, layer groups, saving; rows in and answers out come from their own files."""

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
from tfxfer.models._from_preset import given, unexpected
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

    Subclasses make their layers, call `super().__init__(inputs, outputs, backbone=..., ...)` and extend `get_config`.

    Args:
        inputs: the functional model's inputs.
        outputs: its outputs.
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`, or `None` for a model that takes ids only.
        top: list of the layers above the backbone that make up the layer group `"head"`; or a dict of name to list for
            several groups, from the input upwards, of which `"head"` is the last.
        trainable: which layer groups train; see `set_trainable`. `None` leaves the flags that the layers have.
        training_record: list of dicts: the trainings that a saved model has behind it; see `training_record`.
        **kwargs: `name`, `compile`.
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

    # Whether what is above the backbone serves to train it alone: to leave it out is no loss.
    is_pretraining = False
    # Whether a model made from a preset keeps how the preset makes vectors of texts, as an embedder does.
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
        """Makes the model from a preset: the whole of it where the preset is such a model, otherwise on its backbone.

        A folder that `save_to_preset` wrote gives back the saved model, if it is of this class: head, labels,
        threshold, flags. Where the preset is a trained model of another class, or of other labels, its backbone is
        taken over, and a warning says that the trained head is left out. The backbone stays as it was saved: with its
        adapters (`freezing.merge_lora` adds them to the weights), its quantization, its added tokens, and the flags of
        what is frozen, unless `trainable` says otherwise. Pooling is taken over where the class has one.

        Args:
            preset: string or path. A name (`"all_minilm_l6_v2"`, see `backbones.presets`), a KerasHub preset, an
                `hf://user/name` handle, a local Hugging Face or sentence-transformers folder, or a folder written by
                `save_to_preset`.
            load_weights: bool. `False` gives random weights in the same architecture.
            sequence_length: int. Tokens a text is cut at, special tokens included. Defaults to the preset's.
            dtype: dtype policy of the backbone, e.g. `"mixed_bfloat16"`. Defaults to Keras's global policy; for a saved
                model, to its own.
            special_tokens_in_strings: bool. Whether a special token inside a text, such as `"[MASK]"`, becomes its id;
                see `preprocessing.Tokenizer`. Defaults to the preset's.
            backbone_only: bool. Whether to leave out, without a warning, what was trained above the backbone.
            **kwargs: the constructor's arguments.

        Returns:
            A model of this class; for a saved model of a subclass, one of that.

        Raises:
            ValueError: if the preset is not understood, holds parts that are not supported, or was trained with other
                values of the constructor's arguments.
        """
        return cls._from_preset(preset, **given(locals()))

    @classmethod
    def _from_preset(
        cls, preset, *, load_weights, sequence_length, dtype, special_tokens_in_strings, backbone_only, **own
    ):
        error = None if cls is TextTask else unexpected(cls, own)
        # Before anything is downloaded; a saved model may be of a subclass that has the argument.
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
        """Makes the model of what `backbones.load` returned.

        Returns:
            (model, notice): `notice` is a warning where something trained is left out, otherwise `None`.
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
        """Returns this saved model with arguments of the constructor, or `None` where they need another head."""
        return _restoring.changed(self, arguments, self._changeable())

    def _changeable(self):
        """Returns the names of the constructor's arguments that may change in a trained model."""
        return ("name",)

    @classmethod
    def _preset_arguments(cls, embedding, arguments):
        """Returns the constructor's arguments, completed by what the preset says about pooling."""
        if "pooling" in inspect.signature(cls.__init__).parameters:
            arguments.setdefault("pooling", embedding.pooling)
        return arguments

    def embedding_spec(self) -> backbones.EmbeddingSpec:
        """Returns how this model makes one vector of a text: a `backbones.EmbeddingSpec`."""
        return backbones.EmbeddingSpec(pooling=getattr(self, "pooling", (self.backbone.pooling,)))

    # === New heads ===

    # The `freezing.Probe` that the last new head started from.
    head_probe: Any = None

    @property
    def starts_as_probe(self) -> bool:
        """Whether the first `fit` makes a new head a regression on the frozen features, whatever the optimizer."""
        return False

    def has_new_head(self) -> bool:
        """Whether the linear head has the weights that it was made with: nothing has trained, loaded or set it."""
        return bool(self._new_heads) and self._head_sum() in self._new_heads

    def _mark_new_head(self):
        """Takes note that the head has just been made, for `has_new_head`; a constructor calls it."""
        self._new_heads = {self._head_sum()} - {None}

    def has_probed_head(self) -> bool:
        """Whether the linear head has the weights that `freezing.probe` gave it."""
        return self._probed_head is not None and self._head_sum() == self._probed_head

    def mark_probed_head(self) -> None:
        """Takes note that the head is a probe, for `has_probed_head`; `freezing.probe` calls it."""
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
        """Returns the layer groups from the input upwards: `"embeddings"`, `"block_0"`, ..., `"head"`.

        Returns:
            A dict in that order of name to list of layers; every weight is in exactly one group.
        """
        return {**self.backbone.layer_groups(), **{name: list(found) for name, found in self._upper_groups}}

    def set_trainable(self, trainable: bool | Mapping[str, bool] | Sequence[str]) -> None:
        """Sets the trainable flags by layer group; takes effect at the next step of this model.

        A compiled step keeps the flags that it was traced with: this model's is traced anew. Other models on the same
        layers see the change when they are compiled. An optimizer that has made a step knows the variables that trained
        then; for others, compile again (`callbacks.GradualUnfreezing` thaws within one `fit`).

        Args:
            trainable: `True` or `False` for all groups, a dict of group to bool (groups that are not named stay as they
                are), or a sequence of the groups that train while all others do not. A group is a name, or a pattern as
                `fnmatch` has it (`"block_*"`, `"block_[0-3]"`).

        Raises:
            ValueError: for a group that the model does not have, or one without adapters that is to train in a model
                with adapters.

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
        if hasattr(self, "jax_state_sync"):  # on that backend, which values are whose depends on the flags
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
            remedy = "The other weights are held; `freezing.merge_lora(model)` takes the adapters away."
            raise _check.invalid("trainable", f"groups with adapters, {', '.join(lora['groups'])}", wanted, remedy)

    def _trace_anew(self):
        _training.settle_optimizer(self)
        # Keras's public way: `fit` reads `train_function` at each step, so the next step is traced with the new flags.
        if self.train_function is not None:
            self.make_train_function(force=True)

    def thawable_groups(self) -> list[str]:
        """Returns the names of the groups that have weights to train: with adapters, only those that have some."""
        lora = self.backbone.lora
        held = set(self.backbone.layer_groups()) - set(lora["groups"]) if lora is not None else set()
        groups = self.layer_groups()
        return [name for name in groups if name not in held and any(layer.weights for layer in groups[name])]

    @property
    def frozen_dropout(self) -> bool:
        """Whether frozen layers keep their dropout, as in Keras; `False` by default. Takes effect as flags do.

        A head of your own keeps the dropout that it has in any case.
        """
        return self.backbone.frozen_dropout

    @frozen_dropout.setter
    def frozen_dropout(self, value: bool) -> None:
        self.backbone.frozen_dropout = value
        for layer in (each for _, found in self._upper_groups for top in found for each in layers_within(top)):
            if isinstance(layer, Freezable):
                layer.frozen_dropout = bool(value)
        self._trace_anew()

    def _trainable_config(self):
        # Flags that are not the same over a group are not a group's: the backbone keeps those of its layers by itself.
        flags = {
            name: {flag for layer in found for flag in (layer.trainable, *(w.trainable for w in layer.weights))}
            for name, found in self.layer_groups().items()
        }
        return {name: found.pop() for name, found in flags.items() if len(found) == 1}

    def compile(self, optimizer: Any = "auto", *args: Any, **kwargs: Any) -> None:
        """Configures training, as `keras.Model.compile`.

        Args:
            optimizer: as Keras has it. `"auto"`, the default, is an `optimizers.Auto`: with a head at a peak of 1e-4,
                and a head with hidden layers at ten times that; 2e-5 for embedders and towers. An
                `optimizers.Layerwise` gets the model's layer groups.
            *args: as `keras.Model.compile` has them.
            **kwargs: as `keras.Model.compile` has them.
        """
        args = (self._auto_optimizer() if isinstance(optimizer, str) and optimizer == "auto" else optimizer, *args)
        super().compile(*args, **kwargs)
        bound = inspect.signature(keras.Model.compile).bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = {**bound.arguments, "jit_compile": self.jit_compile}
        del arguments["self"], arguments["auto_scale_loss"]
        self._compile_arguments = lambda: arguments  # hidden from Keras, which would track what is in a dict
        self.bind_optimizer()

    @property
    def compile_arguments(self) -> Any:
        """The arguments of the last `compile`, a dict, another one each time; `None` before."""
        return _training.with_subset(self._compile_arguments(), self.optimizer) if self.compiled else None

    # === Vocabulary ===

    def with_added_tokens(self, tokens: Sequence[str], *, special: bool = False) -> Any:
        """Returns a copy of this model whose tokenizer knows further tokens, with a row of the table for each.

        A new token's row starts as the mean of the rows of the pieces that it was read as before. All other weights are
        this model's; compile the copy before it trains.

        Args:
            tokens: list of strings. Those that the vocabulary has already are left as they are.
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
        """Returns a copy of this model with the first blocks of its encoder alone: smaller, faster, less exact.

        The copy has the weights of this model as far as it has the layers: embeddings, the first `number` blocks, a
        final norm, and all above. A head that was trained above the last block is a start, not more: train the copy, on
        the same rows or on what this model says (`losses.EmbeddingDistillationLoss`, or its probabilities as targets).

        Args:
            number: int. The blocks to keep, from the input upwards.

        Returns:
            A model of this class, not compiled, with this model's flags.

        Raises:
            ValueError: for more blocks than there are; for an encoder of KerasHub as it is, one whose groups of blocks
                repeat, adapters, quantized weights, or a head with weights for each block.

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
            remedy = "Add tokens by `model.with_added_tokens`, which grows the table too."
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
        """Writes the model as a folder, with a model card.

        | format | what it holds | read by |
        |---|---|---|
        | `"tfxfer"` | the whole model: optimizer, flags, adapters | `from_preset` |
        | `"sentence-transformers"` | an embedder; a classifier as `CrossEncoder` | the library, `from_preset` |
        | `"huggingface"` | an encoder, a classifier of texts or of tokens | transformers 5, `from_preset` |

        An embedder goes to sentence-transformers as a whole, with pooling, modules and prompts; for transformers its
        encoder alone is written. A classifier or regressor is `*ForSequenceClassification` where its head is that of
        its family's class; otherwise transformers has none, and the error says which head it would be. A tagger is
        `*ForTokenClassification`, with a linear head on the first token of a word. For sentence-transformers 6 any
        pooling with a `layers.Head` is a `CrossEncoder`.

        The last two give the same numbers in those libraries (to float rounding) and hold weights only: adapters are
        merged, an optimizer is left out. Their tokenizer maps special tokens inside a text to their ids, which this
        package's does only with `special_tokens_in_strings`.

        A model that the folder holds already is replaced as a whole: where writing fails, on a full disk for example,
        the old one stays. Other files in the folder stay; so does a README.md that this method did not write, unless
        there are `metadata`.

        Args:
            preset_dir: string or path. The folder, on the local disk; made if need be.
            format: string, see the table.
            metadata: dict of what the model card says, all of it optional: `name`, `description`, `repo_id`
                (`"user/name"` on the hub), `license`, `license_name`, `license_link`, `language`, `base_model`,
                `datasets`, `data` (a text about them), `metrics` (a dict of names to numbers, or of data sets to such
                dicts, such as `evaluation.classification` gives, with its intervals), `tags`. `language`,
                `base_model`, `datasets` and `tags` may be lists. Trainings and what a classifier decides by the card
                knows from the model.
            dtype: `"float32"`, `"bfloat16"` or `"float16"`: of the weights in the other libraries' formats.

        Raises:
            ValueError: for a URL such as `gs://...` (save locally and copy the folder), an unknown key of `metadata`, a
                model that the format cannot hold, or a folder with files of another format.

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

    # What the model is called in a hub's list of tasks.
    pipeline_tag = "feature-extraction"

    def write_checkpoint(self, folder: str | os.PathLike[str], format: str, dtype: Any) -> None:
        """Writes the model's files in another library's format; a task that has such a form overrides it.

        Args:
            folder: path of a folder that exists.
            format: `"sentence-transformers"` or `"huggingface"`.
            dtype: string, of the weights.

        Raises:
            ValueError: if there is no such form.
        """
        remedy = "To write its encoder alone, make a `TextEmbedder` of its `backbone` and `preprocessor`"
        raise _check.invalid("format", f"'tfxfer' for a `{type(self).__name__}`", format, remedy)

    def card_rows(self) -> dict[str, str]:
        """Returns lines of the model card: a dict of names to strings."""
        return {}

    def usage(self, format: str, repo_id: str) -> dict[str, str]:
        """Returns the Python of the model card: a dict of libraries to code."""
        return {}


def _groups(top):
    """Layers above the backbone as pairs (name, layers)."""
    return list(top.items()) if isinstance(top, Mapping) else [("head", top)]
