"""KerasHub's tokenizers that keep their merges or pieces: the same ids as Hugging Face's tokenizers."""

import json

import keras_hub
import pytest
from test_preprocessing import ids_of, reference
from test_tokenizers import HOSTILE, sentencepiece_model

from tfxfer.preprocessing import Tokenizer


@pytest.fixture
def texts(golden):
    return json.loads((golden / "families2" / "texts.json").read_text(encoding="utf-8"))["texts"]


def byte_level(folder):
    """Returns the vocabulary, including added tokens, and the merges of a directory with `tokenizer.json`."""
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = {**data["model"]["vocab"], **{token["content"]: token["id"] for token in data["added_tokens"]}}
    return vocabulary, [" ".join(merge) for merge in data["model"]["merges"]]


@pytest.mark.parametrize(
    ("name", "family", "extra"),
    [
        ("Llama3Tokenizer", "eurobert", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
        ("QwenTokenizer", "qwen3", ()),
        ("Qwen3Tokenizer", "qwen3", ()),
    ],
)
def test_merges_of_bytes(golden, texts, name, family, extra):
    vocabulary, merges = byte_level(golden / "families2" / family)
    vocabulary |= {token: len(vocabulary) + i for i, token in enumerate(extra)}
    hub = getattr(keras_hub.tokenizers, name)(vocabulary, merges)
    ours, theirs = Tokenizer.from_keras_hub(hub), reference(golden / "families2" / family)
    assert ours([*texts, *HOSTILE]).to_list() == ids_of(theirs, [*texts, *HOSTILE])
    assert ours.eos_token_id == hub.end_token_id or name == "Qwen3Tokenizer"  # its end token ends a turn
    assert ours.bos_token_id == hub.start_token_id


def test_bart_is_roberta_s(golden, texts):
    folder = golden / "families" / "roberta"
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    hub = keras_hub.tokenizers.BartTokenizer(vocabulary, [line for line in lines if line and line[0] != "#"])
    assert Tokenizer.from_keras_hub(hub)(texts).to_list() == ids_of(reference(folder), texts)


def test_t5_has_the_pieces_alone(golden, texts):
    folder = golden / "families2" / "t5"
    hub = keras_hub.tokenizers.T5Tokenizer((folder / "spiece.model").read_bytes())
    ours = Tokenizer.from_keras_hub(hub)
    assert ours(texts).to_list() == ids_of(reference(folder), texts)
    assert ours.vocabulary_size() == hub.vocabulary_size()
    assert ours.spec.single == [["A", 0], [hub.end_token_id, 0]]


@pytest.mark.parametrize("name", ["GemmaTokenizer", "Gemma3Tokenizer", "LlamaTokenizer", "MistralTokenizer"])
def test_merges_of_characters(texts, name):
    gemma = name.startswith("Gemma")
    names = {"bos_piece": "<bos>", "eos_piece": "<eos>"} if gemma else {}
    theirs, proto = sentencepiece_model(
        texts * 3, model_type="bpe", vocab_size=450, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=not gemma, pad_id=3, user_defined_symbols=["<table>"], **names,
    )  # fmt: skip
    arguments = {"has_vision_tokens": False} if name == "Gemma3Tokenizer" else {}
    hub = getattr(keras_hub.tokenizers, name)(proto, **arguments)
    ours = Tokenizer.from_keras_hub(hub)
    assert ours(texts).to_list() == theirs.encode(texts)
    assert ours(["a<table>b"]).to_list()[0].count(theirs.piece_to_id("<table>")) == 1
    assert (ours.bos_token_id, ours.eos_token_id) == (hub.start_token_id, hub.end_token_id)
    assert ours.vocabulary_size() == hub.vocabulary_size()
