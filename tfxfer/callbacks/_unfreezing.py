"""Thawing a model within one `fit`."""

from collections.abc import Mapping
from typing import Any, Literal

import keras

from tfxfer import _check, optimizers

_UNITS = ("epochs", "steps")
_BACKENDS = ("tensorflow", "jax")


class GradualUnfreezing(keras.callbacks.Callback):
    """Thaws a model from the output back within one `fit`: the head trains first, then a layer group more at a time.

    A fresh head sends back gradients that know nothing yet; the layers that hold most of what pretraining taught are
    let go last. The optimizer goes on throughout: moments, iterations and schedule are those of one training. What
    trains is a function of the epoch, or of the optimizer's iterations, alone, so that a `fit` that is taken up from a
    checkpoint (`initial_epoch`, `callbacks.Resume`) goes on where it was.

    A group that is frozen does not move by a bit, weight decay and moving averages included, and runs without dropout
    (`model.frozen_dropout`). One that thaws counts its own steps: Adam corrects its moments for the number of steps
    made, and by Keras's count of all steps a late group would start with steps up to 6.5 times too large. For that the
    model's optimizer becomes an `optimizers.Subset` around the one that it was compiled with.

    It works with any Keras optimizer, moving averages (`use_ema`), accumulated gradients, `optimizers.Layerwise`,
    mixed precision, `jit_compile`, `steps_per_execution` (a group then thaws between two executions), and on models
    with adapters (`freezing.add_lora`: groups with adapters thaw one after another). The training step is traced anew
    at each thaw. When `fit` ends, the flags stay as they are.

    The schedule alone says what trains; flags set before are overruled. Hand `fit` a freshly compiled model, or one
    whose optimizer has been with this callback before: the optimizer is built on all variables that will ever train.

    Args:
        every: int. One group more after every so many epochs or steps, from the output back; the topmost group (the
            head, where there is one) trains from the start. Defaults to 1.
        at: dict of group, or pattern (`"block_[45]"`, as `fnmatch` has it), to the epoch or step, counted from 0, with
            which it begins to train; the first entry that matches a group counts. Groups above all those named train
            from the start, others that are not named never. Either this or `every`.
        unit: `"epochs"` or `"steps"`: of the optimizer, that is updates where gradients are accumulated.
        lowest: the name of the last group to thaw with `every`. By default the lowest of all, the embeddings.

    Attributes:
        thaws: list of dicts, one for each time that the set of groups changed: `epoch`, `step` (of the optimizer),
            `groups` that train from there on.

    Raises:
        ValueError: at once for a schedule that is none; when `fit` starts for a group that the model does not have, a
            schedule in which nothing trains at the start, or an optimizer that was built on too few variables.

    Example:

    ```python
    model.compile(tx.optimizers.AdamW(tx.schedules.warmup_cosine(2e-5, steps=500)))
    model.fit(texts, labels, epochs=8, callbacks=[tx.callbacks.GradualUnfreezing()])
    tx.callbacks.GradualUnfreezing(at={"block_5": 1, "block_[34]": 2})
    tx.callbacks.GradualUnfreezing(every=200, unit="steps", lowest="block_0")
    ```

    Reference: Howard and Ruder, 2018, https://arxiv.org/abs/1801.06146, section 3.3.
    """

    def __init__(
        self,
        every: int | None = None,
        *,
        at: Mapping[str, int] | None = None,
        unit: Literal["epochs", "steps"] = "epochs",
        lowest: str | None = None,
    ) -> None:
        super().__init__()
        if every is not None and at is not None:
            raise _check.invalid("at", "None where `every` is given", at)
        if at is not None:
            _check.instance("at", at, dict, "a dict of layer group to epoch or step")
            if not at:
                raise _check.invalid("at", "at least one layer group", at)
            if lowest is not None:
                raise _check.invalid("lowest", "None where `at` is given", lowest, "Leave such groups out of `at`.")
            at = {
                _check.instance("at", group, str, "the name of a layer group"): _check.integer("at", time, minimum=0)
                for group, time in at.items()
            }
        self.every = _check.integer("every", 1 if every is None else every)
        self.at: Any = at
        self.unit = _check.one_of("unit", unit, _UNITS)
        self.lowest = lowest
        self.thaws = []
        self._left = 0

    @property
    def async_safe(self) -> bool:
        """Whether Keras need not wait for each step's logs."""
        return self.unit == "epochs"

    # === The schedule ===

    def set_model(self, model: Any) -> None:
        """Takes the model that is trained, and finds when each layer group thaws; Keras calls it."""
        super().set_model(model)
        self._trained = model  # not by `self.model`, which on JAX brings all values up to date each time
        if not all(hasattr(model, name) for name in ("thawable_groups", "set_trainable")):
            raise _check.invalid("model", "a model of `tfxfer.models`", model)
        if keras.config.backend() not in _BACKENDS:
            raise _check.invalid("backend", f"one of {', '.join(_BACKENDS)}", keras.config.backend())
        groups = model.thawable_groups()
        times = self._times_by_name(groups) if self.at is not None else self._times_by_number(groups)
        if 0 not in times.values():
            remedy = f"Start with one at 0; the topmost group is {groups[-1]!r}."
            raise _check.invalid("at", "a schedule in which some group trains from the start", self.at, remedy)
        self._times = times

    def _times_by_number(self, groups):
        if self.lowest is not None:
            groups = groups[groups.index(_check.one_of("lowest", self.lowest, groups)) :]
        return {name: number * self.every for number, name in enumerate(reversed(groups))}

    def _times_by_name(self, groups):
        times = {}
        for pattern, time in self.at.items():
            for name in _check.some_of("at", pattern, groups):
                times.setdefault(name, time)
        highest = max(map(groups.index, times))
        return {**dict.fromkeys(groups[highest + 1 :], 0), **times}

    def groups_at(self, time: int) -> list[str]:
        """Returns the names of the groups that train in an epoch, or at a step, from the input upwards.

        Args:
            time: int. The epoch, or the number of steps made before, counted from 0.
        """
        return [name for name in self._trained.thawable_groups() if time >= self._times.get(name, time + 1)]

    # === Training ===

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Builds the optimizer on all variables that will train; Keras calls it."""
        model, optimizer = self._trained, self._trained.optimizer
        flags = _flags(model)
        model.set_trainable({name: name in self._times for name in flags})
        variables = model.trainable_variables
        if not optimizer.built:
            optimizer.build(variables)
        known = {id(variable) for variable in optimizer._trainable_variables}
        missing = [variable.path for variable in variables if id(variable) not in known]
        model.set_trainable(flags)
        if missing:
            remedy = "Call `freezing.unfreeze(model)` and compile the model before `fit`."
            raise _check.invalid("optimizer", "an optimizer built on all variables that will train", missing, remedy)
        model.optimizer = optimizers.allow_subsets(model.optimizer)
        if not self._step():
            self.thaws = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Has the groups of this epoch train; Keras calls it."""
        self._epoch, self._batch = epoch, -1
        self._set(epoch if self.unit == "epochs" else self._step())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """With `unit="steps"`, has the groups of the next step train; Keras calls it."""
        if self.unit != "steps":
            return
        # The optimizer's number of steps is asked for where it can matter only: on accelerators that means waiting.
        self._left -= batch - self._batch
        self._batch = batch
        if self._left <= 0:
            if hasattr(self._trained, "jax_state_sync"):
                self._trained.jax_state_sync()
            self._set(self._step())

    def _step(self):
        return int(self._trained.optimizer.iterations)

    def _set(self, time):
        """Has the groups train that are to at this time."""
        model = self._trained
        step, groups = self._step(), self.groups_at(time)
        ahead = [due - step for due in self._times.values() if due > step]
        self._left = min(ahead, default=float("inf")) * _batches_a_step(model.optimizer)
        is_new = {name for name, flag in _flags(model).items() if flag} != set(groups)
        if is_new:
            model.set_trainable({name: name in groups for name in model.layer_groups()})
        if not self.thaws or self.thaws[-1]["groups"] != groups:
            self.thaws.append({"epoch": self._epoch, "step": step, "groups": groups})


def _flags(model):
    """The groups and whether they train."""
    return {name: any(layer.trainable for layer in layers) for name, layers in model.layer_groups().items()}


def _batches_a_step(optimizer):
    while getattr(optimizer, "inner_optimizer", None) is not None:
        optimizer = optimizer.inner_optimizer
    return optimizer.gradient_accumulation_steps or 1
