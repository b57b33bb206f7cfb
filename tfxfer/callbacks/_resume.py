"""Resuming an interrupted training run."""

import json
import os
from collections.abc import Sequence
from typing import Any

import keras

from tfxfer import _check, _disk, _processes, data
from tfxfer.callbacks import _checkpoint, _identity
from tfxfer.data import _remainder

_FILE = "checkpoint.npz"
# What may differ from the checkpoint if `changed` names it, and its name in errors.
_CHANGEABLE = {"labels": "labels", "loss": "loss", "data": "rows of the data"}


class Resume(keras.callbacks.Callback):
    """Resumes a `fit` that was killed at any moment, when the same script runs again, and reaches the same result.

    At the end of each epoch, and optionally every `every` steps, it writes the state of the training into a folder. A
    `fit` that finds a checkpoint there resumes from it. The checkpoint is one file, replaced atomically: a kill during
    writing leaves the previous one. It holds:

    - all variables of the model, including the states of its random generators (dropout), which weight files omit;
    - all variables of the optimizer: moments, iterations, learning rate, moving averages, accumulated gradients, loss
      scale;
    - epoch, batch, the epoch number of `data.Batches` and, within an epoch, the values of loss and metrics so far;
    - the attributes of every other callback that training has changed, if they are plain (`None`, bools, numbers,
      strings, numpy arrays; lists, tuples and dicts of these): `History`, the best value, best weights and patience of
      `EarlyStopping`, `ReduceLROnPlateau` and `ModelCheckpoint`, the results of `Evaluate`, those of your own
      callbacks. For `TensorBoard`, the step numbers. `CSVLogger` continues its file.

    It does not hold Python's, numpy's and TensorFlow's global random generators, or callback attributes that are not
    plain. An epoch of `data.Batches` resumes at its next batch. Of any other dataset, the finished batches are read
    again but not computed.

    The batches must come in the same order again. They do for `data.Batches` and for raw strings if `fit` or
    `data.batches` has a `seed` (or `keras.utils.set_random_seed` was called). They do for any other dataset that yields
    the same batches in the same order on each iteration (no `shuffle`, or `reshuffle_each_iteration=False` with a
    seed). `fit(steps_per_epoch=...)` must not cut an epoch of the data short.

    `fit` of this package's models introduces the callback to the other callbacks and the data. For any other
    `keras.Model`, call `callbacks.introduce` first.

    If several processes train one model (`keras.distribution`), the first one writes and all read, so the folder must
    be on a file system that they share.

    A folder belongs to one `fit` (so a tuner's trials cannot share it). Once that `fit` has finished, after its last
    epoch or because a callback stopped it, the same `fit` returns immediately with the same weights and history. With
    more `epochs` it continues, unless a callback stopped it. To start over, delete the folder.

    Args:
        folder: string or path. Created if missing. Needs room for two checkpoints, each about three times the size of
            the weights with Adam.
        every: int. Also saves every `every` steps within an epoch. By default, only at the end of each epoch.
        data: the `data.Batches` of the training, if `fit` gets a dataset derived from them.
        changed: names of what may differ from the training in the checkpoint: any of `"labels"`, `"loss"` and
            `"data"`. By default, nothing may.

    Attributes:
        resumed_at: tuple (epoch, batch) from which the last `fit` resumed, both counted from 0, or `None`.

    Raises:
        ValueError: when `fit` starts: if the checkpoint belongs to another training (model, labels, precision, loss,
            optimizer and its settings, seed, number of batches, or rows, if `data.Batches` keep them; the error names
            what differs), is beyond `epochs`, or is damaged; if `fit` also has another `Resume` or a
            `keras.callbacks.BackupAndRestore`; if `fit` has not introduced the callback.

    Example:

    ```python
    model.fit(
        tx.data.batches(train, model.preprocessor, seed=0),
        epochs=10,
        callbacks=[
            tx.callbacks.EvaluateClassification(dev),
            keras.callbacks.EarlyStopping("val_macro_f1", mode="max", patience=2, restore_best_weights=True),
            tx.callbacks.Resume("runs/banking", every=500),
        ],
    )
    ```
    """

    _identity: dict[str, Any]
    _found: Any
    resumed_at: tuple[int, int] | None
    _epoch: int
    _last_batch: int
    _saved_batch: int
    _loggers: list

    needs_list = True  # of all callbacks; `introduce` then creates it

    def __init__(
        self, folder: str | os.PathLike[str], *, every: int | None = None, data: Any = None, changed: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self._path = _disk.local_path("folder", folder, kind="folder") / _FILE
        self._every = _check.integer("every", every, optional=True)
        self._batches: Any = None
        if data is not None:
            self._batches = _check_batches(data)
        changed = (changed,) if isinstance(changed, str) else changed
        self._changed = {_CHANGEABLE[_check.one_of("changed", name, list(_CHANGEABLE))] for name in changed}
        self.resumed_at = None
        self._list: Any = None
        self._remainder: Any = None
        self._digest: Any = None

    @property
    def async_safe(self) -> bool:
        """Whether Keras can skip waiting for each step's logs; Keras reads it before `fit` starts."""
        if self._every is not None:
            return False
        found = _checkpoint.read(self._path, only_state=True)
        return found is None or not found[0]["batch"]

    # === The other callbacks ===

    def set_model(self, model: Any) -> None:
        """Sets the model to train; Keras calls it."""
        super().set_model(model)
        self._trained = model  # not through `self.model`, which syncs all values on each access on JAX

    def introduce(self, training: Any) -> None:
        """Takes its places in the callbacks of `training`, and starts its data at the checkpoint's batch."""
        others = [callback for callback in training.list.callbacks if callback is not self]
        for callback in others:
            if isinstance(callback, (Resume, keras.callbacks.BackupAndRestore)):
                raise _check.invalid("callbacks", "one `Resume` and no `BackupAndRestore`", others)
        # Restores before the other callbacks see the model, and saves after they finish a step or an epoch.
        closing = _Closing(self)
        closing.set_model(training.model)
        self._list, self._others = training.list, [each for each in others if not isinstance(each, _Closing)]
        self._list.callbacks = [self, *self._others, closing]
        self.set_model(training.model)
        if isinstance(training.data, data.Batches):
            self._batches = training.data
        self._digest = training.digest or _remainder.digest(self._batches)
        self._remainder = self._unseen() if training.data is self._batches else None
        if self._remainder is not None:
            training.data = self._remainder.dataset

    def _unseen(self):
        """The remaining batches of the epoch that the checkpoint interrupted, if the data can skip batches."""
        found, batches = _checkpoint.read(self._path, only_state=True), self._batches
        if batches is None or found is None:
            return None
        epoch, batch, steps = found[0]["data_epoch"], found[0]["batch"], int(batches.cardinality())
        if epoch is None or not batch or 0 <= steps <= batch:
            return None
        return _remainder.Remainder(batches, epoch, batch)

    # === Starting ===

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the checkpoint, if there is one, after checking that it fits; Keras calls it."""
        if self._list is None:
            remedy = (
                "Call `callbacks, x = tfxfer.callbacks.introduce(model, x, callbacks=..., epochs=...)` before `fit`."
            )
            raise _check.invalid(
                "callbacks", "a model of `tfxfer.models`, whose `fit` introduces callbacks", self, remedy
            )
        model = self.model
        self._check_steps()
        if _processes.is_first():
            _checkpoint.clear(self._path)
        self._identity = _identity.identity(model, self._batches, self.params, self._digest)
        self._epoch = self._last_batch = self._saved_batch = 0
        self._found = _checkpoint.read(self._path)
        self._check_processes()
        self.resumed_at = None
        if self._found is None:
            return
        state, _ = self._found
        self._check_same(state)
        self.resumed_at = (state["epoch"], state["batch"])
        self._restore_model(optimizer=False)
        self._restore_iterations()
        if self._batches is not None:
            self._batches.epoch = state["data_epoch"]
        if self._remainder is not None:
            self._remainder.arm()
        self._loggers = []
        for callback, kept in self._matched(state):
            if isinstance(callback, keras.callbacks.CSVLogger):
                self._loggers.append((callback, callback.append))
                _cut(callback, kept.get("size"))

    def _check_steps(self):
        steps, batches = self.params.get("steps"), self._batches
        if batches is None:
            return
        rows = int(batches.cardinality())
        if rows >= 0 and steps != rows:
            remedy = "Epochs that end before the data do cannot be resumed."
            raise _check.invalid("steps_per_epoch", f"None, or the number of batches, {rows}", steps, remedy)

    def _check_processes(self):
        """Raises if the processes of this training found different checkpoints."""
        state = None if self._found is None else self._found[0]
        if _processes.differing({"checkpoint": state}):
            remedy = "Give a folder on a file system that all hosts share; the first process writes it."
            shown = "none" if state is None else f"one of epoch {state['epoch']}, batch {state['batch']}"
            raise _check.invalid("folder", "one whose checkpoint all processes see", shown, remedy)

    def _check_same(self, state):
        there, here = state["identity"], json.loads(json.dumps(self._identity))
        for name in here:
            if there.get(name) != here[name] and name not in self._changed:
                raise self._another(name, there.get(name), here[name])
        epochs, done = self.params["epochs"], state["epoch"] + bool(state["batch"])
        if epochs < done:
            raise _check.invalid("epochs", f"an int >= {done}, the epochs in the folder's checkpoint", epochs)
        if state["batch"] % self.model.steps_per_execution:
            expected = f"a divisor of {state['batch']}, the batches of the epoch that the checkpoint has seen"
            raise _check.invalid("steps_per_execution", expected, self.model.steps_per_execution)

    def start(self) -> None:
        """Restores the training's state; called after `on_train_begin` of all other callbacks."""
        self._fresh = [_plain(callback) for callback in self._others]
        if self._found is None:
            return
        self._restore_model()
        self._restore_callbacks()
        for logger, append in self._loggers:
            logger.append = append
        state = self._found[0]
        # Keras's `BackupAndRestore` sets the first epoch this way, too.
        self.model._initial_epoch = self.params["epochs"] if state["stopped"] else state["epoch"]

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Records the position at the start of an epoch; Keras calls it with the epoch's number, from 0."""
        self._trained._initial_epoch = None
        self._epoch, self._last_batch, self._saved_batch = epoch, 0, 0
        self._data_epoch = None if self._batches is None else self._batches.epoch

    def start_epoch(self) -> None:
        """Skips the finished batches of a resumed epoch; called after `on_epoch_begin` of all other callbacks."""
        if self._found is None:
            return
        batch = self._found[0]["batch"]
        if batch:
            _PassingOver(self, self._list, batch).start(self.model)
        else:
            self._found = None

    def finish(self, batch: Any) -> None:
        """Restores the state in mid-epoch; called before the first step, on `batch`, of a partly finished epoch."""
        model = self.model
        # Metrics have variables only after the first batch.
        model._symbolic_build(data_batch=batch)
        self._restore_model(metrics=True)
        self._restore_callbacks()
        self._last_batch = self._saved_batch = self._found[0]["batch"]
        self._found = None

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Resets the model's first epoch; Keras calls it."""
        self._trained._initial_epoch = None

    # === Saving ===

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the steps of the epoch; Keras calls it."""
        self._last_batch = batch + 1

    def end_batch(self) -> None:
        """Saves a checkpoint if one is due; called after `on_train_batch_end` of all other callbacks."""
        done, steps = self._last_batch, self.params.get("steps")
        # After the last batch, only the end of the epoch saves.
        is_inside = steps is None or done < steps
        if self._every is not None and done - self._saved_batch >= self._every and is_inside:
            if not self._trained.stop_training:
                self._save(self._epoch, done)
                self._saved_batch = done

    def end_epoch(self) -> None:
        """Saves a checkpoint of the finished epoch; called after `on_epoch_end` of all other callbacks."""
        self._save(self._epoch + 1, 0)

    def _save(self, epoch, batch):
        model, batches, arrays = self.model, self._batches, _checkpoint.Arrays()
        kinds = {"model": model.variables, "optimizer": model.optimizer.variables}
        if batch:
            kinds["metrics"] = model.metrics_variables
        data_epoch = None
        if batches is not None:
            data_epoch = self._data_epoch if batch else batches.epoch
        state = {
            "identity": self._identity,
            "epoch": epoch,
            "batch": batch,
            "data_epoch": data_epoch,
            "stopped": bool(model.stop_training),
            "variables": {
                kind: [[_identity.name_of(variable), arrays.add(variable)] for variable in variables]
                for kind, variables in kinds.items()
            },
            "callbacks": [self._kept(k, arrays) for k in range(len(self._others))],
        }
        if _processes.is_first():
            _checkpoint.write(self._path, state, arrays)

    def _kept(self, k, arrays):
        """The attributes of another callback that training has changed."""
        callback, fresh = self._others[k], self._fresh[k]
        kept = {}
        for name, value in _plain(callback).items():
            if name not in fresh or not _equal(value, fresh[name]):
                kept[name] = _checkpoint.encode(value, arrays)
        if isinstance(callback, keras.callbacks.CSVLogger):
            kept = {"size": os.path.getsize(callback.filename)} if os.path.exists(callback.filename) else {}
        return [type(callback).__name__, kept]

    # === Restoring ===

    def _restore_model(self, *, optimizer=True, metrics=False):
        model, (state, arrays) = self.model, self._found
        kinds = {"model": model.variables}
        if optimizer:
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            kinds["optimizer"] = model.optimizer.variables
        if metrics:
            kinds["metrics"] = model.metrics_variables
        for kind, variables in kinds.items():
            kept = state["variables"].get(kind, [])
            there = [[name, list(arrays.get(array).shape), array["dtype"]] for name, array in kept]
            here = [_identity.signature(variable) for variable in variables]
            if there != here:
                raise self._another(f"variables of the {kind}", there, here)
        for kind, variables in kinds.items():
            for variable, (_, array) in zip(variables, state["variables"].get(kind, []), strict=True):
                variable.assign(arrays.get(array))

    def _restore_iterations(self):
        """Restores the optimizer's step count before it is built: other callbacks choose what trains by it."""
        state, arrays = self._found
        kept = {}
        for name, array in state["variables"]["optimizer"]:
            kept.setdefault(name, []).append(array)
        for variable in self.model.optimizer.variables:
            found = kept.get(_identity.name_of(variable), [])
            if len(found) == 1 and arrays.get(found[0]).shape == tuple(variable.shape) == ():
                variable.assign(arrays.get(found[0]))

    def _another(self, what, there, here):
        was, now = _identity.difference(there, here)
        expected = f"one whose checkpoint belongs to this training; the {what} there: {was}, here: {now}"
        remedy = "Run the script that wrote it or, to start over, delete the folder."
        for name, part in _CHANGEABLE.items():
            if part == what:
                remedy += f" To resume anyway: `Resume(..., changed={name!r})`."
        return _check.invalid("folder", expected, str(self._path.parent), remedy)

    def _restore_callbacks(self):
        state, arrays = self._found
        kept = {id(callback): values for callback, values in self._matched(state)}
        for callback, fresh in zip(self._others, self._fresh, strict=True):
            if isinstance(callback, keras.callbacks.CSVLogger):
                continue
            changed = {name: _checkpoint.decode(value, arrays) for name, value in kept.get(id(callback), {}).items()}
            now = _plain(callback)
            # Attributes not in the checkpoint had their initial values, which this epoch may have changed.
            for name, value in {**_copy(fresh), **changed}.items():
                if name not in now or not _equal(now[name], value):
                    setattr(callback, name, value)

    def _matched(self, state):
        """Pairs callbacks with their saved attributes: the k-th of a class with the k-th saved under its name."""
        kept = {}
        for name, values in state["callbacks"]:
            kept.setdefault(name, []).append(values)
        for callback in self._others:
            of_class = kept.get(type(callback).__name__)
            if of_class:
                yield callback, of_class.pop(0)


def _check_batches(batches):
    if not isinstance(batches, data.Batches):
        raise _check.invalid("data", "`data.Batches`, as `data.batches` makes them", batches)
    return batches


class _Closing(keras.callbacks.Callback):
    """Comes after all other callbacks and calls `Resume` when they are done."""

    def __init__(self, resume):
        super().__init__()
        self._resume = resume

    def on_train_begin(self, logs=None):
        """Restores the training's state; Keras calls it."""
        self._resume.start()

    def on_epoch_begin(self, epoch, logs=None):
        """Skips the finished batches; Keras calls it with the epoch's number, from 0."""
        self._resume.start_epoch()

    def on_train_batch_end(self, batch, logs=None):
        """Saves after a step if due; Keras calls it with the number of the batch in the epoch and its logs."""
        self._resume.end_batch()

    def on_epoch_end(self, epoch, logs=None):
        """Saves at the end of an epoch; Keras calls it with the epoch's number and its logs."""
        self._resume.end_epoch()


class _PassingOver(keras.callbacks.Callback):
    """Replaces all callbacks and the training step while the first batches of an epoch are skipped.

    Keras thus counts the batches of any data, and no callback sees a batch twice. `fit` calls `model.train_function`,
    a public attribute, for each step; Keras has no other way to skip one.
    """

    def __init__(self, resume, callbacks, batches):
        super().__init__()
        self._resume = resume
        self._list = callbacks
        self._count = batches
        self._seen = None

    def start(self, model):
        """Replaces the callbacks and the training step of `model`."""
        self._trained = model
        self._all, self._list.callbacks = self._list.callbacks, [self]
        self._step = model.train_function
        model.train_function = self._pass_over_on_jax if keras.config.backend() == "jax" else self._pass_over

    def _pass_over(self, iterator):
        for _ in range(self._trained.steps_per_execution):
            self._seen = next(iterator, None)
            if self._seen is None:
                remedy = "The checkpoint was written in the middle of a longer epoch."
                raise _check.invalid("x", f"data of more than {self._count} batches", iterator, remedy)
        return {}

    def _pass_over_on_jax(self, state, iterator):
        return self._pass_over(iterator), state

    def on_train_batch_begin(self, batch, logs=None):
        """Ends the skipping once all finished batches are read; Keras calls it with the batch's number."""
        if batch < self._count:
            return
        self._trained.train_function = self._step
        self._resume.finish(self._seen)
        self._list.callbacks = self._all
        for callback in self._all:
            callback.on_train_batch_begin(batch, logs=logs)


# === The state of callbacks ===


def _plain(callback):
    """Returns a copy of the plain attributes of a callback."""
    names = ("_global_train_batch", "_global_test_batch")  # TensorBoard's other attributes concern open files
    plain = {}
    for name, value in vars(callback).items():
        if isinstance(callback, keras.callbacks.TensorBoard) and name not in names:
            continue
        if name == "min_delta" and hasattr(callback, "monitor_op"):
            continue  # its sign is set again in each process, at the end of the first epoch
        try:
            plain[name] = _copy(value)
        except TypeError:
            continue
    return plain


def _copy(value):
    arrays = _checkpoint.Arrays()
    return _checkpoint.decode(_checkpoint.encode(value, arrays), arrays)


def _equal(one, other):
    arrays = _checkpoint.Arrays(), _checkpoint.Arrays()
    encoded = [_checkpoint.encode(value, array) for value, array in zip((one, other), arrays, strict=True)]
    if repr(encoded[0]) != repr(encoded[1]):
        return False
    pairs = zip(arrays[0].values, arrays[1].values, strict=True)
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def _cut(logger, size):
    """Has a `CSVLogger` continue after the rows that it had written at the time of the checkpoint."""
    if not _processes.is_first():  # only the first process has the file
        return
    if size is not None and os.path.exists(logger.filename) and os.path.getsize(logger.filename) >= size:
        os.truncate(logger.filename, size)
        logger.append = True
