"""A search index in a directory: `search` writes and reads it, `export` reads it.

`index.json` holds the settings and the names of the files of texts and vectors; see `_parted`.
"""

import collections
import zipfile
from typing import Any

import numpy as np

from tfxfer import _disk, _neighbours, _parted

FILE = "index.json"
# 3 has user-given ids or metadata, removed vectors inside faiss's file, or usearch; without these, 2 is written.
FORMAT = 3
# The precisions that can rescore the candidates of each precision.
RESCORE = {"float32": (None,), "int8": (None, "float32"), "binary": (None, "binary", "int8", "float32")}
BACKENDS = ("exact", "faiss", "usearch")
EXPECTED = "a folder that `SemanticIndex.save` wrote"
REMEDY = "Save the index again, or copy the whole folder again from a complete one."

Saved = collections.namedtuple("Saved", ["settings", "texts", "arrays", "engine", "reader", "records"])
Saved.__doc__ = (
    "The result of `read`: settings, texts, arrays by name, the path of faiss's or usearch's file, a `_disk.Reader`, "
    "and ids and metadata, or `None` if ids count from 0."
)

# For format 1, in which `index.json` held the texts.
_FIRST = {"vectors": "index.npz", "faiss": "index.faiss"}
_LAYOUT = _parted.Layout(
    FILE,
    "index",
    {
        "texts": "texts.json",
        "vectors": "vectors.npz",
        "faiss": "faiss",
        "usearch": "usearch",
        "records": "records.json",
    },
    _FIRST.values(),
)
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


# === Writing ===


def write(folder, settings, texts, arrays, write_engine=None, records=None):
    """Writes an index; an existing one in the directory is replaced atomically, and kept if writing fails.

    Args:
        folder: `pathlib.Path`, created if it is missing.
        settings: dict with the keys of `_KEYS`.
        texts: list of strings.
        arrays: dict of name to array: those of `searched`, `rescoring` and `calibration` that exist, as float vectors,
            or as codes under `<name>.codes`, with `<name>.scale` and `<name>.offset`; and `labels` of an engine.
        write_engine: function of a path that writes the file of faiss or usearch.
        records: dict of ids and metadata, as returned by `read`; `None` if ids count from 0.
    """
    backend = settings["backend"]
    writers = {
        "texts": _parted.write_json(texts),
        "vectors": lambda path: _write_arrays(path, arrays),
        **({} if write_engine is None else {backend: write_engine}),
        **({} if records is None else {"records": _parted.write_json(records)}),
    }
    is_new = records is not None or "labels" in arrays or backend == "usearch"
    manifest = {
        "format": FORMAT if is_new else 2,
        **settings,
        "count": len(texts),
        "arrays": {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in arrays.items()},
    }
    _parted.write(_LAYOUT, folder, manifest, writers)


def _write_arrays(path, arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)


# === Reading ===


def read(argument, folder, *, mmap=False):
    """Reads an index, and checks that its parts are complete and belong together.

    Args:
        argument: string. The name of the argument that named the directory, for errors.
        folder: string or path.
        mmap: bool. Whether large arrays stay on disk; their bytes are then not checked against the SHA-256.

    Returns:
        `Saved`.

    Raises:
        ValueError: if the directory has no index, or a part is missing, damaged or from another index; the message
            names the file.
    """
    folder = _disk.local_path(argument, folder, kind="folder")
    reader = _disk.Reader(argument, folder, EXPECTED, REMEDY)
    return _parted.read(reader, folder / FILE, lambda: _read(reader, folder, mmap))


