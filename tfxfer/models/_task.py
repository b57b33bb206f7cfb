"""What all task models share: strings in, layer groups, saving."""

import keras
import keras_hub
import numpy as np

import tfxfer
from tfxfer import _check, _disk, backbones, data, layers
from tfxfer._freezable import Freezable, switch

MODEL_FILE = "model.keras"
METADATA_FILE = "tfxfer.json"


class TextTask(keras_hub.models.Task):
    """Base of the task models: a functional model over a `backbone`, with a `preprocessor` for strings.

    Subclasses make their layers, call `super().__init__(inputs, outputs, backbone=..., ...)` and extend `get_config`.

    Args:
        inputs: the functional model's inputs.
        outputs: its outputs.
        backbone: `backbones.Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`, or `None` for a model that takes ids only.
        top: list of the layers above the backbone that make up the layer group `"head"`.
        trainable: which layer groups train; see `set_trainable`. `None` leaves the flags that the layers have.
        **kwargs: `name`, `compile`.
    """

    def __init__(self, inputs, outputs, *, backbone, preprocessor, top, trainable=None, **kwargs):
        self.backbone = backbone
        self.preprocessor = preprocessor
        self._top = top
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._runners = {}
        if trainable is not None:
            self.set_trainable(trainable)
        self.frozen_dropout = backbone.frozen_dropout

    @classmethod
    def from_preset(cls, preset, *, load_weights=True, sequence_length=None, dtype=None, **kwargs):
        """Makes the model on a pretrained backbone.

        Args:
            preset: string or path. A name (`"all_minilm_l6_v2"`), a KerasHub preset, an `hf://user/name` handle, a
                local Hugging Face or sentence-transformers folder, or a folder written by `save_to_preset` of any task
                model: its backbone is taken over, whatever the task was.
            load_weights: bool. `False` gives random weights in the same architecture.
            sequence_length: int. Tokens a text is cut at, special tokens included. Defaults to the preset's.
            dtype: dtype policy of the backbone, e.g. `"mixed_bfloat16"`. Defaults to Keras's global policy.
            **kwargs: the constructor's arguments.

        Returns:
            A model of this class.

        Raises:
            ValueError: if the preset is not understood, or holds parts that are not supported.
        """
        pretrained = backbones.load(preset, dtype=dtype, load_weights=load_weights, sequence_length=sequence_length)
        return cls(
            backbone=pretrained.backbone,
            preprocessor=pretrained.preprocessor,
            **cls._preset_arguments(pretrained.embedding, kwargs),
        )

    @classmethod
    def _preset_arguments(cls, embedding, arguments):
        """Returns the constructor's arguments, completed by what the preset says about pooling."""
        arguments.setdefault("pooling", embedding.pooling)
        return arguments

    def embedding_spec(self):
        """Returns how this model makes one vector of a text: a `backbones.EmbeddingSpec`."""
        return backbones.EmbeddingSpec(pooling=self.pooling)

    # === Layer groups ===

    def layer_groups(self):
        """Returns the layer groups from the input upwards: `"embeddings"`, `"block_0"`, ..., `"head"`.

        Returns:
            A dict in that order of name to list of layers; every weight is in exactly one group.
        """
        groups = dict(self.backbone.layer_groups())
        if self._top:
            groups["head"] = list(self._top)
        return groups

    def set_trainable(self, trainable):
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
        self.backbone.set_trainable({name: flag for name, flag in flags.items() if name != "head"})
        for layer in groups["head"] if "head" in flags else ():
            switch(layer, flags["head"])
        for whole in self._flatten_layers() if any(flags.values()) else ():
            if isinstance(whole, (keras.Model, layers.SiameseTowers)):
                whole._trainable = True  # `model.trainable = False` switched these off as well
        self._trace_anew()

    def _check_adapters(self, flags):
        lora = self.backbone.lora
        wanted = [name for name, flag in flags.items() if flag and name != "head"]
        if lora is not None and wanted and not set(wanted) & set(lora["groups"]):
            remedy = "The other weights are held; `freezing.merge_lora(model)` takes the adapters away."
            raise _check.invalid("trainable", f"groups with adapters, {', '.join(lora['groups'])}", wanted, remedy)

    def _trace_anew(self):
        if self.train_function is not None:
            self.make_train_function(force=True)

    def thawable_groups(self):
        """Returns the names of the groups that have weights to train: with adapters, only those that have some."""
        lora = self.backbone.lora
        held = set(self.backbone.layer_groups()) - set(lora["groups"]) if lora is not None else set()
        groups = self.layer_groups()
        return [name for name in groups if name not in held and any(layer.weights for layer in groups[name])]

    @property
    def frozen_dropout(self):
        """Whether frozen layers keep their dropout, as in Keras; `False` by default. Takes effect as flags do.

        A head of your own keeps the dropout that it has in any case.
        """
        return self.backbone.frozen_dropout

    @frozen_dropout.setter
    def frozen_dropout(self, value):
        self.backbone.frozen_dropout = value
        for top in self._top:
            for layer in top._flatten_layers():
                if isinstance(layer, Freezable):
                    layer.frozen_dropout = bool(value)
        self._trace_anew()

    def _trainable_config(self):
        # Flags that are not the same over a group are not a group's: the backbone keeps those of its layers by itself.
        flags = {name: {layer.trainable for layer in found} for name, found in self.layer_groups().items()}
        return {name: found.pop() for name, found in flags.items() if len(found) == 1}

    def compile(self, *args, **kwargs):
        """Configures training, as `keras.Model.compile`; gives an `optimizers.Layerwise` its layer groups."""
        super().compile(*args, **kwargs)
        optimizer = getattr(self, "optimizer", None)
        while optimizer is not None and not hasattr(optimizer, "bind"):
            optimizer = getattr(optimizer, "inner_optimizer", None)  # within loss scaling
        if optimizer is not None:
            optimizer.bind(self)

    # === Strings in ===

    def preprocess_samples(self, x, y=None, sample_weight=None):
        """Tokenises strings and encodes targets; batches of ids pass as they are."""
        if self.preprocessor is not None and not (isinstance(x, dict) and "token_ids" in x):
            x = self._preprocess_texts(x)
        if y is not None:
            y = self._encode_targets(y)
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

    def _preprocess_texts(self, x):
        return self.preprocessor(x)

    def _encode_targets(self, y):
        return y

    _columns = "joint"

    def fit(self, x=None, y=None, batch_size=None, *, sample_weight=None, shuffle=True, seed=None, **kwargs):
        """Trains on strings, or on batches.

        Raw strings are tokenised once, shuffled anew each epoch, and batched with rows of like length
        (`data.batches`). A `tf.data.Dataset` is taken as it is: batches of strings, or of ids from `data.batches`.

        Args:
            x: list or array of strings, a tuple of such columns, or a `tf.data.Dataset` of batches `(x, y)`.
            y: targets for raw strings; label names are welcome.
            batch_size: int, for raw strings. Defaults to 32.
            sample_weight: float array, one weight a row of raw strings.
            shuffle: bool, for raw strings.
            seed: int. Makes the order of raw strings repeatable.
            **kwargs: as `keras.Model.fit` has them; `validation_data` takes strings as well.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: for unequal lengths, or targets that the model does not know, with their row.
        """
        if _is_raw_text(x) and self.preprocessor is not None:
            if y is None:
                raise _check.invalid("y", "targets, one for each text", y)
            validation_split = kwargs.pop("validation_split", None)
            if validation_split:
                raise _check.invalid(
                    "validation_split", "None", validation_split, "Give `validation_data=(texts, targets)` instead."
                )
            columns = (x, self._encode_raw_targets(y)) + (() if sample_weight is None else (sample_weight,))
            x = self._batches(columns, batch_size or 32, shuffle=shuffle, seed=seed)
            y = sample_weight = None
        validation = kwargs.get("validation_data")
        if isinstance(validation, tuple) and _is_raw_text(validation[0]) and self.preprocessor is not None:
            columns = (validation[0], self._encode_raw_targets(validation[1]), *validation[2:])
            size = kwargs.get("validation_batch_size") or batch_size or 32
            kwargs["validation_data"] = self._batches(columns, size, shuffle=False, bucket=True)
        batch_size = None if isinstance(x, data.Batches) else batch_size
        _tell(kwargs.get("callbacks"), x)
        # Keras warns about its own `shuffle` whenever the data are a dataset, which from here on they always are.
        return super().fit(x, y, batch_size=batch_size, sample_weight=sample_weight, shuffle=False, **kwargs)

    def _encode_raw_targets(self, y):
        return np.asarray(y)

    def _batches(self, columns, batch_size, **kwargs):
        return data.batches(
            columns,
            self.preprocessor,
            batch_size,
            columns=self._columns,
            pad_to_multiple_of=self._length_multiple(),
            **kwargs,
        )

    def _length_multiple(self):
        # Where each shape is compiled on its own, lengths in steps of 8 keep their number small; elsewhere rounding up
        # would be padding for nothing.
        compiled = keras.config.backend() == "jax" or getattr(self, "jit_compile", False)
        return 8 if compiled else 1

    def evaluate(self, x=None, y=None, batch_size=None, **kwargs):
        """Computes loss and metrics on strings (with `y`) or on batches; as `keras.Model.evaluate`."""
        if _is_raw_text(x) and self.preprocessor is not None and y is not None:
            x = self._batches((x, self._encode_raw_targets(y)), batch_size or 32, shuffle=False, bucket=True)
            y = batch_size = None
        return super().evaluate(x, y, batch_size=batch_size, **kwargs)

    def predict(self, x=None, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Runs the model on strings or batches and returns its outputs in the order of the rows.

        Raw strings are sorted by length, batched without needless padding, and the outputs put back into order.

        Args:
            x: list or array of strings, a tuple of such columns (a pair in one sequence), or batches.
            batch_size: int, for raw strings. Defaults to 32.
            verbose: 0, 1 or `"auto"`: whether to show Keras's progress bar.
            steps: as `keras.Model.predict` has it, for batches.
            callbacks: Keras callbacks; with them, strings are batched in their own order.

        Returns:
            A float array `(rows, ...)`.
        """
        if not _is_raw_text(x) or self.preprocessor is None or callbacks:
            return super().predict(x, batch_size=batch_size, verbose=verbose, steps=steps, callbacks=callbacks)
        progress = keras.config.is_interactive_logging_enabled() if verbose == "auto" else bool(verbose)
        return self._runner(x)(x, batch_size or 32, progress=progress)

    def _runner(self, x, layer=None):
        """Returns what runs this model over texts, up to a layer's input where one is named.

        It is made anew where something changed that it has traced.
        """
        count = len(x) if isinstance(x, tuple) else 1
        preprocessor = self.preprocessor
        key = (
            count,
            id(preprocessor),
            preprocessor.sequence_length,
            preprocessor.padding_side,
            preprocessor.tokenizer.special_tokens_in_strings,
            bool(self.jit_compile),
            *map(id, self.weights),  # LoRA and quantisation change them
        )
        made_for, runner = self._runners.get(layer, (None, None))
        if made_for != key:
            model = self if layer is None else keras.Model(self.input, self.get_layer(layer).input)
            runner = data.TextRunner(
                model, preprocessor, count, columns=self._columns, pad_to_multiple_of=self._length_multiple()
            )
            self._runners[layer] = (key, runner)
        return runner

    # === Saving ===

    def get_compile_config(self):
        config = super().get_compile_config()
        optimizer = getattr(self, "optimizer", None)
        return {**config, "optimizer_variables": self._optimizer_variables()} if config and optimizer else config

    def _optimizer_variables(self):
        """The places in `weights` of the variables that the optimizer was built on, `None` where it was not.

        They may be more than what trains: those of layers that will thaw, or have been frozen since.
        """
        if not self.optimizer.built:
            return None
        places = {id(weight): i for i, weight in enumerate(self.weights)}
        return [places[id(variable)] for variable in self.optimizer._trainable_variables if id(variable) in places]

    def compile_from_config(self, config):
        # Keras's own refuses where `compile` is overridden, as it is here for its defaults.
        config = dict(config)
        places = config.pop("optimizer_variables", None)
        self.compile(**keras.saving.deserialize_keras_object(config))
        # An optimizer that has not made a step has no state to restore: built, it would miss it in the file.
        if places is not None and self.optimizer is not None:
            weights = self.weights
            self.optimizer.build([weights[place] for place in places])

    def get_config(self):
        return {**super().get_config(), "trainable": self._trainable_config()}

    def save_to_preset(self, preset_dir):
        """Writes the model into a folder that `from_preset` of any task model reads.

        A model that the folder holds already is replaced as a whole: where writing fails, on a full disk for example,
        the old one stays. Other files in the folder stay.

        Args:
            preset_dir: string or path. The folder, on the local disk; made if need be.

        Raises:
            ValueError: for a URL such as `gs://...`: save locally and copy the folder.
        """
        folder = _disk.local_path("preset_dir", preset_dir, kind="folder")
        with _disk.replacing_folder(folder) as staged:
            self.save(staged / MODEL_FILE)
            metadata = {"tfxfer": tfxfer.__version__, "class": type(self).__name__}
            _disk.write_json(staged / METADATA_FILE, metadata)


def _tell(callbacks, x):
    """Tells callbacks that ask for it what is trained on: Keras shows them the model only."""
    for callback in keras.tree.flatten(getattr(callbacks, "callbacks", callbacks)):
        if hasattr(callback, "set_data"):
            callback.set_data(x)


def _is_raw_text(x):
    """Whether `x` is text outside any pipeline: strings, an array of them, or a tuple of such columns."""
    if isinstance(x, tuple):
        return bool(x) and all(_is_raw_text(column) for column in x)
    if isinstance(x, (str, bytes)):
        raise _check.invalid("x", "a list of strings", x, "Put the one string into a list.")
    if isinstance(x, list):
        if x and isinstance(x[0], (list, tuple)):
            raise _check.invalid(
                "x", "a list of strings, or a tuple of columns", x, "Give text pairs as (firsts, seconds)."
            )
        return bool(x) and isinstance(x[0], (str, bytes))
    if hasattr(x, "to_numpy"):
        return _is_raw_text(x.to_numpy())
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "US" or (x.dtype == object and x.size > 0 and isinstance(x.flat[0], (str, bytes)))
    return str(getattr(x, "dtype", "")) in ("string", "<dtype: 'string'>")
