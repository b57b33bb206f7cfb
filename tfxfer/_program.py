"""Whether the package runs as a program, whose `--help` does not need TensorFlow."""

import os
import sys

_SCRIPTS = ("tfxfer", "tfxfer.exe", "tfxfer-script.py")


def is_program() -> bool:
    """Whether this process is `python -m tfxfer` or the script `tfxfer`."""
    if sys.argv[:1] == ["-m"]:  # while Python looks for the module
        given = sys.orig_argv
        return "-m" in given and given[given.index("-m") + 1 :][:1] == ["tfxfer"]
    return os.path.basename(sys.argv[0] if sys.argv else "") in _SCRIPTS
