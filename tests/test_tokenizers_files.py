"""Tokenizer files determine the tokenizer: each golden folder, with each kind of its files alone."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from tfxfer.preprocessing import TextPreprocessor, Tokenizer

# Folder -> the older files that hold its tokenizer, if there are any.
FOLDERS = {
    "families/albert": ["spiece.model"],
    "families/bert": ["vocab.txt"],
    "families/bert_cased": ["vocab.txt"],
    "families/deberta_v3": ["spm.model"],
    "families/distil_bert": ["vocab.txt"],
    "families/electra": ["vocab.txt"],
    "families/gpt2": ["vocab.json", "merges.txt"],
    "families/roberta": ["vocab.json", "merges.txt"],
    "families/xlm_roberta": ["sentencepiece.bpe.model"],
    "families2/bert_bf16": ["vocab.txt"],
    "families2/bert_bin_only": ["vocab.txt"],
    "families2/bert_f16": ["vocab.txt"],
    "families2/bert_one_file": [],
    "families2/bert_sharded": ["vocab.txt"],
    "families2/bert_unigram": ["sentencepiece.bpe.model"],
    "families2/eurobert": [],
    "families2/gemma3": [],
    "families2/gte": [],
    "families2/llama_both_ways": [],
    "families2/modernbert": [],
    "families2/mpnet": ["vocab.txt"],
    "families2/nomic_bert": ["vocab.txt"],
    "families2/openai_gpt": ["vocab.json", "merges.txt"],
    "families2/qwen3": [],
    "families2/t5": ["spiece.model"],
    "families2/t5_gated": [],
}
# Only the tokenizer class in a folder's settings names these; without the settings, the caller has to.
CONVENTIONS = {
    "families/distil_bert": "DistilBert",
    "families2/mpnet": "MPNet",
    "families/bert_cased": "Bert",
    "families2/t5": "T5",
    "families2/openai_gpt": "OpenAIGPT",
}
CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = {"tokenizer.json", *(name for names in FOLDERS.values() for name in names)}
WITH_OLDER = [folder for folder, names in FOLDERS.items() if names]


def only(folder, target, names):
    """Copies some files of a folder."""
    for name in names:
        shutil.copyfile(folder / name, target / name)
    return target


def texts_of(golden, folder):
    texts = golden / pathlib.PurePosixPath(folder).parent / "texts.json"
    return json.loads(texts.read_text(encoding="utf-8"))["texts"]


def assert_golden(golden, folder, tokenizer, *, padding=True):
    """Compares a batch of the 16 texts and the pairs with the reference."""
    expected = np.load(golden / folder / "expected.npz")
    texts = texts_of(golden, folder)
    features = TextPreprocessor(tokenizer, 48)(texts)
    ids, mask = features["token_ids"].numpy(), features["padding_mask"].numpy()
    np.testing.assert_array_equal(mask, expected["attention_mask"][:, : mask.shape[1]])
    assert expected["attention_mask"].sum() == mask.sum()
    keep = mask.astype(bool)
    np.testing.assert_array_equal(ids[keep], expected["input_ids"][:, : mask.shape[1]][keep])
    if padding:
        np.testing.assert_array_equal(ids, expected["input_ids"][:, : mask.shape[1]])
    if "pair_input_ids" in expected:
        rows = (0, 3, 6, 9, 12)
        length = expected["pair_input_ids"].shape[1]
        pair = TextPreprocessor(tokenizer, length)(([texts[i] for i in rows], [texts[i + 1] for i in rows]))
        keep = pair["padding_mask"].numpy().astype(bool)
        width = keep.shape[1]
        np.testing.assert_array_equal(keep, expected["pair_attention_mask"][:, :width])
        np.testing.assert_array_equal(pair["token_ids"].numpy()[keep], expected["pair_input_ids"][:, :width][keep])
        assert ("segment_ids" in pair) == bool(expected["pair_token_type_ids_given"])
        if "segment_ids" in pair:
            np.testing.assert_array_equal(pair["segment_ids"], expected["pair_token_type_ids"][:, :width])


def test_the_table_has_all_folders_and_all_their_files(golden):
    golden / "minilm_texts.json"  # not shipped, so this skips: only the whole set has all folders
    found = {}
    for path in [*golden.glob("families/*/expected.npz"), *golden.glob("families2/*/expected.npz")]:
        name = path.parent.relative_to(golden).as_posix()
        found[name] = {file.name for file in path.parent.iterdir()} & TOKENIZER_FILES
    assert found == {name: {"tokenizer.json", *files} for name, files in FOLDERS.items()}


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("files", ["all", "tokenizer.json and settings", "tokenizer.json"])
def test_tokenizer_json_gives_the_golden_batch_with_and_without_the_files_beside_it(golden, tmp_path, folder, files):
    source = golden / folder
    if files != "all":
        source = only(source, tmp_path, ["tokenizer.json"] if files == "tokenizer.json" else ["tokenizer.json", CONFIG])
    tokenizer = Tokenizer.from_folder(source)
    if files != "tokenizer.json":
        assert_golden(golden, folder, tokenizer)
        return
    texts = texts_of(golden, folder)
    whole = Tokenizer.from_folder(golden / folder)
    assert tokenizer(texts).to_list() == whole(texts).to_list()
    assert (tokenizer.spec.single, tokenizer.spec.pair) == (whole.spec.single, whole.spec.pair)
    assert tokenizer.pad_token_id == whole.pad_token_id or folder == "families/deberta_v3"  # has two padding tokens
    # BERT's convention does not affect a tokenizer without its tokens.
    named = Tokenizer.from_folder(source, convention="Bert")
    assert named.spec == tokenizer.spec or "[CLS]" in named.vocabulary


@pytest.mark.parametrize("folder", WITH_OLDER)
def test_older_files_give_the_golden_batch(golden, tmp_path, folder):
    source = only(golden / folder, tmp_path, [*FOLDERS[folder], CONFIG])
    tokenizer = Tokenizer.from_folder(source)
    assert_golden(golden, folder, tokenizer)
    whole = Tokenizer.from_folder(golden / folder)
    assert tokenizer.vocabulary == whole.vocabulary
    assert tokenizer.spec.special == whole.spec.special


@pytest.mark.parametrize("folder", WITH_OLDER)
def test_older_files_without_settings_need_the_convention_at_most(golden, tmp_path, folder):
    source = only(golden / folder, tmp_path, FOLDERS[folder])
    if folder == "families/bert_cased":  # only the settings say that case matters
        return
    tokenizer = Tokenizer.from_folder(source, convention=CONVENTIONS.get(folder))
    assert_golden(golden, folder, tokenizer, padding=folder != "families/deberta_v3")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_that_loses_its_only_tokenizer_file_says_so(golden, tmp_path, folder):
    lost = {"tokenizer.json", *FOLDERS[folder]}
    names = [path.name for path in (golden / folder).iterdir() if path.suffix == ".json" and path.name not in lost]
    only(golden / folder, tmp_path, names)
    with pytest.raises(ValueError, match=r"`folder`\. Expected a folder that holds one of tokenizer\.json, vocab\.txt"):
        Tokenizer.from_folder(tmp_path)
    if len(FOLDERS[folder]) == 2:  # merges alone are not a tokenizer
        only(golden / folder, tmp_path, ["merges.txt"])
        with pytest.raises(ValueError, match="a folder that holds one of"):
            Tokenizer.from_folder(tmp_path)


def test_the_files_count_and_not_the_name_of_the_convention(golden, tmp_path):
    # RoBERTa weights with BERT's vocabulary: RoBERTa's convention does not fit a vocab.txt, so BERT's applies.
    only(golden / "families/bert", tmp_path, ["vocab.txt"])
    tokenizer = Tokenizer.from_folder(tmp_path, convention="Roberta")
    assert_golden(golden, "families/bert", tokenizer)
    with pytest.raises(ValueError, match="`convention`"):
        Tokenizer.from_folder(tmp_path, convention="bert")


def test_the_class_that_the_folder_names_counts_more_than_the_convention(golden, tmp_path):
    only(golden / "families2/mpnet", tmp_path, ["vocab.txt", CONFIG])
    assert_golden(golden, "families2/mpnet", Tokenizer.from_folder(tmp_path, convention="Bert"))
