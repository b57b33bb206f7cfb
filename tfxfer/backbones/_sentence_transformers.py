"""Reads sentence-transformers directories, except the encoder and its tokenizer."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from tfxfer import _check, layers
from tfxfer.backbones import _checkpoint
from tfxfer.backbones._embedding import ACTIVATIONS, EmbeddingSpec

MODULES_FILE = "modules.json"
MODEL_FILE = "config_sentence_transformers.json"
# The Transformer module's own config, under the names that the reference tries, in its order.
TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Pooling modes in newer configs.
_NEW_POOLING = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
# Flags in older pooling configs, in the order in which the reference concatenates.
_OLD_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
# The sequence length that means no limit.
UNBOUNDED = 2**20
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
# Supported values in a Transformer module's config: the plain use of the encoder (`None`: absent).
_TRANSFORMER = {
    "transformer_task": (None, "feature-extraction"),
    "module_output_name": (None, "token_embeddings"),
    "processing_kwargs": (None, {}),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
}
_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
# Arguments that a Transformer module's config passes to transformers and that do not affect results here.
_HARMLESS = {
    ("model_args", "model_kwargs"): {"add_pooling_layer", "attn_implementation", "device_map", "dtype", "torch_dtype"},
    ("tokenizer_args", "processor_kwargs"): {"padding_side", "use_fast"},
    ("config_args", "config_kwargs"): {"output_hidden_states", "use_cache"},
}
_EVERYWHERE = {"trust_remote_code", "unpad_inputs", "use_memory_efficient_attention"}
_AFTER_POOLING = ("Dense", "Dropout", "LayerNorm", "Normalize")
_MODULES = ("Transformer", "StaticEmbedding", "WeightedLayerPooling", "Pooling", *_AFTER_POOLING)


@dataclasses.dataclass(frozen=True)
class Folder:
    """The result of `read`.

    Args:
        encoder: path of the directory with the encoder and its tokenizer.
        embedding: `EmbeddingSpec`.
        sequence_length: int. The maximum sequence length that the directory specifies, in tokens; `None` if it leaves
            it to the tokenizer.
        lowercase: bool. Whether to lowercase texts before a tokenizer that does not do so itself.
        is_static: bool. Whether the encoder is a table of token vectors without a `config.json` (`StaticEmbedding`).
    """

    encoder: pathlib.Path
    embedding: EmbeddingSpec
    sequence_length: int | None
    lowercase: bool
    is_static: bool = False


def read(folder, load_weights=True):
    """Reads a sentence-transformers directory, except the encoder and its tokenizer.

    Keys, names and defaults are those of sentence-transformers 6.2; older formats are also supported.

    Args:
        folder: path of a directory with `modules.json`.
        load_weights: whether to read the modules' weights.

    Returns:
        A `Folder`.

    Raises:
        ValueError: for an unsupported module or option. The message names the file and the key.
    """
    folder = pathlib.Path(folder)
    modules = entries(folder)
    kinds = [kind for kind, _ in modules]
    if kinds[:1] == ["StaticEmbedding"]:
        return _static(folder, modules, load_weights)
    weighted = kinds[1:2] == ["WeightedLayerPooling"]
    start = ["Transformer", "WeightedLayerPooling", "Pooling"] if weighted else ["Transformer", "Pooling"]
    if kinds[: len(start)] != start or any(kind not in _AFTER_POOLING for kind in kinds[len(start) :]):
        expected = f"Transformer, Pooling (perhaps after WeightedLayerPooling), then {_words(_AFTER_POOLING)}"
        raise _check.invalid(MODULES_FILE, expected, kinds, f"In {folder / MODULES_FILE}")
    encoder = modules[0][1]
    options = transformer(encoder)
    embedding: dict[str, Any] = {}
    if weighted:
        _check_hidden_states(encoder, options, modules[1][1])
        embedding = _layer_pooling(modules[1][1], load_weights)
    modes, include_prompt = pooling(modules[len(start) - 1][1] / "config.json")
    about, truncate = describe(folder)
    spec = EmbeddingSpec(
        pooling=modes,
        include_prompt=include_prompt,
        modules=[*after_pooling(modules[len(start) :], load_weights), *truncate],
        **embedding,
        **about,
    )
    length = _check.integer("max_seq_length", options.get("max_seq_length"), optional=True)
    if length is None:
        length = _arguments(options, "tokenizer_args", "processor_kwargs").get("model_max_length")
    lowercase = bool(options.get("do_lower_case")) and not _lowers(encoder)
    return Folder(encoder, spec, length, lowercase)


def _static(folder, modules, load_weights):
    """Reads a directory whose first module is a table of token vectors, with mean pooling and no truncation."""
    kinds = [kind for kind, _ in modules]
    if any(kind not in _AFTER_POOLING for kind in kinds[1:]):
        expected = f"StaticEmbedding, then {_words(_AFTER_POOLING)}"
        raise _check.invalid(MODULES_FILE, expected, kinds, f"In {folder / MODULES_FILE}")
    about, truncate = describe(folder)
    spec = EmbeddingSpec(pooling=("mean",), modules=[*after_pooling(modules[1:], load_weights), *truncate], **about)
    return Folder(modules[0][1], spec, UNBOUNDED, False, is_static=True)


def entries(folder):
    """Returns the modules of a directory in order, as `(class, directory of the module)`.

    Raises:
        ValueError: if `modules.json` names an unsupported module.
    """
    file = pathlib.Path(folder) / MODULES_FILE
    listed = _checkpoint.read_json(file)
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise _check.invalid(MODULES_FILE, "a list of modules", listed, f"In {file}")
    return [(_class(entry, file), file.parent / _path(entry, file)) for entry in listed]


def _class(entry, file):
    """Returns the class of an entry of modules.json, the last part of both the older and the newer dotted paths."""
    package, _, kind = str(entry.get("type")).rpartition(".")
    if package.split(".")[0] != "sentence_transformers" or kind not in _MODULES:
        expected = f"one of sentence-transformers' {', '.join(_MODULES)}"
        raise _check.invalid("type", expected, entry.get("type"), f"In {file}")
    return kind


def _path(entry, file):
    """Returns the directory that an entry of modules.json names, which must be inside the model's own."""
    path = entry.get("path", "")
    parts = pathlib.PureWindowsPath(str(path))  # splits on both kinds of slashes
    if not isinstance(path, str) or parts.anchor or ".." in parts.parts:
        raise _check.invalid("path", "a folder within the model's own", path, f"In {file}")
    return path


