"""Keras Tuner, which need not be installed."""

import contextlib
import importlib
import importlib.util


def import_keras_tuner():
    """Returns the package; raises an `ImportError` that says how to install it where it is missing."""
    # Keras Tuner itself imports TensorBoard in each trial, and fails there where it is missing.
    missing = [name for name in ("keras_tuner", "tensorboard") if importlib.util.find_spec(name) is None]
    if missing:
        message = f"`tfxfer.tuning` needs {' and '.join(missing)}: `pip install tfxfer[tune]`."
        raise ImportError(message, name=missing[0])
    import keras_tuner

    return keras_tuner


def hypermodel(module, name):
    """Returns the hypermodel class `name` out of a module that cannot be imported without Keras Tuner."""
    import_keras_tuner()
    return getattr(importlib.import_module(module), name)


@contextlib.contextmanager
def fatal():
    """Turns a `ValueError` into one that ends the search: Keras Tuner goes on after any other error of a trial."""
    errors = import_keras_tuner().errors
    try:
        yield
    except errors.FatalError:
        raise
    except ValueError as error:
        raise errors.FatalValueError(str(error)) from error
