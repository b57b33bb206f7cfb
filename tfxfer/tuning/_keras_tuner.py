"""Keras Tuner as an optional dependency."""

import contextlib
import importlib
import importlib.util


def import_keras_tuner():
    """Returns the package; if it is missing, raises an `ImportError` with the command to install it."""
    # Keras Tuner imports TensorBoard in each trial, and fails if it is missing.
    missing = [name for name in ("keras_tuner", "tensorboard") if importlib.util.find_spec(name) is None]
    if missing:
        message = f"`tfxfer.tuning` needs {' and '.join(missing)}: `pip install tfxfer[tune]`."
        raise ImportError(message, name=missing[0])
    import keras_tuner

    return keras_tuner


def hypermodel(module, name):
    """Returns the hypermodel class `name` from a module that cannot be imported without Keras Tuner."""
    import_keras_tuner()
    return getattr(importlib.import_module(module), name)


@contextlib.contextmanager
def fatal():
    """Converts a `ValueError` to one that ends the search: after any other error, Keras Tuner runs the next trial."""
    errors = import_keras_tuner().errors
    try:
        yield
    except errors.FatalError:
        raise
    except ValueError as error:
        raise errors.FatalValueError(str(error)) from error
