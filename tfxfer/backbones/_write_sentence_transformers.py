"""Writes sentence-transformers directories: the inverse of `_sentence_transformers`."""

import numpy as np

from tfxfer import _check, _disk
from tfxfer._version import __version__
from tfxfer.backbones import _checkpoint, _sentence_transformers, _write
from tfxfer.backbones._embedding import ACTIVATIONS
from tfxfer.backbones.families import FAMILIES

# Every version knows these names; newer versions also have longer paths.
_MODULES = "sentence_transformers.models."
_OLD_POOLING = {mode: flag for flag, mode in _sentence_transformers._OLD_POOLING.items()}
_NEW_POOLING = {mode: name for name, mode in _sentence_transformers._NEW_POOLING.items()}
_LAYER_NORM_EPSILON = 1e-5  # torch's default: the module supports no other value


def write(folder, backbone, preprocessor, spec, *, dtype="float32"):
    """Writes an embedder for sentence-transformers.

    Args:
        folder: path of an existing directory.
        backbone: `Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        spec: `EmbeddingSpec` with its weights.
        dtype: string, a key of `_write.DTYPES`, of all weights.

    Raises:
        ValueError: as in `_write.write`; for a module that sentence-transformers does not have.
    """
    if FAMILIES[backbone.family].first_module != _write.TRANSFORMER:
        _write_static(folder, backbone, preprocessor, spec, dtype)
        return
    dim, modules, entries = backbone.hidden_dim, [], {}
    if spec.layer_start is not None:
        modules.append(layer_pooling(spec, backbone))
        entries["output_hidden_states"] = True  # without it, the reference ignores the module
    modules.append(("Pooling", pooling(spec.pooling, dim, spec.include_prompt), None))
    modules += after_pooling(spec.modules, dim * len(spec.pooling))
    _write.write(folder, backbone, preprocessor, entries=entries, dtype=dtype)
    write_modules(folder, modules, dtype)
    _disk.write_json(folder / _sentence_transformers.TRANSFORMER_FILES[0], transformer(preprocessor))
    write_model(folder, "SentenceTransformer", _described(spec))


def _write_static(folder, backbone, preprocessor, spec, dtype):
    """Writes a table of token vectors; its module reads it with the tokenizer and applies mean pooling."""
    _write.check_preprocessor(preprocessor, add_special_tokens=False)
    if tuple(spec.pooling) != ("mean",) or spec.layer_start is not None:
        raise _check.invalid("pooling", "'mean', the pooling of a StaticEmbedding", spec.pooling)
    _write.save_tensors(folder / _checkpoint.WEIGHTS, _write.encoder_tensors(backbone), dtype)
    _write.write_tokenizer(folder, backbone, preprocessor)
    first = FAMILIES[backbone.family].first_module
    write_modules(folder, after_pooling(spec.modules, backbone.hidden_dim), dtype, first=first)
    write_model(folder, "SentenceTransformer", _described(spec))


def _described(spec):
    """Returns the settings of an `EmbeddingSpec` that apply to the whole model."""
    return {
        "prompts": spec.prompts,
        "default_prompt_name": spec.default_prompt_name,
        "similarity_fn_name": spec.similarity_fn_name,
    }


def write_cross_encoder(folder, backbone, preprocessor, head, *, activation, dtype="float32"):
    """Writes a sequence classifier, in the form of its transformers class, as a CrossEncoder.

    Args:
        folder: path of an existing directory.
        backbone: `Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        head: `_write.Head`.
        activation: Keras's name of the activation that turns logits into scores; `None` for none.
        dtype: string.
    """
    _write.write(folder, backbone, preprocessor, head=head, dtype=dtype)
    write_modules(folder, [], dtype)
    options = {**transformer(preprocessor), "transformer_task": "sequence-classification"}
    _disk.write_json(folder / _sentence_transformers.TRANSFORMER_FILES[0], options)
    write_model(folder, "CrossEncoder", {"activation_fn": torch_name(activation)})


def write_modular_cross_encoder(
    folder, backbone, preprocessor, modes, modules, *, labels, problem_type, activation, dtype="float32"
):
    """Writes an encoder with pooling and modules above it as a CrossEncoder of sentence-transformers 6.

    Args:
        folder: path of an existing directory.
        backbone: `Backbone`.
        preprocessor: `preprocessing.TextPreprocessor`.
        modes: tuple of modes of `layers.Pooling`.
        modules: list of dicts as in `EmbeddingSpec.modules`; the last one, a dense module, outputs the scores.
        labels: list of the outputs' names.
        problem_type: string, a `problem_type` of `config.json`.
        activation: Keras's name of the activation that turns logits into scores; `None` for none.
        dtype: string.
    """
    dim = backbone.hidden_dim
    above = after_pooling(modules, dim * len(modes))
    above[-1][1].update(module_input_name="sentence_embedding", module_output_name="scores")
    entries = {**_write.label_entries(labels), "problem_type": problem_type}
    _write.write(folder, backbone, preprocessor, entries=entries, dtype=dtype)
    write_modules(folder, [("Pooling", pooling(modes, dim), None), *above], dtype)
    _disk.write_json(folder / _sentence_transformers.TRANSFORMER_FILES[0], transformer(preprocessor))
    write_model(folder, "CrossEncoder", {"activation_fn": torch_name(activation)})


