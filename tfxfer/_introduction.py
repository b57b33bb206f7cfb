"""Callbacks that know each other, the data and the model: `fit` introduces them before it begins."""

import dataclasses
from typing import Any

import keras


@dataclasses.dataclass
class Training:
    """The `fit` call that a callback belongs to, passed to its method `introduce`.

    Args:
        model: the model being trained.
        data: the training data. A callback may replace it.
        callbacks: list of all callbacks, in order, without those that Keras adds unless there is a `list`.
        list: `keras.callbacks.CallbackList` of them, or `None`: Keras makes it later, unless a callback requests it
            with an attribute `needs_list`.
        digest: a hash of the rows that `data` was made from, if the data does not identify them (stored features).
    """

    model: Any
    data: Any
    callbacks: list
    list: Any = None
    digest: str | None = None


def introduce(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    callbacks: Any = None,
    digest: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    steps_per_epoch: int | None = None,
    verbose: int | str = "auto",
    **_: Any,
) -> Any:
    """Introduces callbacks to each other, the model and the data; `fit` of this package's models does so by itself.

    For any other `keras.Model`, call it before `fit`. `callbacks.Resume` needs it; evaluations check their order.

    Args:
        model: compiled `keras.Model` that is about to be trained.
        x: the training data.
        y: targets; ignored.
        callbacks: as in `keras.Model.fit`: a callback, nested lists of them, or a `keras.callbacks.CallbackList`.
        digest: a hash of the rows that `x` was made from, if `x` does not identify them.
        batch_size: as in `fit`.
        epochs: as in `fit`.
        steps_per_epoch: as in `fit`.
        verbose: as in `fit`.

    Returns:
        (callbacks, x): the values to pass to `fit` instead.

    Raises:
        ValueError: if a callback rejects the training, e.g. an `Evaluate` after a callback that monitors its values.

    Example:

    ```python
    callbacks, x = tx.callbacks.introduce(model, x, callbacks=[tx.callbacks.Resume("runs/one")], epochs=3)
    model.fit(x, callbacks=callbacks, epochs=3)
    ```
    """
    given = callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else None
    if given is not None and getattr(given, "model", None) is None:  # Keras would not do it
        given.set_model(model)
    found = given.callbacks if given is not None else keras.tree.flatten(callbacks or [])
    introduced = [callback for callback in found if hasattr(callback, "introduce")]
    if not introduced:
        return callbacks, x
    if any(getattr(callback, "needs_list", False) for callback in introduced):
        steps = steps_per_epoch or _batches(x, batch_size)
        params = {"verbose": verbose, "epochs": epochs, "steps": steps}
        if given is None:
            options = {"add_history": True, "add_progbar": verbose != 0, "model": model}
            callbacks = given = keras.callbacks.CallbackList(list(found), **options, **params)
        else:
            given.set_params({**params, **(given.params or {})})
    training = Training(model, x, list(found if given is None else given.callbacks), given, digest)
    for callback in introduced:
        callback.introduce(training)
    return callbacks, training.data


def _batches(x, batch_size):
    """Returns the number of batches in an epoch, or `None` if it is unknown."""
    if hasattr(x, "cardinality"):
        count = int(x.cardinality())
        return count if count >= 0 else None
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches
    arrays = [each for each in keras.tree.flatten(x) if getattr(each, "shape", ())]
    return -(-int(arrays[0].shape[0]) // (batch_size or 32)) if arrays else None
