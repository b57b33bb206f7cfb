"""Stores features: arrays in memory or in a directory, identified by a hash of everything they depend on."""

import contextlib
import gc
import json
import os
import shutil
import weakref

import ml_dtypes
import numpy as np

from tfxfer import _check, _disk, _processes

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
_PREFIX = "frozen-"


class Store:
    """Arrays by key, in memory or in a directory, limited in bytes.

    Args:
        folder: string or path of the directory, or `None` for memory.
        max_bytes: int. In memory, the maximum size of all arrays together; on disk, of all files that stores have
            written to the directory. The least recently used ones are removed to make room for a new one.
    """

    def __init__(self, folder, max_bytes):
        self.folder = None if folder is None else _disk.local_path("folder", folder, kind="folder")
        self.max_bytes = max_bytes
        self._arrays = {}
        self._users = {}

    def use(self, key, user):
        """Keeps an array while `user` exists, and afterwards until another array must be created."""
        self._users.setdefault(key, weakref.WeakSet()).add(user)

    def _let_go(self):
        """Releases the arrays that are no longer used; in a directory, their files remain."""
        gc.collect()  # datasets contain reference cycles
        for key in [key for key in self._arrays if not len(self._users.get(key, ()))]:
            self._users.pop(key, None)
            del self._arrays[key]

    @property
    def used(self):
        """The total size of the kept arrays in bytes."""
        return sum(array.nbytes for array in self._arrays.values())

    def find(self, key, shape, dtype):
        """Returns the array of a key, or `None` if there is no complete one."""
        if key not in self._arrays and self.folder is not None:
            array = _read(self.folder, key, shape, dtype)
            if array is not None:
                self._arrays[key] = array
        return self._arrays.get(key)

    def check_room(self, arrays):
        """Raises if arrays, given by shape and dtype, would not fit, before any of them is computed."""
        self._let_go()
        needed, used = sum(_size(shape, dtype) for shape, dtype in arrays), self.used
        remedies = {
            'dtype="float16" (half of float32)': any(DTYPES[dtype] == np.float32 for _, dtype in arrays),
            "a `folder` on disk": self.folder is None,
            "a larger `max_bytes`": True,
            "fewer rows": True,
        }
        remedy = f"Give {', or '.join(name for name, helps in remedies.items() if helps)}."
        if used + needed > self.max_bytes:
            held = f", in addition to {used:,} in use" if used else ""
            whole = " and ".join(f"{shape[0]:,} vectors of {shape[1]:,} x {dtype}" for shape, dtype in arrays)
            expected = f"at least {used + needed:,} bytes: {whole} take {needed:,}"
            raise _check.invalid("max_bytes", expected + held, self.max_bytes, remedy)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free + sum(_sizes(self.folder, self._arrays).values())
        if needed > free:
            raise _check.invalid("folder", f"one with {needed:,} bytes of room, not {free:,}", str(self.folder), remedy)

    def fill(self, key, shape, dtype, parts):
        """Concatenates `parts`, an iterator of arrays, into one array; keeps and returns it."""
        kind = DTYPES[dtype]
        if self.folder is None:
            array, start = np.empty(shape, kind), 0
            for part in parts:
                array[start : start + len(part)] = _cast(part, dtype)
                start += len(part)
        elif not _processes.is_first():  # the first process writes for all
            for _ in parts:
                pass
            _processes.wait(key)
            array = _read(self.folder, key, shape, dtype)
            if array is None:
                remedy = "The first process writes there: give one that all hosts share, or none."
                raise _check.invalid("folder", "one on a file system shared by all processes", str(self.folder), remedy)
        else:
            _make_room(self.folder, _size(shape, dtype), self.max_bytes, self._arrays)
            with _disk.writing(_data(self.folder, key)) as file:
                for part in parts:
                    file.write(_cast(part, dtype).tobytes())
            # Written last: without it, the array of a key is incomplete.
            _disk.write_json(_facts(self.folder, key), _expected(key, shape, dtype))
            _processes.wait(key)
            array = _read(self.folder, key, shape, dtype)
        self._arrays[key] = array
        return array


def _cast(part, dtype):
    with np.errstate(over="ignore"):
        made = part.astype(DTYPES[dtype])
    if dtype == "float16" and np.isinf(made).any():
        largest = float(np.abs(part.astype("float32")).max())
        raise _check.invalid("dtype", f"one that holds values up to {largest:.3g}", dtype, 'Pass dtype="bfloat16".')
    return made


def _size(shape, dtype):
    return int(np.prod(shape)) * np.dtype(DTYPES[dtype]).itemsize


def _data(folder, key):
    return folder / f"{_PREFIX}{key}.bin"


def _facts(folder, key):
    return folder / f"{_PREFIX}{key}.json"


def _expected(key, shape, dtype):
    return {"key": key, "shape": list(shape), "dtype": dtype, "bytes": _size(shape, dtype)}


def _read(folder, key, shape, dtype):
    """Returns the array of a key from its file, or `None` if it is missing or incomplete."""
    data, facts = _data(folder, key), _facts(folder, key)
    try:
        is_whole = json.loads(facts.read_text()) == _expected(key, shape, dtype)
        is_whole = is_whole and data.stat().st_size == _size(shape, dtype)
    except (OSError, ValueError):
        return None
    if not is_whole:
        return None
    with contextlib.suppress(OSError):  # a read-only directory
        os.utime(facts)
    if not _size(shape, dtype):
        return np.zeros(shape, DTYPES[dtype])
    return np.memmap(data, DTYPES[dtype], "r", shape=tuple(shape))


def _sizes(folder, kept):
    """Returns the size in bytes of each key in a directory, except the keys in `kept`."""
    found = {}
    for path in folder.glob(f"{_PREFIX}*"):
        key = path.name.removeprefix(_PREFIX).partition(".")[0]
        if key not in kept:
            with contextlib.suppress(FileNotFoundError):
                found[key] = found.get(key, 0) + path.stat().st_size
    return found


def _make_room(folder, needed, max_bytes, kept):
    """Removes leftover partial files, and the least recently used arrays until `needed` bytes fit."""
    _disk.remove_parts(folder, f"{_PREFIX}*")
    sizes = _sizes(folder, kept)
    used = needed + sum(array.nbytes for array in kept.values()) + sum(sizes.values())
    free = shutil.disk_usage(folder).free

    def last_use(key):
        facts = _facts(folder, key)
        return facts.stat().st_mtime if facts.exists() else 0.0

    for key in sorted(sizes, key=last_use):
        if used <= max_bytes and needed <= free:
            return
        # The facts first: anything left is then incomplete.
        for path in (_facts(folder, key), _data(folder, key)):
            path.unlink(missing_ok=True)
        used, free = used - sizes[key], shutil.disk_usage(folder).free
