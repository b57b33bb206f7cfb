"""Reads the weights of a checkpoint directory, tensor by tensor, under the names of the base model."""

import collections.abc
import dataclasses
import functools
import json
import pathlib
import re
from typing import Any

import ml_dtypes  # noqa: F401  (teaches numpy, and so safetensors, bfloat16)
import numpy as np
import safetensors

from tfxfer import _check
from tfxfer.backbones import _torch_files

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_WEIGHTS = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"
# Safetensors dtype codes; they differ from numpy's names by more than case.
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    **{f"{code}{bits}": f"{name}{bits}" for code, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
}
_FLOATS = ("float32", "bfloat16", "float16", "float64")
# Older PyTorch checkpoints call the two weights of a layer norm gamma and beta.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# Parts of task models: never an encoder's own weights.
_HEADS = re.compile(
    r"^(cls|classifier|pre_classifier|qa_outputs|lm_head|score|pooler|predictions|sop_classifier|vocab_\w+"
    r"|generator_\w+|discriminator_predictions|mask_predictions|lm_predictions|summary|sequence_summary)(\.|$)"
)
# Buffers determined by the config (position ids, GPT-2's causal masks, rotary frequencies), and the heads that some
# task models store under the encoder's prefix.
_EXTRAS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|attn\.bias|attn\.masked_bias|rotary_emb\.inv_freq)$|^(pooler|lm_head|cls)\."
)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file whose values have not been read yet.

    Args:
        name: string. The tensor's name in the file.
        shape: tuple of ints.
        dtype: string, such as `"float32"` or `"bfloat16"`.
        file: path of the file, or a string if the tensor is not in a file.
        load: function that reads the values in the dtype of the file, without checking them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: pathlib.Path | str
    load: collections.abc.Callable[[], np.ndarray] = dataclasses.field(repr=False, compare=False)

    def check_dtype(self) -> None:
        """Raises if the tensor is not of a plain floating-point dtype."""
        if self.dtype not in _FLOATS:
            raise _torch_files.quantized(self.file, f"{self.name}: {self.dtype}")

    def read(self) -> np.ndarray:
        """Reads the tensor as float32.

        Raises:
            ValueError: if it is not of a floating-point dtype, or contains NaN or infinity.
        """
        self.check_dtype()
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.asarray(self.load(), np.float32, order="C")
        if not np.isfinite(array).all():
            raise _check.invalid(
                "preset",
                "weights that are finite in float32",
                f"{self.name}: NaN or infinity",
                f"In {self.file}. The checkpoint is damaged, or its training diverged",
            )
        return array


