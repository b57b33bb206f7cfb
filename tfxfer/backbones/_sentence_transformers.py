"""Reads the folders of sentence-transformers: which module stands where, and how a sentence vector is made."""

import dataclasses
import pathlib

import numpy as np

from tfxfer import _check, layers
from tfxfer.backbones import _checkpoint

# The flags of older pooling configs, in the order in which the reference concatenates.
_OLD_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
# The names of newer pooling configs; they are concatenated in the order in which the config lists them.
_NEW_POOLING = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
_ACTIVATIONS = {
    "Identity": None,
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}
# What a Transformer module's config may say: the plain use of the encoder (`None`: absent).
_TRANSFORMER = {
    "transformer_task": (None, "feature-extraction"),
    "module_output_name": (None, "token_embeddings"),
    "processing_kwargs": (None, {}),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
}
_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")


@dataclasses.dataclass(frozen=True)
class EmbeddingSpec:
    """How a checkpoint makes one vector of a text's token vectors.

    Args:
        pooling: tuple of modes of `layers.Pooling`; several are concatenated.
        dense: list of dicts, one a dense layer behind the pooling: `units`, `activation` (Keras's name or `None`),
            `use_bias`, `kernel` (inputs, units) and `bias` (units) as numpy arrays; both `None` for random weights.
        normalize: whether the vector is brought to unit length.
        prompts: dict of names to texts that are put before the input.
        default_prompt_name: the prompt that is used where none is asked for, or `None`.
    """

    pooling: tuple = ("mean",)
    dense: list = dataclasses.field(default_factory=list)
    normalize: bool = False
    prompts: dict = dataclasses.field(default_factory=dict)
    default_prompt_name: str | None = None


def read(folder, load_weights=True):
    """Reads a sentence-transformers folder, all but the encoder and its tokenizer.

    Args:
        folder: path of a folder with `modules.json`.
        load_weights: whether the dense modules' weights are read.

    Returns:
        The encoder's folder, the `EmbeddingSpec`, and the longest sequence that the folder asks for (or `None`).

    Raises:
        ValueError: a module or an option is one that this package does not compute. It names both.
    """
    folder = pathlib.Path(folder)
    file = folder / "modules.json"
    modules = [(_kind(module, file), folder / module.get("path", "")) for module in _checkpoint.read_json(file)]
    kinds = [kind for kind, _ in modules]
    order = [
        "Transformer",
        "Pooling",
        *["Dense"] * kinds.count("Dense"),
        *["Normalize"] * (kinds[-1:] == ["Normalize"]),
    ]
    if kinds != order:
        raise _check.invalid(
            "modules.json", "Transformer, Pooling, any Dense, then Normalize or not", kinds, f"In {file}"
        )
    pooling = _pooling(modules[1][1] / "config.json")
    dense = [_dense(path, load_weights) for kind, path in modules if kind == "Dense"]
    if kinds[-1] == "Normalize":
        _check_names(modules[-1][1] / "config.json")
    prompts = {}
    if (folder / "config_sentence_transformers.json").is_file():
        prompts = _checkpoint.read_json(folder / "config_sentence_transformers.json")
    spec = EmbeddingSpec(
        pooling=pooling,
        dense=dense,
        normalize=kinds[-1] == "Normalize",
        prompts=prompts.get("prompts") or {},
        default_prompt_name=prompts.get("default_prompt_name"),
    )
    return modules[0][1], spec, _sequence_length(modules[0][1])


def _kind(module, file):
    """Returns the class of an entry of modules.json; both the older and the newer dotted paths end in it."""
    package, _, kind = str(module.get("type")).rpartition(".")
    if package.split(".")[0] != "sentence_transformers" or kind not in _MODULES:
        raise _check.invalid(
            "type", f"one of sentence-transformers' {', '.join(_MODULES)}", module.get("type"), f"In {file}"
        )
    return kind


