"""Training of several tasks together: losses, steps and data."""

import collections
import contextlib
import functools
from collections.abc import Mapping
from typing import Any, Literal

import keras
from keras import ops

from tfxfer import _check, _introduction, _processes, _tracing, data, optimizers
from tfxfer.models import _devices, _recipe, _training
from tfxfer.models._balance import ProjectsConflicts, UncertaintyWeights
from tfxfer.models._rows import check_augment, check_plain, quiet_ends

CONFLICTS = ("pcgrad",)

_Mixin: Any = object  # the class that uses this mixin has the methods of a task model

_Start = collections.namedtuple("_Start", ["gate", "batches", "class_weight", "rows", "argument"])


class TrainsTasks(_Mixin):
    """Mixin with `compile`, `fit` and `evaluate` of `MultiTask`."""

    _tasks: dict[str, Any]
    _upper_groups: Any

    def _start(self, tasks):
        self._tasks = dict(tasks)
        self._loss_weights: Any = {}
        self._conflicts: Any = None
        self._means: Any = dict  # hidden from Keras, which would save the contents of a dict
        # The tasks whose results are logged, and those that Keras's step functions were built for.
        self._scored = tuple(tasks)
        self._made_for: tuple = ()
        self.uncertainty: Any = None
        self.projection: Any = None

    # === Steps ===

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Returns a dict of task to output, for the tasks that have rows."""
        inputs = {name: inputs[name] for name in self._tasks if _has_rows(inputs[name])}
        if training and self.projection is not None and len(inputs) > 1:
            return self.projection(inputs, training=training)
        return {name: self._tasks[name](x, training=training) for name, x in inputs.items()}

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Returns the loss of a step: the weighted sum over its tasks.

        With `loss_weights="uncertainty"`, `UncertaintyWeights` weights the losses.
        """
        total: Any = 0.0
        for name, outputs in y_pred.items():
            if name not in y:
                continue
            weight = None if not sample_weight else sample_weight.get(name)
            loss = self._tasks[name].compute_loss(x[name], y[name], outputs, weight, training=training)
            weighted = self._weighted(name, ops.cast(loss, "float32"))
            plain, mean = self._means()[name]
            rows = ops.shape(_any(x[name]))[0]
            plain.update_state(loss, sample_weight=rows)
            mean.update_state(weighted, sample_weight=rows)
            total = total + weighted
        return total + self._of_the_others(y_pred) if training else total

    def _weighted(self, name, loss):
        return (
            loss * self._loss_weights.get(name, 1.0) if self.uncertainty is None else self.uncertainty.weigh(name, loss)
        )

    def _of_the_others(self, present):
        """Returns zero, computed from the weights of tasks without rows: their gradient is then zero, not missing."""
        known = {id(weight) for name in present for weight in self._tasks[name].trainable_weights}
        if self.uncertainty is not None:
            known |= {id(weight) for weight in self.uncertainty.weights}
        others = [weight for weight in self.trainable_weights if id(weight) not in known]
        return sum((0.0 * ops.sum(ops.cast(weight, "float32")) for weight in others), 0.0)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Updates the metrics of the tasks that have rows, and returns the logs."""
        for name, outputs in y_pred.items():
            if name in y:
                weight = None if not sample_weight else sample_weight.get(name)
                self._tasks[name].compute_metrics(x[name], y[name], outputs, weight)
        return self.get_metrics_result()

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns the current logs; see the class."""
        means = self._means()
        found = {"loss": sum(means[name][1].result() for name in self._scored)}
        for name in self._scored:
            results = {**self._tasks[name].get_metrics_result(), "loss": means[name][0].result()}
            for key, value in results.items():
                if f"{name}_{key}" in found:
                    remedy = "Rename a task or a metric."
                    raise _check.invalid("tasks", "names that make different logs", f"{name}_{key}", remedy)
                found[f"{name}_{key}"] = value
        return found

    @property
    def metrics(self) -> list:
        """The metrics of all tasks, and the means of their losses."""
        if not self.compiled:
            return []
        found = [metric for means in self._means().values() for metric in means]
        found += [metric for task in self._tasks.values() for metric in task.metrics]
        return list({id(metric): metric for metric in found}.values())

    def make_train_function(self, force: bool = False) -> Any:
        """Returns the function that `fit` calls for each step; see `keras.Model.make_train_function`."""
        return self._by_parts("train_function", super().make_train_function, self.train_step, force)

    def make_test_function(self, force: bool = False) -> Any:
        """Returns the function that `evaluate` calls for each step; see `keras.Model.make_test_function`."""
        return self._by_parts("test_function", super().make_test_function, self.test_step, force)

    def _by_parts(self, name, make, step, force):
        before = getattr(self, name)
        found = make(force)
        made = getattr(self, name)
        is_graph = keras.config.backend() == "tensorflow" and not self.run_eagerly
        if made is not None and made is not before and is_graph and not _tracing.is_distributed(self):
            setattr(self, name, _tracing.StepByParts(self, step, name == "train_function"))
        return found

    # === Training ===

    def compile(
        self,
        optimizer: Any = "auto",
        loss: Mapping[str, Any] | None = None,
        *,
        loss_weights: Mapping[str, float] | Literal["uncertainty"] | None = None,
        metrics: Mapping[str, Any] | None = None,
        conflicts: Literal["pcgrad"] | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training.

        Args:
            optimizer: Defaults to `"auto"`: `optimizers.Auto` with a peak of 1e-4, and ten times that for the heads if
                one of them is not a linear layer; 2e-5 if no task has a head. With it, new linear heads start as
                regressions on the frozen features (`freezing.probe`), each on its task's rows.
            loss: dict of task to loss, for tasks that need another loss than they were compiled with. These tasks are
                compiled with it, and with their default metrics unless `metrics` sets them.
            loss_weights: dict of task to a number >= 0, which defaults to 1; or `"uncertainty"` for learned weights,
                see below.
            metrics: dict of task to metrics, as for `loss`.
            conflicts: `"pcgrad"` removes from each task's gradient the component that conflicts with another task's, in
                the weights that they share (Yu et al., 2020). Each step then has a batch of every task, and holds the
                gradients of all tasks in memory. By default gradients are summed.
            **kwargs: passed to `keras.Model.compile`: `jit_compile`, `run_eagerly`, `steps_per_execution`.

        With `loss_weights="uncertainty"` the loss of a step is the sum over its tasks of

            exp(-s) L + s / 2,    s = log(sigma^2)

        with one s per task. It starts at 0, trains with the heads, and is saved with the model
        (`multi.uncertainty.log_variances`). At fine-tuning learning rates s changes slowly: use it for long training,
        or with a higher rate for the group `"head"`.

        Raises:
            ValueError: if a task is unknown or has no loss, or a weight is negative.

        References:
            - [Kendall et al., 2018](https://arxiv.org/abs/1705.07115), uncertainty
            - [Yu et al., 2020](https://arxiv.org/abs/2001.06782), conflicts
        """
        for argument, given in (("loss", loss), ("metrics", metrics)):
            self._check_names(argument, given or {})
        if loss_weights != "uncertainty":
            if isinstance(loss_weights, str):
                raise _check.invalid("loss_weights", "a dict of task to number, 'uncertainty' or None", loss_weights)
            self._check_names("loss_weights", loss_weights or {})
            loss_weights = {
                name: _check.number(f"loss_weights[{name!r}]", weight, minimum=0.0)
                for name, weight in (loss_weights or {}).items()
            }
        if conflicts is not None:
            _check.one_of("conflicts", conflicts, CONFLICTS)
        for name in kwargs.keys() & {"weighted_metrics"}:
            raise _check.invalid(name, "no value: each task is compiled with its own", kwargs[name])
        for name, task in self._tasks.items():
            given = {key: each[name] for key, each in (("loss", loss), ("metrics", metrics)) if each and name in each}
            if given and "loss" not in given and task.compiled:
                given["loss"] = task.loss
            if given:
                task.compile(**given)
            if not task.compiled or task.loss is None:
                remedy = f"Pass one, `loss={{{name!r}: ...}}`, or compile the task with one."
                raise _check.invalid("loss", f"a loss for the task {name!r}, which has none", loss, remedy)
        self._loss_weights, self._conflicts = loss_weights, conflicts
        learned = loss_weights == "uncertainty"
        if learned and self.uncertainty is None:
            self.uncertainty = UncertaintyWeights(list(self._tasks), name="uncertainty")
            self._upper_groups = [(name, [*found, self.uncertainty]) for name, found in self._upper_groups]
        elif not learned and self.uncertainty is not None:
            self._upper_groups = [
                (name, [layer for layer in found if layer is not self.uncertainty])
                for name, found in self._upper_groups
            ]
            self.uncertainty = None
        if conflicts is None:
            self.projection = None
        elif self.projection is None:
            self.projection = ProjectsConflicts(self._tasks, name="projection")
        means = {
            name: (keras.metrics.Mean(name=f"{name}_loss"), keras.metrics.Mean(name=f"{name}_weighted_loss"))
            for name in self._tasks
        }
        self._means = lambda: means
        super().compile(optimizer, **kwargs)

    def _auto_optimizer(self):
        heads = [task for task in self._tasks.values() if not task.keeps_embedding or hasattr(task, "classify")]
        if not heads:
            return optimizers.Auto(2e-5)
        deep = any(task.linear_head() is None and task.layer_groups().get("head") for task in heads)
        return optimizers.Auto(multipliers={"head": 10.0} if deep else None)

    def get_compile_config(self) -> dict[str, Any] | None:
        """Returns the arguments of `compile`; losses and metrics are the tasks' own."""
        config = super().get_compile_config()
        if not config:
            return config
        rest = {key: value for key, value in config.items() if key not in ("loss", "metrics", "weighted_metrics")}
        return {**rest, "loss_weights": self._loss_weights, "conflicts": self._conflicts}

    @property
    def compile_arguments(self) -> Any:
        """A new dict of the arguments of the last `compile`; `None` before it."""
        found = super().compile_arguments
        if found is None:
            return None
        rest = {key: value for key, value in found.items() if key not in ("loss", "metrics", "weighted_metrics")}
        return {**rest, "loss_weights": self._loss_weights, "conflicts": self._conflicts}

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | Mapping[str, int] | None = None,
        epochs: int | Literal["auto"] = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[Any, Any] | str | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | Mapping[str, int] | None = None,
        validation_freq: int = 1,
        *,
        seed: int | None = None,
        augment: Mapping[str, Any] | None = None,
        mixing: Literal["size", "temperature", "round_robin", "together"] | None = None,
        temperature: float = 2.0,
    ) -> keras.callbacks.History:
        """Trains on the rows of all tasks.

        | `mixing` | a step | an epoch, for data sets of n_1, ..., n_k batches, n in all |
        |---|---|---|
        | `"size"` | a batch of one task | all batches of all tasks, in random order |
        | `"temperature"` | a batch of one task | n batches in random order, in proportion to n_i ** (1 / temperature); small data sets repeat, large ones are used in part |
        | `"round_robin"` | a batch of one task | n batches, the same number from each task, in turn |
        | `"together"` | a batch of each task | max(n_i) steps; small data sets repeat |

        A higher temperature gives small data sets a larger share, as in T5 (which counts examples, up to a limit); 1 is
        the same as `"size"`. Every step updates all trainable weights with the one optimizer. In a step, weights that
        are used only by tasks without rows have a zero gradient.

        Args:
            x: dict of every task to its data: a tuple (x, y) or (x, y, sample_weight), or any other form that the
                task's own `fit` accepts and whose number of batches is known: the result of `data.labelled` and similar
                functions, `data.Batches`, or a `tf.data.Dataset`.
            y: must be `None`: the data of each task include its targets.
            batch_size: int, or a dict of task to int, for rows. Defaults to 32.
            epochs: int, or `"auto"`, as in `TextTask.fit`.
            verbose: as in `keras.Model.fit`.
            callbacks: list of Keras callbacks. To evaluate a task: `Evaluate...(rows, model=multi[name])`.
            validation_split: float in `(0, 1)`. The share of each task's rows, the last ones, to hold out for
                validation.
            validation_data: dict of task to data, as for `x`; tasks may be omitted.
            shuffle: bool, for rows.
            class_weight: dict of task to class weights, as in the task's own `fit`.
            sample_weight: must be `None`: the data of each task include its weights.
            initial_epoch: int. The epoch to start at.
            steps_per_epoch: int. Steps in an epoch; the next epoch continues where the last one stopped.
            validation_steps: must be `None`: validation uses all rows.
            validation_batch_size: int, or a dict of task to int. Defaults to `batch_size`.
            validation_freq: as in `keras.Model.fit`.
            seed: int. Makes the order of rows and tasks, and augmentation, repeatable.
            augment: dict of task to `augment` of the task's own `fit`; tasks may be omitted.
            mixing: see the table. Defaults to `"size"`; with `conflicts="pcgrad"` to `"together"`, which it requires.
            temperature: float >= 1. Defaults to 2.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: if a task is unknown or has no data, or data have an unknown length; and as in the task's own
                `fit`, with the name of the task.

        Reference: Raffel et al., 2020, https://arxiv.org/abs/1910.10683, section 3.5.2 (temperature).
        """  # noqa: E501  (a table's row)
        mixing = self._mixing(mixing, temperature)
        for argument, given in (("y", y), ("sample_weight", sample_weight), ("validation_steps", validation_steps)):
            if given is not None:
                remedy = None if argument == "validation_steps" else "Pass `x={task: (x, y, sample_weight), ...}`."
                raise _check.invalid(argument, "None for several tasks", given, remedy)
        if not self.compiled:
            raise _check.invalid("model", "a compiled model", self.name, "Call `multi.compile(...)`.")
        if validation_data is not None and validation_split:
            raise _check.invalid("validation_split", "0 with `validation_data`", validation_split)
        self._check_names("x", x, complete=True)
        sizes = self._sizes("batch_size", batch_size)
        later = sizes if validation_batch_size is None else self._sizes("validation_batch_size", validation_batch_size)

        self._check_names("augment", augment or {})
        order: dict[str, Any] = {"shuffle": shuffle, "seed": seed, "augment": augment or {}}
        starts, held_out = self._given_rows(x, sizes, later, validation_split, class_weight, **order)
        if validation_data is not None:
            self._check_names("validation_data", validation_data, some=True)
            for name, given in validation_data.items():
                read = self._read("validation_data", name, given)
                held_out[name] = self._rows_of("validation_data", name, *read, size=later[name])
        rows = {name: start.rows for name, start in starts.items()}
        inputs = {name: task.input for name, task in self._tasks.items()}
        source = data.task_batches(rows, inputs, mixing, temperature=temperature, seed=seed)
        _devices.check(self, source, "batches")
        if _processes.distribution() is not None:
            remedy = "Several tasks train on one device, or on the replicas of `tf.distribute.MirroredStrategy`."
            raise _check.invalid("distribution", "no `keras.distribution`", _processes.distribution(), remedy)
        self._build_metrics({**held_out, **rows})
        _training.check_swaps(self, callbacks)
        _training.settle_optimizer(self)
        self._start_heads(starts)
        epochs = _recipe.begin(
            self, source, lambda: None, epochs=epochs, initial_epoch=initial_epoch, steps_per_epoch=steps_per_epoch
        )
        settings: dict[str, Any] = {"epochs": epochs, "steps_per_epoch": steps_per_epoch, "verbose": verbose}
        callbacks, train = _introduction.introduce(self, source, callbacks=callbacks, **settings)
        if steps_per_epoch is not None:
            train = train.repeat()
        validation: Any = None
        if held_out:
            validation = data.in_turn(held_out, inputs)
            validation.tasks = tuple(held_out)
        spread = _devices.spread(self, source, callbacks, steps_per_epoch)
        with self._scoring("train_function", tuple(self._tasks)), quiet_ends(steps_per_epoch), spread as callbacks:
            return keras.Model.fit(
                self,
                train,
                callbacks=callbacks,
                validation_data=validation,
                shuffle=False,
                initial_epoch=initial_epoch,
                validation_freq=validation_freq,
                **settings,
            )

    def _given_rows(self, x, sizes, later, validation_split, class_weight, *, augment, **order):
        """Returns the training data of each task, a dict of `_Start`, and the held-out rows."""
        class_weights: Any = {} if class_weight is None else class_weight
        self._check_names("class_weight", class_weights)
        starts, held_out = {}, {}
        for name, task in self._tasks.items():
            argument = f"x[{name!r}]"
            gate, form, found = self._read("x", name, x[name])
            if validation_split:
                if form != "rows":
                    raise _check.invalid("validation_split", "0 unless data are rows in memory", validation_split)
                found, rest = gate.split(found, validation_split)
                held_out[name] = self._rows_of("x", name, gate, "rows", rest, size=later[name])
            weights = gate.class_weights(class_weights[name], found) if name in class_weights else None
            check_augment(f"augment[{name!r}]", augment.get(name), form)
            options = {} if form == "batches" else task._batch_options(**order, augment=augment.get(name))
            batches = gate.batches(form, found, sizes[name] or 32, **options)
            rows = data.TaskRows(argument, batches, gate, weights)
            starts[name] = _Start(gate, batches, weights, rows, argument)
        return starts, held_out

    def _start_heads(self, starts):
        is_auto = isinstance(_training.subset_of(self.optimizer), optimizers.Auto)
        for name, start in starts.items():
            again = functools.partial(start.gate.again, start.batches)
            options = {"is_auto": is_auto, "class_weight": start.class_weight, "argument": start.argument}
            _recipe.start_head(self._tasks[name], start.batches, again, **options)

    def _mixing(self, mixing, temperature):
        _check.number("temperature", temperature, minimum=1.0)
        if mixing is None:
            mixing = "size" if self._conflicts is None else "together"
        _check.one_of("mixing", mixing, data.MIXINGS)
        if self._conflicts is not None and mixing != "together":
            remedy = "Gradients can conflict only if they are computed in the same step."
            raise _check.invalid("mixing", f"'together' with conflicts={self._conflicts!r}", mixing, remedy)
        if mixing != "together" and _tracing.is_distributed(self):
            remedy = "Replicas would process batches of different tasks."
            raise _check.invalid("mixing", "'together' under a `tf.distribute` strategy", mixing, remedy)
        return mixing

    def _check_names(self, argument, given, *, complete=False, some=False):
        """Raises unless the keys of a dict are names of tasks."""
        names = ", ".join(map(repr, self._tasks))
        if not isinstance(given, Mapping):
            raise _check.invalid(argument, f"a dict with the tasks {names} as keys", given)
        for name in given:
            _check.one_of(argument, name, self._tasks, f"The keys of `{argument}` are names of tasks.")
        missing = [name for name in self._tasks if name not in given] if complete else []
        if missing:
            remedy = f"Pass the rows of {', '.join(map(repr, missing))}, or train the others in a separate `MultiTask`."
            raise _check.invalid(argument, f"data for every task, {names}", list(given), remedy)
        if some and not given:
            raise _check.invalid(argument, f"data for at least one of the tasks {names}", given)

    def _sizes(self, argument, given):
        if isinstance(given, Mapping):
            self._check_names(argument, given)
            return {name: _check.integer(f"{argument}[{name!r}]", given.get(name, 32)) for name in self._tasks}
        return dict.fromkeys(self._tasks, _check.integer(argument, given, optional=True))

    def _read(self, argument, name, given):
        """Returns (gate, form, data) for the data of a task."""
        where = f"{argument}[{name!r}]"
        is_tuple = isinstance(given, tuple)
        gate = data.Gate(self._tasks[name], (f"{where}[0]" if is_tuple else where, f"{where}[1]", f"{where}[2]"))
        if is_tuple and not 2 <= len(given) <= 3:
            raise _check.invalid(where, "(x, y) or (x, y, sample_weight), or another form with targets", given)
        form, found = gate.read(*given) if is_tuple else gate.read(given)
        if form == "arrays":
            remedy = "Pass rows, or a `tf.data.Dataset` of batches of ids."
            raise _check.invalid(where, "rows or batches", "arrays of ids", remedy)
        return gate, form, found

    def _rows_of(self, argument, name, gate, form, found, *, size):
        """Returns the batches for evaluating a task."""
        check_plain(found)
        options = {} if form == "batches" else self._tasks[name]._batch_options(shuffle=False, bucket=form == "rows")
        batches = gate.batches(form, found, size or 32, **options)
        return data.TaskRows(f"{argument}[{name!r}]", batches, gate, count=False)

    def _build_metrics(self, rows):
        for name, found in rows.items():
            _tracing.build_metrics(self._tasks[name], found.spec[1])

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | Mapping[str, int] | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Computes losses and metrics of tasks on their rows.

        Args:
            x: dict of task to data, as in `fit`; tasks may be omitted.
            y: must be `None`: the data of each task include its targets.
            batch_size: int, or a dict of task to int, for rows. Defaults to 32.
            verbose: as in `keras.Model.evaluate`.
            sample_weight: must be `None`: the data of each task include its weights.
            steps: must be `None`: all rows are evaluated.
            callbacks: list of Keras callbacks.
            return_dict: bool. If `False`, returns a list of the values, like Keras.
            **kwargs: passed to `keras.Model.evaluate`.

        Returns:
            A dict of the logs of `fit`: `loss`, `<task>_loss` and `<task>_<metric>` of the tasks in `x`.

        Raises:
            ValueError: as in `fit`.
        """
        names = getattr(x, "tasks", None)  # data prepared by `fit`
        if names is None:
            for argument, given in (("y", y), ("sample_weight", sample_weight), ("steps", steps)):
                if given is not None:
                    raise _check.invalid(argument, "None for several tasks", given)
            self._check_names("x", x, some=True)
            sizes = self._sizes("batch_size", batch_size)
            rows = {name: self._rows_of("x", name, *self._read("x", name, x[name]), size=sizes[name]) for name in x}
            self._build_metrics(rows)
            x, names = data.in_turn(rows, {name: task.input for name, task in self._tasks.items()}), tuple(rows)
        with self._scoring("test_function", names), quiet_ends(None):
            return keras.Model.evaluate(
                self, x, verbose=verbose, callbacks=callbacks, return_dict=return_dict, **kwargs
            )

    def train_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any) -> Any:
        """Runs one training step on a dict of task to batch, like `keras.Model.train_on_batch`."""
        with self._scoring("train_function", tuple(name for name in self._tasks if name in x)):
            return super().train_on_batch(x, y, sample_weight, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any) -> Any:
        """Computes loss and metrics for a dict of task to batch, like `keras.Model.test_on_batch`."""
        with self._scoring("test_function", tuple(name for name in self._tasks if name in x)):
            return super().test_on_batch(x, y, sample_weight, **kwargs)

    @contextlib.contextmanager
    def _scoring(self, function, names):
        """Within this context, only some tasks are logged. The step depends on them and is retraced if they change."""
        if (function, names) not in self._made_for:
            setattr(self, function, None)
            self._made_for = (*(each for each in self._made_for if each[0] != function), (function, names))
        before, self._scored = self._scored, names
        try:
            yield
        finally:
            self._scored = before


def _any(inputs):
    """Returns one of the inputs of a task."""
    return next(iter(inputs.values()))


def _has_rows(inputs):
    """Returns whether a task may have rows in a step, from its static shape."""
    return _any(inputs).shape[0] != 0
