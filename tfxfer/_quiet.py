"""A quiet start: hides the lines about the machine that TensorFlow writes on every import."""

import os
import re
import sys
import tempfile

_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
# Severities of a line, starting with the one that level 1 hides.
_SEVERITIES = "IWE"
# Lines about the CPU, a missing GPU and the log itself, written before the level takes effect.
_NOISE = "WARNING: All log messages before absl::|[{severities}]0000 |To enable the following instructions:"


def import_tensorflow():
    """Imports TensorFlow without the lines that it writes on every start, or those that the user's level hides.

    Anything else written to standard error in the meantime is printed afterwards.
    """
    if "tensorflow" in sys.modules:
        return
    level = os.environ.setdefault(_VARIABLE, "3")
    if level not in ("1", "2", "3"):
        return
    noise = re.compile(_NOISE.format(severities=_SEVERITIES[: int(level)]).encode())
    try:
        kept = os.dup(2)
    except OSError:  # a process without a standard error
        import tensorflow

        return
    with tempfile.TemporaryFile() as file:
        _flush()
        os.dup2(file.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
            import tensorflow_text  # noqa: F401
        finally:
            _flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            rest = [line for line in file if not noise.match(line)]
            if rest:
                os.write(2, b"".join(rest))


def _flush():
    if sys.stderr is not None:
        sys.stderr.flush()


import_tensorflow()