def describe(folder):
    """Reads the settings of the whole model: prompts, similarity, and the number of components that `encode` keeps.

    Returns:
        A dict of arguments of `EmbeddingSpec`, and a list of the last module: `Truncate`, or empty.
    """
    file = folder / MODEL_FILE
    config = _config(file, optional=True)
    where = f"In {file}"
    if config.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise _check.invalid("model_type", "'SentenceTransformer'", config["model_type"], where)
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise _check.invalid("prompts", "a dict of names to texts", prompts, where)
    prompts = {name: text or "" for name, text in prompts.items()}
    if any(prompts.values()):
        # The reference gives every model these two: with a prompt "passage" only, there is no prompt for documents.
        prompts = {"query": "", "document": "", **prompts}
    default = config.get("default_prompt_name")
    if default is not None:
        _check.one_of("default_prompt_name", default, prompts, where)
    similarity = config.get("similarity_fn_name") or "cosine"
    _check.one_of("similarity_fn_name", similarity, SIMILARITIES, where)
    dim = _size("truncate_dim", config, file, optional=True)
    return (
        {"prompts": prompts, "default_prompt_name": default, "similarity_fn_name": similarity},
        [] if dim is None else [{"class": "Truncate", "units": dim}],
    )


# === Modules ===


def after_pooling(modules, load_weights=True):
    """Reads the modules after the pooling.

    Args:
        modules: list of `(class, directory)`, as returned by `entries`.
        load_weights: whether to read the weights.

    Returns:
        A list of dicts, the `modules` of an `EmbeddingSpec`.
    """
    return [{"class": kind, **_READERS[kind](folder, load_weights)} for kind, folder in modules]


