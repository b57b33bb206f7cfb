"""Presets of KerasHub, in our form."""

import json
import pathlib

import keras_hub

from tfxfer import _check, preprocessing
from tfxfer.backbones import _families
from tfxfer.backbones._backbone import Backbone
from tfxfer.backbones._sentence_transformers import EmbeddingSpec

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
    return {name for family in _families.FAMILIES.values() for name in family.backbone.presets}


def load(name, dtype, load_weights):
    """Loads a KerasHub preset: encoder, tokenizer, `EmbeddingSpec`, sequence length."""
    try:
        hub = keras_hub.models.Backbone.from_preset(name, load_weights=load_weights, dtype=dtype)
        tokenizer = keras_hub.models.Tokenizer.from_preset(name)
    except Exception as error:  # Kaggle's client, the network and the file system all raise their own
        raise _check.invalid(
            "preset", "a KerasHub preset that can be reached", name, f"{type(error).__name__}: {error}"
        ) from error
    types = {entry.backbone: family for family, entry in _families.FAMILIES.items()}
    if type(hub) not in types:
        raise _check.invalid("preset", f"an encoder of {', '.join(_families.FAMILIES)}", type(hub).__name__)
    family = types[type(hub)]
    embedding = _embedding(name)
    activation = "gelu" if embedding is not None else None
    backbone = from_keras_hub(hub, family, activation, load_weights)
    default = EmbeddingSpec(pooling=(_families.FAMILIES[family].pooling,))
    return (
        backbone,
        preprocessing.Tokenizer.from_keras_hub(tokenizer),
        embedding or default,
        min(512, hub.max_sequence_length),
    )


def from_keras_hub(hub, family, activation, load_weights):
    """Returns a `Backbone` with a KerasHub backbone's sizes and weights."""
    config = hub.get_config()
    dtype = hub.dtype_policy
    for key in ("name", "trainable", "dtype"):
        config.pop(key, None)
    if "vocab_size" in config:  # ELECTRA's name for it
        config["vocabulary_size"] = config.pop("vocab_size")
    backbone = Backbone(family, activation=activation, dtype=dtype, **config)
    if load_weights:
        for layer in backbone.layers:
            if layer.weights:
                layer.set_weights(hub.get_layer(layer.name).get_weights())
    return backbone


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
