"""Makes `import tfxfer` possible on a machine without TensorFlow, for the parts that compute only with Keras.

TensorFlow tokenizes, loads data and exports; encoders, losses and training steps use `keras.ops` and run on JAX. The
package nevertheless imports TensorFlow at the top. `install` replaces `tensorflow` and `tensorflow_text` with stubs
that are just enough for those imports: empty classes, decorators that change nothing. Anything that needs TensorFlow
fails as soon as it is used. Keras and KerasHub are imported first, and work without TensorFlow.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types

_NAMES = ("tensorflow", "tensorflow_text")


def install():
    """Installs the stubs if TensorFlow is not installed; returns whether it did."""
    if "tensorflow" in sys.modules or importlib.util.find_spec("tensorflow") is not None:
        return False
    import keras
    import keras_hub  # noqa: F401 - looks for TensorFlow on import
    from keras.src.utils import module_utils

    if keras.config.backend() == "tensorflow":
        raise ImportError("TensorFlow is not installed. Set KERAS_BACKEND=jax.")
    if module_utils.tensorflow.available:
        raise ImportError("Expected no TensorFlow, but Keras finds one")
    sys.meta_path.append(_Finder())
    return True


class _Name:
    """Any attribute of the missing modules: as a decorator it changes nothing, otherwise it returns another name."""

    def __init__(self, path):
        self._path = path

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _attribute(f"{self._path}.{name}")

    def __call__(self, *args, **kwargs):
        if len(args) == 1 and not kwargs and isinstance(args[0], types.FunctionType):
            return args[0]
        return _Name(f"{self._path}()")

    def __repr__(self):
        return f"<{self._path}, which is not installed>"


class _Module(types.ModuleType):
    """A missing module."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _attribute(f"{self.__name__}.{name}")


def _attribute(path):
    """Returns a class for a capitalized name, which allows subclasses and `isinstance`; else a `_Name`."""
    name = path.rpartition(".")[2]
    if name[:1].isupper():
        return _CLASSES.setdefault(path, type(name, (), {"__init__": _take, "__module__": path.rpartition(".")[0]}))
    return _Name(path)


def _take(self, *args, **kwargs):
    """Accepts any arguments: some classes are instantiated while the package is imported."""


_CLASSES = {}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the missing modules, after all other finders."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in _NAMES:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass
