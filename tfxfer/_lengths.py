"""Whether the rows of a batch differ in length at random, which encoders can use."""

import contextlib
import contextvars
from collections.abc import Iterator

_MIXED = contextvars.ContextVar("mixed", default=False)


@contextlib.contextmanager
def mixed_lengths(applies: bool = True) -> Iterator[None]:
    """Marks the batches of training steps traced in this context as of mixed lengths.

    Encoders on TensorFlow then compute attention in groups of rows of similar length. Batches arranged by length gain
    nothing from groups, and each group adds operations to the graph.
    """
    token = _MIXED.set(applies)
    try:
        yield
    finally:
        _MIXED.reset(token)


def are_mixed() -> bool:
    """Returns whether a context marks batches as of mixed lengths."""
    return _MIXED.get()
