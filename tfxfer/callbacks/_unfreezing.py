"""Unfreezing a model gradually within one `fit`."""

from collections.abc import Mapping
from typing import Any, Literal

import keras

from tfxfer import _check, optimizers

_UNITS = ("epochs", "steps")
_BACKENDS = ("tensorflow", "jax")


class GradualUnfreezing(keras.callbacks.Callback):
    """Unfreezes a model from the output down within one `fit`: first the head, then one more layer group at a time.

    The gradients of a new head are uninformative at first, so the layers that hold most of the pretrained knowledge
    are unfrozen last. The optimizer continues throughout: moments, iterations and schedule are those of one training
    run. What trains depends only on the epoch, or on the optimizer's iterations, so a `fit` that starts from a
    checkpoint (`initial_epoch`, `callbacks.Resume`) resumes at the same point of the schedule.

    A frozen group stays bit-identical, including under weight decay and moving averages, and runs without dropout
    (`model.frozen_dropout`). An unfrozen group counts its own steps: Adam corrects its moments for the number of steps
    made, and with Keras's count of all steps, a late group would start with steps up to 6.5 times too large. The
    callback therefore wraps the model's optimizer in an `optimizers.Subset`.

    It works with any Keras optimizer, moving averages (`use_ema`), accumulated gradients, `optimizers.Layerwise`,
    mixed precision, `jit_compile`, `steps_per_execution` (a group then thaws between two executions), and on models
    with adapters (`freezing.add_lora`: groups with adapters thaw one after another). The training step is retraced
    at each thaw. When `fit` ends, the flags stay as they are.

    Only the schedule decides what trains; it overrides flags set before. Pass a freshly compiled model, or one whose
    optimizer this callback has used before: the optimizer is built on all variables that will ever train.

    Args:
        every: int. Unfreezes one more group every `every` epochs or steps, from the output down; the topmost group (the
            head, if there is one) trains from the start. Defaults to 1.
        at: dict of group, or `fnmatch` pattern (`"block_[45]"`), to the epoch or step, counted from 0, at which it
            starts to train; the first entry that matches a group counts. Groups above all named groups train from the
            start; other unnamed groups never train. Pass either `at` or `every`.
        unit: `"epochs"` or `"steps"`. Steps are the optimizer's, that is updates if gradients are accumulated.
        lowest: the name of the last group to unfreeze with `every`. By default, the lowest one, the embeddings.

    Attributes:
        thaws: list of dicts, one for each change of the set of groups: `epoch`, `step` (of the optimizer) and the
            `groups` that train from then on.

    Raises:
        ValueError: on construction, if the schedule is invalid; when `fit` starts, if the model does not have a group,
            if nothing trains at the start, or if the optimizer was built on too few variables.

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
            raise _check.invalid("at", "None if `every` is given", at)
        if at is not None:
            _check.instance("at", at, dict, "a dict of layer group to epoch or step")
            if not at:
                raise _check.invalid("at", "at least one layer group", at)
            if lowest is not None:
                raise _check.invalid("lowest", "None if `at` is given", lowest, "Leave such groups out of `at`.")
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
        """Whether Keras can skip waiting for each step's logs."""
        return self.unit == "epochs"

    # === The schedule ===

    def set_model(self, model: Any) -> None:
        """Sets the model to train and finds when each layer group starts to train; Keras calls it."""
        super().set_model(model)
        self._trained = model  # not through `self.model`, which syncs all values on each access on JAX
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
        """Returns the names of the groups that train in an epoch or at a step, from the input up.

        Args:
            time: int. The epoch, or the number of steps made so far, counted from 0.
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
        """Unfreezes the groups of this epoch; Keras calls it."""
        self._epoch, self._batch = epoch, -1
        self._set(epoch if self.unit == "epochs" else self._step())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """With `unit="steps"`, unfreezes the groups of the next step; Keras calls it."""
        if self.unit != "steps":
            return
        # Read the optimizer's step count only when it can matter: on accelerators, that means waiting.
        self._left -= batch - self._batch
        self._batch = batch
        if self._left <= 0:
            if hasattr(self._trained, "jax_state_sync"):
                self._trained.jax_state_sync()
            self._set(self._step())

    def _step(self):
        return int(self._trained.optimizer.iterations)

    def _set(self, time):
        """Trains the groups that the schedule has at this time."""
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
    """Whether each group trains, by name."""
    return {name: any(layer.trainable for layer in layers) for name, layers in model.layer_groups().items()}


def _batches_a_step(optimizer):
    while getattr(optimizer, "inner_optimizer", None) is not None:
        optimizer = optimizer.inner_optimizer
    return optimizer.gradient_accumulation_steps or 1
