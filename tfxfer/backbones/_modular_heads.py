"""Cross-encoders made of modules: encoder, pooling and dense layers, as sentence-transformers 6 has them."""

import numpy as np

from tfxfer import _check
from tfxfer.backbones import _checkpoint, _config, _heads, _sentence_transformers

_BEFORE_OUTPUT = ("Dropout", "Dense", "LayerNorm")


def read(folder, load_weights=True):
    """Reads the head of a cross-encoder that is made of modules.

    Args:
        folder: path of a folder with `modules.json`.
        load_weights: whether to read the modules' weights.

    Returns:
        (encoder, head, sequence_length): the encoder's folder, the `HeadSpec`, and the longest sequence or `None`; or
        `None` for a folder of another kind.

    Raises:
        ValueError: if the modules are other than Transformer, Pooling and the parts of a `layers.Head` with at most one
            hidden layer, of the encoder's size.
    """
    file = folder / _sentence_transformers.MODEL_FILE
    config = _checkpoint.read_json(file) if file.is_file() else {}
    if not isinstance(config, dict) or config.get("model_type") != "CrossEncoder":
        return None
    entries = _sentence_transformers.entries(folder)
    if len(entries) == 1:
        return None
    where = f"In {folder / _sentence_transformers.MODULES_FILE}"
    kinds = [kind for kind, _ in entries]
    above = entries[2:]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[-1] != "Dense" or set(kinds[2:]) - set(_BEFORE_OUTPUT):
        expected = f"Transformer, Pooling, then {', '.join(_BEFORE_OUTPUT)}, and Dense at the end"
        raise _check.invalid(_sentence_transformers.MODULES_FILE, expected, kinds, where)
    modules = [
        *_sentence_transformers.after_pooling(above[:-1], load_weights),
        {"class": "Dense", **_sentence_transformers.dense(above[-1][1], load_weights, output="scores")},
    ]
    options = _sentence_transformers.transformer(entries[0][1])
    modes, include_prompt = _sentence_transformers.pooling(entries[1][1] / "config.json")
    if config.get("default_prompt_name") is not None or not include_prompt:
        raise _check.invalid("prompts", "none by default for a cross-encoder", config.get("prompts"), f"In {file}")
    encoder = entries[0][1]
    head = _head(encoder, modes, modules, config.get("activation_fn"), where)
    return encoder, head, options.get("max_seq_length")


def _head(encoder, modes, modules, scoring, where):
    """Returns the `HeadSpec` of modules."""
    config, _, arguments = _config.read(encoder)
    file, hidden_dim = encoder / "config.json", arguments["hidden_dim"]
    rates, parts = [], []
    for module in modules:
        if module["class"] == "Dropout":
            rates.append(module["rate"])
        else:
            parts.append(module)
    kinds = [part["class"] for part in parts]
    hidden = parts[0] if len(parts) > 1 else None
    norm = parts[1] if len(parts) > 2 else None
    if kinds not in (["Dense"], ["Dense", "Dense"], ["Dense", "LayerNorm", "Dense"]) or (
        hidden is not None and hidden["units"] != hidden_dim
    ):
        expected = f"at most one hidden layer of {hidden_dim} units before the output"
        raise _check.invalid(_sentence_transformers.MODULES_FILE, expected, kinds, where)
    if any(part.get("use_residual") for part in parts) or parts[-1]["activation"] is not None:
        raise _check.invalid("Dense", "no use_residual, and no activation of the output", kinds, where)
    if norm is not None and norm["beta"] is not None and np.any(norm["beta"]):
        raise _check.invalid("LayerNorm", "a norm without bias", "norm.bias that is not 0", where)
    labels = _heads.read_labels(config, f"In {file}")
    found = _heads.HeadFormat(
        output="",
        hidden=None if hidden is None else "",
        norm=None if norm is None else "",
        pooling=modes,
        activation="tanh" if hidden is None else hidden["activation"] or "linear",
        dropout=rates[-1] if rates else 0.0,
        hidden_dropout=rates[0] if rates else 0.0,
        use_bias=parts[-1]["use_bias"],
        hidden_use_bias=True if hidden is None else hidden["use_bias"],
        norm_epsilon=None if norm is None else norm["epsilon"],
    )
    if len(labels) != parts[-1]["units"]:
        raise _check.invalid("id2label", f"{parts[-1]['units']} labels, one for each output", labels, f"In {file}")
    return _heads.HeadSpec(
        labels,
        _heads.read_problem(config, len(labels), f"In {file}"),
        found,
        hidden_dim,
        _heads.read_score_activation(config, len(labels), scoring, where),
        _weights(hidden, norm, parts[-1]),
    )


def _weights(hidden, norm, output):
    if output["kernel"] is None:
        return None
    found = {"output.kernel": output["kernel"], "output.bias": output["bias"]}
    if hidden is not None:
        found |= {"hidden.kernel": hidden["kernel"], "hidden.bias": hidden["bias"]}
    if norm is not None:
        found["norm.gamma"] = norm["gamma"]
    return {name: value for name, value in found.items() if value is not None}
