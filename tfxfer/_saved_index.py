"""A search index in a folder, for `search` to write and read and for `export` to read.

`index.json` holds the settings and names the files of the texts and of the vectors, each with its size and SHA-256.
Every save writes these under names of its own, and replaces `index.json` last: until then the folder holds the old
index, from then on the new one, and never the texts of one with the vectors of another.
"""

import collections
import hashlib
import json
import re
import secrets
import time

import numpy as np

from tfxfer import _disk, _neighbours

FILE = "index.json"
FORMAT = 2
# What may look again at the candidates that a precision found.
RESCORE = {"float32": (None,), "int8": (None, "float32"), "binary": (None, "binary", "int8", "float32")}
BACKENDS = ("exact", "faiss")
EXPECTED = "a folder that `SemanticIndex.save` wrote"
REMEDY = "Save the index again, or copy the whole folder again from where it is complete."

Saved = collections.namedtuple("Saved", ["settings", "texts", "arrays", "faiss", "reader"])
Saved.__doc__ = "What `read` returns: settings, texts, arrays by name, the path of faiss's file, and a `_disk.Reader`."

_ENDINGS = {"texts": "texts.json", "vectors": "vectors.npz", "faiss": "faiss"}
_OWN = re.compile(rf"index-[0-9a-f]{{16}}\.({'|'.join(map(re.escape, _ENDINGS.values()))})")
# Of format 1, in which `index.json` held the texts.
_FIRST = {"vectors": "index.npz", "faiss": "index.faiss"}
_STRING = (str, type(None))
_KEYS = {
    "precision": str,
    "rescore": _STRING,
    "multiplier": int,
    "similarity": str,
    "backend": str,
    "factory": _STRING,
    "query_prompt": _STRING,
    "document_prompt": _STRING,
    "embedding_dim": int,
}
_OF_PART = {"file": str, "bytes": int, "sha256": str}


# === Writing ===


