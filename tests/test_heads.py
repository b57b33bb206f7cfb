"""Trained heads of Hugging Face's sequence classifiers and of cross-encoders.

BERT and the cross-encoder are compared with the reference's logits (golden/heads: transformers 5.24.0,
sentence-transformers 6.2.0, torch 2.14.1). Every other family is compared with the published formula in numpy, on small
random checkpoints in the family's format.
"""

import functools
import json
import math
import pathlib
import shutil
import tempfile

import keras
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

import tfxfer as tx
from tfxfer.backbones.families import FAMILIES

HIDDEN = 8
PAIRS = (tiny.TEXTS[:4], tiny.TEXTS[4:])


def edit_json(file, **changes):
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, **changes}), encoding="utf-8")


@pytest.fixture
def copied(golden, tmp_path):
    """Copies a directory of golden/heads so that a test can change its files."""

    def make(name="bert_sequence_classification", **changes):
        folder = shutil.copytree(golden / "heads" / name, tmp_path / name, copy_function=shutil.copyfile)
        folder.chmod(0o755)
        if changes:
            edit_json(folder / "config.json", **changes)
        return folder

    return make


# === Comparison with the reference ===


def test_bert_gives_the_references_logits_and_labels(golden):
    folder = golden / "heads" / "bert_sequence_classification"
    texts = json.loads((golden / "families" / "texts.json").read_text(encoding="utf-8"))["texts"]
    model = tx.models.TextClassifier.from_preset(folder, sequence_length=48)
    assert (model.labels, model.multi_label) == (["contradiction", "entailment", "neutral"], False)
    with np.load(folder / "expected.npz") as expected:
        np.testing.assert_allclose(tiny.outputs(model, texts), expected["logits"], rtol=0, atol=2e-5)
        pairs = ([texts[i] for i in (0, 3, 6, 9, 12)], [texts[i + 1] for i in (0, 3, 6, 9, 12)])
        np.testing.assert_allclose(tiny.outputs(model, pairs), expected["pair_logits"], rtol=0, atol=2e-5)
        winners = [model.labels[i] for i in expected["logits"].argmax(axis=1)]
    assert model.classify(texts).labels == winners


def test_a_cross_encoder_gives_the_references_logits_scores_and_ranking(golden, tmp_path):
    folder = golden / "heads" / "cross_encoder"
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    model = tx.models.TextRegressor.from_preset(folder)
    assert (model.preprocessor.sequence_length, model.num_outputs, model.score_activation) == (48, 1, "sigmoid")
    pairs = tuple(map(list, zip(*expected["pairs"], strict=True)))
    np.testing.assert_allclose(tiny.outputs(model, pairs)[:, 0], expected["logits"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(model.scores(pairs), expected["scores"], rtol=0, atol=1e-5)
    documents = expected["documents"]
    scores = model.scores(([expected["query"]] * len(documents), documents))
    assert np.argsort(-scores).tolist() == [number for number, _ in expected["rank"]]
    np.testing.assert_allclose(np.sort(-scores), [-score for _, score in expected["rank"]], rtol=0, atol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.scores(pairs), model.scores(pairs), atol=1e-7)


# === Formulas by family ===


def gelu(x):
    return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def relu(x):
    return np.maximum(x, 0.0)


def dense(tensors, name, x):
    """Applies a dense layer in torch's layout, with its bias if it has one."""
    return x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0.0)


def norm(tensors, name, x, epsilon):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon) * tensors[f"{name}.weight"]


def pooler(name):
    return lambda t, x: dense(t, "classifier", np.tanh(dense(t, name, x[0])))


def out_proj(activation):
    return lambda t, x: dense(t, "classifier.out_proj", activation(dense(t, "classifier.dense", x[0])))


def modernbert(t, x):
    return dense(t, "classifier", norm(t, "head.norm", gelu(dense(t, "head.dense", x)), 1e-5))


def last(t, x):
    return x[-1] @ t["score.weight"].T


def eurobert(t, x):
    return dense(t, "classifier", gelu(dense(t, "dense", x)))


