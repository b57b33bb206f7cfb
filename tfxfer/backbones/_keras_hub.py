"""KerasHub's backbones and presets, converted to this package's form if it has one, otherwise wrapped."""

import inspect
import json
import pathlib
from typing import Any

import keras
import keras_hub

from tfxfer import _check, preprocessing
from tfxfer._freezable import layers_within
from tfxfer.backbones import _weights
from tfxfer.backbones._backbone import Backbone
from tfxfer.backbones._hub_backbone import KerasHubBackbone
from tfxfer.backbones._sentence_transformers import EmbeddingSpec
from tfxfer.backbones.families import FAMILIES
from tfxfer.preprocessing import _hub

# Sentence encoders among KerasHub's presets, by name prefix, with their authors' pooling. All of them were converted
# from Hugging Face checkpoints, whose config.json specifies the exact GELU.
_SENTENCE_ENCODERS = {
    "all_minilm_": EmbeddingSpec(pooling=("mean",), normalize=True),
    "paraphrase_minilm_": EmbeddingSpec(pooling=("mean",)),
    "multi_qa_minilm_l6_cos": EmbeddingSpec(pooling=("mean",), normalize=True),
    "multi_qa_minilm_l6_dot": EmbeddingSpec(pooling=("cls",)),
    "msmarco_minilm_": EmbeddingSpec(pooling=("mean",), normalize=True),
    "bge_": EmbeddingSpec(pooling=("cls",), normalize=True),
    "multilingual_e5_": EmbeddingSpec(pooling=("mean",), normalize=True),
    "mxbai_embed_xsmall_": EmbeddingSpec(pooling=("mean",)),
    "mxbai_embed_": EmbeddingSpec(pooling=("cls",)),
}

# Presets of our families that include a trained head.
_WITH_HEAD = {"bert_tiny_en_uncased_sst2": "BertTextClassifier"}


def adopt(backbone: Any) -> Any:
    """Converts a backbone to the encoder that task models use.

    | given | result |
    |---|---|
    | `Backbone`, `KerasHubBackbone` | the same object |
    | a KerasHub backbone of a family in `families_table()` | a `Backbone` with copies of its weights, and its dtype policy, trainable flags and activation |
    | any other KerasHub text backbone, a quantized one, or an unsupported variant (scaled rotary positions) | a `KerasHubBackbone` on its layers |

    Task models call this function. Call it directly to use an encoder without a model.

    Args:
        backbone: see the table.

    Returns:
        A `Backbone` or a `KerasHubBackbone`.

    Raises:
        ValueError: for anything else: a task model, an image backbone, an encoder-decoder, a backbone with KerasHub's
            LoRA adapters.

    Example:

    ```python
    hub = keras_hub.models.BertBackbone(
        30, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=16, max_sequence_length=16
    )
    backbones.adopt(hub).family  # "bert"
    ```
    """  # noqa: E501  (a table's row)
    if isinstance(backbone, (Backbone, KerasHubBackbone)):
        return backbone
    if not isinstance(backbone, keras_hub.models.Backbone):
        remedy = "Give the `backbone` of this model" if hasattr(backbone, "backbone") else None
        expected = "a `backbones.Backbone`, or a KerasHub text backbone"
        raise _check.invalid("backbone", expected, backbone, remedy)
    if any("lora_" in weight.name for weight in backbone.weights):
        remedy = "Save it with `save_to_preset`, which merges them, and load the folder with `from_preset`"
        raise _check.invalid("backbone", "a backbone without adapters", type(backbone).__name__, remedy)
    family = _classes().get(type(backbone))
    is_quantized = any(layer.quantization_mode is not None for layer in layers_within(backbone))
    if family is None or is_quantized or family.keras_hub_arguments(backbone) is None:
        return KerasHubBackbone(backbone)
    return from_keras_hub(backbone, family, None, load_weights=True)


def names():
    """Returns the names of KerasHub's text backbone presets."""
    return set(_preset_classes())


def _reads_texts(kind):
    parameters = inspect.signature(kind.__init__).parameters  # of the class itself, Python 3.11.2 reads `__new__`
    return not {"vocabulary_size", "vocab_size"}.isdisjoint(parameters)


def described():
    """Returns KerasHub's presets of our families: a dict of name to `(family, "KerasHub", description)`."""
    found = {}
    classes = _classes()
    for name, kind in _preset_classes().items():
        if kind in classes:
            metadata = kind.presets[name].get("metadata", {})
            found[name] = (classes[kind].name, "KerasHub", metadata.get("description", ""))
    return found


def _preset_classes():
    """Returns the text backbone class of each KerasHub preset, by preset name."""
    kinds: list = [kind for kind in vars(keras_hub.models).values() if isinstance(kind, type)]
    texts = [kind for kind in kinds if issubclass(kind, keras_hub.models.Backbone) and _reads_texts(kind)]
    # A class also lists its subclasses' presets (Llama lists Llama 3's): the class with the most bases comes last.
    texts.sort(key=lambda kind: len(kind.__mro__))
    return {name: kind for kind in texts for name in kind.presets}


