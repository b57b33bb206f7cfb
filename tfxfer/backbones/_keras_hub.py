"""Presets of KerasHub, in our form."""

import json
import pathlib

import keras
import keras_hub

from tfxfer import _check, preprocessing
from tfxfer.backbones import _weights
from tfxfer.backbones._backbone import Backbone
from tfxfer.backbones._sentence_transformers import EmbeddingSpec
from tfxfer.backbones.families import FAMILIES

# Sentence encoders among KerasHub's presets, by the beginning of the name: how their authors pool. All of them were
# made from Hugging Face's checkpoints, whose config.json says the exact GELU.
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


def names():
    """Returns the names of KerasHub's presets of our families."""
    return {name for kind in _classes() for name in kind.presets}


def _classes():
    """Returns KerasHub's backbone classes of our families, with the family."""
    return {getattr(keras_hub.models, family.keras_hub): family for family in FAMILIES.values() if family.keras_hub}


def load(name, dtype, load_weights):
    """Loads a KerasHub preset: encoder, tokenizer, `EmbeddingSpec`, sequence length."""
    try:
        hub = keras_hub.models.Backbone.from_preset(name, load_weights=load_weights, dtype=dtype)
        tokenizer = keras_hub.models.Tokenizer.from_preset(name)
    except Exception as error:  # Kaggle's client, the network and the file system all raise their own
        raise _check.invalid(
            "preset", "a KerasHub preset that can be reached", name, f"{type(error).__name__}: {error}"
        ) from error
    family = _classes().get(type(hub))
    if family is None:
        raise _check.invalid("preset", f"an encoder of {', '.join(FAMILIES)}", type(hub).__name__)
    embedding = _embedding(name)
    activation = "gelu" if embedding is not None else None
    backbone = from_keras_hub(hub, family, activation, load_weights)
    return (
        backbone,
        preprocessing.Tokenizer.from_keras_hub(tokenizer),
        embedding or EmbeddingSpec(pooling=(family.pooling,)),
        min(512, hub.max_sequence_length),
    )


def from_keras_hub(hub, family, activation, load_weights):
    """Returns a `Backbone` with a KerasHub backbone's sizes and weights."""
    config = hub.get_config()
    for key in ("name", "trainable", "dtype"):
        config.pop(key, None)
    if "vocab_size" in config:  # ELECTRA's name for it
        config["vocabulary_size"] = config.pop("vocab_size")
    backbone = Backbone(family.name, activation=activation, dtype=hub.dtype_policy, **config)
    if load_weights:
        _take_over(backbone, family, hub)
    return backbone


def _take_over(backbone, family, hub):
    """Assigns every weight of a backbone from KerasHub's, found by their paths."""
    weights = {weight.path: weight for weight in hub.weights}

    def assign(root, part, path):
        layer = _weights.part_of(root, part)
        for kind in _weights.shapes(layer) if layer is not None else ():
            found = weights.get(f"{path}/{kind}", weights.get(path))
            if found is None:
                raise _check.invalid("preset", f"a KerasHub {family.keras_hub} with the weight {path}/{kind}", hub.name)
            target = getattr(layer, kind)
            value = family.from_keras_hub(part, kind, keras.ops.convert_to_numpy(found))
            target.assign(value.reshape(target.shape))

    for part, path in family.keras_hub_weights.items():
        assign(backbone.parts, part, path)
    for block, i, j in backbone.blocks():
        for part, path in family.keras_hub_block_weights.items():
            assign(block, part, family.keras_hub_block.format(i, j) + path)


def _embedding(name):
    """Returns how a KerasHub preset pools, or `None` where it is not a sentence encoder."""
    file = pathlib.Path(name) / "task.json"
    if file.is_file():
        task = json.loads(file.read_text())
        if "TextEmbedder" in task.get("class_name", ""):
            config = task["config"]
            return EmbeddingSpec(pooling=(config["pooling_mode"],), normalize=config["normalize"])
    short = name.removeprefix("kaggle://").split("/")
    return next((spec for part in short for start, spec in _SENTENCE_ENCODERS.items() if part.startswith(start)), None)