# One row per form of head: the family, entries of config.json, the head's tensors (with or without a bias), and a
# function that computes the logits of one text from the vectors (tokens, HIDDEN) of its real tokens.
HEADS = {
    "bert": ({}, {"bert.pooler.dense": True, "classifier": True}, pooler("bert.pooler.dense")),
    "albert": ({}, {"albert.pooler": True, "classifier": True}, pooler("albert.pooler")),
    "nomic_bert": ({}, {"nomic_bert.pooler.dense": True, "classifier": True}, pooler("nomic_bert.pooler.dense")),
    "gte": ({}, {"new.pooler.dense": True, "classifier": True}, pooler("new.pooler.dense")),
    "roberta": ({}, {"classifier.dense": True, "classifier.out_proj": True}, out_proj(np.tanh)),
    "xlm_roberta": ({}, {"classifier.dense": True, "classifier.out_proj": True}, out_proj(np.tanh)),
    "camembert": ({}, {"classifier.dense": True, "classifier.out_proj": True}, out_proj(np.tanh)),
    "mpnet": ({}, {"classifier.dense": True, "classifier.out_proj": True}, out_proj(np.tanh)),
    "electra": ({}, {"classifier.dense": True, "classifier.out_proj": True}, out_proj(gelu)),
    "distil_bert": (
        {},
        {"pre_classifier": True, "classifier": True},
        lambda t, x: dense(t, "classifier", relu(dense(t, "pre_classifier", x[0]))),
    ),
    "deberta_v3": (
        {},
        {"pooler.dense": True, "classifier": True},
        lambda t, x: dense(t, "classifier", gelu(dense(t, "pooler.dense", x[0]))),
    ),
    "deberta_v3 tanh": (
        {"pooler_hidden_act": "tanh"},
        {"pooler.dense": True, "classifier": True},
        lambda t, x: dense(t, "classifier", np.tanh(dense(t, "pooler.dense", x[0]))),
    ),
    "modernbert": ({}, {"head.dense": False, "head.norm": False, "classifier": True}, lambda t, x: modernbert(t, x[0])),
    "modernbert mean": (
        {"classifier_pooling": "mean", "classifier_bias": True},
        {"head.dense": True, "head.norm": False, "classifier": True},
        lambda t, x: modernbert(t, x.mean(axis=0)),
    ),
    "gpt2": ({}, {"score": False}, last),
    "openai_gpt": ({}, {"score": False}, last),
    "qwen2": ({}, {"score": False}, last),
    "qwen3": ({}, {"score": False}, last),
    "llama": ({}, {"score": False}, last),
    "gemma3_text": ({}, {"score": False}, last),
    "eurobert": ({}, {"dense": True, "classifier": True}, lambda t, x: eurobert(t, x).mean(axis=0)),
    "eurobert mean": (
        {"classifier_pooling": "mean"},
        {"dense": True, "classifier": True},
        lambda t, x: eurobert(t, x.mean(axis=0)),
    ),
    "eurobert bos": (
        {"clf_pooling": "bos"},
        {"dense": True, "classifier": True},
        lambda t, x: eurobert(t, x[0]),
    ),
}
PREFIXES = {"gte": "new.", "nomic_bert": "nomic_bert.", "openai_gpt": "transformer."}


@functools.cache
def encoder(family):
    """Returns the arguments of a small random encoder, and its tensors with the names of its family's checkpoints."""
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": HIDDEN, "intermediate_dim": 32, "max_sequence_length": 32}
    if "head_dim" in FAMILIES[family].options:
        sizes["head_dim"] = 4
    keras.utils.set_random_seed(5)
    backbone = tx.backbones.Backbone(family, vocabulary_size=len(tiny.VOCABULARY), **sizes)
    rng = np.random.default_rng(5)
    backbone.set_weights([w + rng.normal(0, 0.3, w.shape).astype("float32") for w in backbone.get_weights()])
    with tempfile.TemporaryDirectory() as folder:
        preprocessor = tiny.preprocessor(pathlib.Path(folder), segment_ids=backbone.has_segment_ids)
        tx.models.TextEmbedder(backbone, preprocessor).save_to_preset(f"{folder}/written", format="huggingface")
        return backbone.arguments, load_file(f"{folder}/written/model.safetensors")


