"""How a checkpoint computes one vector per text, as plain data."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfxfer import _check

# torch's activations without arguments, keyed by the last part of the path that sentence-transformers stores -> Keras's
# name, or a dict of the name and the arguments whose defaults differ.
ACTIVATIONS: dict[str, Any] = {
    "Identity": None,
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "CELU": "celu",
    "ELU": "elu",
    "Hardshrink": "hard_shrink",
    "Hardsigmoid": "hard_sigmoid",
    "Hardswish": "hard_silu",
    "Hardtanh": "hard_tanh",
    "LeakyReLU": {"name": "leaky_relu", "negative_slope": 0.01},
    "LogSigmoid": "log_sigmoid",
    "LogSoftmax": "log_softmax",
    "Mish": "mish",
    "ReLU6": "relu6",
    "SELU": "selu",
    "Softmax": "softmax",
    "Softplus": "softplus",
    "Softshrink": "soft_shrink",
    "Softsign": "softsign",
    "Tanhshrink": "tanh_shrink",
}
_REQUIRED = object()
# The modules that may follow the pooling, with their keys and defaults.
MODULES: dict[str, dict[str, Any]] = {
    "Dense": {
        "units": _REQUIRED,
        "activation": None,
        "use_bias": True,
        "use_residual": False,
        "kernel": None,
        "bias": None,
        "residual_kernel": None,
    },
    "LayerNorm": {"epsilon": 1e-5, "gamma": None, "beta": None},
    "Dropout": {"rate": 0.2},
    "Normalize": {},
    "Truncate": {"units": _REQUIRED},
}
WEIGHTS = ("kernel", "bias", "residual_kernel", "gamma", "beta")


@dataclasses.dataclass(frozen=True, init=False, eq=False)
class EmbeddingSpec:
    """How a checkpoint computes one vector per text from its token vectors.

    token vectors -> weighted mean of several layers, if `layer_start` is given -> `pooling` -> `modules`, in order.

    | `class` of a module | its keys | effect |
    |---|---|---|
    | `"Dense"` | `units`, `activation`, `use_bias`, `use_residual` | `activation(x kernel + bias)` |
    | `"LayerNorm"` | `epsilon` | layer normalization with `gamma` and `beta` |
    | `"Dropout"` | `rate` | dropout, in training only |
    | `"Normalize"` | | scales to length 1 |
    | `"Truncate"` | `units` | keeps the first components |

    `activation` is `None`, the Keras name of a function, or a dict of its `name` and its arguments; `ACTIVATIONS` maps
    torch's names to these. A dense module with `use_residual` adds its input to its output, through `residual_kernel`
    if their sizes differ. `Truncate` is sentence-transformers' `truncate_dim`, where it always comes last.

    A module holds its weights as float32 arrays, or `None` for random weights: `kernel` (inputs, units), `bias`
    (units,), `residual_kernel` (inputs, units); `gamma` (dim,), `beta` (dim,).

    Args:
        pooling: tuple of modes of `layers.Pooling`; several are concatenated.
        dense: shorthand for `modules`: list of dicts, the dense modules without `class`.
        normalize: shorthand for `modules`: whether `Normalize` follows the dense modules.
        prompts: dict that maps names to texts to prepend to the input. Defaults to an empty dict.
        default_prompt_name: the prompt to use if none is requested, or `None`.
        modules: list of dicts, the modules after the pooling, instead of `dense` and `normalize`.
        include_prompt: whether the pooling includes the tokens of a prompt. Defaults to `True`.
        layer_start: int. If given, the pooled token vectors are a weighted mean over the encoder's layers from this one
            on, computed by `layers.WeightedLayerPooling`; 0 is the embeddings. Defaults to `None`: the last layer only.
        layer_weights: float array `(num_layers + 1 - layer_start,)`, the weights of these layers. Defaults to ones.
        similarity_fn_name: `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"`: how to compare the vectors.

    Attributes:
        dense: the dense modules among `modules`.
        normalize: whether the last module is `Normalize`.

    Raises:
        ValueError: for an unknown module or key, or a module that lacks a required key.

    Example:

    >>> EmbeddingSpec(dense=[{"units": 8, "activation": "tanh"}], normalize=True).modules[1]
    {'class': 'Normalize'}
    """

    pooling: tuple
    modules: list
    prompts: dict
    default_prompt_name: str | None
    include_prompt: bool
    layer_start: int | None
    layer_weights: Any
    similarity_fn_name: str

    def __init__(
        self,
        pooling: str | Sequence[str] = ("mean",),
        dense: Sequence[Mapping[str, Any]] = (),
        normalize: bool = False,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        *,
        modules: Sequence[Mapping[str, Any]] | None = None,
        include_prompt: bool = True,
        layer_start: int | None = None,
        layer_weights: ArrayLike | None = None,
        similarity_fn_name: str = "cosine",
    ) -> None:
        found = {
            "pooling": pooling,
            "modules": chain(dense, normalize) if modules is None else complete_modules(modules),
            "prompts": dict(prompts or {}),
            "default_prompt_name": default_prompt_name,
            "include_prompt": include_prompt,
            "layer_start": layer_start,
            "layer_weights": layer_weights,
            "similarity_fn_name": similarity_fn_name,
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @property
    def dense(self) -> list[dict[str, Any]]:
        """The Dense modules, in order, as a list of dicts."""
        return [module for module in self.modules if module["class"] == "Dense"]

    @property
    def normalize(self) -> bool:
        """Whether the vectors have length 1."""
        return is_normalized(self.modules)

    def __eq__(self, other):
        if not isinstance(other, EmbeddingSpec):
            return NotImplemented
        names = [field.name for field in dataclasses.fields(self)]
        return all(_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]  # Python's way to declare a class unhashable


def chain(dense=(), normalize=False):
    """Returns the modules that the shorthand arguments describe."""
    modules = [{"class": "Dense", **module} for module in dense]
    return complete_modules(modules + [{"class": "Normalize"}] * bool(normalize))


def is_normalized(modules):
    """Returns whether vectors have unit length because the last module scales them."""
    return bool(modules) and modules[-1]["class"] == "Normalize"


def complete_modules(modules):
    """Returns modules with all their keys, with defaults filled in.

    Raises:
        ValueError: for an unknown module or key, or a module that lacks a required key.
    """
    found = []
    for module in modules:
        if not isinstance(module, dict):
            raise _check.invalid("modules", "a list of dicts", module)
        name = _check.one_of("class", module.get("class"), MODULES)
        keys = MODULES[name]
        unknown = sorted(set(module) - set(keys) - {"class"})
        missing = [key for key, default in keys.items() if default is _REQUIRED and module.get(key) is None]
        if unknown or missing:
            expected = f"a {name} with keys among {', '.join(keys) or 'none'}"
            raise _check.invalid("modules", expected, module, f"Missing: {missing}" if missing else None)
        found.append({"class": name, **{key: module.get(key, default) for key, default in keys.items()}})
    return found


def _equal(left, right):
    """Compares values that may contain arrays."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return left is not None and right is not None and np.array_equal(left, right)
    return left == right