def pooling(file):
    """Returns the modes of a Pooling module, and whether it includes the tokens of prompts."""
    config = _config(file)
    where = f"In {file}"
    include_prompt = config.get("include_prompt", True)
    _check.instance("include_prompt", include_prompt, bool, "true or false", where)
    for key in config:
        if key.startswith("pooling_mode_") and key not in _OLD_POOLING:
            raise _check.invalid("pooling", f"only the flags {', '.join(_OLD_POOLING)}", key, where)
    modes = config.get("pooling_mode")
    if modes is None:
        names = tuple(mode for flag, mode in _OLD_POOLING.items() if config.get(flag))
        return names or ("mean",), include_prompt  # the reference's own default
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes:
        raise _check.invalid("pooling_mode", f"{_words(map(repr, _NEW_POOLING))}, or a list", modes, where)
    names = tuple(_NEW_POOLING[_check.one_of("pooling_mode", mode, _NEW_POOLING, where)] for mode in modes)
    return layers.pooling_modes(names), include_prompt


def _layer_pooling(folder, load_weights):
    """Returns the first layer that a WeightedLayerPooling module reads, and the weights of the layers."""
    file = folder / "config.json"
    config = _config(file)
    start = _size("layer_start", config, file, minimum=0, default=4)
    count = _size("num_hidden_layers", config, file, default=12) + 1 - start
    if count < 1:
        raise _check.invalid("layer_start", "at most `num_hidden_layers`", start, f"In {file}")
    weights = _Weights(folder, "layer_weights", load_weights)
    found = {"layer_start": start, "layer_weights": weights.take("layer_weights", (count,))}
    weights.check_all_used()
    return found


def _check_hidden_states(encoder, options, folder):
    """Raises if the reference ignores a WeightedLayerPooling module because the encoder returns no hidden states."""
    file = encoder / "config.json"
    asked = _arguments(options, "config_args", "config_kwargs").get("output_hidden_states")
    config = _config(file, optional=True)
    if not (config.get("output_hidden_states") if asked is None else asked):
        remedy = f"In {file}. Without it, sentence-transformers ignores the module in {folder}"
        expected = "true in a folder with WeightedLayerPooling"
        raise _check.invalid("output_hidden_states", expected, config.get("output_hidden_states"), remedy)


def dense(folder, load_weights=True, output="sentence_embedding"):
    """Reads a Dense module; `output` is the required name of its result."""
    file = folder / "config.json"
    config = _sentence_module(file, output)
    inputs, units = _size("in_features", config, file), _size("out_features", config, file)
    path = config.get("activation_function") or "torch.nn.modules.activation.Tanh"  # the reference's own default
    package, _, short = str(path).rpartition(".")
    if package.split(".")[0] != "torch" or short not in ACTIVATIONS:
        raise _check.invalid("activation_function", f"torch's {', '.join(ACTIVATIONS)}", path, f"In {file}")
    use_bias, use_residual = bool(config.get("bias", True)), bool(config.get("use_residual", False))
    weights = _Weights(folder, "linear.weight", load_weights)
    found = {
        "units": units,
        "activation": ACTIVATIONS[short],
        "use_bias": use_bias,
        "use_residual": use_residual,
        "kernel": weights.take("linear.weight", (units, inputs)),
        "bias": weights.take("linear.bias", (units,)) if use_bias else None,
        "residual_kernel": weights.take("residual.weight", (units, inputs))
        if use_residual and units != inputs
        else None,
    }
    weights.check_all_used()
    return found


def _layer_norm(folder, load_weights):
    file = folder / "config.json"
    shape = (_size("dimension", _config(file), file),)
    weights = _Weights(folder, "norm.weight", load_weights)
    found = {"epsilon": 1e-5, "gamma": weights.take("norm.weight", shape), "beta": weights.take("norm.bias", shape)}
    weights.check_all_used()
    return found


