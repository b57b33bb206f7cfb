"""The hypermodel: the search space of a task, the data, and the training of a trial."""

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
# Options of `data.batches` that the user may set: the trial, the model or the hypermodel sets the others.
_OPTIONS = set(inspect.signature(data.batches).parameters)
_OPTIONS -= {"dataset", "preprocessor", "batch_size", "columns", "seed"}

_ASKED = ("search_space", "from_search", "compile_for_search")

_Base: Any = import_keras_tuner().HyperModel


class HyperModel(_Base):
    """The search space of a task's model: the encoder, the layers to train, the learning rate, and the task's choices.

    | entry of the space | default | tasks |
    |---|---|---|
    | `preset` | `presets` | all |
    | `frozen`: lowest blocks to freeze, with the embeddings; 0 freezes nothing | 0, half, all, or all but one | all |
    | `unfreezing`: `"gradual"` unfreezes them from the top, epoch by epoch | none, gradual | all, if frozen > 0 |
    | `layer_decay`: factor on the learning rate from each layer group to the one below | 0.7 to 1 | all |
    | `pooling`: a mode or a tuple of modes of `layers.Pooling` | the presets', mean, cls, max | those of `models` |
    | `head`: `"linear"` or `"mlp"` | both | `TextClassifier`, `TextRegressor` |
    | `hidden_dim` | 128, 256, 512 | the same, if the head is an MLP |
    | `word_pooling`: one of `layers.WORD_POOLING`; `head`: `"linear"` or `"crf"` | all; both | `TokenTagger` |
    | `dropout`: before the dense layers of the head | 0 to 0.4 | tasks with such a head |
    | `head_multiplier`: the head's learning rate relative to the top block's | 1 to 30, log | the same |
    | `loss` | `losses` | all, if `losses` are given |
    | `margin`, `scale`, `temperature`, `student_temperature` | half to twice the defaults, log | if the loss has it |
    | `learning_rate`: peak of warmup and cosine decay | 1e-5 to 1e-3; embedders 5e-6 to 2e-4; log | all |
    | `warmup`: share of the steps | 0 to 0.2 | all |
    | `batch_size` | 16, 32, 64 | all |
    | `epochs` | not searched: `search(epochs=...)`, or Hyperband | all |

    `space` changes entries: a list is a choice, a dict a range (arguments of `hp.Float` and `hp.Int`), a single value
    is fixed, and `None` removes the entry (the model's default then applies: nothing is frozen, nothing decays, and so
    on). Entries of a tuner's `hyperparameters=` with the same names take precedence.

    **Custom tasks**, subclasses of a class of `models`, have the entries of that class, or those that their class
    method `search_space` returns (`Entry`). `from_search` creates the model of a trial, `compile_for_search` compiles
    it.

    **Losses**: a task without a default loss (`models.Siamese`, `models.TextEmbedder`) needs `losses`. All losses of a
    search read the same rows: choose losses that suit the rows (`docs/losses.md`), and pass the batch options they need
    in `batches`, for example `unique_texts=True` or `examples_per_class=4`. Values of different losses are not
    comparable, and the same holds for a loss over the whole batch at different batch sizes, and for the two heads of a
    tagger. Use an evaluation as the objective then, not `val_loss`.

    **Data** are passed to `search` as rows (the result of `data.labelled`, or texts and labels), not as batches, since
    the batch size is searched: `tuner.search(train, validation_data=dev, epochs=3)`. Training and validation data are
    tokenized once for each preset, whatever the number of trials. Evaluation callbacks tokenize their texts each time.

    **Objective**: `val_loss` and the model's metrics, for example `val_accuracy`, need `validation_data`. Any
    evaluation of `callbacks` logs its own values, for example `keras_tuner.Objective("val_macro_f1", "max")` with
    `callbacks.EvaluateClassification`, or `"val_entity_f1"` with `callbacks.EvaluateEntities`.

    **Hyperband** sets the number of epochs, and a trial may continue another one. It resumes the weights, the optimizer
    state, the learning rate schedule at that epoch of the longer training, and the next order of the rows.

    **Memory** does not grow from trial to trial. The weights of the presets are in memory once.

    Args:
        task: class of the model, e.g. `models.TextClassifier`, `models.Siamese`, or a subclass of your own.
        presets: name or path of a pretrained encoder, or a list of them; see `backbones.load`.
        space: dict of entry to its values, see above.
        sequence_length: int. Number of tokens at which texts are truncated. Defaults to the presets'.
        dtype: dtype policy of the models, e.g. `"mixed_bfloat16"`. Defaults to the global policy at construction (Keras
            Tuner clears it between trials; each trial sets it again).
        optimizer: function of the learning rate to a Keras optimizer, called for each trial. Defaults to
            `optimizers.AdamW` with weight decay 0.01 and `clipnorm=1`. It is wrapped in `optimizers.Layerwise`. An
            optimizer with its own schedule keeps it.
        batches: dict of further options of `data.batches` for the training rows.
        seed: int. Fixes initial weights, dropout and the order of rows, so that trials differ only by their values. By
            default they are random in each trial; keep this default with `executions_per_trial`.
        name: string. As in `keras_tuner.HyperModel`.
        tunable: bool. As in `keras_tuner.HyperModel`.
        **arguments: arguments of the task's constructor (`labels`, `multi_label`, `chunk_size`, ...) that are not
            entries of the space; and `losses`: names from `tfxfer.losses` (`"CoSENTLoss"`), or a dict of name to a
            function that creates a loss. Its arguments `margin`, `scale`, `temperature` and `student_temperature` are
            searched if their defaults are positive numbers.

    Raises:
        ImportError: if Keras Tuner is not installed.
        ValueError: immediately, if `task` is not a task, a preset, argument, entry, loss, pooling or head is unknown,
            there are no choices, or values are out of range; when `search` starts, if rows do not fit, or nothing logs
            the objective.

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
        # Keras Tuner clears Keras's state, including this policy, before each model.
        self._ambient_policy = keras.config.dtype_policy()
        self._dtype = dtype
        self.task, self.arguments = _checked_task(task), arguments
        self._presets = _presets.read(presets, dtype=dtype, sequence_length=sequence_length)
        self._optimizer = optimizer if optimizer is not None else _adamw
        if not callable(self._optimizer):
            remedy = "For example `lambda rate: keras.optimizers.Adam(rate)`: each trial needs a new optimizer."
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
        self._space.declare(import_keras_tuner().HyperParameters())  # finds impossible values now instead of in a trial
        self._train, self._validation = TrialBatches("x"), TrialBatches("validation_data")
        super().__init__(name=name, tunable=tunable)

    def declare_hyperparameters(self, hp: Any) -> None:
        """Declares the whole space in `hp`, a `keras_tuner.HyperParameters`."""
        self._space.declare(hp)

    def build(self, hp: Any) -> Any:
        """Returns the compiled model for the values in `hp`, a `keras_tuner.HyperParameters`."""
        values = self._space.values(hp)
        with self._policy():
            if self._seed is not None:
                keras.utils.set_random_seed(self._seed)
            model = self.task.from_search(self._presets[values["preset"]], values, self.arguments)
            thaws = values["unfreezing"] == "gradual"
            if values["frozen"] and not thaws:
                freezing.freeze(model, below=values["frozen"])
            model.compile_for_search(values, self._layerwise(values))
            # Built now, on all weights that will ever train: when Hyperband continues a trial, its weights are loaded
            # together with the optimizer state, which is dropped if the optimizer has no variables for it.
            model.optimizer.build(model.trainable_variables)
            if values["frozen"] and thaws:
                freezing.freeze(model, below=values["frozen"])
        return model

    @contextlib.contextmanager
    def _policy(self):
        """Sets the dtype policy while a model is created: its optimizer scales the loss only under float16."""
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
            model: the model that `build` returned for them.
            x: rows: the result of `data.labelled` or `data.pairs`, or texts as in `model.fit`.
            y: targets for texts.
            sample_weight: weights for texts.
            validation_data: rows as for `x`, or a tuple (texts, targets).
            epochs: int, unless `epochs` is in the space. Defaults to 1.
            initial_epoch: int. Set by Hyperband when it continues an earlier trial.
            steps_per_epoch: int, for rows of unknown number.
            callbacks: Keras callbacks, including those of `tfxfer.callbacks`.
            **kwargs: passed to `keras.Model.fit`, except arguments that determine the batches.

        Returns:
            A `keras.callbacks.History`. Each epoch also has `seconds`, the duration of the whole training.

        Raises:
            keras_tuner.errors.FatalValueError: if every trial would fail: data or callbacks do not fit the model, or
                nothing logs the objective. It ends the search; all other errors end only the trial.
        """
        values = self._space.values(hp)
        watch = _watch.Watch(callbacks, _metric_names(model), validation_data is not None)
        with fatal():
            for name in _CHANGED:
                if name in kwargs:
                    remedy = "The hypermodel creates the batches: see its `space` and `batches`."
                    raise _check.invalid(name, "no such argument", kwargs[name], remedy)
            epochs = _epochs(values["epochs"], epochs)
            train = self._rows(values, model, (x, y, sample_weight), self._train, seed=self._seed, **self._batches)
            train.epoch = initial_epoch  # continues the order of the rows as well
            if validation_data is not None:
                given = validation_data if isinstance(validation_data, tuple) else (validation_data,)
                options = {"shuffle": False, "bucket": model.text_form == "joint"}
                kwargs["validation_data"] = self._rows(values, model, given, self._validation, **options)
            steps = steps_per_epoch or int(train.cardinality())
            if steps < 1:
                remedy = "Pass `steps_per_epoch`, or cache the ids: `batches={'cache': True}`."
                raise _check.invalid("x", "a known number of rows", x, remedy)
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
        """Returns the callbacks for the values."""
        made = []
        optimizer = _innermost(model.optimizer)
        if isinstance(optimizer.get_config()["learning_rate"], float):  # else it has its own schedule
            made.append(callbacks.WarmupCosine(values["learning_rate"], steps * epochs, values["warmup"]))
        if initial_epoch:
            optimizer.iterations.assign(steps * initial_epoch)
        if values["unfreezing"] == "gradual" and values["frozen"]:
            made.append(_unfreezing(values["frozen"], epochs, steps))
        return made

    def _layerwise(self, values):
        """Returns the optimizer of a trial, with learning rates that decay from group to group toward the input."""
        multiplier = values.get("head_multiplier")
        multipliers = None if multiplier is None else {"head": multiplier}
        return optimizers.Layerwise(self._optimizer(values["learning_rate"]), multipliers, decay=values["layer_decay"])


