"""Quantizes vectors to compact codes."""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check, _neighbours

PRECISIONS = ("int8", "binary")


class Quantized:
    """Vectors as compact codes, created by `quantize`.

    It has the length and `shape` of the array of vectors, and can be indexed with a slice or an array of rows.

    Attributes:
        precision: `"int8"` or `"binary"`.
        codes: int8 `(rows, dim)`; or uint64 `(rows, words)`, the signs of the components, 64 per word (as bytes, in the
            order of numpy's `packbits`, padded with 0).
        dim: int. Number of components of a vector.
        scale, offset: float32 `(dim,)`: a component is `code * scale + offset`. `None` for `"binary"`.

    Example:

    >>> codes = quantize(np.eye(4), "binary")
    >>> codes.shape, codes.nbytes, len(codes[:2])
    ((4, 4), 32, 2)
    """

    def __init__(
        self,
        precision: Any,
        codes: np.ndarray,
        dim: int,
        scale: Any = None,
        offset: Any = None,
    ) -> None:
        self.precision = precision
        self.codes = codes
        self.dim = dim
        self.scale = scale
        self.offset = offset

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, dim)."""
        return len(self.codes), self.dim

    @property
    def nbytes(self) -> int:
        """Size of the codes in bytes."""
        return self.codes.nbytes

    def __getitem__(self, rows: Any) -> Any:
        return Quantized(self.precision, self.codes[rows], self.dim, self.scale, self.offset)

    def dequantize(self) -> np.ndarray:
        """Returns the decoded vectors, float32 `(rows, dim)`; for `"binary"`, components are -1 and 1."""
        if self.precision == "int8":
            return self.codes.astype("float32") * self.scale + self.offset
        bits = np.unpackbits(self.codes.view("uint8"), axis=1, count=self.dim)
        return bits.astype("float32") * 2 - 1

    def __repr__(self):
        return f"Quantized({self.precision}, {len(self)} x {self.dim})"


def quantize(
    embeddings: ArrayLike, precision: Literal["int8", "binary"] = "int8", *, calibration: Any = None
) -> Quantized:
    """Quantizes vectors to compact codes.

    `"int8"` takes a quarter of the memory of float32: it divides the range of each component into 255 equal steps.
    `"binary"` takes 1/32: the sign of each component. It suits vectors with some hundred components that are compared
    by angle. Spearman correlation of all-MiniLM-L6-v2 on STS-B's test rows (`benchmarks/search.py`): float32 0.8203;
    both vectors quantized, int8 0.8200, binary 0.8086; one of them quantized, int8 0.8201, binary 0.8125.

    Args:
        embeddings: float array `(rows, dim)`.
        precision: `"int8"` (default) or `"binary"`.
        calibration: float array `(rows, dim)` of typical vectors that determine the int8 ranges, or a `Quantized` whose
            steps are reused. Components outside are clipped to the range. Defaults to the vectors themselves.

    Returns:
        `Quantized`.

    Raises:
        ValueError: if `precision` is unknown, vectors are not finite, or `calibration` has another size.

    Example:

    >>> codes = quantize([[0.0, -1.0], [1.0, 0.5], [0.25, 1.0]])
    >>> codes.codes.tolist(), np.round(codes.dequantize(), 2).tolist()
    ([[-127, -127], [127, 64], [-64, 127]], [[0.0, -1.0], [1.0, 0.5], [0.25, 1.0]])
    >>> quantize([[0.3, -0.2]], "binary").dequantize().tolist()
    [[1.0, -1.0]]

    Reference: Yamada et al., 2021, on binary codes and rescoring, https://arxiv.org/abs/2106.00882.
    """
    embeddings = _neighbours.matrix("embeddings", embeddings)
    _check.one_of("precision", precision, PRECISIONS)
    dim = embeddings.shape[1]
    if precision == "binary":
        return Quantized("binary", _signs(embeddings), dim)
    if isinstance(calibration, Quantized):
        scale, offset = calibration.scale, calibration.offset
    else:
        typical = embeddings if calibration is None else _neighbours.matrix("calibration", calibration)
        if not len(typical):
            raise _check.invalid("calibration", "at least one vector", typical.shape)
        low, high = typical.min(axis=0), typical.max(axis=0)
        offset = ((low + high) / 2).astype("float32")
        scale = ((high - low) / 254).astype("float32")
        scale[scale == 0] = 1.0
    if scale is None or scale.shape != (dim,):
        raise _check.invalid("calibration", f"vectors of {dim} components, or int8 codes of them", calibration)
    codes = np.clip(np.rint((embeddings - offset) / scale), -127, 127).astype("int8")
    return Quantized("int8", codes, dim, scale, offset)


def concatenate(parts):
    """Concatenates codes with equal steps, or arrays."""
    if len(parts) == 1:
        return parts[0]
    if not isinstance(parts[0], Quantized):
        return np.concatenate(parts)
    first = parts[0]
    return Quantized(first.precision, np.concatenate([p.codes for p in parts]), first.dim, first.scale, first.offset)


def floats(vectors):
    """Returns vectors or codes as a float array."""
    return vectors.dequantize() if isinstance(vectors, Quantized) else vectors


def _signs(vectors):
    packed = np.packbits(vectors > 0, axis=1)
    words = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), "uint8")
    words[:, : packed.shape[1]] = packed
    return words.view("uint64")
