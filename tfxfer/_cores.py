"""The cores that this process may use, and the limits on threads in its environment."""

import os


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limits(*names: str) -> list[int]:
    """Returns the numbers of threads that environment variables set; 0 and other texts set none."""
    given = [os.environ.get(name, "") for name in names]
    return [int(value) for value in given if value.isdecimal() and int(value)]