def write_checkpoint(folder, form, labels=3, **changes):
    """Writes a small random `*ForSequenceClassification` checkpoint; returns the head's tensors."""
    family = FAMILIES[form.split()[0]]
    entries, parts, _ = HEADS[form]
    arguments, tensors = encoder(family.name)
    rng = np.random.default_rng(6)
    prefix = PREFIXES.get(family.name) or family.prefixes[0]
    head = {}
    for name, has_bias in parts.items():
        is_output = name in ("classifier", "classifier.out_proj", "score")
        shape = (labels, HIDDEN) if is_output else (HIDDEN,) if name.endswith("norm") else (HIDDEN, HIDDEN)
        head[f"{name}.weight"] = rng.normal(0.5, 0.6, shape).astype("float32")
        if has_bias:
            head[f"{name}.bias"] = rng.normal(0, 0.5, shape[:1]).astype("float32")
    tiny.tokenizer(folder)
    config = {
        **family.to_config(arguments),
        "architectures": ["XForSequenceClassification"],
        "id2label": {str(i): f"LABEL_{i}" for i in range(labels)},
        **entries,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file({**{prefix + name: value for name, value in tensors.items()}, **head}, folder / "model.safetensors")
    return head


@pytest.mark.parametrize("form", HEADS)
def test_a_familys_head_equals_its_formula(form, tmp_path):
    head = write_checkpoint(tmp_path, form)
    model = tx.models.TextClassifier.from_preset(tmp_path)
    assert model.labels == ["LABEL_0", "LABEL_1", "LABEL_2"]
    inputs = model.preprocessor(tiny.TEXTS)
    states, mask = np.asarray(model.backbone(inputs)), np.asarray(inputs["padding_mask"])
    expected = [HEADS[form][2](head, x[m == 1]) for x, m in zip(states, mask, strict=True)]
    np.testing.assert_allclose(model(inputs), expected, rtol=0, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 1e-3  # the logits differ between texts


@pytest.mark.parametrize("form", ["bert", "modernbert mean", "eurobert", "gpt2"])
def test_a_trained_head_comes_back_from_a_file_and_has_its_form_without_weights(form, tmp_path):
    write_checkpoint(tmp_path, form)
    model = tx.models.TextClassifier.from_preset(tmp_path)
    inputs = model.preprocessor(tiny.TEXTS)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(inputs), model(inputs), atol=1e-6)
    assert again.get_config()["head"]["config"] == model.get_config()["head"]["config"]
    random = tx.models.TextClassifier.from_preset(tmp_path, load_weights=False)
    assert [w.shape for w in random.weights] == [w.shape for w in model.weights]
    assert np.abs(np.asarray(random(inputs)) - model(inputs)).max() > 1e-2


def test_every_family_has_a_formula_or_no_head():
    assert {form.split()[0] for form in HEADS} == {name for name, family in FAMILIES.items() if family.head({})}


def test_a_family_without_trained_heads_says_so_and_gives_its_encoder(tmp_path):
    arguments, tensors = encoder("t5")
    tiny.tokenizer(tmp_path)
    config = {**FAMILIES["t5"].to_config(arguments), "architectures": ["T5ForSequenceClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"`labels`.*T5ForSequenceClassification.*not reused"):
        tx.models.TextClassifier.from_preset(tmp_path)
    with pytest.warns(UserWarning, match="T5ForSequenceClassification"):
        assert tx.models.TextClassifier.from_preset(tmp_path, labels=["a", "b"]).labels == ["a", "b"]


def test_a_head_on_the_last_token_needs_a_tokenizer_that_does_not_end_with_padding(tmp_path):
    write_checkpoint(tmp_path, "llama", pad_token_id=tiny.VOCABULARY.index("[SEP]"))
    with pytest.raises(ValueError, match=r"`pad_token_id`.*reads the last token.*config.json"):
        tx.models.TextClassifier.from_preset(tmp_path)
    tx.models.TextEmbedder.from_preset(tmp_path, backbone_only=True)


@pytest.mark.parametrize("form", ["bert", "roberta", "modernbert", "eurobert", "gpt2"])
def test_missing_and_misshapen_tensors_of_a_head_are_errors(form, tmp_path):
    head = write_checkpoint(tmp_path, form)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in head:
        save_file({key: value for key, value in tensors.items() if key != name}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=name):
            tx.models.TextClassifier.from_preset(tmp_path)
        save_file({**tensors, name: tensors[name][..., :-1].copy()}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=f"{name}.*with shape"):
            tx.models.TextClassifier.from_preset(tmp_path)
    tx.models.TextEmbedder.from_preset(tmp_path, backbone_only=True)  # this does not read the head


# === Entries of config.json ===


def test_labels_come_in_the_order_of_their_ids(copied):
    folder = copied(id2label={"2": "two", "0": "zero", "1": "one"})
    assert tx.models.TextClassifier.from_preset(folder).labels == ["zero", "one", "two"]
    edit_json(folder / "config.json", id2label=None, num_labels=3)
    assert tx.models.TextClassifier.from_preset(folder).labels == ["LABEL_0", "LABEL_1", "LABEL_2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, r"classifier.weight.*\(2, 32\).*\(3, 32\)"),
        ({"id2label": {"0": "a", "1": "b", "3": "c"}}, "`id2label`"),
        ({"id2label": {"0": "a", "1": "b", "2": 3}}, "`id2label`"),
        ({"id2label": ["a", "b", "c"]}, "`id2label`"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "`labels`"),
        ({"problem_type": "ranking"}, "`problem_type`"),
        ({"classifier_dropout": 1.5}, "`classifier_dropout`.*config.json"),
        ({"classifier_dropout": "0.1"}, "`classifier_dropout`"),
        ({"architectures": ["BertModel"]}, "`labels`.*has none"),
        ({"architectures": None}, "`labels`.*has none"),
        ({"architectures": ["BertForTokenClassification"]}, "`labels`.*BertForTokenClassification"),
    ],
)
def test_a_head_that_is_not_understood_is_an_error_before_a_model_is_made(copied, changes, message):
    with pytest.raises(ValueError, match=message):
        tx.models.TextClassifier.from_preset(copied(**changes))


def test_an_encoder_is_read_whatever_its_head_is(copied):
    for changes in ({"classifier_dropout": "0.1"}, {"id2label": []}, {"problem_type": "ranking"}):
        folder = copied(**changes)
        tx.models.TextEmbedder.from_preset(folder, backbone_only=True)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("form", "changes", "message"),
    [
        ("deberta_v3", {"pooler_hidden_act": "gelu_new"}, "activation of the head.*gelu_new"),
        ("modernbert", {"classifier_pooling": "weird"}, "`classifier_pooling`"),
        ("modernbert", {"classifier_bias": True}, "head.dense.bias"),
        ("eurobert", {"classifier_pooling": "first"}, "`classifier_pooling`"),
    ],
)
def test_a_form_of_head_that_is_not_computed_is_an_error(tmp_path, form, changes, message):
    write_checkpoint(tmp_path, form, **changes)
    with pytest.raises(ValueError, match=message):
        tx.models.TextClassifier.from_preset(tmp_path)


def test_the_problem_type_decides_the_task(tmp_path):
    write_checkpoint(tmp_path, "bert", problem_type="multi_label_classification")
    model = tx.models.TextClassifier.from_preset(tmp_path)
    assert model.multi_label
    logits = tiny.outputs(model, tiny.TEXTS)
    np.testing.assert_allclose(model.classify(tiny.TEXTS).probabilities, 1 / (1 + np.exp(-logits)), atol=1e-6)

    write_checkpoint(tmp_path, "bert", problem_type="regression")
    regressor = tx.models.TextRegressor.from_preset(tmp_path)
    assert (regressor.num_outputs, regressor.score_activation) == (3, None)
    np.testing.assert_allclose(tiny.outputs(regressor, tiny.TEXTS), logits, atol=1e-6)
    assert regressor.scores(tiny.TEXTS).shape == (8, 3)
    with pytest.raises(ValueError, match=r"`preset`.*TextRegressor.from_preset"):
        tx.models.TextClassifier.from_preset(tmp_path)

    write_checkpoint(tmp_path, "bert", labels=1)
    assert tx.models.TextRegressor.from_preset(tmp_path).num_outputs == 1
    write_checkpoint(tmp_path, "bert", labels=1, problem_type="multi_label_classification")
    assert tx.models.TextClassifier.from_preset(tmp_path).multi_label
    write_checkpoint(tmp_path, "bert", labels=1, problem_type="single_label_classification")
    with pytest.raises(ValueError, match="`problem_type`"):
        tx.models.TextClassifier.from_preset(tmp_path)


@pytest.mark.parametrize(
    ("changes", "activation"),
    [
        ({}, "sigmoid"),
        ({"problem_type": "regression"}, None),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, None),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, None),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"}, "tanh"),
        (
            {
                "problem_type": "regression",
                "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
                "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
            },
            "sigmoid",
        ),
    ],
)
def test_the_activation_of_scores_is_the_folders(tmp_path, changes, activation):
    write_checkpoint(tmp_path, "bert", labels=1, **changes)
    model = tx.models.TextRegressor.from_preset(tmp_path)
    assert model.score_activation == activation
    logits = tiny.outputs(model, PAIRS)[:, 0]
    function = {"sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh, None: lambda x: x}[activation]
    np.testing.assert_allclose(model.scores(PAIRS), function(logits), atol=1e-6)
    other = tx.models.TextRegressor.from_preset(tmp_path, score_activation="tanh")
    np.testing.assert_allclose(other.scores(PAIRS), np.tanh(logits), atol=1e-6)


def test_an_activation_that_is_not_known_is_an_error(tmp_path):
    for name in ("torch.nn.modules.activation.Softplus", "my_package.Sigmoid"):
        write_checkpoint(tmp_path, "bert", labels=1, sentence_transformers={"activation_fn": name})
        with pytest.raises(ValueError, match=f"`activation_fn`.*{name}"):
            tx.models.TextRegressor.from_preset(tmp_path)
    with pytest.raises(ValueError, match="`score_activation`"):
        tx.models.TextRegressor(tiny.backbone(), score_activation="softmax")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "`default_prompt_name`"),
        ("sentence_bert_config.json", {"module_output_name": "token_embeddings"}, "`module_output_name`"),
        ("sentence_bert_config.json", {"modality_config": {"image": {}}}, "`modality_config`"),
        ("sentence_bert_config.json", {"transformer_task": "text-generation"}, "`transformer_task`"),
    ],
)
def test_a_cross_encoder_of_another_kind_is_an_error(copied, file, changes, message):
    folder = copied("cross_encoder")
    edit_json(folder / file, **changes)
    with pytest.raises(ValueError, match=message):
        tx.models.TextRegressor.from_preset(folder)