def _pooling(file):
    config = _checkpoint.read_json(file)
    where = f"In {file}"
    if not config.get("include_prompt", True):
        raise _check.invalid("include_prompt", "true: pooling without the prompt is not built in", False, where)
    for key in config:
        if key.startswith("pooling_mode_") and key not in _OLD_POOLING:
            raise _check.invalid("pooling", f"only the flags {', '.join(_OLD_POOLING)}", key, where)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = tuple(mode for flag, mode in _OLD_POOLING.items() if config.get(flag))
        return modes or ("mean",)  # the reference's own default
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes:
        raise _check.invalid("pooling_mode", f"one of {', '.join(map(repr, _NEW_POOLING))}, or a list", modes, where)
    names = tuple(_NEW_POOLING[_check.one_of("pooling_mode", mode, _NEW_POOLING, where)] for mode in modes)
    return layers.pooling_modes(names)


def _check_names(file):
    """Raises where a module reads or writes anything but the sentence's vector."""
    config = _checkpoint.read_json(file) if file.is_file() else {}
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise _check.invalid(key, "'sentence_embedding'", config[key], f"In {file}")
    return config


def _dense(folder, load_weights):
    file = folder / "config.json"
    config = _check_names(file)
    if config.get("use_residual"):
        raise _check.invalid("use_residual", "false", True, f"In {file}")
    name = config.get("activation_function") or "torch.nn.modules.activation.Tanh"  # the reference's own default
    package, _, short = name.rpartition(".")
    if package.split(".")[0] != "torch" or short not in _ACTIVATIONS:
        raise _check.invalid("activation_function", f"torch's {', '.join(_ACTIVATIONS)}", name, f"In {file}")
    spec = {
        "units": config["out_features"],
        "activation": _ACTIVATIONS[short],
        "use_bias": config.get("bias", True),
        "kernel": None,
        "bias": None,
    }
    if load_weights:
        tensors = _checkpoint.Checkpoint(_checkpoint.read_tensors(folder), "linear.weight", (), str(folder))
        kernel = tensors.take("linear.weight", (spec["units"], config["in_features"]))
        spec["kernel"] = np.ascontiguousarray(kernel.T)
        if spec["use_bias"]:
            spec["bias"] = np.array(tensors.take("linear.bias", (spec["units"],)))
        tensors.check_all_used()
    return spec


def _sequence_length(folder):
    """Reads the Transformer module's own config, which may lie under several names, or nowhere."""
    for file in sorted(folder.glob("sentence_*_config.json")):
        config = _checkpoint.read_json(file)
        where = f"In {file}"
        if config.get("do_lower_case") and not _lowers(folder):
            raise _check.invalid("do_lower_case", "false, or a tokenizer that lower-cases by itself", True, where)
        for key, allowed in _TRANSFORMER.items():
            if config.get(key) not in allowed:
                raise _check.invalid(key, f"one of {', '.join(map(repr, allowed))}", config[key], where)
        modalities = config.get("modality_config")
        if modalities is not None and modalities.get("text") != _FORWARD:
            raise _check.invalid("modality_config", f"{{'text': {_FORWARD}}}", modalities, where)
        return _check.integer("max_seq_length", config.get("max_seq_length"), optional=True)
    return None


def _lowers(folder):
    """Says whether the tokenizer in a folder lower-cases."""
    if (folder / "tokenizer.json").is_file():
        return _has_lowercase(_checkpoint.read_json(folder / "tokenizer.json").get("normalizer"))
    file = folder / "tokenizer_config.json"
    return file.is_file() and bool(_checkpoint.read_json(file).get("do_lower_case"))


def _has_lowercase(normalizer):
    if not normalizer:
        return False
    parts = normalizer.get("normalizers", [])
    return (
        normalizer.get("type") == "Lowercase"
        or bool(normalizer.get("lowercase"))
        or any(_has_lowercase(part) for part in parts)
    )
