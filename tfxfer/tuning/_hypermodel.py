"""What all hypermodels share: the space, the data, the training of a trial."""

import contextlib
import inspect
import time
from typing import Any

import keras

from tfxfer import _check, callbacks, data, freezing, optimizers
from tfxfer.tuning import _presets, _watch
from tfxfer.tuning._keras_tuner import fatal, import_keras_tuner
from tfxfer.tuning._rows import TrialBatches
from tfxfer.tuning._space import Space

_CHANGED = ("shuffle", "validation_split", "batch_size", "validation_batch_size")
# Options of `data.batches` that are the user's: the others are a trial's, the model's or the hypermodel's.
_OPTIONS = set(inspect.signature(data.batches).parameters)
_OPTIONS -= {"dataset", "preprocessor", "batch_size", "columns", "seed"}

_Base: Any = import_keras_tuner().HyperModel


class HyperModel(_Base):
    """Base of the hypermodels.

    Subclasses say what is chosen in `_entries`, and make a compiled model of the values in `_model` and `_compile`.
    """

    _metrics: tuple[str, ...] = ()  # the names of the metrics that the model is compiled with

    def __init__(self, presets, *, space, sequence_length, dtype, optimizer, batches, seed, **kwargs):
        # Keras Tuner clears Keras's state, this policy with it, before each model.
        self._ambient_policy = keras.config.dtype_policy()
        self._dtype = dtype
        self._presets = _presets.read(presets, dtype=dtype, sequence_length=sequence_length)
        self._optimizer = optimizer if optimizer is not None else _adamw
        if not callable(self._optimizer):
            remedy = "For example `lambda rate: keras.optimizers.Adam(rate)`: each trial needs one of its own."
            raise _check.invalid("optimizer", "a function of the learning rate to an optimizer", optimizer, remedy)
        self._batches = dict(_check.instance("batches", batches or {}, dict, "a dict of options of `data.batches`"))
        for name in self._batches:
            remedy = "`batch_size` is an entry of `space`, `seed` an argument of the hypermodel."
            _check.one_of("batches", name, sorted(_OPTIONS), remedy)
        self._seed = _check.integer("seed", seed, minimum=0, optional=True)
        self._space = Space(self._entries(), space)
        self._space.declare(import_keras_tuner().HyperParameters())  # what cannot be is found here, and not in a trial
        self._train, self._validation = TrialBatches("x"), TrialBatches("validation_data")
        super().__init__(**kwargs)

    def declare_hyperparameters(self, hp):
        self._space.declare(hp)

    def build(self, hp):
        """Makes the compiled model for the values in `hp`, a `keras_tuner.HyperParameters`."""
        values = self._space.values(hp)
        with self._policy():
            if self._seed is not None:
                keras.utils.set_random_seed(self._seed)
            model = self._model(self._presets[values["preset"]], values)
            thaws = values["unfreezing"] == "gradual"
            if values["frozen"] and not thaws:
                freezing.freeze(model, below=values["frozen"])
            self._compile(model, values)
            # On all that will ever train, and now: the weights of a trial that Hyperband goes on with are loaded with
            # the state of their optimizer, which is left out where there is no place for it.
            model.optimizer.build(model.trainable_variables)
            if values["frozen"] and thaws:
                freezing.freeze(model, below=values["frozen"])
        return model

    @contextlib.contextmanager
    def _policy(self):
        """The dtype policy of a model, around its making: its optimizer scales the loss only where it sees float16."""
        keras.config.set_dtype_policy(self._ambient_policy if self._dtype is None else self._dtype)
        try:
            yield
        finally:
            keras.config.set_dtype_policy(self._ambient_policy)

    def fit(
        self,
        hp,
        model,
        x,
        y=None,
        sample_weight=None,
        *,
        validation_data=None,
        epochs=None,
        initial_epoch=0,
        steps_per_epoch=None,
        callbacks=(),
        **kwargs,
    ):
        """Trains the model of a trial; `tuner.search` calls it with its own arguments.

        Args:
            hp: `keras_tuner.HyperParameters` of the trial.
            model: what `build` made of them.
            x: rows: what `data.labelled` or `data.pairs` gives, or texts as `model.fit` takes them.
            y: targets for texts.
            sample_weight: weights for texts.
            validation_data: rows as `x`, or a tuple (texts, targets).
            epochs: int, unless `epochs` is in the space. Defaults to 1.
            initial_epoch: int; Hyperband's, which goes on with the weights of an earlier trial.
            steps_per_epoch: int, for rows without a known number.
            callbacks: Keras callbacks, those of `tfxfer.callbacks` among them.
            **kwargs: as `keras.Model.fit` has them, but for what decides the batches.

        Returns:
            A `keras.callbacks.History`; with the values of each epoch, `seconds`, what the whole training took.

        Raises:
            keras_tuner.errors.FatalValueError: where no trial could do better: data or callbacks that do not fit the
                model, an objective that nothing writes. It ends the search; all other errors end the trial.
        """
        values = self._space.values(hp)
        watch = _watch.Watch(callbacks, self._metrics, validation_data is not None)
        with fatal():
            for name in _CHANGED:
                if name in kwargs:
                    remedy = "Batches are made by the hypermodel: see its `space` and `batches`."
                    raise _check.invalid(name, "no such argument", kwargs[name], remedy)
            epochs = _epochs(values["epochs"], epochs)
            train = self._rows(values, model, (x, y, sample_weight), self._train, seed=self._seed, **self._batches)
            train.epoch = initial_epoch  # goes on with the order of the rows as well
            if validation_data is not None:
                given = validation_data if isinstance(validation_data, tuple) else (validation_data,)
                options = {"shuffle": False, "bucket": model._columns == "joint"}
                kwargs["validation_data"] = self._rows(values, model, given, self._validation, **options)
            steps = steps_per_epoch or int(train.cardinality())
            if steps < 1:
                remedy = "Give `steps_per_epoch`, or keep the ids: `batches={'cache': True}`."
                raise _check.invalid("x", "rows of a known number", x, remedy)
        start = time.perf_counter()
        with watch.first_step():
            history = model.fit(
                train,
                epochs=epochs,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                callbacks=[*self._callbacks(model, values, steps, initial_epoch, epochs), *watch.callbacks],
                **kwargs,
            )
        history.history["seconds"] = [time.perf_counter() - start] * len(history.epoch)
        return history

    def _rows(self, values, model, given, rows, **options):
        while given[-1] is None:
            given = given[:-1]
        return rows.batches(given, values["preset"], model, values["batch_size"], **options)

    def _callbacks(self, model, values, steps, initial_epoch, epochs):
        """The callbacks that the values ask for."""
        made = []
        optimizer = _innermost(model.optimizer)
        if isinstance(optimizer.get_config()["learning_rate"], float):  # else it has a schedule of its own
            made.append(callbacks.WarmupCosine(values["learning_rate"], steps * epochs, values["warmup"]))
        if initial_epoch:
            optimizer.iterations.assign(steps * initial_epoch)
        if values["unfreezing"] == "gradual" and values["frozen"]:
            made.append(_unfreezing(values["frozen"], epochs, steps))
        return made

    def _layerwise(self, values, multipliers=None):
        """The optimizer of a trial, its rates falling from group to group towards the input."""
        return optimizers.Layerwise(self._optimizer(values["learning_rate"]), multipliers, decay=values["layer_decay"])


