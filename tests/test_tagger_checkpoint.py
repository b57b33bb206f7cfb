"""Taggers read from and written as transformers' token classifiers, and answers for tokens as in its pipeline.

Reference: golden/heads/bert_token_classification (transformers 5.24.0, torch 2.14.1). For the other families, it is the
formula in numpy on small random checkpoints in the family's format, and in the slow test transformers itself on
checkpoints written here. Measured there (transformers 5.24.0, torch 2.13.0): logits differ by at most 2.07e-6 of the
largest (ALBERT; the others by 1e-6).
"""

import json
import math
import pathlib
import shutil
import subprocess

import keras
import numpy as np
import pytest
import test_back_out as back_out
import tiny
from safetensors.numpy import load_file, save_file

import tfxfer as tx

# Private: it names an encoder's tensors as checkpoints do. No public method writes the checkpoints of these tests.
from tfxfer.backbones import _weights
from tfxfer.backbones.families import FAMILIES

# Private: its table is long, and a preset for each row would take seconds.
from tfxfer.models._trained_tagger import scheme_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-bench" / "bin" / "python"
AGGREGATIONS = ("none", "simple", "first", "average", "max")
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
HIDDEN = back_out.SIZES["hidden_dim"]


def token_scores(tagger, texts):
    """The scores of all tokens, including special tokens, of shape `(texts, length, tags)`, and the mask."""
    inputs = {name: keras.ops.convert_to_numpy(value) for name, value in tagger.preprocessor(texts).items()}
    mask = inputs["padding_mask"]
    ids = np.where(mask == 1, mask.cumsum(axis=1) - 1, -1).astype("int32")
    assert tagger.preprocessor.padding_side == "right"
    return np.asarray(tagger({**inputs, "word_ids": ids, "word_mask": mask})), mask


def edit_json(file, **changes):
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, **changes}), encoding="utf-8")


# === Against the reference ===


@pytest.fixture(scope="module")
def reference(golden):
    folder = golden / "heads" / "bert_token_classification"
    return tx.models.TokenTagger.from_preset(folder, sequence_length=48), folder


