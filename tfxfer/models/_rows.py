"""How task models handle the data that users pass to `fit`, `evaluate` and `predict`."""

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import keras
import numpy as np

from tfxfer import _check, _introduction, _neighbours, data
from tfxfer.models import _devices, _probing, _recipe, _training

# Batches for an engine are padded to a multiple of this length.
_ENGINE_MULTIPLE = 8
# The number of batches read from a generator at a time: enough to sort by length, few to hold in memory.
STREAM_BATCHES = 64

# The name of the part of a model from its inputs to the input of its head.
_FEATURES = "head_features"

_Mixin: Any = object  # classes that use the mixin have the methods of a Keras model


class TakesRows(_Mixin):
    """Mixin with `fit`, `evaluate` and `predict` on rows of any kind, read as the task describes them."""

    # How several texts of a row are combined, and how many texts a row has: see `data.TextColumn`.
    text_form: Literal["joint", "separate"] = "joint"
    text_count: int | None = None

    def reads_pairs(self) -> bool:
        """Returns whether every row has two texts, regardless of export options; by default, if they are separate."""
        return self.text_form == "separate"

    # Returns the engine that computes instead of the model; see `engine`.
    _engine = staticmethod(lambda: None)

    # === Description ===

    def input_columns(self) -> dict[str, Any]:
        """Returns the columns that the task reads: a dict of name to `data.Column`.

        By default, this is one text, or several, named `"text"`. A task that reads more overrides it.
        """
        return {"text": data.TextColumn(self.preprocessor, self.text_form, count=self.text_count)}

    def prediction_columns(self) -> dict[str, Any]:
        """Returns the columns that `predict` and exports read, in the form of `input_columns`; by default the same.

        A task whose columns mask something in training overrides it.
        """
        return self.input_columns()

    def target_columns(self) -> Any:
        """Returns how targets are encoded: a `data.Column`; for a model with a dict of outputs, a dict of them.

        By default, they are numbers that the loss gets unchanged.
        """
        return data.ValuesColumn()

    def decode(self, outputs: Any) -> Any:
        """Converts the outputs of `predict` to readable results; by default, returns them unchanged.

        Args:
            outputs: arrays `(rows, ...)`, as `predict` returns them.
        """
        return outputs

    def answer(self, x: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Returns `decode(predict(x))`.

        Args:
            x: rows, as `predict` takes them. For a generator of rows, the results come as a generator of parts.
            batch_size: int. Rows per batch.
            verbose: 0, 1 or `"auto"`: whether to show a progress bar.
        """
        return self._answers(x, batch_size, verbose, self.decode)

    def read_targets(self, y: Any, argument: str = "y") -> Any:
        """Converts targets as `fit` takes them to targets for the loss; raises as `fit`, naming the `argument`."""
        return data.Gate(self, ("x", argument, "sample_weight")).read_targets(y)

    # === Training ===

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int | Literal["auto"] = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[Any, float] | str | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
        *,
        seed: int | None = None,
        augment: Any = None,
    ) -> keras.callbacks.History:
        """Trains on rows or on batches.

        Rows in memory are tokenized once, shuffled in each epoch, and batched by similar length
        (`data.batches`).

        Args:
            x: a list, array, Series or another sequence of strings; a tuple or a frame of several such columns; a dict
                or frame of the task's columns by name; the result of `data.labelled` and similar functions;
                `data.Batches`, or another `tf.data.Dataset`, `keras.utils.PyDataset` or generator of rows or batches.
            y: targets, for rows without targets. Pass labels by name.
            batch_size: int, for rows. Defaults to 32.
            epochs: int. Passes over the rows, counted from 0 (not from `initial_epoch`). `"auto"` uses as many epochs
                as it takes to reach 300 steps, from 4 to 10.
            verbose: as in `keras.Model.fit`.
            callbacks: list of Keras callbacks.
            validation_split: float in `(0, 1)`. The fraction of rows in memory, from the end, to validate on.
            validation_data: a tuple (x, y) or (x, y, sample_weight), or any other form of `x` that has targets.
            shuffle: bool, for rows.
            class_weight: dict of label to weight, or `"balanced"`; for tasks with one label a row.
            sample_weight: float array, a weight >= 0 for each row.
            initial_epoch: int. The epoch to start at.
            steps_per_epoch: int. Batches per epoch; each epoch continues where the previous one stopped.
            validation_steps: as in `keras.Model.fit`.
            validation_batch_size: int. Defaults to `batch_size`.
            validation_freq: as in `keras.Model.fit`.
            seed: int. Makes the order and the augmentation of rows reproducible.
            augment: an augmentation of `tfxfer.augmentation`, a list of them, or a dict of these by column or text, for
                rows: their texts differ in each epoch; see `data.batches`. Validation data and the rows that
                initialize a new head stay unchanged.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: if the form is unknown, lengths differ, a text is missing or is not a string, or the task does
                not know a target (the error names the row); on several devices or hosts, if the data cannot be
                distributed over them (docs/scale.md).
        """
        gate = data.Gate(self)
        form, found = gate.read(x, y, sample_weight, needs_y=self.loss is not None)
        check_augment("augment", augment, form)
        size = validation_batch_size or batch_size
        if validation_data is not None:
            if validation_split:
                raise _check.invalid("validation_split", "0 with `validation_data`", validation_split)
            validation_data = self._validation_data(validation_data, size)
        elif validation_split:
            if form != "rows":
                raise _check.invalid("validation_split", "0 for data that are not rows in memory", validation_split)
            found, held_out = gate.split(found, validation_split)
            validation_data = self._evaluation_data("rows", held_out, gate, size)
        if class_weight is not None:
            class_weight = gate.class_weights(class_weight, found)
        is_arrays = form == "arrays"
        source, y, sample_weight = found if is_arrays else (found, None, None)
        if not is_arrays:
            made: dict[str, Any] = {}
            if form != "batches":
                made = self._batch_options(shuffle=shuffle, seed=seed, augment=augment)
            source = gate.batches(form, found, batch_size or 32, **made)
        _devices.check(self, source, form)
        _training.check_swaps(self, callbacks)
        _training.settle_optimizer(self)
        self._leave_engine()
        batches = _probing.slices(found, batch_size or 32) if is_arrays else source
        epochs = _recipe.begin(
            self,
            batches,
            lambda: None if isinstance(x, Iterator) else gate.again(batches),
            epochs=epochs,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            class_weight=class_weight,
        )
        options: dict[str, Any] = {
            "batch_size": batch_size,
            "epochs": epochs,
            "steps_per_epoch": steps_per_epoch,
            "verbose": verbose,
        }
        callbacks, train = _introduction.introduce(self, source, callbacks=callbacks, **options)
        if not is_arrays:
            _devices.check_alike(self, source, epochs=epochs)
            train = _devices.part(gate.ready(train, gate.is_encoded(source)), source)
            if steps_per_epoch is not None and isinstance(source, data.Batches):
                train = train.repeat()
        start = self._before_training(found, batch_size, seed)
        spread = _devices.spread(self, source, callbacks, steps_per_epoch)
        with quiet_ends(steps_per_epoch), spread as callbacks:
            history = keras.Model.fit(
                self,
                train,
                y,
                batch_size=batch_size if is_arrays else None,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_data=validation_data,
                # Keras warns about its own `shuffle` if the data are a dataset, whose order is fixed here.
                shuffle=shuffle and is_arrays,
                class_weight=class_weight,
                sample_weight=sample_weight,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=size if is_arrays else None,
                validation_freq=validation_freq,
            )
        self._note_training(start, history)
        return history

    def _validation_data(self, given, batch_size):
        """Returns validation data in the form that Keras expects."""
        names = ("validation_data[0]", "validation_data[1]", "validation_data[2]")
        if not isinstance(given, tuple):
            gate = data.Gate(self, ("validation_data", *names[1:]))
            form, found = gate.read(given)
            return self._evaluation_data(form, found, gate, batch_size)
        if not 2 <= len(given) <= 3:
            raise _check.invalid("validation_data", "(x, y) or (x, y, sample_weight)", given)
        gate = data.Gate(self, names)
        form, found = gate.read(*given)
        if form == "arrays":
            return tuple(part for part in found if part is not None)
        return self._evaluation_data(form, found, gate, batch_size)

    def _evaluation_data(self, form, found, gate, batch_size):
        check_plain(found)
        options: dict[str, Any] = {}
        if form != "batches":
            options = self._batch_options(shuffle=False, bucket=form == "rows", seed=0 if gate.draws else None)
        found = gate.batches(form, found, batch_size or 32, **options)
        _devices.check(self, found, form, gate.argument)
        if gate.draws and isinstance(found, data.Batches):  # random draws are the same in each evaluation
            return _devices.part(gate.ready(found.rest(0), True), found)
        return _devices.part(gate.ready(found), found)

    def _batch_options(self, **options):
        self._check_vocabulary()
        return {"pad_to_multiple_of": self._length_multiple(), **options}

    def _length_multiple(self):
        # If each shape is compiled separately, lengths in steps of 8 keep their number small; otherwise, rounding up
        # would only add padding.
        compiled = keras.config.backend() == "jax" or getattr(self, "jit_compile", False)
        return 8 if compiled else 1

    def _row_multiple(self):
        # Rows of padding at the end of a batch give each text bit-identical results in any batch. They would change the
        # results of an encoder that reads padding.
        return 1 if getattr(self.tower().backbone, "depends_on_padding", False) else data.ROWS_MULTIPLE

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Computes loss and metrics on rows or batches, in any form that `fit` takes; see `keras.Model.evaluate`."""
        gate = data.Gate(self)
        form, found = gate.read(x, y, sample_weight)
        if form == "arrays":
            x, y, sample_weight = found
        else:
            x, y, sample_weight = self._evaluation_data(form, found, gate, batch_size), None, None
        with quiet_ends(steps):
            return keras.Model.evaluate(
                self,
                x,
                y,
                batch_size=batch_size if form == "arrays" else None,
                verbose=verbose,
                sample_weight=sample_weight,
                steps=steps,
                callbacks=callbacks,
                return_dict=return_dict,
                **kwargs,
            )

    # === Prediction ===

    def predict(
        self,
        x: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Runs the model on rows or batches and returns its outputs in the order of the rows.

        Rows in memory are sorted by length and batched with little padding; the outputs are returned in the original
        order. Without rows, the result is an empty array.

        Args:
            x: rows or batches, in any form that `fit` takes; targets are ignored. For a generator of single rows, the
                outputs come as a generator of arrays, in constant memory.
            batch_size: int, for rows. Defaults to 32.
            verbose: 0, 1 or `"auto"`: whether to show Keras's progress bar.
            steps: as in `keras.Model.predict`, for batches.
            callbacks: Keras callbacks; with them, rows are batched in their original order.

        Returns:
            A float array `(rows, ...)`, or the structure of arrays that the model returns.
        """
        return self._answers(x, batch_size or 32, verbose, lambda outputs: outputs, steps, callbacks)

    def head_features(self, x: Any, batch_size: int = 32, *, verbose: int | str = 0) -> np.ndarray:
        """Returns the head's input for each row, to compute it once and use it several times.

        These are the features below the only dense layer (`linear_head`), or else the pooled states of the encoder
        (`boundary`). `suggest` and `evaluation.suspect_labels` take them instead of running the encoder. They are
        valid as long as nothing below the head trains.

        Args:
            x: rows in memory, as `predict` takes them.
            batch_size: int. Rows per batch.
            verbose: 0, 1 or `"auto"`: whether to show Keras's progress bar.

        Returns:
            A float32 array `(rows, features)`.

        Raises:
            ValueError: if the model's head reads token states, if the rows are not in memory, and as
                `predict`.

        Example:

        ```python
        features = model.head_features(texts)
        tx.evaluation.suspect_labels(model, texts, labels, features=features)
        ```
        """
        self.feature_tensor()
        form, found = data.Gate(self, asks=True).read(x, needs_y=False)
        if form != "rows":
            raise _check.invalid("x", "rows in memory", x, "For batches, `predict` returns the outputs.")
        progress = keras.config.is_interactive_logging_enabled() if verbose == "auto" else bool(verbose)
        outputs = self._runner(found.x, _FEATURES)(found.x, batch_size, progress=progress)
        return np.asarray(outputs, "float32").reshape(len(outputs), math.prod(outputs.shape[1:]))

    def head_outputs(self, features: Any) -> Any:
        """Runs only the head on the result of `head_features` and returns the outputs that `predict` would.

        Args:
            features: float array `(rows, features)`.

        Raises:
            ValueError: if the model has no such features, or if their size differs.
        """
        tensor = self.feature_tensor()
        features = _neighbours.matrix("features", features).astype("float32", copy=False)
        if features.shape[1] != math.prod(tensor.shape[1:]):
            expected = f"an array (rows, {math.prod(tensor.shape[1:])})"
            raise _check.invalid("features", expected, features.shape, "Use `model.head_features(texts)`.")
        outputs = keras.Model(tensor, self.output)(features.reshape(-1, *tensor.shape[1:]), training=False)
        return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)

    def feature_tensor(self) -> Any:
        """Returns the Keras tensor of `head_features`, with one vector for each row.

        Raises:
            ValueError: if the model has none.
        """
        found = self.linear_head()
        tensor = self.boundary()[2] if found is None else found[0]
        if tensor is None or isinstance(tensor, (list, tuple, dict)) or None in tensor.shape[1:]:
            remedy = "Its head reads token states."
            raise _check.invalid("model", "a model that computes one vector for each row", self.name, remedy)
        return tensor

    def _part(self, part):
        """The part of the model with this name: from the inputs to the input of the head."""
        return keras.Model(self.input, self.feature_tensor())

    def _answers(self, x, batch_size, verbose, finish, steps=None, callbacks=None, part=None):
        """Returns `finish` of the model's outputs; for a generator of rows, a generator over its parts.

        With `part`, the outputs are those of the part of the model that `_part` returns for this name.
        """
        _check.integer("batch_size", batch_size)
        form, found = data.Gate(self, asks=True).read(x, needs_y=False)
        check_plain(found)
        if form == "dataset" and not hasattr(found, "element_spec"):
            return self._streamed(found, batch_size, finish, part)
        named = {} if part is None else {"part": part}
        return finish(self._predicted(form, found, batch_size, verbose, steps, callbacks, **named))

    def _streamed(self, rows, batch_size, finish, name=None):
        named = {} if name is None else {"part": name}
        while part := list(itertools.islice(rows, batch_size * STREAM_BATCHES)):
            if isinstance(part[0], dict):
                part = {name: [row[name] for row in part] for name in part[0]}
            elif isinstance(part[0], tuple):
                part = tuple(map(list, zip(*part, strict=True)))
            form, found = data.Gate(self, asks=True).read(part, needs_y=False)
            yield finish(self._predicted(form, found, batch_size, 0, **named))

    def _predicted(self, form, found, batch_size, verbose, steps=None, callbacks=None, part=None):
        if form == "rows" and not callbacks:
            progress = keras.config.is_interactive_logging_enabled() if verbose == "auto" else bool(verbose)
            return self._runner(found.x, part)(found.x, batch_size, progress=progress)
        if self.engine is not None:
            remedy = "Pass rows, such as a list of texts, without callbacks; or set `model.engine = None`."
            raise _check.invalid("engine", "None for batches, and with callbacks", self.engine, remedy)
        arguments = {"verbose": verbose, "steps": steps, "callbacks": callbacks}
        model = self if part is None else self._made_once(f"{part} of batches", 0, lambda: self._part(part))
        if form == "arrays":
            return keras.Model.predict(model, found[0], batch_size=batch_size, **arguments)
        options = {} if form == "batches" else self._batch_options(shuffle=False, bucket=False)
        gate = data.Gate(self, asks=True)
        found = gate.ready(gate.batches(form, found, batch_size, **options))
        with quiet_ends(steps):
            return keras.Model.predict(model, found, **arguments)

    def _runner(self, x, part=None):
        """Returns the runner of this model over rows, or of the part that `_part` returns for this name.

        It is recreated if anything that it has traced has changed.
        """
        engine = self.engine
        if engine is not None:
            engine.check(self)
            if part is not None:
                remedy = "The engine computes the whole model. Set `model.engine = None` for this."
                raise _check.invalid(
                    "engine", "None for a part of the model, or with a prompt left out", engine, remedy
                )

        def make():
            model = self if part is None else self._part(part)
            multiple = self._length_multiple() if engine is None else _ENGINE_MULTIPLE
            return data.Runner(model, self.prediction_columns(), multiple, engine, self._row_multiple())

        settings = (len(x) if isinstance(x, (tuple, dict)) else 1, id(engine))
        return self._made_once(part, settings, make)

    def _made_once(self, name, settings, make):
        """Returns the cached result of `make` for a name while the settings and everything traced stay the same."""
        preprocessor = self.preprocessor
        key = (
            settings,
            id(preprocessor),
            preprocessor.sequence_length,
            preprocessor.padding_side,
            preprocessor.tokenizer.special_tokens_in_strings,
            preprocessor.tokenizer.vocabulary_size(),
            bool(self.jit_compile),
            *map(id, self.weights),  # LoRA and quantization change them
        )
        made_for, found = self._runners.get(name, (None, None))
        if made_for != key:
            self._check_vocabulary()
            found = make()
            self._runners[name] = (key, found)
        return found

    @property
    def engine(self) -> Any:
        """The `export.Engine` that computes `encode`, `predict` and the methods built on them, for rows; or `None`.

        It is a copy of the weights and is not saved. Training removes it, with a warning.
        """
        return self._engine()

    @engine.setter
    def engine(self, engine: Any) -> None:
        if engine is not None:
            engine.check(self)
        self._engine = lambda: engine  # hidden from Keras

    def _leave_engine(self):
        if self.engine is not None:
            self.engine = None
            warnings.warn("`fit` changes the weights: `model.engine` is None again.", stacklevel=3)

    # === Batches ===

    def preprocess_samples(self, x: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Tokenizes a batch of raw inputs and encodes targets, in a pipeline; passes batches of ids unchanged."""
        gate = data.Gate(self)
        if self.preprocessor is not None and not (isinstance(x, dict) and set(x) >= set(self.input)):
            self._check_vocabulary()
            x = gate.encode_inputs(x)
        if y is not None:
            y = gate.encode_targets(y, x)
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

    def train_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any) -> Any:
        """Runs one training step on a batch of raw inputs or ids; see `keras.Model.train_on_batch`."""
        x, y = self._one_batch(x, y)
        return keras.Model.train_on_batch(self, x, y, sample_weight=sample_weight, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any) -> Any:
        """Computes loss and metrics of a batch of raw inputs or ids; see `keras.Model.test_on_batch`."""
        x, y = self._one_batch(x, y)
        return keras.Model.test_on_batch(self, x, y, sample_weight=sample_weight, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """Returns the outputs for a batch of raw inputs or ids; see `keras.Model.predict_on_batch`."""
        return keras.Model.predict_on_batch(self, self._one_batch(x, asks=True)[0])

    def _one_batch(self, x, y=None, asks=False):
        self._check_vocabulary()
        batch = data.Gate(self, asks=asks).encode_batch((x, y), draws=not asks)
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        return x, y

    # === Pairs ===

    def score_pairs(self, first: Any, second: Any, batch_size: int = 32, *, verbose: int | str = 0) -> Any:
        """Returns a score for each pair of texts from the same row of two lists; for models that read pairs."""
        raise _check.invalid("model", "a model that scores pairs of texts", type(self).__name__)


def check_augment(argument, augment, form):
    """Raises for an augmentation if the data are already batches."""
    if augment is not None and form not in ("rows", "dataset"):
        remedy = "Give rows, or augment in `data.batches(rows, model, augment=...)`."
        raise _check.invalid(argument, "None for data that are batches already", augment, remedy)


def check_plain(found):
    """Raises for batches whose texts are changed at random, as these are only for training."""
    if isinstance(found, data.Batches) and found.augmentation is not None:
        remedy = "For the same rows unchanged, use `batches.plain()`."
        raise _check.invalid("x", "batches without augmentation, to evaluate or predict", found.augmentation, remedy)


@contextlib.contextmanager
def quiet_ends(steps):
    """Suppresses Keras's warning that data ran out if no number of steps was requested.

    Keras warns at the end of any data of unknown length.
    """
    with warnings.catch_warnings():
        if steps is None:
            warnings.filterwarnings("ignore", "Your input ran out of data")
        yield
