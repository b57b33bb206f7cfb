"""Imports without garbage collection, which would look through a growing number of objects again and again."""

import contextlib
import gc


@contextlib.contextmanager
def paused():
    """Context in which Python does not look for garbage in cycles, which importing makes next to none of."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