def test_bert_gives_the_references_logits_and_tags(golden, reference):
    tagger, folder = reference
    texts = json.loads((golden / "families" / "texts.json").read_text(encoding="utf-8"))["texts"]
    assert tagger.tags == ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
    assert (tagger.scheme, tagger.word_pooling, tagger.dropout) == ("IOB2", "first", 0.1)
    scores, mask = token_scores(tagger, texts)
    with np.load(folder / "expected.npz") as expected:
        np.testing.assert_array_equal(mask, expected["attention_mask"])
        np.testing.assert_allclose(scores[mask == 1], expected["logits"][mask == 1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_tokens_are_merged_as_by_transformers_pipeline(reference, aggregation):
    tagger, folder = reference
    expected = json.loads((folder / "pipeline.json").read_text(encoding="utf-8"))
    found = tagger.extract_tokens(expected["texts"], aggregation)
    for text, own, spans in zip(expected["texts"], found, expected["spans"][aggregation], strict=True):
        key = "entity" if aggregation == "none" else "entity_group"
        wanted = [(span[key], span["start"], span["end"], span.get("index")) for span in spans]
        assert [(each.label, each.start, each.end, each.index) for each in own] == wanted
        np.testing.assert_allclose([each.score for each in own], [span["score"] for span in spans], atol=2e-6)
        assert [each.text for each in own] == [text[each.start : each.end] for each in own]


# === A small checkpoint ===


def write_checkpoint(folder, family="bert", tags=TAGS, use_bias=True, **changes):
    """Writes a small random `*ForTokenClassification` checkpoint; returns the head's tensors."""
    found = FAMILIES[family]
    backbone = back_out.backbone_of(family)
    rng = np.random.default_rng(5)
    output = "score" if family in ("llama", "qwen2", "qwen3") else "classifier"
    head = {f"{output}.weight": rng.normal(0, 0.6, (len(tags), HIDDEN)).astype("float32")}
    if use_bias:
        head[f"{output}.bias"] = rng.normal(0, 0.5, len(tags)).astype("float32")
    if family == "modernbert":
        head["head.dense.weight"] = rng.normal(0, 0.6, (HIDDEN, HIDDEN)).astype("float32")
        head["head.norm.weight"] = rng.normal(1, 0.3, HIDDEN).astype("float32")
    tiny.tokenizer(folder)
    name = found.architecture.removesuffix("Model").removesuffix("Encoder")
    config = {
        **found.to_config(backbone.arguments),
        "architectures": [f"{name}ForTokenClassification"],
        "id2label": {str(i): tag for i, tag in enumerate(tags)},
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    encoder = {found.prefixes[-1] + name: value for name, value in _weights.tensors(backbone).items()}
    save_file({**encoder, **head}, folder / "model.safetensors")
    return head


def formula(head, states):
    """The logits of token vectors."""
    if "head.dense.weight" in head:
        hidden = states @ head["head.dense.weight"].T
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        hidden = hidden - hidden.mean(axis=-1, keepdims=True)
        states = hidden / np.sqrt((hidden**2).mean(axis=-1, keepdims=True) + 1e-5) * head["head.norm.weight"]
    output = "score" if "score.weight" in head else "classifier"
    return states @ head[f"{output}.weight"].T + head.get(f"{output}.bias", 0.0)


WITHOUT = {"gemma3_text", "openai_gpt", "separable_conv", "static"}
SUPPORTED = [name for name in FAMILIES if name not in WITHOUT]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def tagger(checkpoint):
    return tx.models.TokenTagger.from_preset(checkpoint)


@pytest.fixture
def copied(checkpoint, tmp_path):
    """Copies the small checkpoint with another config."""

    def make(**changes):
        folder = shutil.copytree(checkpoint, tmp_path / "copied", dirs_exist_ok=True)
        edit_json(folder / "config.json", **changes)
        return folder

    return make


@pytest.mark.parametrize("family", SUPPORTED)
def test_a_familys_token_head_equals_its_formula_and_is_written_to_the_bit(family, tmp_path):
    head = write_checkpoint(tmp_path, family)
    tagger = tx.models.TokenTagger.from_preset(tmp_path)
    assert (tagger.tags, tagger.scheme) == (TAGS, "IOB2")
    inputs = tagger.preprocessor(tiny.TEXTS)
    scores, mask = token_scores(tagger, tiny.TEXTS)
    expected = formula(head, np.asarray(tagger.backbone(inputs)))
    np.testing.assert_allclose(scores[mask == 1], expected[mask == 1], rtol=0, atol=1e-5)
    tagger.save_to_preset(tmp_path / "out", format="huggingface")
    own, read = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", tmp_path))
    assert set(read) <= set(own)
    for name, value in read.items():
        np.testing.assert_array_equal(own[name], value)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", tmp_path)]
    assert configs[0]["architectures"] == configs[1]["architectures"]
    assert configs[0]["id2label"] == configs[1]["id2label"]
    assert configs[0]["label2id"] == {tag: i for i, tag in enumerate(TAGS)}


def test_every_family_has_a_token_head_or_transformers_has_no_class():
    assert {name for name, family in FAMILIES.items() if family.token_head({}) is None} == WITHOUT


@pytest.mark.parametrize(
    ("family", "changes", "rate"),
    [
        ("bert", {"classifier_dropout": 0.3}, 0.3),
        ("bert", {"classifier_dropout": None, "hidden_dropout_prob": 0.2}, 0.2),
        ("albert", {"classifier_dropout_prob": 0.3}, 0.3),
        ("distil_bert", {"dropout": 0.3, "seq_classif_dropout": 0.2}, 0.3),
        ("deberta_v3", {"hidden_dropout_prob": 0.3, "cls_dropout": 0.2}, 0.3),
        ("mpnet", {"hidden_dropout_prob": 0.3, "classifier_dropout": 0.2}, 0.3),
        ("modernbert", {"classifier_dropout": 0.3}, 0.3),
        ("nomic_bert", {}, 0.0),
        ("gte", {}, 0.1),
        ("eurobert", {"classifier_dropout": 0.3}, 0.0),
        ("llama", {"classifier_dropout": 0.3}, 0.3),
        ("gpt2", {}, 0.1),
        ("t5", {}, 0.0),
    ],
)
def test_a_rate_is_found_where_the_familys_class_finds_it(family, changes, rate):
    assert FAMILIES[family].token_head(changes).dropout == rate


def test_a_rate_can_be_changed_and_is_written(checkpoint, tmp_path):
    tagger = tx.models.TokenTagger.from_preset(checkpoint, dropout=0.25, trainable=["head"])
    assert (tagger.dropout, tagger.head.dropout) == (0.25, 0.25)
    assert not tagger.backbone.trainable_weights
    tagger.save_to_preset(tmp_path / "out", format="huggingface")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["classifier_dropout"] == 0.25


def test_a_head_with_layers_comes_back_from_a_file(tmp_path):
    write_checkpoint(tmp_path, "modernbert")
    tagger = tx.models.TokenTagger.from_preset(tmp_path, dropout=0.25)
    assert tagger.head.hidden_dims == (HIDDEN,)
    tagger.save_to_preset(tmp_path / "own")
    again = tx.models.TokenTagger.from_preset(tmp_path / "own", split="whitespace")
    assert (again.split, again.head.hidden_dims, again.dropout) == ("whitespace", (HIDDEN,), 0.25)
    np.testing.assert_array_equal(token_scores(again, tiny.TEXTS)[0], token_scores(tagger, tiny.TEXTS)[0])
    with pytest.raises(ValueError, match="`dropout`"):  # belongs to the head layer
        tx.models.TokenTagger.from_preset(tmp_path / "own", dropout=0.5)


# === Tags ===


def test_tags_come_in_another_order_or_under_other_names(checkpoint, tagger):
    expected, _ = token_scores(tagger, tiny.TEXTS)
    order = ["I-LOC", "B-PER", "O", "I-PER", "B-LOC"]
    reordered = tx.models.TokenTagger.from_preset(checkpoint, tags=order)
    assert (reordered.tags, reordered.scheme) == (order, "IOB2")
    places = [TAGS.index(tag) for tag in order]
    np.testing.assert_allclose(token_scores(reordered, tiny.TEXTS)[0], expected[..., places], rtol=0, atol=1e-6)
    names = {"O": "O", "B-PER": "B-person", "I-PER": "I-person", "B-LOC": "B-place", "I-LOC": "I-place"}
    renamed = tx.models.TokenTagger.from_preset(checkpoint, tags=names)
    assert (renamed.tags, renamed.entity_types) == (list(names.values()), ["person", "place"])
    np.testing.assert_allclose(token_scores(renamed, tiny.TEXTS)[0], expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"`tags`.*'B-LOC'"):
        tx.models.TokenTagger.from_preset(checkpoint, tags={"O": "O"})


def test_other_tags_make_a_new_head_and_a_warning(checkpoint):
    other = ["O", "B-DATE", "I-DATE"]
    with pytest.warns(UserWarning, match="BertForTokenClassification.*'B-PER'.*left out"):
        made = tx.models.TokenTagger.from_preset(checkpoint, tags=other, head="crf")
    assert made.tags == other and made.crf is not None
    made = tx.models.TokenTagger.from_preset(checkpoint, tags=TAGS, head="crf", backbone_only=True)
    assert made.tags == TAGS and made.crf is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone_only": True}, "`tags`.*backbone_only"),
        ({"head": "crf"}, "`head`.*'linear'.*backbone_only"),
        ({"scheme": "IOBES"}, r"`scheme`.*each of the preset's tags can occur \(IOB1, IOB2\)"),
        ({"scheme": "IOB1"}, "`scheme`.*IOB2"),
        ({"dropout": 1.0}, "`dropout`"),
    ],
)
def test_arguments_that_contradict_a_trained_head_are_errors(checkpoint, arguments, message):
    with pytest.raises(ValueError, match=message):
        tx.models.TokenTagger.from_preset(checkpoint, **arguments)


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (TAGS, "IOB2"),
        (["B-A", "O"], "IOB2"),
        (["O", "B-A", "I-A", "E-A", "S-A"], "IOBES"),
        (["O", "S-A"], "IOBES"),
        (["O", "B-A", "I-A", "L-A", "U-A", "U-B"], "BILOU"),
        (["NOUN", "VERB", "X"], None),
        (["O", "PER", "LOC"], None),
        (["LABEL_0", "LABEL_1"], None),
        (["O", "person-name"], None),
    ],
)
def test_a_scheme_is_read_off_the_tags(tags, scheme):
    assert scheme_of(tags) == scheme


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["O", "I-PER", "I-LOC"], "IOB1 or IOE1, which is not decoded"),
        (["O", "B-LOC", "I-LOC", "I-PER"], "IOB1, which"),  # no two PER are adjacent
        (["O", "I-A", "E-A"], "IOE1 or IOE2"),
        (["B", "I", "O"], "'B' may be part of an entity or a tag without a scheme"),
        (["O", "B-PER", "I-PER", "MISC"], "'B-PER' may be .* next to 'MISC' without a prefix"),
        (["O", "B_PER", "I_PER"], "'B_PER' may be"),
        (["O", "B-PER", "I-PER", "E-PER", "U-PER"], "'B-PER' may be"),
    ],
)
def test_tags_that_can_be_read_in_several_ways_are_an_error_that_names_them(tags, message):
    with pytest.raises(ValueError, match=f"`scheme`.*{message}.*scheme=None"):
        scheme_of(tags)


