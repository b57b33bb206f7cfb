"""Training that goes on where it was stopped."""

import json
import os
from collections.abc import Sequence
from typing import Any

import keras

from tfxfer import _check, _disk, _processes, data
from tfxfer.callbacks import _checkpoint, _identity
from tfxfer.data import _remainder

_FILE = "checkpoint.npz"
# What may be another than in the checkpoint, where `changed` says so, and its name in errors.
_CHANGEABLE = {"labels": "labels", "loss": "loss", "data": "rows of the data"}


class Resume(keras.callbacks.Callback):
    """Makes a `fit` that was killed at any moment end as if it had not been, when the same script is run again.

    At the end of each epoch, and every so many steps, the state of the training is written into a folder; a `fit` that
    finds one there goes on behind it. The checkpoint is one file, replaced in one move: a kill while it is written
    leaves the one before. What it holds:

    - all variables of the model, the states of its random generators (dropout) included, which weight files leave out;
    - all variables of the optimizer: moments, iterations, learning rate, moving averages, accumulated gradients, loss
      scale;
    - epoch, batch, the number of the epoch in `data.Batches`, and in mid-epoch the values of loss and metrics so far;
    - of every other callback the attributes that training has changed, as far as they are plain (`None`, bools,
      numbers, strings, numpy arrays; lists, tuples and dicts of these): `History`, the best value, best weights and
      patience of `EarlyStopping`, `ReduceLROnPlateau` and `ModelCheckpoint`, the results of `Evaluate`, your own. Of
      `TensorBoard` the step numbers. `CSVLogger` goes on in its file.

    What it does not hold: Python's, numpy's and TensorFlow's global random generators, and attributes of callbacks that
    are not plain. An epoch of `data.Batches` goes on at the batch where it was; of any other dataset the batches done
    are read again, not computed.

    The batches must come again in the same order. So they do from `data.Batches` and from raw strings, if `fit`, or
    `data.batches`, has a `seed` (or `keras.utils.set_random_seed` was called); from any other dataset if it gives the
    same batches in the same order each time it is iterated over (no `shuffle`, or `reshuffle_each_iteration=False`
    with a seed). `fit(steps_per_epoch=...)` must not cut an epoch of the data.

    `fit` of this package's models introduces it to the other callbacks and the data. For any other `keras.Model` call
    `callbacks.introduce` first.

    Of several processes that train one model (`keras.distribution`) the first one writes; all read, so the folder is on
    a file system that they share.

    A folder belongs to one `fit` (so not to a tuner's trials). Once that is done, by its last epoch or because a
    callback stopped it, the same `fit` returns at once with the same weights and history; with more `epochs` it goes
    on, unless it was stopped. To train anew, delete the folder.

    Args:
        folder: string or path. Made if need be. Needs room for two checkpoints, each of some three times the weights'
            size with Adam.
        every: int. Writes after every so many steps of an epoch as well. By default at the end of epochs only.
        data: the `data.Batches` that are trained on, where `fit` gets something that was made of them.
        changed: names of what may differ from the training in the checkpoint, out of `"labels"`, `"loss"` and
            `"data"`. By default nothing may.

    Attributes:
        resumed_at: tuple (epoch, batch) that the last `fit` went on from, both counted from 0, or `None`.

    Raises:
        ValueError: when `fit` starts: if the checkpoint is of another training (model, labels, precision, loss,
            optimizer and its settings, seed, number of batches, or rows, where `data.Batches` keep them; the error
            names what differs), goes further than `epochs`, or is damaged; if another `Resume` or
            `keras.callbacks.BackupAndRestore` is there; in a `fit` that has not introduced it.

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

    needs_list = True  # of all callbacks, which `introduce` then makes

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
        """Whether Keras need not wait for each step's logs: asked before `fit` starts."""
        if self._every is not None:
            return False
        found = _checkpoint.read(self._path, only_state=True)
        return found is None or not found[0]["batch"]

    # === The callbacks beside this one ===

    def set_model(self, model: Any) -> None:
        """Takes the model that is trained, and checks that it fits; Keras calls it."""
        super().set_model(model)
        self._trained = model  # not by `self.model`, which on JAX brings all values up to date each time

    def introduce(self, training: Any) -> None:
        """Takes its places among the other callbacks, and has the data begin where the checkpoint is."""
        others = [callback for callback in training.list.callbacks if callback is not self]
        for callback in others:
            if isinstance(callback, (Resume, keras.callbacks.BackupAndRestore)):
                raise _check.invalid("callbacks", "one `Resume`, and no `BackupAndRestore` beside it", others)
        # Restores before the others look at the model, and saves when they have done with a step or an epoch.
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
        """What is left of the epoch that the checkpoint is in the middle of, where batches can be left out."""
        found, batches = _checkpoint.read(self._path, only_state=True), self._batches
        if batches is None or found is None:
            return None
        epoch, batch, steps = found[0]["data_epoch"], found[0]["batch"], int(batches.cardinality())
        if epoch is None or not batch or 0 <= steps <= batch:
            return None
        return _remainder.Remainder(batches, epoch, batch)

    # === Starting ===

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the checkpoint, if there is one that fits; Keras calls it."""
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
            remedy = "Epochs that end amid the data cannot be taken up again."
            raise _check.invalid("steps_per_epoch", f"None, or the number of batches, {rows}", steps, remedy)

    def _check_processes(self):
        """Raises where another process of this training has found another checkpoint."""
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
        """Called when every other callback has had its `on_train_begin`."""
        self._fresh = [_plain(callback) for callback in self._others]
        if self._found is None:
            return
        self._restore_model()
        self._restore_callbacks()
        for logger, append in self._loggers:
            logger.append = append
        state = self._found[0]
        # Keras's own callback starts a later epoch so, too.
        self.model._initial_epoch = self.params["epochs"] if state["stopped"] else state["epoch"]

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Takes up an epoch where the checkpoint left it; Keras calls it."""
        self._trained._initial_epoch = None
        self._epoch, self._last_batch, self._saved_batch = epoch, 0, 0
        self._data_epoch = None if self._batches is None else self._batches.epoch

    def start_epoch(self) -> None:
        """Called when every other callback has had its `on_epoch_begin`."""
        if self._found is None:
            return
        batch = self._found[0]["batch"]
        if batch:
            _PassingOver(self, self._list, batch).start(self.model)
        else:
            self._found = None

    def finish(self, batch: int) -> None:
        """Called before the first batch that is computed in an epoch that was taken up in its middle."""
        model = self.model
        # Metrics are there from the first batch on only.
        model._symbolic_build(data_batch=batch)
        self._restore_model(metrics=True)
        self._restore_callbacks()
        self._last_batch = self._saved_batch = self._found[0]["batch"]
        self._found = None

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Undoes what was set for passing over batches; Keras calls it."""
        self._trained._initial_epoch = None

    # === Saving ===

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint after every `every` steps; Keras calls it."""
        self._last_batch = batch + 1

    def end_batch(self) -> None:
        """Called when every other callback has had its `on_train_batch_end`."""
        done, steps = self._last_batch, self.params.get("steps")
        # What follows the last batch of an epoch is a part of the epoch.
        is_inside = steps is None or done < steps
        if self._every is not None and done - self._saved_batch >= self._every and is_inside:
            if not self._trained.stop_training:
                self._save(self._epoch, done)
                self._saved_batch = done

    def end_epoch(self) -> None:
        """Called when every other callback has had its `on_epoch_end`."""
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
        """What training has changed in one of the other callbacks."""
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
        """Restores what an optimizer has before it is built: others decide by its steps what is to train."""
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
        expected = f"one whose checkpoint is of this training; the {what} there: {was}, here: {now}"
        remedy = "Run what wrote it; or, to train anew, delete the folder."
        for name, part in _CHANGEABLE.items():
            if part == what:
                remedy += f" To go on nevertheless: `Resume(..., changed={name!r})`."
        return _check.invalid("folder", expected, str(self._path.parent), remedy)

    def _restore_callbacks(self):
        state, arrays = self._found
        kept = {id(callback): values for callback, values in self._matched(state)}
        for callback, fresh in zip(self._others, self._fresh, strict=True):
            if isinstance(callback, keras.callbacks.CSVLogger):
                continue
            changed = {name: _checkpoint.decode(value, arrays) for name, value in kept.get(id(callback), {}).items()}
            now = _plain(callback)
            # What was not kept was as at the start, which it may be no longer: an epoch has begun here, too.
            for name, value in {**_copy(fresh), **changed}.items():
                if name not in now or not _equal(now[name], value):
                    setattr(callback, name, value)

    def _matched(self, state):
        """Pairs callbacks with what was kept of them: the k-th of a class with the k-th of its name."""
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
    """Stands behind all other callbacks and calls `Resume` when they are done."""

    def __init__(self, resume):
        super().__init__()
        self._resume = resume

    def on_train_begin(self, logs=None):
        """Prepares for a new training; Keras calls it."""
        self._resume.start()

    def on_epoch_begin(self, epoch, logs=None):
        """Prepares for an epoch; Keras calls it with its number, from 0."""
        self._resume.start_epoch()

    def on_train_batch_end(self, batch, logs=None):
        """Does the work after a step; Keras calls it with the number of its batch in the epoch, and its logs."""
        self._resume.end_batch()

    def on_epoch_end(self, epoch, logs=None):
        """Does the work at the end of an epoch; Keras calls it with its number and its logs."""
        self._resume.end_epoch()