def test_a_cross_encoder_of_more_modules_is_an_error(copied):
    folder = copied("cross_encoder")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 1, "name": "1", "path": "1_LogitScore", "type": "sentence_transformers.x.LogitScore"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"LogitScore.*modules.json"):
        tx.models.TextRegressor.from_preset(folder)


def test_what_a_cross_encoders_folder_names_goes_before_its_config(copied):
    folder = copied("cross_encoder", sbert_ce_default_activation_function="torch.nn.modules.activation.Tanh")
    assert tx.models.TextRegressor.from_preset(folder).score_activation == "sigmoid"
    edit_json(folder / "config_sentence_transformers.json", activation_fn=None)
    assert tx.models.TextRegressor.from_preset(folder).score_activation == "tanh"
    edit_json(folder / "sentence_bert_config.json", max_seq_length=20)
    assert tx.models.TextRegressor.from_preset(folder).preprocessor.sequence_length == 20


# === Custom labels and arguments ===


def test_labels_in_another_order_permute_the_outputs(copied):
    folder = copied()
    model = tx.models.TextClassifier.from_preset(folder)
    other = tx.models.TextClassifier.from_preset(folder, labels=["neutral", "contradiction", "entailment"])
    assert other.labels == ["neutral", "contradiction", "entailment"]
    x = tiny.outputs(model, tiny.TEXTS)
    np.testing.assert_allclose(tiny.outputs(other, tiny.TEXTS), x[:, [2, 0, 1]], atol=1e-6)
    assert other.classify(tiny.TEXTS).labels == model.classify(tiny.TEXTS).labels


