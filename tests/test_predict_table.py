"""`predict_table` of all tasks writes what the model answers."""

import json

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from tfxfer import data, models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module")
def source(folder):
    """A table of texts with other columns."""
    path = folder / "rows.parquet"
    others = tiny.TEXTS[1:] + tiny.TEXTS[:1]
    columns = {"id": range(8), "text": tiny.TEXTS, "text_a": tiny.TEXTS, "text_b": others}
    pq.write_table(pa.table({**columns, "age": tiny.AGES, "kind": tiny.KINDS}), path)
    return path


@pytest.fixture(scope="module")
def classifier(folder):
    return tiny.classifier(folder)


def scored(model, source, output, *arguments, **options):
    """The answers as a data frame, in which the source's columns come first."""
    done = model.predict_table(source, output, *arguments, batch_size=3, **options)
    assert done["rows"] == 8
    found = pd.DataFrame(
        pq.read_table(output).to_pylist() if str(output).endswith("parquet") else list(data.read(output))
    )
    assert list(found)[:2] == ["id", "text"] and found["text"].tolist() == tiny.TEXTS
    return found


def test_a_classifier_adds_label_and_probabilities(classifier, source, tmp_path):
    found = scored(classifier, source, tmp_path / "a.parquet", probabilities=True)
    labels, shares = classifier.classify(tiny.TEXTS)
    assert found["label"].tolist() == labels
    np.testing.assert_allclose(found["probability"], shares.max(axis=1), rtol=1e-6)
    for k, label in enumerate(classifier.labels):
        np.testing.assert_allclose(found[f"probability_{label}"], shares[:, k], rtol=1e-6)
    found = scored(classifier, source, tmp_path / "a.csv", prefix="model_")
    assert list(found)[-2:] == ["model_label", "model_probability"] and found["model_label"].tolist() == labels
    np.testing.assert_allclose(found["model_probability"].astype(float), shares.max(axis=1), rtol=1e-6)


def test_several_labels_a_text_are_a_list(folder, source, tmp_path):
    model = tiny.classifier(folder, multi_label=True)
    found = scored(model, source, tmp_path / "a.parquet", threshold=0.4)
    assert found["labels"].tolist() == model.classify(tiny.TEXTS, threshold=0.4).labels
    found = scored(model, source, tmp_path / "a.csv", threshold=0.4)
    assert [json.loads(row) for row in found["labels"]] == model.classify(tiny.TEXTS, threshold=0.4).labels


def test_vectors_scores_and_pairs(folder, source, tmp_path):
    embedder = tiny.embedder(folder, prompts={"query": "where is "})
    found = scored(embedder, source, tmp_path / "a.parquet", prompt_name="query", truncate_dim=4)
    vectors = embedder.encode(tiny.TEXTS, prompt_name="query", truncate_dim=4)
    np.testing.assert_allclose(np.stack(found["embedding"]), vectors, atol=1e-6)
    regressor = models.TextRegressor(tiny.backbone(), tiny.preprocessor(folder))
    found = scored(regressor, source, tmp_path / "c.parquet", ("text_a", "text_b"))
    others = tiny.TEXTS[1:] + tiny.TEXTS[:1]
    np.testing.assert_allclose(found["score"], regressor.scores((tiny.TEXTS, others)), atol=1e-6)
    pairs = models.SiameseClassifier(embedder, labels=["same", "other"])
    found = scored(pairs, source, tmp_path / "d.parquet")
    assert found["label"].tolist() == pairs.classify((tiny.TEXTS, others)).labels