class Tensors(collections.abc.Mapping):
    """The tensors of a directory by their names in the files.

    Args:
        tensors: dict of names to `Tensor`s.
        folder: path of the directory.
    """

    def __init__(self, tensors: dict[str, Tensor], folder: pathlib.Path):
        self.folder = folder
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self):
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def read_json(file):
    """Returns the content of a JSON file; errors name the file if it is invalid."""
    try:
        return json.loads(pathlib.Path(file).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise _check.invalid("preset", "a folder with readable JSON files", str(file), f"{file}: {error}") from error


def open_tensors(folder: Any) -> Tensors:
    """Opens the weights of a directory: lists the tensors without reading their values.

    Nothing in the files is executed, including PyTorch's pickles.

    Args:
        folder: path of a directory with `model.safetensors`, or else `pytorch_model.bin`; either a single file, or
            shards listed in `model.safetensors.index.json` or `pytorch_model.bin.index.json`.

    Returns:
        The `Tensors`.

    Raises:
        ValueError: if there is no such file, a file is broken or would execute code, or an index and its shards
            disagree.
    """
    folder = pathlib.Path(folder)
    for name, index, open_file in ((WEIGHTS, INDEX, _open_safetensors), (TORCH_WEIGHTS, TORCH_INDEX, _open_torch)):
        if (folder / name).is_file():
            return Tensors(open_file(folder / name), folder)
        if (folder / index).is_file():
            return Tensors(_open_shards(folder / index, open_file), folder)
    remedy = None
    if any(folder.glob("*.h5")) or any(folder.glob("*.ckpt*")) or any(folder.glob("*.msgpack")):
        remedy = "Weights in the formats of TensorFlow 1, Keras or Flax are not read; save them as safetensors first"
    raise _check.invalid("preset", f"a folder with {WEIGHTS}, {TORCH_WEIGHTS} or shards of them", str(folder), remedy)


def read_tensors(folder):
    """Reads all weights of a directory into a dict of names to numpy arrays, in the dtypes of the files."""
    return {name: tensor.load() for name, tensor in open_tensors(folder).items()}


def _open_safetensors(file: pathlib.Path) -> dict[str, Tensor]:
    try:
        opened = safetensors.safe_open(file, "np")
        slices = {name: opened.get_slice(name) for name in opened.keys()}
        return {
            name: Tensor(
                name,
                tuple(part.get_shape()),
                _DTYPES.get(part.get_dtype(), part.get_dtype().lower()),
                file,
                functools.partial(opened.get_tensor, name),
            )
            for name, part in slices.items()
        }
    except safetensors.SafetensorError as error:
        raise _torch_files.broken(file, error) from error


def _open_torch(file: pathlib.Path) -> dict[str, Tensor]:
    return {
        name: Tensor(name, array.view.shape, array.view.storage.dtype, file, array.load)
        for name, array in _torch_files.arrays(file).items()
    }


def _open_shards(index: pathlib.Path, open_file: Any) -> dict[str, Tensor]:
    """Opens the shards listed in an index and checks that the index and the shards agree."""
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise _check.invalid("preset", f"an index with a `weight_map` of names to files in {index}", str(index))
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        path = pathlib.PureWindowsPath(shard)  # splits on both kinds of slashes
        if path.anchor or ".." in path.parts:
            raise _check.invalid("preset", f"an index that names files in its own folder in {index}", shard)
        if not (index.parent / shard).is_file():
            raise _check.invalid(
                "preset", f"a folder with all the shards of {index.name}", str(index.parent), f"{shard} is missing"
            )
        opened = open_file(index.parent / shard)
        tensors.update((name, tensor) for name, tensor in opened.items() if weight_map.get(name, shard) == shard)
        missing = [name for name, file in weight_map.items() if file == shard and name not in opened]
        if missing:
            raise _check.invalid(
                "preset",
                f"a shard with the tensors that {index.name} names",
                missing,
                f"{index.parent / shard} lacks them",
            )
    return tensors


class Checkpoint:
    """The encoder's tensors of a checkpoint, under the base model's names.

    Args:
        tensors: `Tensors`, or a dict of names to numpy arrays.
        anchor: string. A tensor that every encoder of the family has; the text before it is the task model's prefix.
        prefixes: the prefixes that the family's task models use.
        source: string for error messages.
    """

    def __init__(self, tensors, anchor, prefixes, source):
        self.source = source
        names = {_modern(name): name for name in tensors}
        if len(names) < len(tensors):
            doubled = sorted(set(tensors) - set(names.values()))
            raise _check.invalid("preset", "a checkpoint with one name for each weight", doubled, f"In {source}")
        prefix = next((prefix for prefix in ("", *prefixes) if prefix + anchor in names), None)
        if prefix is None:
            raise self._missing(anchor, f"Prefixes tried: {', '.join(repr(p) for p in ('', *prefixes))}")
        self._tensors = {
            new.removeprefix(prefix): _as_tensor(old, tensors[old], source)
            for new, old in names.items()
            if new.startswith(prefix)
        }
        self._heads = () if prefix else _HEADS
        self._used = set()

    def names(self):
        """Returns the names of all tensors, sorted."""
        return sorted(self._tensors)

    def has(self, name):
        """Returns whether the checkpoint has the tensor `name`."""
        return name in self._tensors

    def shape(self, name):
        """Returns the shape of the tensor `name` without reading it or marking it as used."""
        return self._tensor(name).shape

    def take(self, name, shape):
        """Reads the tensor `name` as float32 and marks it as used; `None` in `shape` matches any size."""
        tensor = self._tensor(name)
        tensor.check_dtype()
        found = tensor.shape
        if len(found) != len(shape) or any(s not in (None, t) for s, t in zip(shape, found, strict=True)):
            raise _check.invalid("preset", f"the tensor {name!r} with shape {tuple(shape)}", found, f"In {tensor.file}")
        self._used.add(name)
        return tensor.read()

    def load(self, name):
        """Reads a tensor that is not a weight, in its own dtype, and marks it as used."""
        self._used.add(name)
        return self._tensor(name).load()

    def check_all_used(self, ignored=()):
        """Raises if an encoder tensor was not used: the model would differ from the checkpoint.

        Args:
            ignored: iterable of regular expressions; a tensor whose full name matches one may remain unused.
        """
        left = [name for name in self.names() if name not in self._used and not _EXTRAS.search(name)]
        if self._heads:
            left = [name for name in left if not self._heads.match(name)]
        left = [name for name in left if not any(re.fullmatch(pattern, name) for pattern in ignored)]
        if left:
            raise _check.invalid("preset", "a checkpoint without unknown encoder tensors", left, f"In {self.source}")

    def _tensor(self, name):
        if name not in self._tensors:
            raise self._missing(name)
        return self._tensors[name]

    def _missing(self, name, remedy=None):
        where = f"It is missing in {self.source}"
        return _check.invalid(
            "preset", f"a checkpoint with the tensor {name!r}", self.source, f"{where}. {remedy}" if remedy else where
        )


def _as_tensor(name, value, source):
    """Wraps a numpy array as a `Tensor`; returns a `Tensor` unchanged."""
    if isinstance(value, Tensor):
        return value
    return Tensor(name, tuple(value.shape), value.dtype.name, source, lambda: value)


def _modern(name):
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
