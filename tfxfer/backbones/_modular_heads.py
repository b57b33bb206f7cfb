"""Cross-encoders built from modules: encoder, pooling and dense layers, as in sentence-transformers 6."""

import dataclasses

import numpy as np

from tfxfer import _check, layers
from tfxfer.backbones import _checkpoint, _config, _heads, _sentence_transformers

_BEFORE_OUTPUT = ("Dropout", "Dense", "LayerNorm")


def read(folder, load_weights=True):
    """Reads the head of a cross-encoder built from modules.

    Args:
        folder: path of a directory with `modules.json`.
        load_weights: whether to read the modules' weights.

    Returns:
        (encoder, head, sequence_length): the encoder's directory, the `HeadSpec`, and the maximum sequence length or
        `None`. Returns `None` for a directory of another kind.

    Raises:
        ValueError: if the modules are not Transformer, Pooling and the parts of a `layers.Head`.
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
        raise _check.invalid("prompts", "no default prompt for a cross-encoder", config.get("prompts"), f"In {file}")
    encoder = entries[0][1]
    head = _head(encoder, modes, modules, config.get("activation_fn"), where)
    return encoder, head, options.get("max_seq_length")


@dataclasses.dataclass(frozen=True)
class ModularHead(_heads.HeadSpec):
    """A head built from modules: any number of hidden layers with one activation, dropout rate and kind of norm.

    Args:
        options: dict of the arguments of `layers.Head`.
    """

    options: dict = dataclasses.field(default_factory=dict)

    def head(self, dropout=None):
        """Returns the `layers.Head`, with its own dropout rate or the given one."""
        made = layers.Head(**{**self.options, "num_outputs": len(self.labels)}, name="head")
        return made if dropout is None else made.with_dropout(dropout)

    def assign(self, pooling, head):
        """Assigns the checkpoint's weights to a head returned by `head`."""
        parts = {
            "output": head.denses[-1],
            **{f"hidden{i}": dense for i, dense in enumerate(head.denses[:-1])},
            **{f"norm{i}": norm for i, norm in enumerate(head.norms)},
        }
        for name, value in (self.weights or {}).items():
            part, kind = name.split(".")
            getattr(parts[part], kind).assign(value)


def _head(encoder, modes, modules, scoring, where):
    """Returns the `ModularHead` for a list of modules."""
    config, _, arguments = _config.read(encoder)
    at = f"In {encoder / 'config.json'}"
    labels = _heads.read_labels(config, at)
    rates, denses, norms = _parts(modules, where)
    if len(labels) != denses[-1]["units"]:
        raise _check.invalid("id2label", f"{denses[-1]['units']} labels, one for each output", labels, at)
    hidden = denses[:-1]
    options = {
        "num_outputs": len(labels),
        "hidden_dims": tuple(dense["units"] for dense in hidden),
        "activation": _one("activation", [dense["activation"] or "linear" for dense in hidden] or ["gelu"], where),
        "dropout": rates[-1],
        "hidden_dropout": _one("dropout", rates[:-1] or [None], where),
        "use_bias": denses[-1]["use_bias"],
        "hidden_use_bias": _one("bias", [dense["use_bias"] for dense in hidden] or [True], where),
        "norm_epsilon": norms[0]["epsilon"] if norms else None,
    }
    return ModularHead(
        labels,
        _heads.read_problem(config, len(labels), at),
        _heads.HeadFormat(pooling=modes),
        arguments["hidden_dim"],
        _heads.read_score_activation(config, len(labels), scoring, where),
        _weights(denses, norms),
        options,
    )


def _parts(modules, where):
    """Returns the dropout rates before the dense layers, the dense layers, and the norms after the hidden ones."""
    rates, denses, norms, rate = [], [], [], 0.0
    for module in modules:
        if module["class"] == "Dropout":
            rate = module["rate"]
        elif module["class"] == "Dense":
            rates, denses, rate = [*rates, rate], [*denses, module], 0.0
        else:
            norms.append(module)
    expected = [kind for _ in denses[:-1] for kind in (["Dense", "LayerNorm"] if norms else ["Dense"])]
    kinds = [module["class"] for module in modules if module["class"] != "Dropout"]
    if kinds != [*expected, "Dense"]:
        raise _check.invalid(
            _sentence_transformers.MODULES_FILE, "a LayerNorm after every hidden Dense or after none", kinds, where
        )
    if any(dense["use_residual"] for dense in denses) or denses[-1]["activation"] is not None:
        raise _check.invalid("Dense", "no use_residual, and no activation of the output", kinds, where)
    if any(norm["beta"] is not None and np.any(norm["beta"]) for norm in norms):
        raise _check.invalid("LayerNorm", "a norm without bias", "norm.bias that is not 0", where)
    return rates, denses, norms


def _one(name, values, where):
    """Returns the common value; raises if the values differ."""
    if any(value != values[0] for value in values):
        raise _check.invalid(name, "the same for all hidden layers", values, where)
    return values[0]


def _weights(denses, norms):
    if denses[-1]["kernel"] is None:
        return None
    named = {f"hidden{i}": dense for i, dense in enumerate(denses[:-1])} | {"output": denses[-1]}
    found = {f"{name}.{key}": dense[key] for name, dense in named.items() for key in ("kernel", "bias")}
    found |= {f"norm{i}.gamma": norm["gamma"] for i, norm in enumerate(norms)}
    return {name: value for name, value in found.items() if value is not None}