def test_labels_are_renamed_by_a_dict(copied):
    folder = copied()
    names = {"neutral": 7, "contradiction": 5, "entailment": 6}
    model = tx.models.TextClassifier.from_preset(folder, labels=names)
    assert model.labels == [5, 6, 7]
    expected = tiny.outputs(tx.models.TextClassifier.from_preset(folder), tiny.TEXTS)
    np.testing.assert_allclose(tiny.outputs(model, tiny.TEXTS), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"`labels`.*'contradiction'"):
        tx.models.TextClassifier.from_preset(folder, labels={"neutral": "a", "other": "b", "entailment": "c"})


@pytest.mark.parametrize("labels", [["a", "b", "c"], ["contradiction", "entailment"], ["entailment", "neutral", "x"]])
def test_other_labels_make_a_new_head_and_a_warning_or_are_asked_for(copied, labels):
    folder = copied()
    with pytest.warns(UserWarning, match=r"TextClassifier.*BertForSequenceClassification.*'contradiction'") as caught:
        model = tx.models.TextClassifier.from_preset(folder, labels=labels)
    assert caught[0].filename == __file__
    assert model.labels == labels and model.pooling == ("mean",) and model.head.hidden_dims == ()
    silent = tx.models.TextClassifier.from_preset(folder, labels=labels, backbone_only=True, pooling="cls", head="mlp")
    assert silent.pooling == ("cls",)
    for left, right in zip(model.backbone.get_weights(), silent.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "mean"}, "`pooling`.*backbone_only"),
        ({"head": "mlp"}, "`head`.*backbone_only"),
        ({"multi_label": True}, "`multi_label`"),
        ({"backbone_only": True}, "`labels`.*backbone_only"),
    ],
)
def test_arguments_that_contradict_the_trained_head_are_errors(copied, arguments, message):
    with pytest.raises(ValueError, match=message):
        tx.models.TextClassifier.from_preset(copied(), **arguments)


