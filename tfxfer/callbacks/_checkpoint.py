"""Training checkpoints in a single file: arrays, and plain values as JSON."""

import glob
import json
import zipfile

import keras
import ml_dtypes  # noqa: F401  gives numpy the names bfloat16 and float8_...
import numpy as np

from tfxfer import _disk

FORMAT = 1
_STATE = "state"
_KEYS = {
    "identity": dict,
    "epoch": int,
    "batch": int,
    "data_epoch": (int, type(None)),
    "stopped": bool,
    "variables": dict,
    "callbacks": list,
}


class Arrays:
    """The arrays of one checkpoint; plain values refer to them by number."""

    def __init__(self, values=()):
        self.values = list(values)

    def add(self, value):
        """Adds an array or a variable and returns its reference for the JSON."""
        self.values.append(value)
        dtype = value.dtype if isinstance(value.dtype, str) else np.dtype(value.dtype).name
        return {"array": len(self.values) - 1, "dtype": dtype}

    def get(self, reference):
        """Returns the array of a reference that `add` returned."""
        value = self.values[reference["array"]]
        dtype = np.dtype(reference["dtype"])
        return value if value.dtype == dtype else value.view(dtype)


def encode(value, arrays):
    """Converts a plain value to JSON and adds its arrays to `arrays`.

    Plain values are `None`, bools, numbers, strings, numpy arrays, and lists, tuples and dicts of these.

    Raises:
        TypeError: if the value is not plain.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype != object:
        return arrays.add(np.asarray(value))
    if type(value) is list:
        return [encode(each, arrays) for each in value]
    if type(value) is tuple:
        return {"tuple": [encode(each, arrays) for each in value]}
    if type(value) is dict:
        return {"dict": [[encode(key, arrays), encode(each, arrays)] for key, each in value.items()]}
    raise TypeError(f"no plain value: {type(value)}")


def decode(value, arrays):
    """Converts the result of `encode` back to the value."""
    if isinstance(value, list):
        return [decode(each, arrays) for each in value]
    if isinstance(value, dict):
        if "array" in value:
            array = arrays.get(value)
            return array if array.ndim else array[()]
        if "tuple" in value:
            return tuple(decode(each, arrays) for each in value["tuple"])
        return {decode(key, arrays): decode(each, arrays) for key, each in value["dict"]}
    return value


def write(path, state, arrays):
    """Writes a checkpoint atomically: at any moment, `path` is the complete old file or the complete new one.

    Args:
        path: `pathlib.Path`.
        state: dict for JSON.
        arrays: `Arrays`.
    """
    # Fetch arrays one at a time, so that the host need not hold a second copy of a model on an accelerator.
    with _disk.writing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        text = np.frombuffer(json.dumps({"format": FORMAT, **state}).encode(), "uint8")
        _write_array(archive, _STATE, text)
        for number, value in enumerate(arrays.values):
            array = value if isinstance(value, np.ndarray) else keras.ops.convert_to_numpy(value)
            # numpy's format has no names for the small floats.
            known = array.dtype.kind in "biufc"
            _write_array(archive, str(number), array if known else array.view(f"u{array.itemsize}"))


def _write_array(archive, name, array):
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)


def clear(path):
    """Removes the temporary files that interrupted writes left next to `path`."""
    _disk.remove_parts(path.parent, glob.escape(path.name), age=0)


def read(path, *, only_state=False):
    """Reads a checkpoint that `write` wrote.

    Args:
        path: `pathlib.Path`.
        only_state: bool. Whether to skip the arrays.

    Returns:
        (the dict, `Arrays`), or `None` if there is no such file.

    Raises:
        ValueError: if the file is damaged or has another format; the error names the file.
    """
    if not path.exists():
        return None
    reader = _disk.Reader("folder", path.parent, "one whose checkpoint can be read", "Delete it to start over.")
    reader.check_file(path)
    with reader.guard(path), open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        state = json.loads(archive[_STATE].tobytes())
        count = 0 if only_state else len(archive.files) - 1
        arrays = Arrays(archive[str(number)] for number in range(count))
    reader.check_keys(path, state, {"format": int})
    if state["format"] != FORMAT:
        raise reader.error(path, f"should be of format {FORMAT}, not {state['format']}")
    reader.check_keys(path, state, _KEYS)
    return state, arrays
