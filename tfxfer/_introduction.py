"""Callbacks that know one another, the data and the model: `fit` introduces them before it begins."""

import dataclasses
from typing import Any

import keras


@dataclasses.dataclass
class Training:
    """What a callback is told of the `fit` in which it stands, by its method `introduce`.

    Args:
        model: the model that is trained.
        data: what it is trained on. A callback may put something else in its place.
        callbacks: list of all callbacks, in order, those that Keras adds excluded unless there is a `list`.
        list: `keras.callbacks.CallbackList` of them, or `None`: Keras makes it later, unless a callback asks for it by
            an attribute `needs_list`.
        digest: a hash of the rows that `data` were made of, where these do not tell: of stored features.
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
        x: what it will be trained on.
        y: targets; they play no part.
        callbacks: as `keras.Model.fit` has them: one, nested lists of them, or a `keras.callbacks.CallbackList`.
        digest: a hash of the rows that `x` was made of, where these do not tell.
        batch_size: as `fit` has it.
        epochs: as `fit` has it.
        steps_per_epoch: as `fit` has it.
        verbose: as `fit` has it.

    Returns:
        (callbacks, x): what to give to `fit` in place of these.

    Raises:
        ValueError: if a callback refuses the training, such as an `Evaluate` after a callback that follows its values.

    Example:

    ```python
    callbacks, x = tx.callbacks.introduce(model, x, callbacks=[tx.callbacks.Resume("runs/one")], epochs=3)
    model.fit(x, callbacks=callbacks, epochs=3)
    ```
    """
    given = callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else None
    if given is not None and getattr(given, "model", None) is None:  # which Keras would not do
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
    """The batches of an epoch, or `None` where that is not known."""
    if hasattr(x, "cardinality"):
        count = int(x.cardinality())
        return count if count >= 0 else None
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches
    arrays = [each for each in keras.tree.flatten(x) if getattr(each, "shape", ())]
    return -(-int(arrays[0].shape[0]) // (batch_size or 32)) if arrays else None
