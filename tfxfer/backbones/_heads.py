"""The trained heads of Hugging Face's sequence and token classifiers, and of cross-encoders."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np

from tfxfer import _check, layers
from tfxfer.backbones import _checkpoint

CLASSIFIER, TAGGER = "ForSequenceClassification", "ForTokenClassification"
# Classes of other tasks with trained heads. Pretraining classes (ForMaskedLM, ForPreTraining ...) do not count.
_TASKS = (CLASSIFIER, TAGGER, "ForQuestionAnswering", "ForMultipleChoice")
# Used as problem type of a token classifier, whose config.json has no relevant one.
TOKENS = "token_classification"
_PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
_ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "tanh": "tanh", "silu": "silu", "swish": "silu"}
_SCORES = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Identity": None}


@dataclasses.dataclass(frozen=True)
class HeadFormat:
    """How a family's classifiers compute logits from token vectors, and their tensor names.

    Pooling, a hidden layer with activation (and norm), then the output. Token classifiers do the same without pooling.

    Args:
        output: string. The name of the output's tensors, without `.weight` and `.bias`.
        hidden: string. The same for the hidden layer, or `None`. `{}` is replaced by the family's prefix.
        norm: string. The same for the norm after the hidden layer's activation, or `None`.
        pooling: a mode of `layers.Pooling`, or a tuple of several.
        is_late: bool. Whether the hidden layer is applied to every token, before the pooling.
        activation: string. Activation of the hidden layer: `"gelu"`, `"relu"`, `"tanh"` or `"silu"`.
        dropout: float. Dropout rate before the output.
        hidden_dropout: float. Dropout rate before the hidden layer.
        use_bias: bool. Whether the output has a bias.
        hidden_use_bias: bool. Whether the hidden layer has a bias.
        norm_epsilon: float. Epsilon of the norm.
    """

    output: str = "classifier"
    hidden: str | None = None
    norm: str | None = None
    pooling: str | tuple = "cls"
    is_late: bool = False
    activation: str = "tanh"
    dropout: float = 0.0
    hidden_dropout: float = 0.0
    use_bias: bool = True
    hidden_use_bias: bool = True
    norm_epsilon: float | None = None


@dataclasses.dataclass(frozen=True)
class MaskedHeadFormat:
    """How a family's masked language models compute logits, and their tensor names.

    Dense layer, activation, norm, the embedding table, bias.

    Args:
        dense: string. The name of the dense layer's tensors, without `.weight` and `.bias`.
        norm: string. The same for the norm.
        bias: tuple of possible names of the bias, transformers' own first.
        activation: string, a key of `Backbone`'s activations; `None` for an unsupported one.
        norm_epsilon: float.
        transform_bias: bool. Whether the dense layer has a bias.
        norm_bias: bool. Whether the norm has a bias.
    """

    dense: str = "cls.predictions.transform.dense"
    norm: str = "cls.predictions.transform.LayerNorm"
    bias: tuple = ("cls.predictions.bias", "cls.predictions.decoder.bias")
    activation: str | None = "gelu"
    norm_epsilon: float = 1e-12
    transform_bias: bool = True
    norm_bias: bool = True


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    """The trained head of a sequence or token classifier, in the form of this package's layers.

    Args:
        labels: tuple of the class names in the order of the outputs; the checkpoint's `id2label`.
        problem_type: string. `"single_label_classification"`, `"multi_label_classification"` or `"regression"`;
            `"token_classification"` for a head applied to every token.
        format: `HeadFormat`.
        hidden_dim: int. Size of a token's vector.
        score_activation: string or `None`. The activation that turns a cross-encoder's logit into a score.
        weights: dict of float32 arrays: `"hidden.kernel"` (hidden_dim, hidden_dim), `"hidden.bias"` (hidden_dim,),
            `"norm.gamma"` (hidden_dim,), `"output.kernel"` (hidden_dim, labels), `"output.bias"` (labels,), as required
            by the format; `None` for random weights.

    Example:

    >>> from tfxfer.backbones._heads import HeadFormat
    >>> spec = HeadSpec(("neg", "pos"), "single_label_classification", HeadFormat(pooling="mean"), hidden_dim=8)
    >>> spec.pooling(), tuple(spec.head()(np.zeros((1, 8))).shape)
    (('mean',), (1, 2))
    >>> spec.with_labels({"neg": "bad", "pos": "good"}).labels
    ('bad', 'good')
    """

    labels: tuple
    problem_type: str
    format: HeadFormat
    hidden_dim: int
    score_activation: str | None = None
    weights: dict | None = dataclasses.field(default=None, repr=False)

    def pooling(self) -> tuple[str, ...] | keras.layers.Layer:
        """Returns the pooling for a task model: a tuple of modes, or a `layers.DensePooling`."""
        if self.format.is_late:
            return layers.DensePooling(self.hidden_dim, self.format.activation, self.format.pooling, name="pooling")
        return self.format.pooling if isinstance(self.format.pooling, tuple) else (self.format.pooling,)

    def head(self, dropout: float | None = None) -> keras.layers.Layer:
        """Returns the head, a `layers.Head` without the checkpoint's weights.

        Args:
            dropout: float. Dropout rate before the output. Defaults to the checkpoint's.
        """
        found = self.format
        has_hidden = found.hidden is not None and not found.is_late
        made = layers.Head(
            len(self.labels),
            (self.hidden_dim,) if has_hidden else (),
            found.activation,
            found.dropout,
            hidden_dropout=found.hidden_dropout,
            use_bias=found.use_bias,
            hidden_use_bias=found.hidden_use_bias,
            norm_epsilon=found.norm_epsilon,
            name="head",
        )
        return made if dropout is None else made.with_dropout(dropout)

    def assign(self, pooling: keras.layers.Layer, head: keras.layers.Layer) -> None:
        """Assigns the checkpoint's weights to the built layers returned by `pooling` and `head`."""
        if self.weights is None:
            return
        parts = {"output": head.denses[-1], "norm": head.norms[0] if head.norms else None}
        if self.format.hidden is not None:
            parts["hidden"] = pooling.dense if self.format.is_late else head.denses[0]
        for name, value in self.weights.items():
            part, kind = name.split(".")
            getattr(parts[part], kind).assign(value)

    def with_labels(self, labels: Sequence[str] | Mapping[str, str], argument: str = "labels") -> Self:
        """Returns the head with its labels reordered or renamed.

        Args:
            labels: the same labels in the desired order of the outputs, or a dict that maps each label to its new name.
            argument: string. The name of the caller's argument, for error messages.

        Raises:
            ValueError: if a label is missing or unknown.
        """
        if isinstance(labels, dict):
            if set(labels) != set(self.labels):
                expected = f"a new name for each of {', '.join(map(repr, self.labels))}"
                raise _check.invalid(argument, expected, labels)
            return dataclasses.replace(self, labels=tuple(labels[name] for name in self.labels))
        return self.with_outputs(list(labels), [self.labels.index(name) for name in labels])

    def with_outputs(self, labels: Sequence[str], places: Sequence[int | None]) -> Self:
        """Returns the head with other outputs.

        Args:
            labels: the names of the outputs.
            places: the index of each output among the trained ones; `None` for an output with random weights.
        """
        is_new = np.array([place is None for place in places])
        start = keras.initializers.TruncatedNormal(stddev=0.02)  # as in `layers.Head`

        def taken(value):
            found = np.array(value[..., [place or 0 for place in places]])
            fresh = start(found.shape) if found.ndim > 1 else keras.ops.zeros(found.shape)
            return np.where(is_new, keras.ops.convert_to_numpy(fresh), found)

        weights = self.weights and {
            name: taken(value) if name.startswith("output") else value for name, value in self.weights.items()
        }
        return dataclasses.replace(self, labels=tuple(labels), weights=weights)


