"""The `explain` signature of an export, against explanations in Python."""

import families
import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import tfxfer as tx


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export_explain")


def exported(model, folder, texts):
    """Compares the signature's explanations with the model's; yields the words of both for each text."""
    path = tx.export.saved_model(model, folder, explain=True)
    said = tf.saved_model.load(path).signatures["explain"](text=tf.constant(texts))
    said = {name: value.numpy() for name, value in said.items()}
    for row, each in enumerate(model.explain(texts)):
        count = said["counts"][row]
        words = [word.decode() for word in said["words"][row, :count]]
        spans = list(zip(said["starts"][row, :count], said["ends"][row, :count], strict=True))
        assert words == [texts[row][start:end] for start, end in spans]
        assert said["score"][row] == pytest.approx(each.score, abs=1e-5)
        assert said["baseline"][row] == pytest.approx(each.baselines[0], abs=1e-5)
        if "label" in said:
            assert said["label"][row].decode() == each.target
        raw = texts[row].encode()
        begins, ends = said["byte_starts"][row, :count], said["byte_ends"][row, :count]
        assert words == [raw[begin:end].decode() for begin, end in zip(begins, ends, strict=True)]
        # A word of the export is one word in Python, or several of them joined.
        for (start, end), value in zip(spans, said["attributions"][row, :count], strict=True):
            expected = sum(word.value for word in each.words if start <= word.start and word.end <= end)
            assert value == pytest.approx(expected, abs=1e-5)
        assert sum(said["attributions"][row, :count]) == pytest.approx(sum(word.value for word in each.words), abs=1e-5)
        assert not said["attributions"][row, count:].any() and (said["starts"][row, count:] == -1).all()
        yield words, [word.text for word in each.words]


@pytest.mark.slow
def test_an_export_explains_as_python_does(folder, tmp_path):
    keras.utils.set_random_seed(0)
    model = tiny.classifier(folder)
    kernel = model.linear_head()[1].kernel
    kernel.assign(np.random.default_rng(3).normal(0, 3.0, kernel.shape))
    texts = [*tiny.TEXTS, "my cards, is \U0001f600 lost", "日本 card  x"]
    for ours, theirs in exported(model, tmp_path, texts):
        assert ours == theirs
    found = tx.export.describe(tmp_path)["signatures"]
    assert list(found)[-1] == "explain" and found["explain"]["inputs"] == {"text": {"dtype": "string", "shape": [None]}}
    assert "explain" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roberta", "xlm_roberta", "gpt2", "t5"])
def test_exports_of_other_tokenizers_explain_words_as_coarse_as_they_must_be(golden, tmp_path, name):
    kind = next(kind for kind, names in families.SETS.items() if name in names)
    source = golden / kind / name
    model = tx.models.TextRegressor.from_preset(source, backbone_only=True, sequence_length=48)
    texts = ["Where is my parcel, please?", "it costs 3.14 now", "罗马", "a  b", ""]
    found = list(exported(model, tmp_path, texts))
    assert list(found[1][0]) == ["it", "costs", "3.14", "now"]
    assert "parcel" in found[0][0] or "parcel," in found[0][0]


@pytest.mark.parametrize(
    ("make", "kwargs", "said"),
    [
        (tiny.embedder, {}, "`explain`"),
        (tiny.tagger, {}, "`explain`"),
        (tiny.classifier, {"pairs": True}, "one text"),
        (tiny.classifier, {"weights_dtype": "int8"}, "`weights_dtype`"),
        (tiny.classifier, {"adapters": {}}, "`adapters`"),
    ],
)
def test_an_export_that_cannot_explain_says_so(folder, tmp_path, make, kwargs, said):
    with pytest.raises(ValueError, match=said):
        tx.export.saved_model(make(folder), tmp_path, explain=True, **kwargs)
    assert not list(tmp_path.iterdir())
