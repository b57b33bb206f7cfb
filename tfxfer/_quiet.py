"""A quiet start: hides the lines about the machine that TensorFlow and LiteRT write in every process."""

import contextlib
import os
import re
import sys
import tempfile
import threading

_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
# Severities of a line, starting with the one that level 1 hides.
_SEVERITIES = "IWE"
_LOCK = threading.RLock()  # two threads at once would restore each other's file
# Lines about the CPU, a missing GPU and the log itself, written before the level takes effect.
_NOISE = "WARNING: All log messages before absl::|[{severities}]0000 |To enable the following instructions:"


def import_tensorflow():
    """Imports TensorFlow without the lines that it writes on every start, or those that the user's level hides."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault(_VARIABLE, "3")
    with without(_NOISE):
        import tensorflow  # noqa: F401
        import tensorflow_text  # noqa: F401


@contextlib.contextmanager
def without(noise):
    """Context in which lines that C++ writes to standard error are left out, if the user's level hides such lines.

    Anything else written to standard error in the meantime is printed afterwards.

    Args:
        noise: string. A regular expression that matches the beginning of such lines; `{severities}` in it stands for
            the severities that are hidden.
    """
    level = os.environ.get(_VARIABLE)
    if level not in ("1", "2", "3"):
        yield
        return
    pattern = re.compile(noise.format(severities=_SEVERITIES[: int(level)]).encode())
    with _LOCK, tempfile.TemporaryFile() as file:
        try:
            kept = os.dup(2)
        except OSError:  # a process without a standard error
            yield
            return
        _flush()
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            rest = [line for line in file if not pattern.match(line)]
            if rest:
                os.write(2, b"".join(rest))


def _flush():
    if sys.stderr is not None:
        sys.stderr.flush()


import_tensorflow()