def _dropout(folder, load_weights):
    file = folder / "config.json"
    rate = _config(file, optional=True).get("dropout", 0.2)  # the reference's own default
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise _check.invalid("dropout", "a number from 0 to 1", rate, f"In {file}")
    return {"rate": float(rate)}


def _normalize(folder, load_weights):
    _sentence_module(folder / "config.json")
    return {}


_READERS = {"Dense": dense, "Dropout": _dropout, "LayerNorm": _layer_norm, "Normalize": _normalize}


def _sentence_module(file, output="sentence_embedding"):
    """Returns a module's config; raises if the module reads or writes anything other than the sentence vector."""
    config = _config(file, optional=True)
    for key, expected in (("module_input_name", "sentence_embedding"), ("module_output_name", output)):
        if (config.get(key) or "sentence_embedding") != expected:
            raise _check.invalid(key, repr(expected), config.get(key), f"In {file}")
    return config


class _Weights:
    """The weights of a module, all `None` without `load_weights`. Matrices are returned as `(inputs, units)`."""

    def __init__(self, folder, anchor, load_weights):
        self._checkpoint = None
        if load_weights:
            tensors = _checkpoint.open_tensors(folder)
            self._checkpoint = _checkpoint.Checkpoint(tensors, anchor, (), str(folder))

    def take(self, name, shape):
        """Returns the tensor `name`, which has the shape `shape` in the file, or `None`."""
        if self._checkpoint is None:
            return None
        return np.ascontiguousarray(self._checkpoint.take(name, shape).T)

    def check_all_used(self):
        """Raises if the file has unused tensors."""
        if self._checkpoint is not None:
            self._checkpoint.check_all_used()


# === The Transformer module ===


def transformer(folder):
    """Reads and checks the Transformer module's own config, which may have several names or be absent."""
    file = next((folder / name for name in TRANSFORMER_FILES if (folder / name).is_file()), None)
    if file is None:
        return {}
    config = _config(file)
    where = f"In {file}"
    for key, allowed in _TRANSFORMER.items():
        if config.get(key) not in allowed:
            raise _check.invalid(key, f"one of {', '.join(map(repr, allowed))}", config[key], where)
    modalities = config.get("modality_config")
    if modalities is not None and modalities.get("text") != _FORWARD:
        raise _check.invalid("modality_config", f"{{'text': {_FORWARD}}}", modalities, where)
    for names, harmless in _HARMLESS.items():
        known = harmless | _EVERYWHERE | ({"model_max_length"} if "tokenizer_args" in names else set())
        unknown = sorted(set(_arguments(config, *names)) - known)
        if unknown:
            name = next(name for name in names if config.get(name))
            raise _check.invalid(name, f"arguments among {', '.join(sorted(known))}", unknown, where)
    _size("max_seq_length", config, file, optional=True)
    return config


def _arguments(config, *names):
    """Returns the arguments that a config passes to transformers, under the first of the names that is present."""
    return next((config[name] for name in names if config.get(name)), {})


def _lowers(folder):
    """Returns whether the tokenizer in a directory lowercases."""
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


# === Values ===


def _config(file, optional=False):
    """Returns the dict in a JSON file; an empty dict if an optional file is missing."""
    if not file.is_file():
        if optional:
            return {}
        raise _check.invalid("preset", f"a folder with {file.parent.name}/{file.name}", str(file.parent.parent))
    config = _checkpoint.read_json(file)
    return _check.instance(file.name, config, dict, "an object", f"In {file}")


def _size(key, config, file, *, minimum=1, default=None, optional=False):
    """Returns an integer of a config; errors name the key and the file."""
    value = config.get(key, default)
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise _check.invalid(key, f"an int >= {minimum}", value, f"In {file}")
    return value


def _words(names):
    return f"any of {', '.join(names)}"