def _read(reader, folder, mmap):
    file = folder / FILE
    manifest = reader.json(file, _KEYS)
    _check_settings(reader, file, manifest)
    if "format" not in manifest:
        return _read_first(reader, folder, manifest)
    if manifest["format"] not in (2, FORMAT):
        raise reader.error(file, f"should be of format {FORMAT} or less, not {manifest['format']!r}")
    reader.check_keys(file, manifest, {"count": int, "arrays": dict, "files": dict})
    backend, files = manifest["backend"], manifest["files"]
    needed = ["texts", "vectors", *([] if backend == "exact" else [backend])]
    reader.check_keys(file, files, dict.fromkeys(needed, dict), " in 'files'")
    needed += ["records"] if "records" in files else []
    large = {"vectors", "usearch"} if mmap else set()
    paths = {
        part: _parted.checked_part(_LAYOUT, reader, folder, part, files[part], is_whole=part not in large)
        for part in needed
    }
    texts = reader.json(paths["texts"])
    _parted.check_texts(reader, paths["texts"], texts)
    if len(texts) != manifest["count"]:
        raise reader.error(paths["texts"], f"holds {len(texts)} texts, but {file} lists {manifest['count']}")
    arrays = _arrays(reader, paths["vectors"], manifest, len(texts), mmap)
    found = {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in arrays.items()}
    if found != manifest["arrays"]:
        raise reader.error(paths["vectors"], f"holds {found}, but {file} lists {manifest['arrays']}")
    records = None
    if "records" in paths:
        records = reader.json(paths["records"], {"ids": list, "next": int, "metadata": dict})
    return Saved({key: manifest[key] for key in _KEYS}, texts, arrays, paths.get(backend), reader, records)


def _read_first(reader, folder, manifest):
    """Reads format 1, whose parts are linked only by their counts."""
    file = folder / FILE
    reader.check_keys(file, manifest, {"texts": list})
    _parted.check_texts(reader, file, manifest["texts"])
    arrays = _arrays(reader, folder / _FIRST["vectors"], manifest, len(manifest["texts"]), False)
    faiss = folder / _FIRST["faiss"] if manifest["backend"] == "faiss" else None
    return Saved({key: manifest[key] for key in _KEYS}, manifest["texts"], arrays, faiss, reader, None)


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


def _arrays(reader, file, settings, count, mmap):
    """Returns the arrays of a file that the settings require, each with a row for each text."""
    reader.check_file(file)
    # numpy leaves the file open if it cannot read it.
    with reader.guard(file), open(file, "rb") as opened, np.load(opened, allow_pickle=False) as archive:
        arrays = _mapped(file) if mmap else {name: archive[name] for name in archive.files}
    dim, precision, rescore = settings["embedding_dim"], settings["precision"], settings["rescore"]
    is_exact = settings["backend"] == "exact"
    expected = _expected("searched", precision, count, dim) if is_exact else {}
    if rescore is not None and (rescore != precision or not is_exact):
        expected |= _expected("rescoring", rescore, count, dim)
    if "calibration.codes" in arrays:
        expected |= _expected("calibration", "int8", len(np.atleast_1d(arrays["calibration.codes"])), dim)
    if "labels" in arrays:
        expected["labels"] = ("int64", arrays["labels"].shape[:1])
    for name, (dtype, shape) in expected.items():
        if name not in arrays:
            raise reader.error(file, f"has no array {name!r}")
        if arrays[name].dtype != dtype or arrays[name].shape != shape:
            received = f"{arrays[name].dtype} of shape {arrays[name].shape}"
            raise reader.error(
                file, f"holds {received} as {name!r}, not {dtype} of shape {shape}, which {count} texts need"
            )
    return arrays


def _mapped(file):
    """Returns the arrays of numpy's archive as read-only maps of the file, which stores them as they are in memory."""
    found = {}
    with open(file, "rb") as opened, zipfile.ZipFile(opened) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{entry.filename} is compressed and cannot be mapped")
            with archive.open(entry) as member:
                version = np.lib.format.read_magic(member)
                read_header = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }[version]
                shape, is_fortran, dtype = read_header(member)
                header = member.tell()
            opened.seek(entry.header_offset)
            local = opened.read(30)
            # The lengths of the name and extra field in the local header, which may differ from the directory's.
            start = entry.header_offset + 30 + int.from_bytes(local[26:28], "little")
            start += int.from_bytes(local[28:30], "little") + header
            name = entry.filename.removesuffix(".npy")
            order: Any = "F" if is_fortran else "C"
            if 0 in shape:
                found[name] = np.zeros(shape, dtype)
            else:
                found[name] = np.memmap(file, dtype, "r", start, shape, order)
    return found


def _expected(name, precision, count, dim):
    """Returns the dtypes and shapes of the arrays that store vectors of a precision."""
    if precision == "float32":
        return {name: ("float32", (count, dim))}
    if precision == "binary":
        return {f"{name}.codes": ("uint64", (count, -(-dim // 64)))}
    steps = {f"{name}.{key}": ("float32", (dim,)) for key in ("scale", "offset")}
    return {f"{name}.codes": ("int8", (count, dim)), **steps}