def test_other_arguments_reach_the_model(copied):
    folder = copied()
    model = tx.models.TextClassifier.from_preset(
        folder,
        dropout=0.4,
        trainable=["head"],
        threshold=0.3,
        dtype="mixed_bfloat16",
        special_tokens_in_strings=True,
        name="mine",
    )
    assert (model.head.dropout, model.head.hidden_dropout, model.dropout) == (0.4, 0.0, 0.4)
    assert (model.threshold, model.name, model.backbone.compute_dtype) == (0.3, "mine", "bfloat16")
    assert model.preprocessor.tokenizer.special_tokens_in_strings
    assert not model.backbone.trainable_weights and len(model.trainable_weights) == 4
    exact = tx.models.TextClassifier.from_preset(folder)
    assert (exact.head.dropout, exact.preprocessor.tokenizer.special_tokens_in_strings) == (0.1, False)
    logits = tiny.outputs(exact, tiny.TEXTS)
    assert np.abs(tiny.outputs(model, tiny.TEXTS) - logits).max() < 0.1


def test_a_rate_before_both_layers_changes_before_both(tmp_path):
    write_checkpoint(tmp_path, "roberta")
    head = tx.models.TextClassifier.from_preset(tmp_path, dropout=0.3).head
    assert (head.dropout, head.hidden_dropout) == (0.3, 0.3)


@pytest.mark.parametrize("kind", [tx.models.TextEmbedder, tx.models.Siamese, tx.models.TextRegressor])
def test_a_class_that_leaves_the_head_out_says_so_or_is_asked_to(copied, kind):
    folder = copied()
    with pytest.warns(UserWarning, match=f"`{kind.__name__}.from_preset`.*`BertForSequenceClassification`"):
        kind.from_preset(folder)
    kind.from_preset(folder, backbone_only=True)


def test_a_regressor_of_other_outputs_has_a_new_head(copied):
    folder = copied("cross_encoder")
    assert tx.models.TextRegressor.from_preset(folder, num_outputs=1).score_activation == "sigmoid"
    with pytest.warns(UserWarning, match="TextRegressor"):
        model = tx.models.TextRegressor.from_preset(folder, num_outputs=2)
    assert (model.num_outputs, model.score_activation) == (2, None)
    with pytest.warns(UserWarning, match="TextClassifier"):
        tx.models.TextClassifier.from_preset(folder, labels=["no", "yes"])


