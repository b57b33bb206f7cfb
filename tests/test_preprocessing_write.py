"""`Tokenizer.to_folder` writes Hugging Face's files, which every reader loads as the same tokenizer."""

import json

import families
import keras_hub
import pytest
import tiny

from tfxfer import preprocessing

FAMILIES = families.SETS["families"]
HARD = [
    "Ünïcode  naïve\tcard\n x",
    "  lead and trail  ",
    "𝟛 ﬁ ½ ß ΟΔΟΣ",
    "don't we'll  1234 --- !!",
    "あ漢字 abc",
    "[MASK] <mask> </s> [SEP] typed",
]


@pytest.fixture
def tokenizers():
    return pytest.importorskip("tokenizers", reason="no tokenizers")


def texts_of(golden):
    return json.loads((golden / "families" / "texts.json").read_text(encoding="utf-8"))["texts"] + HARD


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_reads_what_is_written_as_it_reads_the_checkpoint(golden, tokenizers, tmp_path, family):
    tokenizer = preprocessing.Tokenizer.from_folder(golden / "families" / family)
    tokenizer.to_folder(tmp_path, sequence_length=12)
    found = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    expected = tokenizers.Tokenizer.from_file(str(golden / "families" / family / "tokenizer.json"))
    expected.enable_truncation(12)
    expected.no_padding()
    texts = texts_of(golden)
    for row, text, second in zip(found.encode_batch(texts), texts, texts[1:] + texts[:1], strict=True):
        own = expected.encode(text)
        real = sum(row.attention_mask)
        assert row.ids[:real] == own.ids and row.type_ids[:real] == own.type_ids
        assert set(row.ids[real:]) <= {tokenizer.pad_token_id}
        assert found.encode(text, second).ids == expected.encode(text, second).ids


@pytest.mark.parametrize("family", ["albert", "bert", "gpt2", "roberta"])
def test_older_files_become_the_new_one(golden, tmp_path, family):
    (tmp_path / "old").mkdir()
    for path in (golden / "families" / family).iterdir():
        if path.name not in ("tokenizer.json", "expected.npz", "model.safetensors"):
            (tmp_path / "old" / path.name).write_bytes(path.read_bytes())
    tokenizer = preprocessing.Tokenizer.from_folder(tmp_path / "old")
    tokenizer.to_folder(tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    again = preprocessing.Tokenizer.from_folder(tmp_path / "new")
    assert again(texts_of(golden)).to_list() == tokenizer(texts_of(golden)).to_list()
    assert (again.spec.special, again.spec.segments) == (tokenizer.spec.special, tokenizer.spec.segments)


def test_a_tokenizer_of_keras_hub_is_written_and_cut_and_padded_as_asked(tokenizers, tmp_path):
    hub = keras_hub.tokenizers.BertTokenizer(vocabulary=tiny.VOCABULARY, lowercase=True)
    tokenizer = preprocessing.Tokenizer.from_keras_hub(hub)
    tokenizer.to_folder(tmp_path, sequence_length=6, padding_side="left")
    rows = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode_batch(["the", "my card " * 9])
    expected = preprocessing.TextPreprocessor(tokenizer, 6, padding_side="left")(["the", "my card " * 9])
    assert [row.ids for row in rows] == expected["token_ids"].numpy().tolist()
    assert [row.attention_mask for row in rows] == expected["padding_mask"].numpy().tolist()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["model_max_length"] == 6 and config["padding_side"] == "left" and config["cls_token"] == "[CLS]"
    # With this class, transformers uses the file unchanged.
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_holes_and_added_tokens_keep_their_ids(tokenizers, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(tiny.VOCABULARY), encoding="utf-8")
    more = {"[A]": len(tiny.VOCABULARY) + 3, "[B]": len(tiny.VOCABULARY) + 1}
    tokens = {str(i): {"content": token, "special": True} for token, i in more.items()}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": tokens, "tokenizer_class": "BertTokenizer"})
    )
    tokenizer = preprocessing.Tokenizer.from_folder(tmp_path, special_tokens_in_strings=True)
    tokenizer.to_folder(tmp_path / "new")
    text = "my [A] card [B]"
    found = tokenizers.Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json")).encode(
        text, add_special_tokens=False
    )
    assert found.ids == tokenizer([text]).to_list()[0]
    assert set(more.values()) <= set(found.ids)


def test_what_the_files_cannot_hold_is_an_error(tmp_path):
    tokenizer = tiny.tokenizer(tmp_path)
    for name, value in (("sequence_length", 0), ("padding_side", "middle")):
        with pytest.raises(ValueError, match=f"`{name}`"):
            tokenizer.to_folder(tmp_path / "new", **{name: value})
    tokenizer.spec.tokens[7] = tokenizer.spec.tokens[8]
    with pytest.raises(ValueError, match=r"`folder`.*tokens"):
        tokenizer.to_folder(tmp_path / "new")
