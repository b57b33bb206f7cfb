"""What TensorFlow keeps of a model that is gone."""

import contextlib
import sys

# An operation with a gradient of its own (the backbones have some in each block) gets an entry in TensorFlow's registry
# of gradients each time that it is traced, and the entry holds the whole graph, for good.
_PREFIX = "CustomGradient-"


@contextlib.contextmanager
def released():
    """Takes the gradients that were registered within out of the registry: what was traced there is done with.

    Without, memory grows with every model that is trained.
    """
    before = set(_registry())
    try:
        yield
    finally:
        registry = _registry()
        for name in [name for name in registry if name.startswith(_PREFIX) and name not in before]:
            del registry[name]


def _registry():
    """TensorFlow's gradients by name; empty where it is not the backend. Nothing public leads there."""
    operations = sys.modules.get("tensorflow.python.framework.ops")
    return getattr(getattr(operations, "gradient_registry", None), "_registry", {})