@pytest.mark.slow
def test_answers_of_another_kind_are_json(folder, tmp_path):
    (tmp_path / "a.csv").write_text("text\nWhere is my [MASK]?\nnone\n")
    tiny.masked(folder).predict_table(tmp_path / "a.csv", tmp_path / "b.jsonl")  # it cannot compute zero rows
    first, second = [json.loads(line)["answer"] for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert len(first) == 1 and set(first[0][0]) == {"token", "probability"} and second == []


@pytest.mark.slow
def test_entities_are_json(folder, source, tmp_path):
    tagger = tiny.tagger(folder, head="crf")
    found = scored(tagger, source, tmp_path / "b.parquet")
    entities = [[each._asdict() for each in row] for row in tagger.extract(tiny.TEXTS)]
    shown = [json.loads(row) for row in found["entities"]]
    assert [[e["text"] for e in row] for row in shown] == [[e["text"] for e in row] for row in entities] and any(shown)


def test_several_tasks_and_other_columns(folder, source, classifier, tmp_path):
    parts = classifier.backbone, classifier.preprocessor
    tasks = {"topic": classifier, "size": models.TextRegressor(*parts, name="size")}
    multi = models.MultiTask(tasks)
    found = scored(multi, source, tmp_path / "a.parquet")
    assert list(found)[-3:] == ["topic_label", "topic_probability", "size_score"]
    np.testing.assert_allclose(found["size_score"], tasks["size"].scores(tiny.TEXTS), atol=1e-6)
    both = models.MultimodalClassifier(*parts, columns=tiny.columns(), labels=["card", "loan"])
    rows = {"text": tiny.TEXTS, "age": tiny.AGES, "kind": tiny.KINDS}
    found = scored(both, source, tmp_path / "b.parquet")
    assert found["label"].tolist() == both.classify(rows).labels
    scored(classifier, source, tmp_path / "c.csv", prefix="x_")
    done = both.predict_table(tmp_path / "c.csv", tmp_path / "d.jsonl")  # its numbers are strings
    assert done["rows"] == 8
    found = [json.loads(line)["label"] for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert found == both.classify(rows).labels
    with pytest.raises(ValueError, match="a dict of 'text', 'age', 'kind'"):
        both.predict_table(source, tmp_path / "e.csv", "text")


@keras.saving.register_keras_serializable("test_tables")
class Lengths(models.TextClassifier):
    """A custom task."""

    def table_columns(self, x, batch_size=32, **options):
        return {"long": ("flag", [len(text) > 10 for text in x])}


def test_a_task_of_the_users_says_what_it_adds(folder, source, tmp_path):
    model = Lengths(tiny.backbone(), tiny.preprocessor(folder), labels=["a", "b"])
    found = scored(model, source, tmp_path / "a.parquet")
    assert found["long"].tolist() == [len(text) > 10 for text in tiny.TEXTS]


class Answers(tuple):
    """A `Classification` of a model that rejects texts and gives sets."""

    labels, probabilities = ["card", None], np.array([[0.9, 0.06, 0.04], [0.4, 0.3, 0.3]], "float32")
    in_scope, sets = np.array([True, False]), [["card"], ["card", "loan"]]


def test_what_a_model_decides_by_is_added_to_the_label(classifier, monkeypatch):
    monkeypatch.setattr(classifier, "classify", lambda x, batch_size: Answers())
    found = classifier.table_columns(["a", "b"])
    assert found["label"] == ("text", ["card", None]) and found["probability"][1][1] is None
    assert found["in_scope"] == ("flag", [True, False]) and found["set"] == ("texts", [["card"], ["card", "loan"]])


@keras.saving.register_keras_serializable("test_tables")
class Interrupted(models.TextClassifier):
    """Fails after it has answered the rows of one part."""

    left = 3  # the first call is for the names of the columns

    def table_columns(self, x, batch_size=32, **options):
        self.left -= 1
        if not self.left:
            raise KeyError("power cut")
        return super().table_columns(x, batch_size, **options)


def test_a_run_is_continued_by_the_same_model_alone(folder, tmp_path):
    model = Interrupted(tiny.backbone(), tiny.preprocessor(folder), labels=["a", "b"], head="mlp")
    rows = [tiny.TEXTS[i % 8] for i in range(2100)]
    pd.DataFrame({"text": rows}).to_csv(tmp_path / "a.csv", index=False)
    arguments = {"source": tmp_path / "a.csv", "output": tmp_path / "b.jsonl", "on_error": "keep"}
    with pytest.raises(KeyError):
        model.predict_table(**arguments)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    again.left = 9
    kept = again.get_weights()
    again.set_weights([weight + 0.1 for weight in kept])
    with pytest.raises(ValueError, match="another model, or another state"):
        again.predict_table(**arguments, resume=True)
    again.set_weights(kept)
    with pytest.raises(ValueError, match="another model"):
        again.predict_table(**arguments, resume=True, probabilities=True)
    assert again.predict_table(**arguments, resume=True)["continued_at"] == 2048
    found = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [row["text"] for row in found] == rows
    assert [row["label"] for row in found] == again.classify(rows).labels


def test_what_a_model_cannot_do_is_said_before_a_row_is_read(classifier, folder, source, tmp_path):
    output = tmp_path / "a.csv"
    with pytest.raises(ValueError, match=r"no column 'texts'.*Did you mean 'text'"):
        classifier.predict_table(source, output, "texts")
    with pytest.raises(TypeError, match="treshold"):
        classifier.predict_table(source, output, treshold=0.5)
    with pytest.raises(ValueError, match="columns"):
        classifier.predict_table(source, output, {"text": "text"})
    with pytest.raises(ValueError, match="probabilities"):
        models.TextRegressor(tiny.backbone(), tiny.preprocessor(folder)).predict_table(
            source, output, probabilities=True
        )
    with pytest.raises(ValueError, match="preprocessor"):
        models.TextClassifier(tiny.backbone(), labels=["a", "b"]).predict_table(source, output)
    assert not output.exists()
