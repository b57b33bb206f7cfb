"""Reads PyTorch's weight files (`pytorch_model.bin`) without PyTorch and without executing their contents.

PyTorch has two formats. Since version 1.6, a file is a zip archive: `NAME/data.pkl` describes the tensors, and
`NAME/data/KEY` contains the numbers of one storage. Earlier files are a few pickles followed by the storages.
"""

import dataclasses
import io
import math
import pathlib
import struct
import zipfile
from typing import Any, BinaryIO

import ml_dtypes  # noqa: F401  (teaches numpy bfloat16)
import numpy as np

from tfxfer import _check
from tfxfer.backbones import _pickle

# Contents of the first two pickles of the older format.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# The fixed-size part of a zip entry's own header; its last two numbers are the lengths of the fields after it.
_ENTRY = struct.Struct("<4s22xHH")
# The beginning of the small file that Git LFS substitutes for a large one.
_POINTER = b"version https://git-lfs"
_ZIP_ERRORS = (zipfile.BadZipFile, struct.error)


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """The location of a tensor in a file.

    Args:
        file: path of the file.
        start: byte offset of the tensor's first number.
        view: a `_pickle.View`: dtype, shape and strides.
        big_endian: whether the most significant byte of a number comes first.
    """

    file: pathlib.Path
    start: int
    view: _pickle.View
    big_endian: bool = False

    def load(self) -> np.ndarray:
        """Reads the tensor, in the dtype of the file.

        Raises:
            ValueError: if the tensor repeats numbers of a smaller storage, or the file has become shorter since it was
                opened.
        """
        shape, dtype = self.view.shape, np.dtype(self.view.storage.dtype)
        if math.prod(shape) > self.view.storage.size:
            raise broken(self.file, f"a tensor of shape {shape} repeats the numbers of a smaller storage")
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            raw = np.fromfile(stream, np.uint8, self.view.extent() * dtype.itemsize)
        if raw.size < self.view.extent() * dtype.itemsize:
            raise broken(self.file, "it became shorter while it was read")
        if self.big_endian:
            raw = np.ascontiguousarray(raw.reshape(-1, dtype.itemsize)[:, ::-1]).reshape(-1)
        strides = [stride * dtype.itemsize for stride in self.view.strides]
        return np.lib.stride_tricks.as_strided(raw.view(dtype), shape, strides, writeable=False)


def arrays(file: pathlib.Path) -> dict[str, StoredArray]:
    """Lists the tensors of a PyTorch file and their locations without reading their numbers.

    Args:
        file: path of the file.

    Returns:
        A dict of tensor names to `StoredArray`s.

    Raises:
        ValueError: if the file names functions other than those that create tensors, is broken, or has another format.
    """
    with file.open("rb") as stream:
        zipped = stream.read(4) == b"PK\x03\x04"
        stream.seek(0)
        try:
            return (_read_zip if zipped else _read_legacy)(stream, file)
        except _pickle.Refused as error:
            raise _check.invalid(
                "preset",
                "weights that can be read without executing code",
                str(file),
                f"{file} names {str(error)[:100]!r}: the file would execute code, so it is not read. Use the model's "
                "safetensors file, or another model",
            ) from error
        except _pickle.Quantized as error:
            raise quantized(file, str(error)) from error
        except (ValueError, OSError, EOFError, OverflowError, NotImplementedError, *_ZIP_ERRORS) as error:
            raise broken(file, error) from error


def broken(file: pathlib.Path, reason: object) -> ValueError:
    """Returns the error for a weight file that cannot be read."""
    with file.open("rb") as stream:
        pointer = stream.read(len(_POINTER)) == _POINTER
    if pointer:
        reason = "it is a pointer of Git LFS, not the weights; run `git lfs pull` in its folder"
    return _check.invalid("preset", "a folder with complete weight files", str(file), f"{file} is broken: {reason}")


def quantized(file: object, what: str) -> ValueError:
    """Returns the error for weights that are not plain floating-point numbers."""
    return _check.invalid(
        "preset",
        "weights in float32, float16, bfloat16 or float64",
        what,
        f"{file} is a quantized checkpoint, which is not supported. Use the checkpoint that it was made from, or "
        "dequantize it with the library that wrote it and save the result",
    )