def task_of(config):
    """Returns the architecture in config.json if it is a task class with a trained head, otherwise `None`."""
    names = config.get("architectures")
    names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return next((name for name in names if name.endswith(_TASKS)), None)


def rate(config, *keys, default=0.0):
    """Returns the first dropout rate that config.json has under one of the keys.

    Raises:
        ValueError: if it is not a number in `[0, 1)`.
    """
    for key in keys:
        value = config.get(key)
        if value is not None:
            if _check.number(key, value, minimum=0.0, maximum=1.0) == 1.0:
                raise _check.invalid(key, "a rate below 1", value)
            return float(value)
    return default


def read(config, file, family, hidden_dim, tensors, scoring=None):
    """Reads the head of a sequence classifier.

    Args:
        config: dict. The content of config.json.
        file: path of the file, for error messages.
        family: `Family`.
        hidden_dim: int. Size of a token's vector.
        tensors: `Tensors` of the directory, or `None` for random weights.
        scoring: string. The activation that a cross-encoder's directory specifies outside config.json.

    Returns:
        A `HeadSpec`.

    Raises:
        ValueError: if config.json is not understood, or tensors are missing or have unexpected shapes.
    """
    where = f"In {file}. Pass `backbone_only=True` for a new head"
    labels = read_labels(config, where)
    problem = read_problem(config, len(labels), where)
    try:
        found = family.head(config)
    except ValueError as error:
        raise ValueError(f"{error}. {where}") from error
    if found is None:
        raise _check.invalid("preset", f"a family whose trained heads are supported, not {family.name}", str(file))
    if found.activation not in _ACTIVATIONS:
        raise _check.invalid("activation of the head", f"one of {', '.join(_ACTIVATIONS)}", found.activation, where)
    found = dataclasses.replace(found, activation=_ACTIVATIONS[found.activation])
    if found.pooling not in layers.POOLING:
        raise _check.invalid("classifier_pooling", "a supported pooling", found.pooling, where)
    weights = None if tensors is None else _weights(tensors, found, family.prefixes, hidden_dim, len(labels))
    score = read_score_activation(config, len(labels), scoring, where)
    return HeadSpec(labels, problem, found, hidden_dim, score, weights)


