"""How several tasks train together: losses, steps, data."""

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

_Mixin: Any = object  # what is mixed in here has the methods of a task model

_Start = collections.namedtuple("_Start", ["gate", "batches", "class_weight", "rows", "argument"])


class TrainsTasks(_Mixin):
    """`compile`, `fit` and `evaluate` of `MultiTask`; a mixin."""

    _tasks: dict[str, Any]
    _upper_groups: Any

    def _start(self, tasks):
        self._tasks = dict(tasks)
        self._loss_weights: Any = {}
        self._conflicts: Any = None
        self._means: Any = dict  # hidden from Keras, which would save what is in a dict
        # The tasks whose results are logged, and those that Keras's functions for a step were made for.
        self._scored = tuple(tasks)
        self._made_for: tuple = ()
        self.uncertainty: Any = None
        self.projection: Any = None

    # === Steps ===

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Returns the outputs of those tasks that have rows, by name."""
        inputs = {name: inputs[name] for name in self._tasks if _has_rows(inputs[name])}
        if training and self.projection is not None and len(inputs) > 1:
            return self.projection(inputs, training=training)
        return {name: self._tasks[name](x, training=training) for name, x in inputs.items()}

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Returns the loss of a step: the sum over its tasks of weight times loss; with learned weights, of what
        `loss_weights="uncertainty"` makes of it.
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
        """Zero, by way of the weights of the tasks that have no rows: their gradient is zero, and not missing."""
        known = {id(weight) for name in present for weight in self._tasks[name].trainable_weights}
        if self.uncertainty is not None:
            known |= {id(weight) for weight in self.uncertainty.weights}
        others = [weight for weight in self.trainable_weights if id(weight) not in known]
        return sum((0.0 * ops.sum(ops.cast(weight, "float32")) for weight in others), 0.0)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Updates the metrics of the tasks that have rows, and returns what is logged."""
        for name, outputs in y_pred.items():
            if name in y:
                weight = None if not sample_weight else sample_weight.get(name)
                self._tasks[name].compute_metrics(x[name], y[name], outputs, weight)
        return self.get_metrics_result()

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns what is logged, see the class, as it stands."""
        means = self._means()
        found = {"loss": sum(means[name][1].result() for name in self._scored)}
        for name in self._scored:
            results = {**self._tasks[name].get_metrics_result(), "loss": means[name][0].result()}
            for key, value in results.items():
                if f"{name}_{key}" in found:
                    remedy = "Give a task or a metric another name."
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
        """Makes what `fit` calls for each step, as `keras.Model.make_train_function`."""
        return self._by_parts("train_function", super().make_train_function, self.train_step, force)

    def make_test_function(self, force: bool = False) -> Any:
        """Makes what `evaluate` calls for each step, as `keras.Model.make_test_function`."""
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
            optimizer: `"auto"`, the default, is an `optimizers.Auto`: at a peak of 1e-4, the heads at ten times that if
                one of them is no linear layer; 2e-5 where no task has a head. With it, new linear heads start as
                regressions on the frozen features (`freezing.probe`), each on its task's rows.
            loss: dict of task to loss, for tasks that are to train by another one than they were compiled with. They
                are compiled with it, and with their default metrics unless `metrics` names them.
            loss_weights: dict of task to a number >= 0, by default 1; or `"uncertainty"`: weights that are learned, see
                below.
            metrics: dict of task to metrics, as `loss`.
            conflicts: `"pcgrad"` takes the part out of each task's gradient that conflicts with another task's, in the
                weights that they share (Yu et al., 2020). Each step then has a batch of every task, and holds the
                gradients of all of them at the same time. By default gradients add up.
            **kwargs: as `keras.Model.compile` has them: `jit_compile`, `run_eagerly`, `steps_per_execution`.

        With `loss_weights="uncertainty"` the loss of a step is the sum over its tasks of

            exp(-s) L + s / 2,    s = log(sigma^2)

        with an s for each task, 0 at the start, that trains with the heads and is saved with the model
        (`multi.uncertainty.log_variances`). At rates of fine-tuning s moves slowly: it pays in long trainings, or with
        a higher rate for the group `"head"`.

        Raises:
            ValueError: for a task that is not there, a negative weight, or a task without a loss.

        Reference: uncertainty: Kendall et al., 2018, https://arxiv.org/abs/1705.07115; conflicts: Yu et al., 2020,
        https://arxiv.org/abs/2001.06782.
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
            raise _check.invalid(name, "nothing: a task is compiled with its own", kwargs[name])
        for name, task in self._tasks.items():
            given = {key: each[name] for key, each in (("loss", loss), ("metrics", metrics)) if each and name in each}
            if given and "loss" not in given and task.compiled:
                given["loss"] = task.loss
            if given:
                task.compile(**given)
            if not task.compiled or task.loss is None:
                remedy = f"Give one: `loss={{{name!r}: ...}}`; or compile the task with one."
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
        """The arguments of the last `compile`, a dict, another one each time; `None` before."""
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
        | `"temperature"` | a batch of one task | n batches in random order, of each task about n_i ** (1 / temperature) to n_j ** (1 / temperature); a small data set starts over, a large one gives a part |
        | `"round_robin"` | a batch of one task | n batches, by turns, as many of each task |
        | `"together"` | a batch of each task | max(n_i) steps; small data sets start over |

        A higher temperature gives small data sets a larger share, as in T5, which counts examples and has a limit; 1 is
        `"size"`. Each step is one of the one optimizer, on all weights that train. Weights that only tasks without rows
        use have a gradient of zero in that step.

        Args:
            x: dict of every task to its data: a tuple (x, y) or (x, y, sample_weight), or any other form that the
                task's own `fit` takes and whose number of batches is known: what `data.labelled` and its neighbours
                give, `data.Batches`, a `tf.data.Dataset`.
            y: `None`: targets come with the data of their task.
            batch_size: int, or a dict of task to int, for rows. Defaults to 32.
            epochs: int, or `"auto"`, as `TextTask.fit` has it.
            verbose: as `keras.Model.fit` has it.
            callbacks: list of Keras callbacks. For an evaluation of a task: `Evaluate...(rows, model=multi[name])`.
            validation_split: float in `(0, 1)`. The share of the rows of each task, the last ones, to validate on.
            validation_data: dict of task to data, as `x`; tasks may be left out.
            shuffle: bool, for rows.
            class_weight: dict of task to class weights, as the task's own `fit` takes them.
            sample_weight: `None`: weights come with the data of their task.
            initial_epoch: int. The epoch to start at.
            steps_per_epoch: int. Steps in an epoch; the next epoch continues where the last one stopped.
            validation_steps: `None`: all rows are looked at.
            validation_batch_size: int, or a dict of task to int. Defaults to `batch_size`.
            validation_freq: as `keras.Model.fit` has it.
            seed: int. Makes the order of rows and tasks, and augmentation, repeatable.
            augment: dict of task to what the task's own `fit` takes as `augment`; tasks may be left out.
            mixing: see the table. Defaults to `"size"`; with `conflicts="pcgrad"` to `"together"`, which it needs.
            temperature: float >= 1. Defaults to 2.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: for a task without data or one that is not there; for data of unknown length; and as the task's
                own `fit`, naming the task.

        Reference: temperature: Raffel et al., 2020, https://arxiv.org/abs/1910.10683, section 3.5.2.
        """  # noqa: E501  (a table's row)
        mixing = self._mixing(mixing, temperature)
        for argument, given in (("y", y), ("sample_weight", sample_weight), ("validation_steps", validation_steps)):
            if given is not None:
                remedy = None if argument == "validation_steps" else "Write `x={task: (x, y, sample_weight), ...}`."
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
            raise _check.invalid("distribution", "none in use", _processes.distribution(), remedy)
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
        """Returns what each task trains on, a dict of `_Start`, and the rows that are split off."""
        class_weights: Any = {} if class_weight is None else class_weight
        self._check_names("class_weight", class_weights)
        starts, held_out = {}, {}
        for name, task in self._tasks.items():
            argument = f"x[{name!r}]"
            gate, form, found = self._read("x", name, x[name])
            if validation_split:
                if form != "rows":
                    raise _check.invalid("validation_split", "0 for data that are not rows in memory", validation_split)
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
            remedy = "Gradients can conflict only where they are computed in one step."
            raise _check.invalid("mixing", f"'together' with conflicts={self._conflicts!r}", mixing, remedy)
        if mixing != "together" and _tracing.is_distributed(self):
            remedy = "Replicas would work on batches of different tasks."
            raise _check.invalid("mixing", "'together' under a `tf.distribute` strategy", mixing, remedy)
        return mixing

    def _check_names(self, argument, given, *, complete=False, some=False):
        """Raises where a dict is none of task names."""
        names = ", ".join(map(repr, self._tasks))
        if not isinstance(given, Mapping):
            raise _check.invalid(argument, f"a dict with the tasks {names} as keys", given)
        for name in given:
            _check.one_of(argument, name, self._tasks, f"The keys of `{argument}` are names of tasks.")
        missing = [name for name in self._tasks if name not in given] if complete else []
        if missing:
            remedy = (
                f"Give the rows of {', '.join(map(repr, missing))}; or train on the others in a `MultiTask` of them."
            )
            raise _check.invalid(argument, f"data for every task, {names}", list(given), remedy)
        if some and not given:
            raise _check.invalid(argument, f"data for at least one of the tasks {names}", given)

    def _sizes(self, argument, given):
        if isinstance(given, Mapping):
            self._check_names(argument, given)
            return {name: _check.integer(f"{argument}[{name!r}]", given.get(name, 32)) for name in self._tasks}
        return dict.fromkeys(self._tasks, _check.integer(argument, given, optional=True))

    def _read(self, argument, name, given):
        """Returns (gate, form, data) of what a task was given."""
        where = f"{argument}[{name!r}]"
        is_tuple = isinstance(given, tuple)
        gate = data.Gate(self._tasks[name], (f"{where}[0]" if is_tuple else where, f"{where}[1]", f"{where}[2]"))
        if is_tuple and not 2 <= len(given) <= 3:
            raise _check.invalid(where, "(x, y) or (x, y, sample_weight), or another form with targets", given)
        form, found = gate.read(*given) if is_tuple else gate.read(given)
        if form == "arrays":
            remedy = "Give rows, or a `tf.data.Dataset` of batches of ids."
            raise _check.invalid(where, "rows or batches", "arrays of ids", remedy)
        return gate, form, found

    def _rows_of(self, argument, name, gate, form, found, *, size):
        """The batches to evaluate a task on."""
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
            x: dict of task to data, as `fit` takes them; tasks may be left out.
            y: `None`: targets come with the data of their task.
            batch_size: int, or a dict of task to int, for rows. Defaults to 32.
            verbose: as `keras.Model.evaluate` has it.
            sample_weight: `None`: weights come with the data of their task.
            steps: `None`: all rows are looked at.
            callbacks: list of Keras callbacks.
            return_dict: bool. `False` gives a list of the values, as Keras has it.
            **kwargs: as `keras.Model.evaluate` has them.

        Returns:
            A dict of what `fit` logs: `loss`, `<task>_loss`, `<task>_<metric>`, of the tasks in `x`.

        Raises:
            ValueError: as `fit`.
        """
        names = getattr(x, "tasks", None)  # what `fit` has prepared
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
        """Makes one step on batches of some tasks, by name, as `keras.Model.train_on_batch`."""
        with self._scoring("train_function", tuple(name for name in self._tasks if name in x)):
            return super().train_on_batch(x, y, sample_weight, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, **kwargs: Any) -> Any:
        """Computes loss and metrics of batches of some tasks, by name, as `keras.Model.test_on_batch`."""
        with self._scoring("test_function", tuple(name for name in self._tasks if name in x)):
            return super().test_on_batch(x, y, sample_weight, **kwargs)

    @contextlib.contextmanager
    def _scoring(self, function, names):
        """Within, what is logged is that of some tasks: a part of the step, which is traced again for others."""
        if (function, names) not in self._made_for:
            setattr(self, function, None)
            self._made_for = (*(each for each in self._made_for if each[0] != function), (function, names))
        before, self._scored = self._scored, names
        try:
            yield
        finally:
            self._scored = before


def _any(inputs):
    """One of the inputs of a task."""
    return next(iter(inputs.values()))


def _has_rows(inputs):
    """Whether a task takes part in a step: its static shape does not say that it has no rows."""
    return _any(inputs).shape[0] != 0