def _epochs(chosen, given):
    """The epochs of a trial: those of its values, or of the call."""
    if chosen is not None and given is not None:
        remedy = "Hyperband and `search(epochs=...)` decide epochs by themselves: take one of the two away."
        raise _check.invalid("epochs", "no such argument with `epochs` in the space", given, remedy)
    return _check.integer("epochs", 1 if chosen is None and given is None else given if chosen is None else chosen)


def _unfreezing(frozen, epochs, steps):
    """Thaws all that is frozen, from above, in equal parts at the beginning of each epoch but the first.

    Few thaws, as the step is traced anew at each. A training of one epoch has one, in its middle.
    """
    groups = [*(f"block_{i}" for i in reversed(range(frozen))), "embeddings"]
    thaws = max(epochs - 1, 1)
    times = {group: -(-(number + 1) * thaws // len(groups)) for number, group in enumerate(groups)}
    if epochs > 1:
        return callbacks.GradualUnfreezing(at=times)
    return callbacks.GradualUnfreezing(at=dict.fromkeys(groups, max(steps // 2, 1)), unit="steps")


def _innermost(optimizer):
    """The optimizer within those that are wrapped around it."""
    while getattr(optimizer, "inner_optimizer", None) is not None:
        optimizer = optimizer.inner_optimizer
    return optimizer


def _adamw(rate):
    return optimizers.AdamW(rate, weight_decay=0.01, clipnorm=1.0)