class _PassingOver(keras.callbacks.Callback):
    """Stands in for all callbacks, and for the training step, while the first batches of an epoch are passed over.

    So Keras counts on, whatever the data are, and nobody hears of a batch twice. `fit` calls `model.train_function` for
    each step, which is a public attribute; Keras has no other way to pass over one.
    """

    def __init__(self, resume, callbacks, batches):
        super().__init__()
        self._resume = resume
        self._list = callbacks
        self._count = batches
        self._seen = None

    def start(self, model):
        """Takes the places."""
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
        """Prepares for a step; Keras calls it with the number of its batch in the epoch."""
        if batch < self._count:
            return
        self._trained.train_function = self._step
        self._resume.finish(self._seen)
        self._list.callbacks = self._all
        for callback in self._all:
            callback.on_train_batch_begin(batch, logs=logs)


# === The state of callbacks ===


def _plain(callback):
    """Returns a copy of the attributes of a callback that are plain."""
    names = ("_global_train_batch", "_global_test_batch")  # all else of TensorBoard is about open files
    plain = {}
    for name, value in vars(callback).items():
        if isinstance(callback, keras.callbacks.TensorBoard) and name not in names:
            continue
        if name == "min_delta" and hasattr(callback, "monitor_op"):
            continue  # its sign is set when the first epoch ends, in each process anew
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
    """Has a `CSVLogger` go on behind the rows that it had written when the checkpoint was."""
    if not _processes.is_first():  # which has the file
        return
    if size is not None and os.path.exists(logger.filename) and os.path.getsize(logger.filename) >= size:
        os.truncate(logger.filename, size)
        logger.append = True