def write(folder, settings, texts, arrays, write_faiss=None):
    """Writes an index; one that the folder holds is replaced in one step, and stays where writing fails.

    Args:
        folder: `pathlib.Path`, made where it is missing.
        settings: dict with the keys of `_KEYS`.
        texts: list of strings.
        arrays: dict of name to array: `searched`, `rescoring` and `calibration`, as far as there are, as float vectors;
            or as codes under `<name>.codes`, with `<name>.scale` and `<name>.offset`.
        write_faiss: function of a path that writes faiss's own file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = _named(folder)
    token = secrets.token_hex(8)
    writers = {
        "texts": lambda path: path.write_text(json.dumps(texts), encoding="utf-8"),
        "vectors": lambda path: _write_arrays(path, arrays),
        **({} if write_faiss is None else {"faiss": write_faiss}),
    }
    manifest = {
        "format": FORMAT,
        **settings,
        "count": len(texts),
        "arrays": {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in arrays.items()},
        "files": {},
    }
    try:
        for part, write_part in writers.items():
            file = folder / f"index-{token}.{_ENDINGS[part]}"
            with _disk.replacing(file) as path:
                write_part(path)
            manifest["files"][part] = {"file": file.name, "bytes": file.stat().st_size, "sha256": _sha256(file)}
        _disk.write_json(folder / FILE, manifest)
    finally:
        # Before the last step this save has no place in the folder, after it the one before has none.
        now = _named(folder)
        _remove(folder, [name for name in _own(folder) if token in name or name in before], now)
    _remove(folder, [name for name in _own(folder) if _is_old(folder / name)], now)


def _write_arrays(path, arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def _sha256(file):
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _named(folder):
    """The names of the files that belong to the index in a folder."""
    try:
        manifest = json.loads((folder / FILE).read_bytes())
        if "format" not in manifest:
            return set(_FIRST.values()) if "texts" in manifest else set()
        return {part["file"] for part in manifest["files"].values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()


def _own(folder):
    """The names of all files in a folder that some save wrote, complete or not."""
    names = [path.name for path in folder.iterdir()]
    return [name for name in names if _OWN.match(name) or name in _FIRST.values()]


def _is_old(path):
    """Whether a file is of a save that was killed, and not of one that is at work."""
    try:
        return _OWN.match(path.name) and time.time() - path.stat().st_mtime >= _disk.DEAD
    except OSError:
        return False


def _remove(folder, names, kept):
    for name in set(names) - kept:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError:
            continue


# === Reading ===


def read(argument, folder):
    """Reads an index, and checks that its parts are complete and belong together.

    Args:
        argument: string. The name of the argument that the folder was, for errors.
        folder: string or path.

    Returns:
        `Saved`.

    Raises:
        ValueError: for a folder without an index, or one with a part that is missing, damaged or another index's; it
            names the file.
    """
    folder = _disk.local_path(argument, folder, kind="folder")
    reader = _disk.Reader(argument, folder, EXPECTED, REMEDY)
    while True:
        before = reader.bytes(folder / FILE)
        try:
            return _read(reader, folder)
        except ValueError:
            # A save at the same time has removed what the old manifest named.
            if reader.bytes(folder / FILE) == before:
                raise


def _read(reader, folder):
    file = folder / FILE
    manifest = reader.json(file, _KEYS)
    _check_settings(reader, file, manifest)
    if "format" not in manifest:
        return _read_first(reader, folder, manifest)
    if manifest["format"] != FORMAT:
        raise reader.error(file, f"should be of format {FORMAT} or less, not {manifest['format']!r}")
    reader.check_keys(file, manifest, {"count": int, "arrays": dict, "files": dict})
    needed = ["texts", "vectors", *(["faiss"] if manifest["backend"] == "faiss" else [])]
    reader.check_keys(file, manifest["files"], dict.fromkeys(needed, dict), " in 'files'")
    paths = {part: _checked_part(reader, folder, part, manifest["files"][part]) for part in needed}
    texts = reader.json(paths["texts"])
    _check_texts(reader, paths["texts"], texts)
    if len(texts) != manifest["count"]:
        raise reader.error(paths["texts"], f"holds {len(texts)} texts, and {file} speaks of {manifest['count']}")
    arrays = _arrays(reader, paths["vectors"], manifest, len(texts))
    found = {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in arrays.items()}
    if found != manifest["arrays"]:
        raise reader.error(paths["vectors"], f"holds {found}, and {file} speaks of {manifest['arrays']}")
    return Saved({key: manifest[key] for key in _KEYS}, texts, arrays, paths.get("faiss"), reader)


def _read_first(reader, folder, manifest):
    """Reads format 1, whose parts are tied by nothing but their numbers."""
    file = folder / FILE
    reader.check_keys(file, manifest, {"texts": list})
    _check_texts(reader, file, manifest["texts"])
    arrays = _arrays(reader, folder / _FIRST["vectors"], manifest, len(manifest["texts"]))
    faiss = folder / _FIRST["faiss"] if manifest["backend"] == "faiss" else None
    return Saved({key: manifest[key] for key in _KEYS}, manifest["texts"], arrays, faiss, reader)


def _check_settings(reader, file, settings):
    choices = {
        "precision": tuple(RESCORE),
        "rescore": RESCORE.get(settings["precision"], ()),
        "similarity": _neighbours.SIMILARITIES,
        "backend": BACKENDS,
    }
    for key, options in choices.items():
        if settings[key] not in options:
            raise reader.error(file, f"has a wrong value of {key!r}, {settings[key]!r}")
    for key in ("multiplier", "embedding_dim"):
        if settings[key] < 1:
            raise reader.error(file, f"has a wrong value of {key!r}, {settings[key]!r}")


def _checked_part(reader, folder, part, facts):
    """Returns the path of a part that is what `index.json` says of it."""
    reader.check_keys(folder / FILE, facts, _OF_PART, f" of {part!r}")
    name = facts["file"]
    if not _OWN.fullmatch(name) or not name.endswith(_ENDINGS[part]):
        raise reader.error(folder / FILE, f"names {name!r} for the {part}, which no save writes")
    file = folder / name
    reader.check_file(file)
    with reader.guard(file):
        size = file.stat().st_size
        sha256 = _sha256(file)
    if size != facts["bytes"]:
        raise reader.error(file, f"has {size} bytes, not {facts['bytes']}: it is cut short, or another index's")
    if sha256 != facts["sha256"]:
        raise reader.error(file, "is damaged or another index's: its SHA-256 is not the one in index.json")
    return file


def _check_texts(reader, file, texts):
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise reader.error(file, "holds no list of texts")


def _arrays(reader, file, settings, count):
    """Returns the arrays of a file: those that the settings need, each with a row for each text."""
    reader.check_file(file)
    # numpy leaves the file open where it cannot read it.
    with reader.guard(file), open(file, "rb") as opened, np.load(opened, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    dim, precision, rescore = settings["embedding_dim"], settings["precision"], settings["rescore"]
    is_exact = settings["backend"] == "exact"
    expected = _expected("searched", precision, count, dim) if is_exact else {}
    if rescore is not None and (rescore != precision or not is_exact):
        expected |= _expected("rescoring", rescore, count, dim)
    if "calibration.codes" in arrays:
        expected |= _expected("calibration", "int8", len(np.atleast_1d(arrays["calibration.codes"])), dim)
    for name, (dtype, shape) in expected.items():
        if name not in arrays:
            raise reader.error(file, f"has no array {name!r}")
        if arrays[name].dtype != dtype or arrays[name].shape != shape:
            received = f"{arrays[name].dtype} of shape {arrays[name].shape}"
            raise reader.error(
                file, f"holds {received} as {name!r}, not {dtype} of shape {shape}, which {count} texts need"
            )
    return arrays


def _expected(name, precision, count, dim):
    """The dtype and shape of the arrays that vectors of a precision are made of."""
    if precision == "float32":
        return {name: ("float32", (count, dim))}
    if precision == "binary":
        return {f"{name}.codes": ("uint64", (count, -(-dim // 64)))}
    steps = {f"{name}.{key}": ("float32", (dim,)) for key in ("scale", "offset")}
    return {f"{name}.codes": ("int8", (count, dim)), **steps}
