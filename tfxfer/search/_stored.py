"""Writes vectors to disk part by part, for an index that is larger than memory."""

import contextlib
import itertools
import os

import numpy as np

from tfxfer import _check, _disk, _neighbours
from tfxfer.search import _quantize

# Number of vectors held at a time.
PART = 16_384


class Sinks:
    """Files that rows are appended to, in a temporary directory that is removed at the end.

    Args:
        folder: `pathlib.Path` of the index, on disk that has the space.
    """

    def __init__(self, folder):
        _disk.remove_parts(folder, "build")
        self._path = _disk.part(folder, "build")
        self._stack = contextlib.ExitStack()
        self._made = {}

    def __enter__(self):
        self._stack.enter_context(_disk.temporary_folder(self._path))
        return self

    def __exit__(self, *error):
        self._made.clear()
        self._stack.close()

    def append(self, parts):
        """Writes arrays or codes; `parts` is a dict of name to a list with one of them, or an empty list."""
        for name, found in parts.items():
            for part in found:
                array = part.codes if isinstance(part, _quantize.Quantized) else part
                first, _, rows = self._made.get(name, (part, None, 0))
                with open(self._path / name, "ab") as file:
                    np.ascontiguousarray(array).tofile(file)
                self._made[name] = (first[:0], array.dtype, rows + len(array))

    def result(self, name):
        """Returns everything appended under a name as an array or codes on disk; `None` if there is nothing."""
        if name not in self._made:
            return None
        first, dtype, rows = self._made[name]
        is_coded = isinstance(first, _quantize.Quantized)
        width = (first.codes if is_coded else first).shape[1]
        array = np.memmap(self._path / name, dtype, "r", 0, (rows, width))
        if not is_coded:
            return array
        return _quantize.Quantized(first.precision, array, first.dim, first.scale, first.offset)


def parts(texts, embeddings):
    """Yields lists of texts with their vectors, `None` if not yet computed; raises if their numbers differ."""
    if isinstance(texts, (str, bytes)) or not hasattr(texts, "__iter__"):
        raise _check.invalid("texts", "an iterable of strings", texts)
    rows, row = iter(texts), 0
    if embeddings is None:
        while part := list(itertools.islice(rows, PART)):
            yield _strings(part, row), None
            row += len(part)
        return
    for vectors in _arrays(embeddings):
        for start in range(0, len(vectors), PART):
            block = np.asarray(vectors[start : start + PART])
            part = list(itertools.islice(rows, len(block)))
            if len(part) < len(block):
                raise _check.invalid("embeddings", f"{row + len(part)} vectors, one for each text", "more")
            yield _strings(part, row), _neighbours.matrix("embeddings", block)
            row += len(part)
    if next(rows, None) is not None:
        raise _check.invalid("embeddings", "a vector for each text", f"{row}, and there are further texts")


def _strings(part, first):
    for row, text in enumerate(part):
        _check.text("texts", text, first + row)
    return [text.decode() if isinstance(text, bytes) else text for text in part]


def _arrays(embeddings):
    """Yields arrays of vectors: the single array, those of an iterable, or those in files."""
    if hasattr(embeddings, "shape"):
        yield embeddings
        return
    if isinstance(embeddings, (str, os.PathLike)) or not hasattr(embeddings, "__iter__"):
        raise _check.invalid("embeddings", "an array, an iterable of arrays, or a list of `.npy` files", embeddings)
    for each in embeddings:
        if isinstance(each, (str, os.PathLike)):
            path = _disk.local_path("embeddings", each, kind="file")
            try:
                each = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise _check.invalid("embeddings", "a `.npy` file of vectors", str(path), str(error)) from error
        if getattr(each, "ndim", np.ndim(each)) != 2:
            raise _check.invalid("embeddings", "arrays of vectors (rows, dim)", np.shape(each))
        yield each
