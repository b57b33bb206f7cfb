"""Reading of `safetensors` files, whole or sharded, and of the names in them."""

import json
import pathlib
import re

import ml_dtypes  # noqa: F401  (teaches numpy, and so safetensors, bfloat16)
import numpy as np
import safetensors
import safetensors.numpy

from tfxfer import _check

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Older PyTorch checkpoints call the two weights of a layer norm gamma and beta.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# Parts of task models: never an encoder's own weights.
_HEADS = re.compile(
    r"^(cls|classifier|pre_classifier|qa_outputs|lm_head|score|pooler|predictions|sop_classifier|vocab_\w+"
    r"|generator_\w+|discriminator_predictions|mask_predictions|lm_predictions|summary|sequence_summary)(\.|$)"
)
# Buffers (position ids, GPT-2's causal masks) and the pooler that some task models keep below the encoder's prefix.
_BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids|attn\.bias|attn\.masked_bias)$|^pooler\.")


def read_json(file):
    """Returns what a JSON file holds; an error names the file where it is broken."""
    try:
        return json.loads(pathlib.Path(file).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _check.invalid("preset", "a folder with readable JSON files", str(file), f"{file}: {error}") from error


def read_tensors(folder):
    """Reads the weights of a folder.

    Args:
        folder: path of a folder with `model.safetensors`, or with `model.safetensors.index.json` and its shards.

    Returns:
        A dict of tensor names to numpy arrays.

    Raises:
        ValueError: no such file is there, or it is broken.
    """
    folder = pathlib.Path(folder)
    if (folder / WEIGHTS).is_file():
        return _read_file(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        shards = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
        tensors = {}
        for shard in shards:
            if not (folder / shard).is_file():
                raise _check.invalid(
                    "preset", f"a folder with all the shards of {INDEX}", str(folder), f"{shard} is missing"
                )
            tensors.update(_read_file(folder / shard))
        return tensors
    remedy = None
    if any(folder.glob("*.bin")) or any(folder.glob("*.h5")):
        remedy = "Weights in the formats of PyTorch or TensorFlow 1 and 2 are not read; save them as safetensors first"
    raise _check.invalid("preset", f"a folder with {WEIGHTS} or {INDEX}", str(folder), remedy)


def _read_file(file):
    """Reads one `safetensors` file into a dict of arrays."""
    try:
        return safetensors.numpy.load_file(file)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise _check.invalid(
            "preset", "a folder with whole safetensors files", str(file), f"{file} is broken: {error}"
        ) from error


class Checkpoint:
    """The encoder's tensors of a checkpoint, by the names that the base model gives them.

    Args:
        tensors: dict of names to arrays, as the file has them.
        anchor: string. A tensor that each encoder of the family has; what stands before it is the task model's prefix.
        prefixes: the prefixes that the family's task models use.
        source: string for errors.
    """

    def __init__(self, tensors, anchor, prefixes, source):
        self.source = source
        names = {_modern(name): name for name in tensors}
        prefix = next((prefix for prefix in ("", *prefixes) if prefix + anchor in names), None)
        if prefix is None:
            raise self._missing(anchor, f"Prefixes tried: {', '.join(repr(p) for p in ('', *prefixes))}")
        self._tensors = {new.removeprefix(prefix): tensors[old] for new, old in names.items() if new.startswith(prefix)}
        self._heads = () if prefix else _HEADS
        self._used = set()

    def take(self, name, shape):
        """Returns the tensor `name` in float32 and marks it as used; `None` in `shape` fits any size."""
        if name not in self._tensors:
            raise self._missing(name)
        self._used.add(name)
        tensor = self._tensors[name]
        if len(tensor.shape) != len(shape) or any(s not in (None, t) for s, t in zip(shape, tensor.shape, strict=True)):
            raise _check.invalid(
                "preset", f"the tensor {name!r} with shape {tuple(shape)}", tensor.shape, f"In {self.source}"
            )
        return np.asarray(tensor, np.float32)

    def has(self, name):
        """Says whether the checkpoint has the tensor `name`."""
        return name in self._tensors

    def check_all_used(self):
        """Raises where an encoder's tensor was left over: the model would not be the checkpoint's."""
        left = sorted(name for name in self._tensors if name not in self._used and not _BUFFERS.search(name))
        if self._heads:
            left = [name for name in left if not self._heads.match(name)]
        if left:
            raise _check.invalid(
                "preset", "a checkpoint whose encoder tensors are all understood", left, f"In {self.source}"
            )

    def _missing(self, name, remedy=None):
        where = f"It is missing in {self.source}"
        return _check.invalid(
            "preset", f"a checkpoint with the tensor {name!r}", self.source, f"{where}. {remedy}" if remedy else where
        )


def _modern(name):
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