# === Training and other uses of a trained head ===


@pytest.mark.parametrize("form", ["bert", "eurobert"])
def test_training_goes_on_from_a_trained_head(form, tmp_path):
    keras.utils.set_random_seed(0)
    write_checkpoint(tmp_path, form)
    model = tx.models.TextClassifier.from_preset(tmp_path, labels={f"LABEL_{i}": x for i, x in enumerate("abc")})
    before = model.get_weights()
    labels = [tiny.LABELS[i][0].translate({ord("l"): "b", ord("o"): "a"}) for i in range(8)]
    model.compile(keras.optimizers.SGD(0.05), run_eagerly=True)
    model.fit(tiny.TEXTS, labels, epochs=1, seed=0, verbose=0)
    moved = [np.abs(new - old).max() > 0 for new, old in zip(model.get_weights(), before, strict=True)]
    assert all(moved[-4:])
    head = model.layer_groups()["head"]
    assert {id(w) for layer in head for w in layer.weights} == {
        id(w) for w in model.weights if not any(w is other for other in model.backbone.weights)
    }
    model.save_to_preset(tmp_path / "saved")
    again = tx.models.TextClassifier.from_preset(tmp_path / "saved")
    np.testing.assert_allclose(tiny.outputs(again, tiny.TEXTS), tiny.outputs(model, tiny.TEXTS), atol=1e-6)


def test_a_frozen_backbone_is_computed_once_under_a_head_that_pools(tmp_path):
    write_checkpoint(tmp_path, "eurobert")
    trained = []
    for is_cached in (False, True):
        keras.utils.set_random_seed(0)
        model = tx.models.TextClassifier.from_preset(tmp_path, dropout=0.0)
        tx.freezing.freeze(model, groups=list(model.backbone.layer_groups()))
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        short = tx.freezing.AboveFrozen(model) if is_cached else model
        if is_cached:
            short.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        short.fit(tiny.TEXTS, [0, 1, 2, 0, 1, 2, 0, 1], epochs=2, batch_size=8, shuffle=False, verbose=0)
        trained.append(model.get_weights())
    assert len(model.trainable_weights) == 4
    for left, right in zip(*trained, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_adapters_go_under_a_trained_head(copied):
    model = tx.models.TextClassifier.from_preset(copied())
    expected = tiny.outputs(model, tiny.TEXTS)
    tx.freezing.add_lora(model, rank=2)
    np.testing.assert_allclose(tiny.outputs(model, tiny.TEXTS), expected, atol=1e-6)
    assert {id(w) for w in model.head.weights} <= {id(w) for w in model.trainable_weights}


def test_the_export_ranks_by_scores(golden, tmp_path):
    import tensorflow as tf

    folder = golden / "heads" / "cross_encoder"
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    model = tx.models.TextRegressor.from_preset(folder)
    path = tx.export.saved_model(model, tmp_path / "export", pairs=True)
    rank = tf.saved_model.load(path).signatures["rank"]
    found = rank(query=tf.constant([expected["query"]]), documents=tf.constant([expected["documents"]]))["scores"]
    by_number = dict(expected["rank"])
    np.testing.assert_allclose(found[0], [by_number[i] for i in range(len(by_number))], rtol=0, atol=1e-5)


def test_a_head_spec_with_labels_reorders_and_renames():
    weights = {"output.kernel": np.arange(6.0).reshape(2, 3), "output.bias": np.arange(3.0), "hidden.bias": np.ones(2)}
    format = FAMILIES["bert"].head({})
    spec = tx.backbones.HeadSpec(("a", "b", "c"), "single_label_classification", format, 2, None, weights)
    other = spec.with_labels(["c", "a", "b"])
    np.testing.assert_array_equal(other.weights["output.kernel"], [[2, 0, 1], [5, 3, 4]])
    np.testing.assert_array_equal(other.weights["output.bias"], [2, 0, 1])
    assert other.labels == ("c", "a", "b") and spec.labels == ("a", "b", "c")
    assert spec.with_labels({"b": 1, "a": 0, "c": 2}).labels == (0, 1, 2)
