"""The hypermodel: the space that a task describes, the data, the training of a trial."""

import contextlib
import inspect
import os
import time
from collections.abc import Callable, Mapping, Sequence
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

_ASKED = ("search_space", "from_search", "compile_for_search")

_Base: Any = import_keras_tuner().HyperModel


class HyperModel(_Base):
    """The search for a task's model: which encoder, how much of it trains and how fast, and what the task adds.

    | entry of the space | by default | of which task |
    |---|---|---|
    | `preset` | `presets` | all |
    | `frozen`: blocks frozen from below, with the embeddings; 0 freezes nothing | 0, half, all, or all but one | all |
    | `unfreezing`: `"gradual"` thaws what is frozen, from above, epoch by epoch | none, gradual | all, if frozen > 0 |
    | `layer_decay`: factor on the rate from group to group downwards | 0.7 to 1 | all |
    | `pooling`: a mode or a tuple of modes of `layers.Pooling` | the presets', mean, cls, max | those of `models` |
    | `head`: `"linear"` or `"mlp"` | both | `TextClassifier`, `TextRegressor` |
    | `hidden_dim` | 128, 256, 512 | the same, if the head is an MLP |
    | `word_pooling`: one of `layers.WORD_POOLING`; `head`: `"linear"` or `"crf"` | all; both | `TokenTagger` |
    | `dropout`: before the dense layers of the head | 0 to 0.4 | tasks with a head of these |
    | `head_multiplier`: of the head's rate, over that of the topmost block | 1 to 30, log | the same |
    | `loss` | `losses` | all, if `losses` are given |
    | `margin`, `scale`, `temperature`, `student_temperature` | half to twice the defaults, log | if the loss has it |
    | `learning_rate`: peak of warm-up and cosine | 1e-5 to 1e-3; of embedders 5e-6 to 2e-4; log | all |
    | `warmup`: part of the steps | 0 to 0.2 | all |
    | `batch_size` | 16, 32, 64 | all |
    | `epochs` | not searched: `search(epochs=...)`, or Hyperband | all |

    `space` changes entries: a list is a choice, a dict a range (arguments of `hp.Float` and `hp.Int`), one value is
    fixed, and `None` takes the entry out (then nothing is frozen or decays, and so on: the model's defaults). What a
    tuner's `hyperparameters=` already has under these names goes before.

    **Tasks of your own**, subclasses of a class of `models`, have the entries of that class, or what their class method
    `search_space` returns (`Entry`); `from_search` makes the model of a trial, `compile_for_search` compiles it.

    **Losses**: a task without a loss of its own (`models.Siamese`, `models.TextEmbedder`) needs `losses`. All losses of
    a search read the same rows: choose losses that suit the rows (`docs/losses.md`), and pass the batch options they
    need in `batches`, `unique_texts=True` or `examples_per_class=4`. Values of different losses cannot be compared, nor
    those of a loss on the whole batch at different batch sizes, or of the two heads of a tagger: the objective is then
    an evaluation, not `val_loss`.

    **Data** go into `search` as rows, what `data.labelled` makes or texts and labels, not as batches, since their size
    is searched: `tuner.search(train, validation_data=dev, epochs=3)`. They are tokenised once for each preset, whatever
    the number of trials; so are validation data. Callbacks that evaluate read their texts again each time.

    **Objective**: `val_loss` and the model's metrics, as `val_accuracy`, need `validation_data`; any evaluation of
    `callbacks` writes its own, e.g. `keras_tuner.Objective("val_macro_f1", "max")` with
    `callbacks.EvaluateClassification`, or `"val_entity_f1"` with `callbacks.EvaluateEntities`.

    **Hyperband** decides the epochs, and a trial may continue another: with its weights, the moments of its optimizer,
    the schedule at that epoch of a training that long, and the next order of the rows.

    **Memory** stays flat from trial to trial; the weights of the presets are in it once.

    Args:
        task: class of the model, e.g. `models.TextClassifier`, `models.Siamese`, or a subclass of your own.
        presets: name or path of a pretrained encoder, or a list of them; see `backbones.load`.
        space: dict of entry to what may be chosen, see above.
        sequence_length: int. Tokens a text is cut at. Defaults to the presets'.
        dtype: dtype policy of the models, e.g. `"mixed_bfloat16"`. Defaults to the global one of now (which Keras Tuner
            clears between trials, and each trial sets again).
        optimizer: function of the learning rate to a Keras optimizer, called for each trial. Defaults to
            `optimizers.AdamW` with weight decay 0.01 and `clipnorm=1`. It is wrapped into `optimizers.Layerwise`; one
            with a schedule of its own keeps it.
        batches: dict of further options of `data.batches` for the training rows.
        seed: int. Fixes initial weights, dropout and the order of rows: the same in each trial, so that trials differ
            by their values alone. By default they are drawn for each trial; leave it so with `executions_per_trial`.
        name: string. As `keras_tuner.HyperModel` has it.
        tunable: bool. As `keras_tuner.HyperModel` has it.
        **arguments: of the task's constructor (`labels`, `multi_label`; `chunk_size`; ...) but for those that are
            entries of the space; and `losses`: names out of `tfxfer.losses` (`"CoSENTLoss"`), or a dict of name to a
            function that makes a loss, whose arguments `margin`, `scale`, `temperature` and `student_temperature` are
            searched if their defaults are positive numbers.

    Raises:
        ImportError: where Keras Tuner is not installed.
        ValueError: at once for something that is no task, an unknown preset, argument, entry, loss, pooling or head, no
            choices, or values out of range; when `search` starts for rows that do not fit, or an objective that nothing
            writes.

    Example:

    ```python
    hypermodel = tx.tuning.HyperModel(
        tx.models.TextClassifier,
        ["all_minilm_l6_v2", "bert_base_en"],
        labels=labels,
        space={"frozen": [0, 3, 6], "learning_rate": {"min_value": 2e-5, "max_value": 2e-4, "sampling": "log"}},
        sequence_length=64,
    )
    objective = keras_tuner.Objective("val_macro_f1", "max")
    tuner = keras_tuner.BayesianOptimization(hypermodel, objective, max_trials=20, num_initial_points=8)
    tuner.search(train, epochs=3, callbacks=[tx.callbacks.EvaluateClassification(dev)])
    print(tx.tuning.trials(tuner))

    losses = ["CoSENTLoss", "AnglELoss"]
    hypermodel = tx.tuning.HyperModel(tx.models.Siamese, "all_minilm_l6_v2", losses=losses, space={"pooling": None})
    tuner = keras_tuner.Hyperband(hypermodel, keras_tuner.Objective("val_spearman", "max"), max_epochs=4)
    tuner.search(train, callbacks=[tx.callbacks.EvaluateSimilarity(dev)])
    tx.export.saved_model(tx.tuning.best_model(tuner).embedder, "serving/sts")
    ```
    """

    def __init__(
        self,
        task: Any,
        presets: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        space: Mapping[str, Any] | None = None,
        sequence_length: int | None = None,
        dtype: Any = None,
        optimizer: Callable[[float], Any] | None = None,
        batches: Mapping[str, Any] | None = None,
        seed: int | None = None,
        name: str | None = None,
        tunable: bool = True,
        **arguments: Any,
    ) -> None:
        # Keras Tuner clears Keras's state, this policy with it, before each model.
        self._ambient_policy = keras.config.dtype_policy()
        self._dtype = dtype
        self.task, self.arguments = _checked_task(task), arguments
        self._presets = _presets.read(presets, dtype=dtype, sequence_length=sequence_length)
        self._optimizer = optimizer if optimizer is not None else _adamw
        if not callable(self._optimizer):
            remedy = "For example `lambda rate: keras.optimizers.Adam(rate)`: each trial needs one of its own."
            raise _check.invalid("optimizer", "a function of the learning rate to an optimizer", optimizer, remedy)
        self._batches = dict(_check.instance("batches", batches or {}, dict, "a dict of options of `data.batches`"))
        for option in self._batches:
            remedy = "`batch_size` is an entry of `space`, `seed` an argument of the hypermodel."
            _check.one_of("batches", option, sorted(_OPTIONS), remedy)
        self._seed = _check.integer("seed", seed, minimum=0, optional=True)
        entries = task.search_space(self._presets, arguments)
        for argument in arguments:
            if argument in entries:
                remedy = f"`space={{{argument!r}: ...}}` fixes it."
                raise _check.invalid(argument, "no argument that is an entry of the space", arguments[argument], remedy)
        self._space = Space(entries, space)
        self._space.declare(import_keras_tuner().HyperParameters())  # what cannot be is found here, and not in a trial
        self._train, self._validation = TrialBatches("x"), TrialBatches("validation_data")
        super().__init__(name=name, tunable=tunable)

    def declare_hyperparameters(self, hp: Any) -> None:
        """Declares the whole space in `hp`, a `keras_tuner.HyperParameters`."""
        self._space.declare(hp)

    def build(self, hp: Any) -> Any:
        """Makes the compiled model for the values in `hp`, a `keras_tuner.HyperParameters`."""
        values = self._space.values(hp)
        with self._policy():
            if self._seed is not None:
                keras.utils.set_random_seed(self._seed)
            model = self.task.from_search(self._presets[values["preset"]], values, self.arguments)
            thaws = values["unfreezing"] == "gradual"
            if values["frozen"] and not thaws:
                freezing.freeze(model, below=values["frozen"])
            model.compile_for_search(values, self._layerwise(values))
            # On all that will ever train, and now: the weights of a trial that Hyperband continues are loaded with the
            # state of their optimizer, which is left out where there is no place for it.
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
        hp: Any,
        model: Any,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        validation_data: Any = None,
        epochs: int | None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        callbacks: Sequence[Any] = (),
        **kwargs: Any,
    ) -> Any:
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
        watch = _watch.Watch(callbacks, _metric_names(model), validation_data is not None)
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
                options = {"shuffle": False, "bucket": model.text_form == "joint"}
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

    def _layerwise(self, values):
        """The optimizer of a trial, its rates falling from group to group towards the input."""
        multiplier = values.get("head_multiplier")
        multipliers = None if multiplier is None else {"head": multiplier}
        return optimizers.Layerwise(self._optimizer(values["learning_rate"]), multipliers, decay=values["layer_decay"])


def _checked_task(task):
    """Returns the class of a task; raises for something that is none."""
    if not inspect.isclass(task) or not all(hasattr(task, name) for name in _ASKED):
        remedy = "Its class, not a model." if hasattr(task, "compile_for_search") else None
        raise _check.invalid("task", "a class of `tfxfer.models`, or a subclass of one", task, remedy)
    return task


def _metric_names(model):
    """The names of a model's metrics as Keras writes them; `None` where outputs or functions make others of them."""
    metrics = (model.compile_arguments or {}).get("metrics") or []
    if len(model.outputs) > 1 or not isinstance(metrics, (list, tuple)):
        return None
    names = [metric if isinstance(metric, str) else getattr(metric, "name", None) for metric in metrics]
    return names if all(isinstance(name, str) for name in names) else None


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
