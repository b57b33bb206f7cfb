"""What differs between families: config.json's names, the tensors' names, and how the embeddings are computed.

A new family is one entry in `FAMILIES`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras_hub

from tfxfer import _check
from tfxfer.backbones import _deberta, _encoder

# config.json's names of activations -> ours. "gelu" is the exact one (erf), as in Hugging Face's and in Keras.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_approximate",
    "gelu_pytorch_tanh": "gelu_approximate",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def _plain_arguments(hub, padding_mask, packing):
    return {"packing": packing}


def _plain_blocks(hub):
    """Returns the blocks by group, in their fast form: ALBERT nests them, the others have one in each."""
    groups = [block if isinstance(block, (list, tuple)) else [block] for block in hub.transformer_layers]
    return [[_encoder.flatten(block, hub.hidden_dim) for block in group] for group in groups]


@dataclasses.dataclass(frozen=True)
class Family:
    """How one family is read and put together.

    Args:
        backbone: the KerasHub backbone class that makes the layers.
        model_types: config.json's `model_type`s.
        config: dict of `Backbone`'s arguments to config.json's keys; a tuple is (key, value where it is absent).
        require: dict of config.json's keys to the values that this package computes; any other value is an error.
        embed: function `(hub, inputs, positions) -> x`; the embedding part of the functional graph.
        anchor: a tensor that each checkpoint of the family has, without the task model's prefix.
        prefixes: the task models' prefixes.
        tensors: dict of layers of the embeddings (names, then attributes) to tensor names; the token embedding first.
        block: format string for the prefix of a block's tensors, from the numbers of group and block in the group.
        block_tensors: dict of parts of a block (see `block_parts`) to tensor names.
        details: `Backbone`'s arguments that only some families have, with their defaults.
        position_offset: rows of the position table before the first position (RoBERTa: padding index + 1).
        has_segment_ids: whether the family takes `segment_ids`.
        arguments: function `(hub, padding_mask, packing)`; what a block is called with beside its input.
        leaves_padding_out: whether its blocks work on the matrix of real tokens (see `_packing`).
        blocks: function `(hub)`; the blocks, a list for each group.
        has_absolute_positions: whether a table of positions bounds the length.
        layer_norm_epsilon: the family's default.
        activation: the family's default, also that of KerasHub's own presets.
        final: name of a layer behind the last block, and its tensors' name.
        fused_attention: whether query, key and value are one tensor, and dense weights are stored as (inputs, outputs).
        pooling: how a sentence vector is pooled where a checkpoint does not say.
    """

    backbone: Any
    model_types: tuple
    config: dict
    embed: Callable
    anchor: str
    prefixes: tuple
    tensors: dict
    block: str
    block_tensors: dict
    require: dict = dataclasses.field(default_factory=dict)
    details: dict = dataclasses.field(default_factory=dict)
    position_offset: int = 0
    has_segment_ids: bool = False
    arguments: Callable = _plain_arguments
    leaves_padding_out: bool = True
    blocks: Callable = _plain_blocks
    has_absolute_positions: bool = True
    layer_norm_epsilon: float = 1e-12
    activation: str = "gelu"
    final: tuple = ()
    fused_attention: bool = False
    pooling: str = "mean"


def block_parts(block):
    """Returns the parts of a KerasHub transformer block by name.

    KerasHub keeps them private; this is the one place that knows their names.
    """
    block = getattr(block, "block", block)  # of DeBERTa's, the KerasHub block inside
    attention = block._self_attention_layer
    return {
        "attention": attention,
        "query": attention._query_dense,
        "key": attention._key_dense,
        "value": attention._value_dense,
        "attention_output": attention._output_dense,
        "attention_dropout": block._self_attention_dropout,
        "attention_norm": block._self_attention_layer_norm,
        "intermediate": block._feedforward_intermediate_dense,
        "output": block._feedforward_output_dense,
        "output_dropout": block._feedforward_dropout,
        "output_norm": block._feedforward_layer_norm,
    }


def _embed_with_segments(hub, inputs, positions):
    tokens = hub.token_embedding(inputs["token_ids"])
    x = hub.embeddings_add(
        (
            tokens,
            hub.position_embedding(tokens, positions=positions),
            hub.segment_embedding(inputs["segment_ids"]),
        )
    )
    x = hub.embeddings_dropout(hub.embeddings_layer_norm(x))
    projection = getattr(hub, "embeddings_projection", None)
    return x if projection is None else projection(x)


def _embed_jointly(hub, inputs, positions):
    x = hub.embeddings(inputs["token_ids"], positions=positions)
    return hub.embeddings_dropout(hub.embeddings_layer_norm(x))


def _embed_without_norm(hub, inputs, positions):
    tokens = hub.token_embedding(inputs["token_ids"])
    return hub.embeddings_dropout(hub.embeddings_add((tokens, hub.position_embedding(tokens, positions=positions))))


def _embed_without_positions(hub, inputs, positions):
    return hub.embeddings_dropout(hub.embeddings_layer_norm(hub.token_embedding(inputs["token_ids"])))


def _relative_arguments(hub, padding_mask, packing):
    relative = _deberta.RelativePositions(hub.relative_embeddings, hub.bucket_size, hub.max_sequence_length)
    return {"relative": relative(padding_mask), "packing": packing}


_BERT_CONFIG = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "activation": ("hidden_act", "gelu"),
    "layer_norm_epsilon": ("layer_norm_eps", 1e-12),
    "dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
}
_BERT_REQUIRE = {"position_embedding_type": (None, "absolute"), "is_decoder": (None, False)}
_BERT_TENSORS = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "segment_embedding": "embeddings.token_type_embeddings",
    "embeddings_layer_norm": "embeddings.LayerNorm",
}
_BERT_BLOCK = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
_JOINT_TENSORS = {
    "embeddings.token_embedding": "embeddings.word_embeddings",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "embeddings_layer_norm": "embeddings.LayerNorm",
}

_BERT = Family(
    backbone=keras_hub.models.BertBackbone,
    model_types=("bert",),
    config={**_BERT_CONFIG, "num_segments": ("type_vocab_size", 2)},
    require=_BERT_REQUIRE,
    embed=_embed_with_segments,
    anchor="embeddings.word_embeddings.weight",
    prefixes=("bert.",),
    tensors=_BERT_TENSORS,
    block="encoder.layer.{}.",
    block_tensors=_BERT_BLOCK,
    details={"num_segments": 2},
    has_segment_ids=True,
    # KerasHub's own BERT, ALBERT and ELECTRA presets were made from Google's checkpoints, whose code has the tanh GELU.
    activation="gelu_approximate",
)
_ROBERTA = Family(
    backbone=keras_hub.models.RobertaBackbone,
    model_types=("roberta",),
    config={**_BERT_CONFIG, "layer_norm_epsilon": ("layer_norm_eps", 1e-5)},
    require=_BERT_REQUIRE,
    embed=_embed_jointly,
    anchor="embeddings.word_embeddings.weight",
    prefixes=("roberta.",),
    tensors=_JOINT_TENSORS,
    block="encoder.layer.{}.",
    block_tensors=_BERT_BLOCK,
    position_offset=2,
    layer_norm_epsilon=1e-5,
)
_ALBERT_LAYER = "encoder.albert_layer_groups.{}.albert_layers.{}."

FAMILIES = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm_roberta": dataclasses.replace(
        _ROBERTA, backbone=keras_hub.models.XLMRobertaBackbone, model_types=("xlm-roberta",)
    ),
    "distil_bert": Family(
        backbone=keras_hub.models.DistilBertBackbone,
        model_types=("distilbert",),
        config={
            "vocabulary_size": "vocab_size",
            "num_layers": "n_layers",
            "num_heads": "n_heads",
            "hidden_dim": "dim",
            "intermediate_dim": "hidden_dim",
            "max_sequence_length": "max_position_embeddings",
            "activation": ("activation", "gelu"),
            "dropout": ("dropout", 0.1),
            "attention_dropout": ("attention_dropout", 0.1),
        },
        embed=_embed_jointly,
        anchor="embeddings.word_embeddings.weight",
        prefixes=("distilbert.",),
        tensors={
            "token_and_position_embedding.token_embedding": "embeddings.word_embeddings",
            "token_and_position_embedding.position_embedding": "embeddings.position_embeddings",
            "embeddings_layer_norm": "embeddings.LayerNorm",
        },
        block="transformer.layer.{}.",
        block_tensors={
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "attention_output": "attention.out_lin",
            "attention_norm": "sa_layer_norm",
            "intermediate": "ffn.lin1",
            "output": "ffn.lin2",
            "output_norm": "output_layer_norm",
        },
    ),
    "electra": dataclasses.replace(
        _BERT,
        backbone=keras_hub.models.ElectraBackbone,
        model_types=("electra",),
        config={**_BERT.config, "embedding_dim": "embedding_size"},
        prefixes=("electra.",),
        tensors={**_BERT_TENSORS, "embeddings_projection": "embeddings_project"},
        details={"num_segments": 2, "embedding_dim": None},
    ),
    "albert": dataclasses.replace(
        _BERT,
        backbone=keras_hub.models.AlbertBackbone,
        model_types=("albert",),
        config={
            **_BERT.config,
            "activation": ("hidden_act", "gelu_new"),
            "dropout": ("hidden_dropout_prob", 0.0),
            "attention_dropout": ("attention_probs_dropout_prob", 0.0),
            "embedding_dim": "embedding_size",
            "num_groups": ("num_hidden_groups", 1),
            "num_inner_repetitions": ("inner_group_num", 1),
        },
        prefixes=("albert.",),
        tensors={**_BERT_TENSORS, "embedding_projection": "encoder.embedding_hidden_mapping_in"},
        block=_ALBERT_LAYER,
        block_tensors={
            "query": "attention.query",
            "key": "attention.key",
            "value": "attention.value",
            "attention_output": "attention.dense",
            "attention_norm": "attention.LayerNorm",
            "intermediate": "ffn",
            "output": "ffn_output",
            "output_norm": "full_layer_layer_norm",
        },
        details={"num_segments": 2, "embedding_dim": 128, "num_groups": 1, "num_inner_repetitions": 1},
    ),
    "deberta_v3": Family(
        backbone=keras_hub.models.DebertaV3Backbone,
        model_types=("deberta-v2",),
        config={
            **_BERT_CONFIG,
            "layer_norm_epsilon": ("layer_norm_eps", 1e-7),
            "bucket_size": ("position_buckets", -1),
        },
        require={
            "relative_attention": (True,),
            "position_biased_input": (False,),
            "share_att_key": (True,),
            "norm_rel_ebd": ("layer_norm",),
            "pos_att_type": ("p2c|c2p", "c2p|p2c", ["p2c", "c2p"], ["c2p", "p2c"]),
            "type_vocab_size": (None, 0),
            "conv_kernel_size": (None, 0),
            "max_relative_positions": (None, -1),
        },
        embed=_embed_without_positions,
        arguments=_relative_arguments,
        blocks=lambda hub: [[_deberta.Block(block)] for block in hub.transformer_layers],
        anchor="embeddings.word_embeddings.weight",
        prefixes=("deberta.",),
        tensors={
            "token_embedding": "embeddings.word_embeddings",
            "embeddings_layer_norm": "embeddings.LayerNorm",
            "rel_embedding.embedding": "encoder.rel_embeddings",
            "rel_embedding.embedding.layer_norm": "encoder.LayerNorm",
        },
        block="encoder.layer.{}.",
        block_tensors={
            **_BERT_BLOCK,
            "query": "attention.self.query_proj",
            "key": "attention.self.key_proj",
            "value": "attention.self.value_proj",
        },
        details={"bucket_size": 256},
        has_absolute_positions=False,
        layer_norm_epsilon=1e-7,
    ),
    "gpt2": Family(
        backbone=keras_hub.models.GPT2Backbone,
        model_types=("gpt2",),
        config={
            "vocabulary_size": "vocab_size",
            "num_layers": "n_layer",
            "num_heads": "n_head",
            "hidden_dim": "n_embd",
            "intermediate_dim": ("n_inner", None),
            "max_sequence_length": "n_positions",
            "activation": ("activation_function", "gelu_new"),
            "layer_norm_epsilon": ("layer_norm_epsilon", 1e-5),
            "dropout": ("resid_pdrop", 0.1),
            "attention_dropout": ("attn_pdrop", 0.1),
            "embeddings_dropout": ("embd_pdrop", 0.1),
        },
        require={
            "scale_attn_weights": (None, True),
            "scale_attn_by_inverse_layer_idx": (None, False),
            "add_cross_attention": (None, False),
        },
        embed=_embed_without_norm,
        anchor="wte.weight",
        prefixes=("transformer.",),
        tensors={"token_embedding": "wte", "position_embedding": "wpe"},
        block="h.{}.",
        block_tensors={
            "query": "attn.c_attn",
            "key": "attn.c_attn",
            "value": "attn.c_attn",
            "attention_output": "attn.c_proj",
            "attention_norm": "ln_1",
            "intermediate": "mlp.c_fc",
            "output": "mlp.c_proj",
            "output_norm": "ln_2",
        },
        arguments=lambda hub, padding_mask, packing: {"decoder_padding_mask": padding_mask},
        leaves_padding_out=False,
        fused_attention=True,
        layer_norm_epsilon=1e-5,
        activation="gelu_approximate",
        final=("layer_norm", "ln_f"),
        pooling="last",
    ),
}


def from_config(config, file):
    """Reads a Hugging Face `config.json`.

    Args:
        config: dict, what the file holds.
        file: its path, for errors.

    Returns:
        The family's name and the arguments for `Backbone`.

    Raises:
        ValueError: the family, the activation or a detail is not one that this package computes.
    """
    types = {name: family for family, entry in FAMILIES.items() for name in entry.model_types}
    where = f"In {file}"
    family = types[_check.one_of("model_type", config.get("model_type"), types, where)]
    entry = FAMILIES[family]
    for key, allowed in entry.require.items():
        if config.get(key) not in allowed:
            raise _check.invalid(key, f"one of {', '.join(map(repr, allowed))} for {family}", config.get(key), where)
    arguments = {}
    for argument, key in entry.config.items():
        key, *default = key if isinstance(key, tuple) else (key,)
        value = config.get(key, default[0] if default else None)
        if value is None and not default:
            raise _check.invalid(key, "a value in config.json", None, where)
        arguments[argument] = value
    embedding_size = config.get("embedding_size")
    if "embedding_dim" not in arguments and embedding_size not in (None, arguments["hidden_dim"]):
        raise _check.invalid("embedding_size", f"hidden_size, {arguments['hidden_dim']}", embedding_size, where)
    _check.one_of("hidden_act", arguments["activation"], ACTIVATIONS, where)
    arguments["activation"] = ACTIVATIONS[arguments["activation"]]
    arguments["max_sequence_length"] -= entry.position_offset
    if arguments["intermediate_dim"] is None:  # GPT-2's null stands for this
        arguments["intermediate_dim"] = 4 * arguments["hidden_dim"]
    return family, arguments
