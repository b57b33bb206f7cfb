"""Saves an index in one file: settings, texts and arrays together, so that parts of two indexes cannot mix."""

import collections
import json
from typing import Any

import numpy as np

from tfxfer import _disk

FORMAT = 1
_REMEDY = "Save the index again, or copy the file again from where it is complete."
Saved = collections.namedtuple("Saved", ["settings", "texts", "arrays", "file", "reader"])
Saved.__doc__ = "The result of `read`: settings, texts, arrays by name, the path of the file, and a `_disk.Reader`."


def write(folder, name, settings, texts, arrays):
    """Writes an index; an existing one in the directory is replaced atomically, and is kept if writing fails.

    Args:
        folder: string or path on the local disk. Created if it does not exist.
        name: string. The file's name.
        settings: JSON-serializable dict.
        texts: list of strings.
        arrays: dict of name to array.
    """
    folder = _disk.local_path("folder", folder, kind="folder")
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"settings": {"format": FORMAT, **settings}, "texts": texts}
    held: dict[str, Any] = {key: np.frombuffer(json.dumps(value).encode(), "uint8") for key, value in parts.items()}
    with _disk.writing(folder / name) as file:
        np.savez(file, **held, **arrays)


def read(folder, name, made_by, keys, expected):
    """Reads an index that `write` wrote.

    Args:
        folder: string or path.
        name: string. The file's name.
        made_by: string. The function that writes such an index, for error messages.
        keys: dict of the settings to their types.
        expected: function of the settings and the number of texts that returns a dict of the required arrays: name to
            dtype and shape, with `None` for an arbitrary size.

    Returns:
        `Saved`.

    Raises:
        ValueError: if the directory has no index, or the file is damaged or incomplete; the message names the file.
    """
    folder = _disk.local_path("folder", folder, kind="folder")
    reader = _disk.Reader("folder", folder, f"a folder that `{made_by}` wrote", _REMEDY)
    file = folder / name
    reader.check_file(file)
    with reader.guard(file), open(file, "rb") as opened, np.load(opened, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
        settings, texts = (json.loads(arrays.pop(key).tobytes()) for key in ("settings", "texts"))
    reader.check_keys(file, settings, {"format": int, **keys}, " in its settings")
    if settings.pop("format") != FORMAT:
        raise reader.error(file, f"should be of format {FORMAT}")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise reader.error(file, "holds no list of texts")
    for key, (dtype, shape) in expected(settings, len(texts)).items():
        if key not in arrays:
            raise reader.error(file, f"has no array {key!r}")
        found = arrays[key]
        fits = found.ndim == len(shape) and all(b is None or a == b for a, b in zip(found.shape, shape, strict=True))
        if found.dtype != dtype or not fits:
            received = f"{found.dtype} of shape {found.shape}"
            raise reader.error(file, f"holds {received} as {key!r}, not {dtype} of shape {shape}")
    return Saved(settings, texts, arrays, file, reader)