def test_a_scheme_that_is_given_settles_it(tmp_path):
    write_checkpoint(tmp_path, tags=["B", "I", "O"])
    with pytest.raises(ValueError, match=r"`scheme`.*'B' may be.*`tags`"):
        tx.models.TokenTagger.from_preset(tmp_path)
    plain = tx.models.TokenTagger.from_preset(tmp_path, scheme=None)
    assert (plain.tags, plain.scheme) == (["B", "I", "O"], None)
    with pytest.raises(ValueError, match=r"`scheme`.*extract_tokens"):
        plain.extract(["my card"])
    assert {each.label for row in plain.extract_tokens(tiny.TEXTS, "simple") for each in row} <= {"B", "I"}
    named = tx.models.TokenTagger.from_preset(tmp_path, tags={"B": "B-KEY", "I": "I-KEY", "O": "O"})
    assert (named.tags, named.scheme) == (["B-KEY", "I-KEY", "O"], "IOB2")


# === Checkpoints that cannot be read ===


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertCrfForTokenClassification"]}, "`tags`.*BertCrfForTokenClassification"),
        ({"architectures": ["BertForSequenceClassification"]}, "`tags`.*BertForSequenceClassification"),
        ({"architectures": ["BertModel"]}, "`tags`.*has none"),
        ({"id2label": {"0": "O", "1": "O", "2": "A", "3": "B", "4": "C"}}, "`id2label`.*distinct"),
        ({"id2label": {"0": "O", "1": "A"}}, r"classifier.weight.*\(2, 8\).*\(5, 8\)"),
        ({"classifier_dropout": 2.0}, "`classifier_dropout`.*config.json"),
    ],
)
def test_a_checkpoint_that_is_not_understood_is_an_error(copied, changes, message):
    with pytest.raises(ValueError, match=message):
        tx.models.TokenTagger.from_preset(copied(**changes))


