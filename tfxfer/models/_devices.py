"""Checks and data handling of `fit` for training on several replicas, devices, processes or hosts."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import keras

from tfxfer import _check, _processes, _tracing, data
from tfxfer.data import _remainder

# Keras callbacks that write files, and the attribute with the path.
_WRITERS = (
    (keras.callbacks.ModelCheckpoint, "filepath"),
    (keras.callbacks.CSVLogger, "filename"),
    (keras.callbacks.TensorBoard, "log_dir"),
)
_EVEN = "Create the batches with `data.batches(..., drop_remainder=True)` and a suitable `batch_size`."


def check(model: Any, source: Any, form: str, argument: str = "x") -> None:
    """Raises if training cannot be distributed as requested.

    Args:
        model: compiled model at the start of `fit`.
        source: the training data: batches, or arrays.
        form: the form from `data.Gate.read`: `"arrays"` for batches that are arrays.
        argument: string. The name of the data in errors.

    Raises:
        ValueError: if Keras 3 cannot train under the strategy; on several replicas, if the optimizer accumulates
            gradients; under a `keras.distribution`, if the batches cannot be divided evenly, the data would have to be
            split by each process, or the processes differ in seed, rows or model.
    """
    strategy = _tracing.unsupported_strategy(model)
    if strategy is not None:
        remedy = (
            "On several hosts, Keras 3 trains with JAX: KERAS_BACKEND=jax, `keras.distribution.initialize`, "
            "and `keras.distribution.DataParallel(auto_shard_dataset=False)`; see docs/scale.md."
        )
        raise _check.invalid("strategy", "`tf.distribute.MirroredStrategy`, on one host", strategy, remedy)
    replicas = model.distribute_strategy.num_replicas_in_sync if _tracing.is_distributed(model) else _processes.count()
    if replicas > 1:
        _check_parts(model, source, argument)
    accumulates = getattr(getattr(model, "optimizer", None), "gradient_accumulation_steps", None)
    if accumulates and _tracing.is_distributed(model) and model.distribute_strategy.num_replicas_in_sync > 1:
        remedy = "Keras cannot sum gradients over replicas in conditional steps: increase `batch_size` instead."
        raise _check.invalid("gradient_accumulation_steps", "None on several replicas", accumulates, remedy)
    distribution = _processes.distribution()
    if distribution is None:
        return
    parts = _data_parts(distribution)
    if data.is_part(source):
        parts = max(parts // _processes.count(), 1)
    if isinstance(source, data.Batches) and source.has_multiples_of(parts) is False:
        raise _check.invalid(argument, f"batches of a multiple of {parts} rows, one part per device", source, _EVEN)
    if _processes.count() == 1:
        return
    if distribution.auto_shard_dataset:
        remedy = "Every process reads the same batches, and `fit` selects the part of each process."
        raise _check.invalid("distribution", "one with `auto_shard_dataset=False`", distribution, remedy)
    if isinstance(distribution, keras.distribution.ModelParallel):
        remedy = "For several processes use `DataParallel`; `ModelParallel` shards weights over one process's devices."
        raise _check.invalid("distribution", "one that copies weights to every process", distribution, remedy)
    if form == "arrays" or not hasattr(source, "element_spec"):
        remedy = "Create `data.batches` from rows, with `drop_remainder=True` and a `seed`."
        raise _check.invalid(argument, "batches as a `tf.data.Dataset` for several processes", type(source), remedy)


def _check_parts(model, source, argument):
    """Raises for data and losses that several replicas or processes cannot share."""
    columns = model.input_columns().values() if hasattr(model, "input_columns") else ()
    target = (getattr(source, "element_spec", None) or (None, None))[1]
    if any(isinstance(column, data.RankingColumn) for column in columns) and len(getattr(target, "shape", ())) > 1:
        remedy = (
            "All documents of a batch share one axis, so the split would cut through lists. Train in one process, or "
            "on pairs."
        )
        raise _check.invalid(argument, "pairs of query and document on several replicas", "lists of documents", remedy)
    losses = [type(loss).__name__ for loss in getattr(model, "stateful_losses", list)()]
    if losses:
        remedy = "Each replica would remember only its own part of the batches."
        raise _check.invalid("loss", "losses without a memory on several replicas", losses, remedy)


def check_alike(model: Any, source: Any, **settings: Any) -> None:
    """Raises in every process if the training differs between processes.

    Args:
        model: compiled model.
        source: the training data.
        **settings: further numbers that must be equal in all processes.
    """
    if _processes.count() == 1:
        return
    of_data = {
        "seed": getattr(source, "seed", None),
        "epoch of the data": getattr(source, "epoch", None),
        "rows": _remainder.digest(source),
    }
    facts = {
        **({} if data.is_part(source) else of_data),
        "number of batches": int(source.cardinality()),
        "variables of the model": [[variable.path, list(variable.shape)] for variable in model.variables],
        **settings,
    }
    found = _processes.differing(facts)
    if found:
        shown = {name: facts[name] for name in found if name != "variables of the model"}
        remedy = "Use the same rows, seed and settings in all processes: `data.batches(..., seed=0)`."
        raise _check.invalid("x", f"training that is the same in all processes, including {found}", shown, remedy)


def part(dataset: Any, source: Any = None) -> Any:
    """Returns this process's part of each batch of a dataset; with one process, the whole dataset.

    Args:
        dataset: batches for Keras.
        source: the user's data, which may already be marked as this process's part (`data.as_part`).
    """
    if _processes.count() == 1 or data.is_part(source) or not hasattr(dataset, "element_spec"):
        return dataset
    return data.part_of_batches(dataset, _processes.count(), _processes.index())


@contextlib.contextmanager
def spread(model: Any, source: Any, callbacks: Any, steps_per_epoch: int | None = None) -> Iterator[Any]:
    """Yields the callbacks of a `fit`, while it runs.

    Under a strategy, and on backends other than TensorFlow, Keras prefetches: it starts iterations of the data that
    are never used. Within this context, the data count epochs at the end of each training epoch, not by iterations.
    Files written by Keras callbacks are kept from the first process only.

    Args:
        model: compiled model.
        source: the data of `fit`, as batches.
        callbacks: callbacks for Keras.
        steps_per_epoch: as in `fit`. With it, epochs of the data are independent of those of training.
    """
    if keras.config.backend() == "tensorflow" and not _tracing.is_distributed(model):
        yield callbacks
        return
    is_list = isinstance(callbacks, keras.callbacks.CallbackList)
    found = list(callbacks.callbacks) if is_list else keras.tree.flatten(callbacks or [])
    if _processes.count() > 1 and any(isinstance(each, keras.callbacks.BackupAndRestore) for each in found):
        raise _check.invalid("callbacks", "no `BackupAndRestore` in several processes", found, "`Resume` can.")
    mine = found
    with contextlib.ExitStack() as stack:
        if not _processes.is_first():
            stack.enter_context(_written_elsewhere(found))
        if isinstance(source, data.Batches) and steps_per_epoch is None:
            stack.enter_context(source.held())
            mine = [_CountsEpochs(source), *mine]
        if not is_list:
            yield mine
            return
        before = callbacks.callbacks
        callbacks.callbacks = mine
        try:
            yield callbacks
        finally:
            callbacks.callbacks = before


@contextlib.contextmanager
def _written_elsewhere(callbacks):
    """Within this context, callbacks write into a directory that is removed at its end.

    They have to write in every process: saving a model creates variables in Keras, which all processes must do
    together.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for number, callback in enumerate(callbacks):
            for cls, name in _WRITERS:
                if isinstance(callback, cls):
                    where = getattr(callback, name)
                    stack.callback(setattr, callback, name, where)
                    own = pathlib.Path(folder, str(number))
                    own.mkdir()
                    setattr(callback, name, str(own / pathlib.Path(where).name))
        yield


class _CountsEpochs(keras.callbacks.Callback):
    """Counts the epochs of data that do not count them; runs before all other callbacks, which may read the count."""

    async_safe = True

    def __init__(self, batches):
        super().__init__()
        self._batches = batches

    def on_epoch_end(self, epoch, logs=None):
        self._batches.epoch += 1


def _data_parts(distribution):
    """Returns the number of parts of a batch, one for each device with its own rows."""
    mesh = distribution.device_mesh
    return int(mesh.shape[list(mesh.axis_names).index(distribution.batch_dim_name)])