def transformer(preprocessor):
    """Returns the entries of the Transformer module's own config that every version reads."""
    return {"max_seq_length": preprocessor.sequence_length, "do_lower_case": False}


def write_model(folder, kind, entries):
    """Writes `config_sentence_transformers.json`."""
    config = {"model_type": kind, "__version__": {"tfxfer": __version__}, **entries}
    _disk.write_json(folder / _sentence_transformers.MODEL_FILE, config)


def write_modules(folder, modules, dtype, first=_write.TRANSFORMER):
    """Writes modules.json and a subdirectory for each module after the first, whose files are in the directory itself.

    Args:
        folder: path.
        modules: list of (class, config, tensors); `None` for a file that the module does not have.
        dtype: string.
        first: string. The first module's class.
    """
    listed = [{"idx": 0, "name": "0", "path": "", "type": f"{_MODULES}{first}"}]
    for i, (kind, config, tensors) in enumerate(modules, 1):
        path = f"{i}_{kind}"
        listed.append({"idx": i, "name": str(i), "path": path, "type": f"{_MODULES}{kind}"})
        _disk.write_json(folder / path / "config.json", config or {})
        if tensors is not None:
            _write.save_tensors(folder / path / _checkpoint.WEIGHTS, tensors, dtype)
    _disk.write_json(folder / _sentence_transformers.MODULES_FILE, listed)


# === Modules, as (class, config, tensors) ===


def pooling(modes, dim, include_prompt=True):
    """Returns the config of a Pooling module.

    It uses the flags that every version reads if their fixed order is that of `modes`.
    """
    if list(modes) == [mode for mode in _OLD_POOLING if mode in modes]:
        flags = {flag: mode in modes for mode, flag in _OLD_POOLING.items()}
        return {"word_embedding_dimension": dim, **flags, "include_prompt": include_prompt}
    names = [_NEW_POOLING[mode] for mode in modes]
    return {"embedding_dimension": dim, "pooling_mode": names, "include_prompt": include_prompt}


def layer_pooling(spec, backbone):
    """Returns the WeightedLayerPooling module of an `EmbeddingSpec`."""
    config = {
        "word_embedding_dimension": backbone.hidden_dim,
        "num_hidden_layers": backbone.num_layers,
        "layer_start": spec.layer_start,
    }
    return "WeightedLayerPooling", config, {"layer_weights": spec.layer_weights}


def after_pooling(modules, width):
    """Returns the modules after the pooling.

    Args:
        modules: list of dicts, as in `EmbeddingSpec.modules`.
        width: int. The size of the pooled vectors.
    """
    found = []
    for module in modules:
        found.append(_WRITERS[module["class"]](module, width))
        width = module.get("units", width)
    return found


def _dense(module, width):
    config = {
        "in_features": width,
        "out_features": module["units"],
        "bias": module["use_bias"],
        "activation_function": torch_name(module["activation"]),
    }
    tensors = {"linear.weight": module["kernel"].T}
    if module["use_bias"]:
        tensors["linear.bias"] = module["bias"]
    if module["use_residual"]:
        config["use_residual"] = True
        if module["residual_kernel"] is not None:
            tensors["residual.weight"] = module["residual_kernel"].T
    return "Dense", config, tensors


def _layer_norm(module, width):
    if module["epsilon"] != _LAYER_NORM_EPSILON:
        raise _check.invalid("epsilon", f"{_LAYER_NORM_EPSILON}, sentence-transformers' own", module["epsilon"])
    return "LayerNorm", {"dimension": width}, {"norm.weight": module["gamma"], "norm.bias": module["beta"]}


def _dropout(module, width):
    return "Dropout", {"dropout": module["rate"]}, None


def _normalize(module, width):
    return "Normalize", None, None


def _truncate(module, width):
    """Writes the first rows of the identity: the reference's own `truncate_dim` is not saved in its files."""
    kernel = np.eye(width, module["units"], dtype="float32")
    dense = {"units": module["units"], "use_bias": False, "use_residual": False, "activation": None, "kernel": kernel}
    return _dense(dense, width)


_WRITERS = {
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Dropout": _dropout,
    "Normalize": _normalize,
    "Truncate": _truncate,
}


def torch_name(activation):
    """Returns the dotted name of torch's activation for Keras's name, a dict of name and arguments, or `None`."""
    activation = None if activation == "linear" else activation
    names = [name for name, ours in ACTIVATIONS.items() if ours == activation]
    if not names:
        options = ", ".join(str(ours) for ours in ACTIVATIONS.values())
        raise _check.invalid("activation", f"one that torch has: {options}", activation)
    return f"torch.nn.modules.{'linear' if activation is None else 'activation'}.{names[0]}"
