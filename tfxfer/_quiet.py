"""A quiet start: what TensorFlow says of the machine while it is imported, and before anything went wrong."""

import os
import re
import sys
import tempfile

_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
# How severe a line is, from what level 1 leaves out on.
_SEVERITIES = "IWE"
# Lines about the processor, the GPU that is not there and the log itself, written before the level takes effect.
_NOISE = "WARNING: All log messages before absl::|[{severities}]0000 |To enable the following instructions:"


def import_tensorflow():
    """Imports TensorFlow without the lines that it writes at each start, or those that the user's level leaves out.

    What else is written to standard error meanwhile comes out afterwards.
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
