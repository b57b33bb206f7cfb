"""Training above frozen layers whose output is cached."""

import functools
import os
import weakref
from typing import Any

import keras
import numpy as np

from tfxfer import _check, _introduction, _processes, _texts, _tracing, data, optimizers
from tfxfer._lengths import mixed_lengths
from tfxfer._tracing import TracesOnce
from tfxfer.data import _features, _remainder
from tfxfer.freezing import _cut
from tfxfer.freezing._store import DTYPES, Store
from tfxfer.models import _devices, _recipe, _training

_IN_MEMORY = 2 * 2**30
_ON_DISK = 32 * 2**30


class AboveFrozen(TracesOnce, optimizers.TrainsAlone, keras.Model):
    """The part of a model above its frozen layers, trained on their cached output: the same result in less time.

    If the lowest layer groups are frozen, their output for a text never changes. `AboveFrozen` computes it once, caches
    it, and runs only the layers above in each epoch. With 4 of 6 blocks frozen, an epoch is a third of the work of full
    fine-tuning. With the whole backbone frozen (then the pooled vectors are cached instead of the token states), it is
    almost no work. The layers are the model's own, not copies: training this model trains the full model and produces
    the same weights as training the full model directly, to float rounding (with the default `dtype`), given the same
    rows, order, dropout above and optimizer.

    It is compiled like the full model and inherits the full model's compilation, including the optimizer and its state.
    `save`, `save_weights` and `load_weights` apply to the full model, so that `ModelCheckpoint` saves all of it. Pass
    the full model to evaluation callbacks: `callbacks.EvaluateClassification(dev, model=model)`. `get_weights`, and
    therefore `EarlyStopping`, cover only the upper part.

    If the image backbone of a `Multimodal` is frozen as well (`model.set_trainable({"image": False})`), the features of
    the images are cached too, unless it has random layers such as dropout or flips. Image files are read when their
    features are computed.

    **Size.** Tokens x hidden_dim x bytes: 14 tokens of MiniLM (384) in float32 take 21 KB per text, pooled vectors
    1.5 KB. A head that reads several blocks (`layers.DenselyConnectedHead`) takes this size for each of them.
    Padding is not stored, and equal texts are stored once. Features whose batches no longer exist are kept until others
    must be computed, and are then released: ten folds in a loop take the memory of one. `dtype="float16"` takes half
    the size, with a relative error of 5e-4 in the stored values; `"bfloat16"` 4e-3. A cache on disk is identified by a
    hash over the frozen weights, the architecture, the token ids and the versions of this package and of Keras. Later
    runs use it only if all of these are the same. Incomplete files are ignored.

    Args:
        model: `models.TextClassifier`, `TextRegressor`, `TextEmbedder`, `Siamese` or `SiameseClassifier`, with
            `"embeddings"` and any number of blocks frozen. Its frozen layers must run without dropout, which is the
            default.
        folder: string or path. The directory for cached features. Defaults to `None`: in memory.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`: the dtype of the cache. Defaults to the dtype in which the
            frozen layers compute, which is lossless.
        max_bytes: int. The maximum size of the cache in bytes. Defaults to 2 GiB in memory and 32 GiB on disk. On disk,
            the least recently used caches are removed to make room for a new one.
        progress: bool. Whether to show a progress bar while features are computed. Defaults to showing it for long
            computations in a terminal or notebook.
        name: string.

    Input: the batches of `cached`. Output: that of `model`.

    Raises:
        ValueError: if nothing or everything in the model is frozen; for frozen layers with dropout; for token states on
            several replicas of a `tf.distribute` strategy; in `fit` and `cached`, before anything is computed, if the
            features need more than `max_bytes`; at the beginning of each epoch, if frozen weights have changed or a
            frozen group trains again.

    Example:

    ```python
    tx.freezing.freeze(model, below=4)
    model.compile(tx.optimizers.AdamW(1e-4))
    short = tx.freezing.AboveFrozen(model)
    short.fit(train, validation_data=dev, epochs=5)  # the same batches as for `model.fit`
    model.classify(["My card is gone"])  # trained
    ```

    Reference: Peters et al., 2019, https://arxiv.org/abs/1903.05987, train on the features of frozen layers.
    """

    def __init__(
        self,
        model: Any,
        *,
        folder: str | os.PathLike[str] | None = None,
        dtype: str | None = None,
        max_bytes: int | None = None,
        progress: bool | None = None,
        name: str = "above_frozen",
    ) -> None:
        if dtype is not None:
            _check.one_of("dtype", dtype, DTYPES)
        if _check.integer("max_bytes", max_bytes, optional=True) is None:
            max_bytes = _IN_MEMORY if folder is None else _ON_DISK
        cut = _cut.cut(model)
        super().__init__(cut.inputs, cut.outputs, name=name)
        # In functions, where Keras does not track them: their weights are not this model's.
        self._full, self._cut = lambda: model, lambda: cut
        self._sums = _cut.sums(self._frozen_weights())
        self._store = Store(folder, max_bytes)
        self._progress = progress
        computed = keras.backend.standardize_dtype(cut.below.output.dtype)
        self.feature_dtype = computed if dtype is None else dtype
        self._dtype = dtype
        self._made = weakref.WeakKeyDictionary()
        self._digests = weakref.WeakKeyDictionary()  # of the rows of batches, by the batches of features
        self._taken = lambda: None  # hidden from Keras, which would wrap a dict
        self._trained: Any = None
        self._take_over()

    @property
    def full_model(self) -> Any:
        """The full model, whose upper part this is."""
        return self._full()

    @property
    def trainable_variables(self) -> Any:
        """The trainable variables above the frozen layers, in the order of the full model."""
        return self._in_order(super().trainable_variables)

    @property
    def trainable_weights(self) -> Any:
        """The trainable variables above the frozen layers, in the order of the full model."""
        return self._in_order(super().trainable_weights)

    def _in_order(self, variables):
        """Returns variables in the order of the full model; on JAX, optimizers rely on it."""
        if getattr(self, "_full", None) is None:
            return variables
        places = {id(variable): place for place, variable in enumerate(self.full_model.variables)}
        return sorted(variables, key=lambda variable: places[id(variable)])

    @property
    def cache_bytes(self) -> int:
        """The size in bytes of all features that are kept and in use."""
        return self._store.used

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Computes the full model's outputs from features, with the dropout of its towers.

        Args:
            inputs: dict of tensors, a batch of `cached`.
            training: bool. Whether dropout is active.
            mask: passed to `keras.Model.call`.

        Returns:
            The outputs of the full model.
        """
        is_siamese = getattr(self, "_full", None) is not None and _cut.tower_of(self.full_model) is not self.full_model
        with mixed_lengths(is_siamese):
            return super().call(inputs, training=training, mask=mask)

    # === Features ===

    def cached(self, batches: Any) -> data.Batches:
        """Returns batches of cached features for batches of ids: the same rows and targets in the same order.

        Computes missing features immediately. `batches` and the returned batches share one count of epochs.

        Args:
            batches: `data.Batches` of rows whose ids are kept, as created by `data.batches` or `data.mix`.

        Returns:
            `data.Batches`, with y in the form that the loss takes.

        Raises:
            ValueError: for other data; see also the class.
        """
        self.check()
        made = self._made.get(batches) if isinstance(batches, data.Batches) else None
        if made is None:
            keys, made = self._with_features(batches)
            self._made[batches] = made
            self._digests[made] = _remainder.digest(batches)
            for key in keys:
                self._store.use(key, made)
        return made

    def _with_features(self, batches):
        cut, sequences = self._cut(), _features.Sequences(batches)
        if sequences.separate != (self.full_model.text_form == "separate"):
            expected = f'batches made with columns="{"joint" if sequences.separate else "separate"}"'
            raise _check.invalid("batches", expected, batches)
        is_vectors = cut.form == "vectors"
        shape = (len(sequences.lengths) if is_vectors else sequences.tokens, cut.below.output.shape[-1])
        key = _cut.key(self.full_model, cut, sequences, self.feature_dtype)
        wanted = {key: (shape, self.feature_dtype, self._computed(sequences))}
        keys = {}
        for name, part in cut.fixed.items():
            values, dtype = _features.Inputs(batches, name), self._dtype or part.output.dtype
            keys[name] = _cut.key_of_input(part, values, dtype)
            shape = (sum(values.counts), part.output.shape[-1])
            wanted[keys[name]] = (shape, dtype, _run(part, values.batches()))
        arrays = self._arrays(wanted, batches)
        computed = keras.backend.standardize_dtype(cut.below.output.dtype)
        if is_vectors:
            features = _features.Vectors(arrays[key], computed)
        else:
            features = _features.Tokens(arrays[key], sequences.lengths, computed, cut.form)
        fixed = {name: _features.Vectors(arrays[keys[name]], part.output.dtype) for name, part in cut.fixed.items()}
        gate = data.Gate(self.full_model)
        is_read = gate.is_encoded(batches)
        needs_work = not is_read or gate.finishes_targets
        encode = functools.partial(gate.encode_targets, is_read=is_read) if needs_work else None
        return list(wanted), _features.with_features(batches, sequences, features, fixed, encode)

    def _arrays(self, wanted, user):
        """Returns arrays by key: those that are stored, after the others have been computed and stored.

        Args:
            wanted: dict of key to (shape, dtype, iterator of the parts of the array).
            user: the object that keeps the arrays in the store.
        """
        found = {}
        for key, (shape, dtype, _) in wanted.items():
            self._store.use(key, user)
            found[key] = self._store.find(key, shape, dtype)
        # Processes that train together either all compute features or none does.
        differs = _processes.differing({f"features {i}": found[key] is not None for i, key in enumerate(wanted)})
        missing = {key: each for key, each in wanted.items() if found[key] is None or differs}
        if missing:
            self._store.check_room([(shape, dtype) for shape, dtype, _ in missing.values()])
        for key, (shape, dtype, parts) in missing.items():
            found[key] = self._store.fill(key, shape, dtype, parts)
        return found

    def _frozen_weights(self):
        """Returns the weights that the stored features depend on."""
        cut = self._cut()
        images = [weight for part in cut.fixed.values() for weight in part.weights]
        return [*_cut.frozen_weights(self.full_model, cut.frozen), *images]

    def _computed(self, sequences):
        """Yields the features of the sequences in order."""
        form, run = self._cut().form, None
        report = _texts.reporter(sequences.tokens, self._progress, "token")
        rows = len(sequences.lengths)
        for x in sequences.batches():
            mask = x["padding_mask"] > 0
            run = data.forward(self._cut().below, x) if run is None else run
            made = np.asarray(run(x))
            if form == "vectors":
                made = made[: min(rows, len(made))]
                rows -= len(made)
            else:
                made = made.reshape(-1, made.shape[-1])
                # All positions, or tokens only; a batch of padding only also has a token.
                made = made[mask.ravel()] if len(made) == mask.size else made[: mask.sum()]
            yield made
            if report is not None:
                report(int(mask.sum()))

    def check(self) -> None:
        """Raises if the frozen part has changed since this model was created."""
        model, frozen = self.full_model, self._cut().frozen
        groups = _cut.tower_of(model).backbone.layer_groups()
        thawed = [name for name in frozen if any(layer.trainable_variables for layer in groups[name])]
        thawed += [name for name, part in self._cut().fixed.items() if part.trainable_variables]
        remedy, names = "Make a new `AboveFrozen(model)`.", [*frozen, *self._cut().fixed]
        if thawed:
            raise _check.invalid("model", f"frozen layers of {names}, but some train again", thawed, remedy)
        if _cut.sums(self._frozen_weights()) != self._sums:
            expected = f"weights of {names} that are unchanged since features were computed"
            raise _check.invalid("model", expected, model.name, remedy)
        _cut.check_dropout(model, frozen)

    # === Training ===

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the full model with these arguments, and this model with the same optimizer, loss and metrics."""
        self.full_model.compile(*args, **kwargs)
        self._take_over()

    def _take_over(self):
        model = self.full_model
        arguments = model.compile_arguments
        if arguments is None or self._taken() is arguments:
            return
        if model.stateful_losses():
            remedy = "Train the model itself: it keeps the state of its loss, also in files."
            raise _check.invalid("loss", "a loss that remembers nothing", model.stateful_losses()[0], remedy)
        self._taken = lambda: arguments
        config = dict(arguments)
        for name in ("metrics", "weighted_metrics"):
            # Metrics have state: these belong to this model only.
            config[name] = keras.tree.map_structure(_copied, config[name])
        # XLA would recompile for each number of tokens. The scaling of the loss is part of the optimizer.
        config["jit_compile"] = config["jit_compile"] and self._cut().form != "packed"
        super().compile(**{**config, "optimizer": model.optimizer}, auto_scale_loss=False)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Returns the loss of a batch, computed as in the full model.

        Arguments as in `keras.Model.compute_loss`: `x`, `y`, `y_pred`, `sample_weight`, `training`.
        """
        arguments = {"x": x, "y": y, "y_pred": y_pred, "sample_weight": sample_weight}
        of_model = getattr(self.full_model, "training_loss", None)
        if training and of_model is not None:
            return of_model(super().compute_loss, **arguments)
        return super().compute_loss(**arguments, training=training)

    def _trace_anew_if_flags_changed(self):
        mixup = getattr(self.full_model, "mixup", None)
        trained = [mixup, id(self.optimizer), *(id(variable) for variable in self.trainable_variables)]
        if trained != self._trained:
            self._trained, self.train_function = trained, None

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        *,
        sample_weight: Any = None,
        shuffle: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains on the data that `model.fit` takes, `data.Batches` or strings with targets, or on batches of `cached`.

        Args:
            x: `data.Batches`; or a list of strings, or a tuple of such columns.
            y: targets for strings.
            batch_size: int, for strings. Defaults to 32.
            sample_weight: float array, one weight per row of strings.
            shuffle: bool, for strings. Whether to shuffle the rows.
            seed: int, for strings. Seed of the shuffling.
            **kwargs: as in `keras.Model.fit`; `validation_data` takes the same forms as `x`.

        Returns:
            A `keras.callbacks.History`.
        """
        augment = kwargs.pop("augment", None)
        if augment is not None:
            remedy = "Train the whole model with it: texts that change each epoch have no fixed features."
            raise _check.invalid("augment", "None above stored features", augment, remedy)
        self._take_over()
        _training.check_swaps(self, kwargs.get("callbacks"))
        _training.settle_optimizer(self.full_model)
        self.optimizer = self.full_model.optimizer
        if getattr(self.full_model, "mixup", 0.0):
            self._mixup_seed = self.full_model.mixup_seed  # also a state of this model's steps
        source = x = self._dataset((x, y, sample_weight), batch_size, shuffle=shuffle, seed=seed)
        self._check_replicas()
        _devices.check(self, x, "batches")
        _devices.check_alike(self, x)
        kwargs["epochs"] = self._begin(x, **kwargs)
        validation = kwargs.get("validation_data")
        if validation is not None:
            size = kwargs.pop("validation_batch_size", None) or batch_size
            columns = validation if isinstance(validation, tuple) else (validation,)
            kwargs["validation_data"] = self._dataset(columns, size, shuffle=False, bucket=True)
        callbacks = kwargs.pop("callbacks", None)
        if isinstance(callbacks, keras.callbacks.CallbackList):
            others = [callback for callback in callbacks.callbacks if not isinstance(callback, _Check)]
            callbacks.callbacks = [_Check(self), *others]
        else:
            callbacks = [_Check(self), *keras.tree.flatten(callbacks or [])]
        callbacks, x = _introduction.introduce(self, x, callbacks=callbacks, digest=self._digests.get(x), **kwargs)
        self._trace_anew_if_flags_changed()
        with _devices.spread(self, source, callbacks, kwargs.get("steps_per_epoch")) as callbacks:
            return super().fit(_devices.part(x), callbacks=callbacks, shuffle=False, **kwargs)

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, *, sample_weight: Any = None, **kwargs: Any
    ) -> Any:
        """Computes loss and metrics on the same data as `fit`; see `keras.Model.evaluate` for `kwargs`."""
        self._take_over()
        x = self._dataset((x, y, sample_weight), batch_size, shuffle=False, bucket=True)
        return super().evaluate(x, **kwargs)

    def predict(self, x: Any, **kwargs: Any) -> Any:
        """Returns the outputs for `data.Batches` or the batches of `cached`; for texts, use `model.predict`."""
        return super().predict(self._dataset((x,), None), **kwargs)

    def _check_replicas(self):
        form = self._cut().form
        if form in ("packed", "flat") and _tracing.is_distributed(self):
            replicas = self.distribute_strategy.num_replicas_in_sync
            remedy = (
                "A strategy splits the tokens of a batch within rows. Train the whole model on the replicas, or "
                "freeze the whole backbone: then each text has one vector."
            )
            if replicas > 1:
                raise _check.invalid("strategy", "one replica above the stored states of tokens", replicas, remedy)

    def _begin(self, features, epochs=1, initial_epoch=0, steps_per_epoch=None, class_weight=None, **_):
        """Prepares head and optimizer, like `fit` of the full model; returns the number of epochs."""

        def again():
            return features.rest(features.epoch) if isinstance(features, data.Batches) else features

        return _recipe.begin(
            self.full_model,
            features,
            again,
            below=None if self._cut().features is None else keras.Model(self.input, self._cut().features),
            epochs=epochs,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            class_weight=class_weight,
        )

    def _dataset(self, columns, batch_size, **options):
        """Returns batches of stored features."""
        x, y, *rest = (*columns, None)[: max(len(columns), 2)]
        rest = [values for values in rest if values is not None]
        if isinstance(x, data.Batches) and y is None:
            return self.cached(x) if "token_ids" in _spec(x) else x
        if _texts.is_dataset(x) and y is None and set(_spec(x)) == set(self.input):
            return x
        model = self.full_model
        gate = data.Gate(model)
        form, found = gate.read(x, y, *rest)
        if form == "rows":
            return self.cached(gate.batches(form, found, batch_size or 32, **model._batch_options(**options)))
        remedy = "For batches of ids: `data.batches(..., cache=True)`."
        raise _check.invalid("x", "`data.Batches`, or strings and their targets", x, remedy)

    # === Saving ===

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves the full model; see `keras.Model.save`."""
        self.full_model.save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Saves the weights of the full model; see `keras.Model.save_weights`."""
        self.full_model.save_weights(*args, **kwargs)

    def load_weights(self, *args: Any, **kwargs: Any) -> None:
        """Loads the weights of the full model; see `keras.Model.load_weights`."""
        self.full_model.load_weights(*args, **kwargs)


class _Check(keras.callbacks.Callback):
    """Checks at the beginning of each epoch that the stored features still match the frozen part."""

    def __init__(self, above):
        super().__init__()
        self._above = weakref.proxy(above)  # a list of callbacks may outlive its `fit`

    def on_epoch_begin(self, epoch, logs=None):
        self._above.check()


def _run(part, batches):
    """Yields the output of a model for each batch of its only input."""
    run = None
    for values in batches:
        x = dict.fromkeys(part.input, values)
        run = data.forward(part, x) if run is None else run
        yield np.asarray(run(x))


def _copied(metric):
    return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.metrics.Metric) else metric


def _spec(dataset):
    """Returns the spec of x in a dataset of batches if it is a dict, otherwise an empty dict."""
    spec = dataset.element_spec[0] if isinstance(dataset.element_spec, tuple) else dataset.element_spec
    return spec if isinstance(spec, dict) else {}