def class_name(family, task):
    """Returns the name of transformers' class for a task on a family's encoder."""
    return family.architecture.removesuffix("Model").removesuffix("Encoder") + task


def has_token_head(family, task):
    """Returns whether a class is transformers' token classifier of a family, with a supported head.

    The class must be the library's own: one with the same ending may have additional layers above the encoder.
    """
    return task == class_name(family, TAGGER) and family.token_head({}) is not None


def read_tokens(config, file, family, hidden_dim, tensors):
    """Reads the head of a token classifier; arguments and errors as in `read`.

    Returns:
        A `HeadSpec`.
    """
    where = f"In {file}. Pass `backbone_only=True` for a new head"
    labels = read_labels(config, where)
    if len(set(labels)) < len(labels):
        raise _check.invalid("id2label", "distinct names", labels, where)
    try:
        found = family.token_head(config)
    except ValueError as error:
        raise ValueError(f"{error}. {where}") from error
    if found is None:
        expected = f"transformers' own {class_name(family, TAGGER)}, not a class of the hub's code"
        raise _check.invalid("preset", expected, str(file), where)
    if found.activation not in _ACTIVATIONS:
        raise _check.invalid("activation of the head", f"one of {', '.join(_ACTIVATIONS)}", found.activation, where)
    found = dataclasses.replace(found, activation=_ACTIVATIONS[found.activation])
    weights = None if tensors is None else _weights(tensors, found, family.prefixes, hidden_dim, len(labels))
    return HeadSpec(labels, TOKENS, found, hidden_dim, None, weights)


def read_labels(config, where):
    """Returns the labels ordered by id; if config.json has none, the names that transformers generates."""
    named = config.get("id2label")
    if named is None:
        count = _check.integer("num_labels", config.get("num_labels") or 2)
        return tuple(f"LABEL_{i}" for i in range(count))
    expected = "a dict of the ids 0, 1, ... to names"
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise _check.invalid("id2label", expected, named, where)
    by_id = {int(key): name for key, name in named.items() if str(key).isdecimal()}
    if sorted(by_id) != list(range(len(named))):
        raise _check.invalid("id2label", expected, named, where)
    return tuple(by_id[i] for i in range(len(by_id)))


def read_problem(config, num_labels, where):
    """Returns the problem type in config.json, or the one implied by the number of labels."""
    problem = config.get("problem_type")
    if problem is None:
        return "regression" if num_labels == 1 else "single_label_classification"
    _check.one_of("problem_type", problem, _PROBLEMS, where)
    if problem == "single_label_classification" and num_labels == 1:
        raise _check.invalid(
            "problem_type", "'regression' or 'multi_label_classification' for one label", problem, where
        )
    return problem