def _read_zip(stream: BinaryIO, file: pathlib.Path) -> dict[str, StoredArray]:
    """Reads the format of PyTorch 1.6 and later."""
    total = stream.seek(0, io.SEEK_END)
    entries = {entry.filename: entry for entry in zipfile.ZipFile(stream).infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"the archive holds {len(pickles)} files NAME/data.pkl, not one. {_convert(file)}")
    folder = pickles[0].removesuffix("data.pkl")

    def start_of(name: str) -> int:
        return _entry_start(stream, entries[name], total)

    stream.seek(start_of(pickles[0]))
    if entries[pickles[0]].file_size > _pickle.LONGEST:
        raise ValueError(f"its pickle is longer than {_pickle.LONGEST} bytes")
    views = _views(_pickle.load(io.BytesIO(stream.read(entries[pickles[0]].file_size))))
    big_endian = False
    if folder + "byteorder" in entries:
        stream.seek(start_of(folder + "byteorder"))
        big_endian = stream.read(3) == b"big"
    starts: dict[str, int] = {}
    for storage in {view.storage for view in views.values()}:
        name = f"{folder}data/{storage.key}"
        if name not in entries:
            raise ValueError(f"the archive lacks {name!r}")
        if entries[name].file_size < storage.size * np.dtype(storage.dtype).itemsize:
            raise ValueError(f"{name!r} is smaller than its {storage.size} numbers in {storage.dtype}")
        starts[storage.key] = start_of(name)
    return _located(file, views, starts, big_endian)


def _entry_start(stream: BinaryIO, entry: zipfile.ZipInfo, total: int) -> int:
    """Returns the offset of the first byte of an uncompressed entry."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
        raise ValueError(f"{entry.filename!r} is compressed or encrypted, which PyTorch does not do")
    stream.seek(entry.header_offset)
    signature, *lengths = _ENTRY.unpack(stream.read(_ENTRY.size).ljust(_ENTRY.size, b"\0"))
    start = entry.header_offset + _ENTRY.size + sum(lengths)
    if signature != b"PK\x03\x04" or start + entry.file_size > total:
        raise ValueError(f"{entry.filename!r} extends beyond the file")
    return start


def _read_legacy(stream: BinaryIO, file: pathlib.Path) -> dict[str, StoredArray]:
    """Reads the format before PyTorch 1.6: magic number, protocol, sizes of C types, tensors, keys, then the storages.

    Each storage is its length in 8 bytes followed by its numbers, little-endian on every machine.
    """
    for expected in (_MAGIC, _PROTOCOL):
        try:
            value = _pickle.load(stream)
        except (_pickle.Refused, _pickle.Quantized):
            raise
        except ValueError:
            value = None
        if type(value) is not int or value != expected:
            raise ValueError(f"it is in none of PyTorch's formats that this package reads. {_convert(file)}")
    _pickle.load(stream)
    views = _views(_pickle.load(stream))
    keys = _pickle.load(stream)
    storages = {view.storage.key: view.storage for view in views.values()}
    if type(keys) is not list or not all(isinstance(key, str) and key in storages for key in keys):
        raise ValueError("its list of storages does not fit its tensors")
    position = stream.tell()
    total = stream.seek(0, io.SEEK_END)
    starts: dict[str, int] = {}
    for key in keys:
        stream.seek(position)
        size = int.from_bytes(stream.read(8), "little")
        starts[key] = position + 8
        position += 8 + size * np.dtype(storages[key].dtype).itemsize
        if size != storages[key].size or position > total:
            raise ValueError(f"storage {key!r} of {storages[key].size} numbers is not whole")
    if len(starts) != len(storages):
        raise ValueError("its list of storages does not fit its tensors")
    return _located(file, views, starts, False)


def _views(value: Any) -> dict[str, _pickle.View]:
    """Checks that a pickle describes a dict of tensors, with one description of each storage."""
    if type(value) is not dict:
        raise ValueError(f"it holds a {type(value).__name__}, not a dict of tensors")
    storages: dict[str, _pickle.Storage] = {}
    for name, view in value.items():
        if type(view) is not _pickle.View:
            raise ValueError(f"its entry {name!r} is a {type(view).__name__}, not a tensor")
        if storages.setdefault(view.storage.key, view.storage) != view.storage:
            raise ValueError(f"the tensor {name!r} describes its storage differently from another tensor")
    return value


def _located(
    file: pathlib.Path, views: dict[str, _pickle.View], starts: dict[str, int], big_endian: bool
) -> dict[str, StoredArray]:
    located = {}
    for name, view in views.items():
        start = starts[view.storage.key] + view.offset * np.dtype(view.storage.dtype).itemsize
        located[name] = StoredArray(file, start, view, big_endian)
    return located


def _convert(file: pathlib.Path) -> str:
    """Returns a sentence that explains how to convert a file with PyTorch."""
    target = str(file.with_name("model.safetensors"))
    code = (
        "import torch, safetensors.torch as s; s.save_file({k: v.clone().contiguous() for k, v in "
        f"torch.load({str(file)!r}, weights_only=True).items()}}, {target!r})"
    )
    return f'If PyTorch can read the weights, save them as safetensors first: python -c "{code}"'