def _checked_task(task):
    """Returns the class of a task; raises if it is not one."""
    if not inspect.isclass(task) or not all(hasattr(task, name) for name in _ASKED):
        remedy = "Pass its class, not a model." if hasattr(task, "compile_for_search") else None
        raise _check.invalid("task", "a class of `tfxfer.models`, or a subclass of one", task, remedy)
    return task


def _metric_names(model):
    """Returns the names of a model's metrics in Keras's logs; `None` if outputs or functions change these names."""
    metrics = (model.compile_arguments or {}).get("metrics") or []
    if len(model.outputs) > 1 or not isinstance(metrics, (list, tuple)):
        return None
    names = [metric if isinstance(metric, str) else getattr(metric, "name", None) for metric in metrics]
    return names if all(isinstance(name, str) for name in names) else None


def _epochs(chosen, given):
    """Returns the epochs of a trial, from its values or from the call."""
    if chosen is not None and given is not None:
        remedy = "Hyperband and `search(epochs=...)` set the epochs themselves: remove one of the two."
        raise _check.invalid("epochs", "no such argument with `epochs` in the space", given, remedy)
    return _check.integer("epochs", 1 if chosen is None and given is None else given if chosen is None else chosen)


def _unfreezing(frozen, epochs, steps):
    """Unfreezes all frozen layers from the top, in equal parts at the start of each epoch except the first.

    Each unfreezing retraces the step, so there are few. Training for one epoch unfreezes once, in the middle.
    """
    groups = [*(f"block_{i}" for i in reversed(range(frozen))), "embeddings"]
    thaws = max(epochs - 1, 1)
    times = {group: -(-(number + 1) * thaws // len(groups)) for number, group in enumerate(groups)}
    if epochs > 1:
        return callbacks.GradualUnfreezing(at=times)
    return callbacks.GradualUnfreezing(at=dict.fromkeys(groups, max(steps // 2, 1)), unit="steps")


def _innermost(optimizer):
    """Returns the innermost of nested optimizers."""
    while getattr(optimizer, "inner_optimizer", None) is not None:
        optimizer = optimizer.inner_optimizer
    return optimizer


def _adamw(rate):
    return optimizers.AdamW(rate, weight_decay=0.01, clipnorm=1.0)