def read_score_activation(config, num_labels, scoring, where):
    """Returns the activation that turns a cross-encoder's logit into a score, found as in sentence-transformers."""
    own = config.get("sentence_transformers")
    named = scoring or (own.get("activation_fn") if isinstance(own, dict) else None)
    named = named or config.get("sbert_ce_default_activation_function")
    if named is None:
        # A regression trained with transformers is on the scale of its targets.
        return "sigmoid" if num_labels == 1 and config.get("problem_type") != "regression" else None
    package, _, kind = str(named).rpartition(".")
    if package.split(".")[0] != "torch" or kind not in _SCORES:
        raise _check.invalid("activation_fn", f"torch's {', '.join(_SCORES)}", named, where)
    return _SCORES[kind]


def _weights(tensors, found, prefixes, hidden_dim, num_labels):
    """Reads the head's tensors; kernels in Keras's layout, inputs first."""
    checkpoint = _checkpoint.Checkpoint(tensors, f"{found.output}.weight", (), str(tensors.folder))
    size = (hidden_dim, hidden_dim)
    parts = [("output", found.output, (num_labels, hidden_dim), found.use_bias)]
    if found.hidden is not None:
        names = [found.hidden.format(prefix) for prefix in prefixes or ("",)]
        name = next((name for name in names if checkpoint.has(f"{name}.weight")), names[0])
        parts.append(("hidden", name, size, found.hidden_use_bias))
    weights: dict[str, Any] = {}
    for part, name, shape, has_bias in parts:
        weights[f"{part}.kernel"] = np.ascontiguousarray(checkpoint.take(f"{name}.weight", shape).T)
        if has_bias:
            weights[f"{part}.bias"] = checkpoint.take(f"{name}.bias", shape[:1])
        elif checkpoint.has(f"{name}.bias"):
            raise _check.invalid("preset", f"a head without {name}.bias", str(tensors.folder))
    if found.norm is not None:
        weights["norm.gamma"] = checkpoint.take(f"{found.norm}.weight", (hidden_dim,))
    return weights


# === sentence-transformers' cross-encoders ===

_MODULE = {
    "transformer_task": (None, "sequence-classification"),
    "module_output_name": (None, "scores"),
    "processing_kwargs": (None, {}),
    "do_lower_case": (None, False),
}
_FORWARD = {"method": "forward", "method_output_name": "logits"}


def cross_encoder(folder):
    """Checks whether a sentence-transformers directory is a cross-encoder.

    Args:
        folder: path of a directory with `modules.json`.

    Returns:
        (folder, scoring, length): the directory of the classifier, the activation for its scores or `None`, and the
        maximum sequence length or `None`. Returns `None` for a directory of another kind.

    Raises:
        ValueError: if it is a cross-encoder with modules other than one Transformer, or with unsupported options.
    """
    file = folder / "modules.json"
    modules = _checkpoint.read_json(file)
    modules = [module for module in modules if isinstance(module, dict)] if isinstance(modules, list) else []
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    config = _optional(folder / "config_sentence_transformers.json")
    path = folder / str(modules[0].get("path", "")) if modules else folder
    options = _optional(path / "sentence_bert_config.json")
    if config.get("model_type") != "CrossEncoder" and options.get("transformer_task") != "sequence-classification":
        return None
    if kinds != ["Transformer"]:
        raise _check.invalid("modules.json", "one Transformer module for a cross-encoder", kinds, f"In {file}")
    if config.get("default_prompt_name") is not None:
        name = config["default_prompt_name"]
        raise _check.invalid("default_prompt_name", "no default prompt for a cross-encoder", name, f"In {folder}")
    for key, allowed in _MODULE.items():
        if options.get(key) not in allowed:
            expected = f"one of {', '.join(map(repr, allowed))} for a cross-encoder"
            raise _check.invalid(key, expected, options[key], f"In {path}")
    modalities = options.get("modality_config")
    if modalities is not None and (not isinstance(modalities, dict) or modalities.get("text") != _FORWARD):
        raise _check.invalid("modality_config", f"{{'text': {_FORWARD}}}", modalities, f"In {path}")
    length = _check.integer("max_seq_length", options.get("max_seq_length"), optional=True)
    return path, config.get("activation_fn"), length


def _optional(file):
    found = _checkpoint.read_json(file) if file.is_file() else {}
    return found if isinstance(found, dict) else {}