def _classes():
    """Returns KerasHub's backbone classes of our families, with the family."""
    return {getattr(keras_hub.models, family.keras_hub): family for family in FAMILIES.values() if family.keras_hub}


def task_of(name):
    """Returns the task class for which a KerasHub preset has a trained head, or `None`; embedders have no head."""
    file = pathlib.Path(name) / "task.json"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8")).get("class_name", "")
        return found if found.endswith("Classifier") else None
    return next((task for part, task in _WITH_HEAD.items() if part in name.split("/")), None)


def load(name, dtype, load_weights):
    """Loads a KerasHub preset: encoder, tokenizer, `EmbeddingSpec`, sequence length."""
    kind = _tokenizer_of(name)
    if kind is not None and not issubclass(kind, _hub.kinds()):
        raise _unreadable(name, f"This package does not read a {kind.__name__}")
    try:
        hub = keras_hub.models.Backbone.from_preset(name, load_weights=load_weights, dtype=dtype)
        tokenizer = keras_hub.models.Tokenizer.from_preset(name)
    except Exception as error:  # Kaggle's client, the network and the file system raise different errors
        raise _check.invalid(
            "preset", "a KerasHub preset that can be reached", name, f"{type(error).__name__}: {error}"
        ) from error
    embedding = _embedding(name)
    family = _classes().get(type(hub))
    try:
        if family is not None and embedding is not None:
            backbone = from_keras_hub(hub, family, "gelu", load_weights)
        else:
            backbone = adopt(hub)
        tokenizer = preprocessing.Tokenizer.from_keras_hub(tokenizer)
    except ValueError as error:
        raise _unreadable(name, error) from error
    spec = embedding or EmbeddingSpec(pooling=(backbone.pooling,))
    return backbone, tokenizer, spec, min(512, backbone.max_sequence_length)


def _tokenizer_of(name):
    """Returns the tokenizer class of one of KerasHub's own presets before downloading anything, or `None`."""
    backbone = _preset_classes().get(name)
    kinds: list = [kind for kind in vars(keras_hub.tokenizers).values() if isinstance(kind, type)]
    return next((kind for kind in kinds if backbone and getattr(kind, "backbone_cls", None) is backbone), None)


def _unreadable(name, reason):
    remedy = (
        f"{reason}. Any text backbone takes token ids: give a task model "
        "`keras_hub.models.Backbone.from_preset(preset)` as `backbone`, and `preprocessor=None`"
    )
    return _check.invalid("preset", "a KerasHub preset of a text encoder and its tokenizer", name, remedy)


def from_keras_hub(hub, family, activation, load_weights):
    """Returns a `Backbone` with the sizes and weights of a KerasHub backbone."""
    arguments = family.keras_hub_arguments(hub)
    backbone = Backbone(family.name, activation=activation, dtype=hub.dtype_policy, **arguments)
    if load_weights:
        _take_over(backbone, family, hub)
    return backbone


def _take_over(backbone, family, hub):
    """Copies every weight from a KerasHub backbone, found by its path, and the trainable flags."""
    weights = {weight.path: weight for weight in hub.weights}

    def assign(root, part, path):
        layer = _weights.part_of(root, part)
        for kind in _weights.shapes(layer) if layer is not None else ():
            found = weights.get(f"{path}/{kind}", weights.get(path))
            if found is None:
                raise _check.invalid(
                    "backbone", f"a KerasHub {family.keras_hub} with the weight {path}/{kind}", hub.name
                )
            target = getattr(layer, kind)
            value = family.from_keras_hub(part, kind, keras.ops.convert_to_numpy(found))
            target.assign(value.reshape(target.shape))
            target.trainable = found.trainable

    for part, path in family.keras_hub_weights.items():
        assign(backbone.parts, part, path)
    for block, i, j in backbone.blocks():
        for part, path in family.keras_hub_block_weights.items():
            assign(block, part, family.keras_hub_block.format(i, j) + path)
    frozen = {
        name: False
        for name, layers in backbone.layer_groups().items()
        if not any(weight.trainable for layer in layers for weight in layer.weights)
    }
    backbone.set_trainable(frozen)


def _embedding(name):
    """Returns the pooling of a KerasHub preset, or `None` if it is not a sentence encoder."""
    file = pathlib.Path(name) / "task.json"
    if file.is_file():
        task = json.loads(file.read_text())
        if "TextEmbedder" in task.get("class_name", ""):
            config = task["config"]
            return EmbeddingSpec(pooling=(config["pooling_mode"],), normalize=config["normalize"])
    short = name.removeprefix("kaggle://").split("/")
    return next((spec for part in short for start, spec in _SENTENCE_ENCODERS.items() if part.startswith(start)), None)