def test_a_class_of_the_hubs_own_code_is_an_error(tmp_path):
    write_checkpoint(tmp_path, "nomic_bert")
    own = json.loads((tmp_path / "config.json").read_text())
    names = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    names |= {"intermediate_size": "n_inner", "max_position_embeddings": "n_positions"}
    hub = {names.get(key, key): value for key, value in own.items()} | {"activation_function": "swiglu"}
    hub |= {"qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False, "rotary_emb_fraction": 1.0}
    (tmp_path / "config.json").write_text(json.dumps(hub))
    with pytest.raises(ValueError, match="NomicBertForTokenClassification, not a class of the hub's code"):
        tx.models.TokenTagger.from_preset(tmp_path)


def test_a_checkpoint_without_a_bias(tmp_path):
    head = write_checkpoint(tmp_path, "llama", use_bias=False, token_classification_bias=False)
    tagger = tx.models.TokenTagger.from_preset(tmp_path)
    scores, mask = token_scores(tagger, tiny.TEXTS)
    expected = formula(head, np.asarray(tagger.backbone(tagger.preprocessor(tiny.TEXTS))))
    np.testing.assert_allclose(scores[mask == 1], expected[mask == 1], rtol=0, atol=1e-5)
    tagger.save_to_preset(tmp_path / "out", format="huggingface")
    assert "score.bias" not in load_file(tmp_path / "out" / "model.safetensors")
    assert not tx.models.TokenTagger.from_preset(tmp_path / "out").head.use_bias


# === Saved taggers ===


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    made = tx.models.TokenTagger(tiny.backbone(), tiny.preprocessor(folder), tags=TAGS, head="crf")
    back_out.randomize(made, 3)
    made.save_to_preset(folder / "out")
    return folder / "out", made


def test_a_saved_tagger_takes_tags_in_another_order_or_under_other_names(saved):
    folder, made = saved
    reordered = tx.models.TokenTagger.from_preset(folder, tags=TAGS[::-1])
    assert reordered.tags == TAGS[::-1]
    for own, expected in ((reordered.crf.start, made.crf.start), (reordered.crf.end, made.crf.end)):
        np.testing.assert_array_equal(own, np.asarray(expected)[::-1])
    np.testing.assert_array_equal(reordered.crf.transitions, np.asarray(made.crf.transitions)[::-1, ::-1])
    np.testing.assert_array_equal(reordered.crf.allowed[1], made.crf.allowed[1][::-1, ::-1])
    expected, _ = token_scores(made, tiny.TEXTS)
    np.testing.assert_allclose(token_scores(reordered, tiny.TEXTS)[0], expected[..., ::-1], rtol=0, atol=1e-6)
    names = {tag: tag.replace("PER", "WHO") for tag in TAGS}
    renamed = tx.models.TokenTagger.from_preset(folder, tags=names)
    assert renamed.entity_types == ["WHO", "LOC"]
    np.testing.assert_array_equal(renamed.crf.transitions, made.crf.transitions)
    with pytest.raises(ValueError, match="`tags`"):
        tx.models.TokenTagger.from_preset(folder, tags={"O": "O"})


def test_a_saved_tagger_keeps_its_tags_for_another_head(saved):
    folder, _ = saved
    with pytest.warns(UserWarning, match="TokenTagger.*left out"):
        made = tx.models.TokenTagger.from_preset(folder, head="linear")
    assert made.tags == TAGS and made.crf is None
    same = tx.models.TokenTagger.from_preset(folder, scheme="BIO", dropout=0.3)  # another name for the same scheme
    assert same.crf is not None and same.dropout == 0.3


# === Written for transformers ===


def test_a_tagger_is_written_with_a_card(tagger, tmp_path):
    tagger.save_to_preset(tmp_path / "out", format="huggingface")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: token-classification" in card and "library_name: transformers" in card
    assert 'pipeline("token-classification"' in card and "`B-PER`" in card and "TokenTagger.from_preset" in card
    again = tx.models.TokenTagger.from_preset(tmp_path / "out")
    for weight, expected in zip(again.weights, tagger.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    tagger.save_to_preset(tmp_path / "half", format="huggingface", dtype="bfloat16")
    half = tx.models.TokenTagger.from_preset(tmp_path / "half")
    np.testing.assert_allclose(half.head.denses[0].kernel, tagger.head.denses[0].kernel, rtol=2**-8)


@pytest.mark.parametrize(
    ("arguments", "format", "message"),
    [
        ({"head": "crf"}, "huggingface", "no head='crf'"),
        ({"word_pooling": "mean"}, "huggingface", "word_pooling='mean'"),
        ({"temperature": 2.0}, "huggingface", "temperature=2.0"),
        ({"head": tx.layers.Head(5, (8,))}, "huggingface", r"BertForTokenClassification.*head=layers.Head\(5\)"),
        ({}, "sentence-transformers", "has no taggers"),
    ],
)
def test_what_transformers_has_no_form_for_is_an_error(tmp_path, arguments, format, message):
    made = tx.models.TokenTagger(tiny.backbone(), tiny.preprocessor(tmp_path), tags=TAGS, **arguments)
    with pytest.raises(ValueError, match=f"`format`.*'tfxfer'.*{message}"):
        made.save_to_preset(tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


def test_a_family_without_a_class_is_not_written(tmp_path):
    preprocessor = tiny.preprocessor(tmp_path, segment_ids=False)
    made = tx.models.TokenTagger(back_out.backbone_of("openai_gpt"), preprocessor, tags=TAGS)
    with pytest.raises(ValueError, match="transformers has no OpenAIGPTForTokenClassification"):
        made.save_to_preset(tmp_path / "out", format="huggingface")


# === Answers for tokens ===


def test_long_texts_are_read_in_windows_and_iterators_in_parts(tagger):
    text = " ".join(tiny.TEXTS * 3)
    found = tagger.extract_tokens([text])[0]
    assert found[-1].end > len(text) - 6 and found[-1].index > tagger.preprocessor.sequence_length
    streamed = tagger.extract_tokens(iter([*tiny.TEXTS, text]))
    assert list(streamed) == tagger.extract_tokens([*tiny.TEXTS, text])
    assert tagger.extract_tokens([]) == [] and tagger.extract_tokens(["", " "]) == [[], []]


def test_scores_are_probabilities_at_the_temperature(tagger, monkeypatch):
    scores, _ = token_scores(tagger, ["my card"])
    shares = np.exp(scores[0, 1:3] / 2.0)
    shares /= shares.sum(axis=-1, keepdims=True)
    expected = [(TAGS[row.argmax()], row.max(), i) for i, row in enumerate(shares, 1)]
    monkeypatch.setattr(tagger, "temperature", 2.0)
    found = tagger.extract_tokens(["my card"])[0]
    kept = [each for each in expected if each[0] != "O"]
    assert [(each.label, each.index) for each in found] == [(tag, i) for tag, _, i in kept]
    np.testing.assert_allclose([each.score for each in found], [share for _, share, _ in kept], rtol=1e-5)


def test_answers_for_tokens_are_refused_where_there_are_none(tagger, saved):
    with pytest.raises(ValueError, match=r"`head`.*CRF.*`extract`"):
        saved[1].extract_tokens(["my card"])
    with pytest.raises(ValueError, match=r"`aggregation`.*'first'"):
        tagger.extract_tokens(["my card"], "last")
    with pytest.raises(ValueError, match="`texts`"):
        tagger.extract_tokens("my card")


# === transformers itself ===

FOLDERS = ("families/roberta", "families/deberta_v3", "families2/modernbert", "families2/gte", "families2/qwen3")
TINY = ("albert", "distil_bert", "electra", "eurobert", "gpt2", "llama", "mpnet", "nomic_bert", "t5", "xlm_roberta")


@pytest.fixture(scope="module")
def answers(golden, tmp_path_factory):
    """The folder of transformers' results for taggers written here, and the taggers with their texts, by name."""
    if not PYTHON.exists():
        pytest.skip("no benchmark environment: make .venv-bench/.installed")
    folder, made = tmp_path_factory.mktemp("taggers"), {}
    real = json.loads((golden / "families" / "texts.json").read_text(encoding="utf-8"))["texts"]
    # `TINY` first: `backbone_of` sets a seed, and SentencePiece models created before that are lost.
    for name in (*TINY, *FOLDERS):
        if name in FOLDERS:
            found = tx.backbones.load(golden / name)
            # Only short texts, because transformers truncates long ones.
            backbone, preprocessor, texts = (
                found.backbone,
                found.preprocessor,
                [text for text in real if 0 < len(text) < 60],
            )
        else:
            (folder / name).mkdir()
            backbone, texts = back_out.backbone_of(name), [text for text in tiny.TEXTS if text]
            preprocessor = tiny.preprocessor(folder / name, segment_ids=backbone.has_segment_ids)
        config = FAMILIES[backbone.family].token_head(FAMILIES[backbone.family].to_config(backbone.arguments))
        size = (backbone.hidden_dim,) if config.hidden else ()
        options = {"hidden_use_bias": config.hidden_use_bias, "norm_epsilon": config.norm_epsilon}
        head = tx.layers.Head(5, size, config.activation, **options)
        tagger = tx.models.TokenTagger(backbone, preprocessor, tags=TAGS, head=head)
        rng = np.random.default_rng(1)
        for weight in tagger.head.weights:
            weight.assign(rng.normal(0, 0.5, weight.shape))
        made[name.replace("/", "-")] = (tagger, texts)
    jobs = []
    for name, (tagger, texts) in made.items():
        tagger.save_to_preset(folder / f"{name}-out", format="huggingface")
        jobs.append({"kind": "tagger", "name": name, "folder": str(folder / f"{name}-out"), "texts": texts})
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    script = pathlib.Path(__file__).with_name("reference_reader.py")
    subprocess.run([PYTHON, script, folder], check=True, capture_output=True, timeout=3600)
    return folder, made


@pytest.mark.slow
@pytest.mark.parametrize("name", [name.replace("/", "-") for name in (*FOLDERS, *TINY)])
def test_transformers_gives_the_same_logits_and_entities(answers, name):
    folder, made = answers
    failed = folder / f"{name}.txt"
    assert not failed.exists(), failed.read_text(encoding="utf-8")
    tagger, texts = made[name]
    with np.load(folder / f"{name}.npz") as found:
        mask, logits, spans = found["mask"], found["logits"], json.loads(str(found["spans"]))
    tagger.preprocessor.padding_side = "right"
    scores, own_mask = token_scores(tagger, texts)
    for own, row, kept in zip(scores, logits, mask, strict=True):
        np.testing.assert_allclose(own[: kept.sum()], row[kept == 1], rtol=0, atol=4e-6 * np.abs(logits).max())
    np.testing.assert_array_equal(own_mask.sum(axis=1), mask.sum(axis=1))
    for aggregation in AGGREGATIONS:
        for text, own, row in zip(texts, tagger.extract_tokens(texts, aggregation), spans[aggregation], strict=True):
            key = "entity" if aggregation == "none" else "entity_group"
            # This package leaves out the whitespace around tokens.
            wanted = [(span[key], text[span["start"] : span["end"]].strip(), span.get("index")) for span in row]
            assert [(each.label, each.text, each.index) for each in own] == wanted
            np.testing.assert_allclose([each.score for each in own], [span["score"] for span in row], atol=1e-5)
