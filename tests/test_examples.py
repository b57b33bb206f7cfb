"""Runs every example."""

import csv
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import doc_pages
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
QUESTIONS = EXAMPLES / "data" / "support_questions"


def run(script, *arguments, **environment):
    """Runs an example as a user would, checks that standard error is empty, and returns standard output."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    # The test suite sets TensorFlow's log level; users do not.
    environment |= {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.splitlines() == []
    return done.stdout


def read(name, folder=QUESTIONS):
    """The rows of one split."""
    with open(folder / f"{name}.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "ask.py",
        "banking77.py",
        "classify.py",
        "embed_corpus_beam.py",  # run in test_beam.py
        "embed_corpus_ray.py",  # run in test_ray.py
        "gradual_unfreezing.py",
        "own_task.py",
        "production.py",
        "quickstart.py",
        "search_captions.py",
        "search_stack.py",
        "serve.py",
        "siamese_nli.py",
        "similarity_sts.py",
        "tag_entities.py",
        "text_and_columns.py",
        "transfer_tour.py",
        "triplets_nli.py",
        "tune.py",
    }


def test_the_support_questions_are_150_in_6_intents_and_no_text_is_in_two_splits():
    splits = {name: read(name) for name in ("train", "dev", "test")}
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 102, "dev": 18, "test": 30}
    texts = [row["text"] for rows in splits.values() for row in rows]
    assert len({text.lower() for text in texts}) == 150
    for rows in splits.values():
        labels = [row["label"] for row in rows]
        assert len(set(labels)) == 6
        assert {labels.count(label) for label in labels} == {len(rows) // 6}


def test_banking77_keeps_every_row_and_splits_by_text(tmp_path):
    rows = [(f'how do i, "quickly", find card {i % 150}?', f"label_{i % 3}") for i in range(200)]
    for name, some in (("train", rows), ("test", rows[:7])):
        with open(tmp_path / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "category"), *some])
    run("banking77.py", "--source", tmp_path, "--output", tmp_path / "out")
    splits = {
        name: [(row["text"], row["label"]) for row in read(name, tmp_path / "out")] for name in ("train", "dev", "test")
    }
    assert sorted(splits["train"] + splits["dev"]) == sorted(rows)
    assert splits["test"] == rows[:7]
    assert not {text for text, _ in splits["train"]} & {text for text, _ in splits["dev"]}
    assert 0 < len(splits["dev"]) < 50


@pytest.mark.slow
@pytest.mark.usefixtures("minilm_folder")
def test_the_quickstart_learns_exports_and_answers(tmp_path):
    said = run("quickstart.py", "--output", tmp_path, "--seeds", 1)
    rows = [re.split(r"  +", line) for line in said.splitlines() if line.startswith(("frozen probe", "fine-tuned"))]
    scores = {name: [float(value.split()[0]) for value in values] for name, *values in rows}
    # One sample of 100 reviews. Always predicting "yes" gives macro-F1 0.45; three samples give 0.572 and 0.695.
    assert scores["fine-tuned"][1] > scores["frozen probe"][1] > 0.5
    assert scores["fine-tuned"][1] > 0.6
    answers = [line.split("\t")[0] for line in said.splitlines() if line.count("\t") == 2]
    assert len(answers) == 3 and answers[0] == "yes" and answers[1] == "no"


def test_the_clothing_reviews_are_300_and_1151_and_no_text_is_in_both():
    train, test = (read(name, EXAMPLES / "data" / "clothing_reviews") for name in ("train", "test"))
    assert [row["recommended"] for row in train].count("yes") == 150 == len(train) / 2
    assert len(test) == 1151 and {row["recommended"] for row in test} == {"yes", "no"}
    assert not {row["review"] for row in train} & {row["review"] for row in test}


def preset(folder, num_layers):
    """Arguments that name a preset with small blocks and random weights, for tests that do not need real ones."""
    doc_pages.encoder(folder / "files", num_layers).save_to_preset(folder / "preset")
    return ["--preset", folder / "preset"]


@pytest.fixture
def small_preset(tmp_path):
    return preset(tmp_path, 2)


@pytest.mark.slow
def test_serve_answers_over_http_and_rolls_a_version_out_and_back(tmp_path, small_preset):
    pytest.importorskip("tensorflow_serving.apis", reason="no tensorflow-serving-api")
    said = run("serve.py", "--output", tmp_path, "--epochs", 2, *small_preset)
    assert f'SERVE_FOLDER="{tmp_path}" docker compose -f "{EXAMPLES / "compose.yaml"}" up' in said
    assert '"/models/support_questions"' in (tmp_path / "support_questions" / "models.config").read_text()
    assert ("is not TF Serving" in said) != bool(shutil.which("tensorflow_model_server"))
    blocks = said.split(" answers:\n")
    assert [block.rsplit("\n", 1)[1] for block in blocks[:-1]] == ["version 1", "version 2", "version 1"]
    answers = [[line.split("\t")[:2] for line in block.splitlines()[:3]] for block in blocks[1:]]
    assert answers[0] == answers[2] != answers[1], "scores of the first version again"
    assert {label for label, _ in answers[1]} <= {row["label"] for row in read("train")}


@pytest.mark.slow
def test_production_goes_the_whole_way_and_its_export_answers_alike(tmp_path):
    said = run("production.py", "--epochs", 1, "--test-rows", 100, "--output", tmp_path)
    assert "the export answers the same" in said and "other reviews: no drift" in said
    assert "questions to support: " in said and "distance" in said
    assert (tmp_path / "recommended" / "recipes" / "compose.yaml").is_file()
    with open(tmp_path / "scored.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100 and {"id", "review", "label", "in_scope"} <= set(rows[0])


@pytest.mark.slow
def test_classify_gives_the_same_accuracy_from_the_export(tmp_path, small_preset):
    output = tmp_path / "results.json"
    arguments = ["--epochs", 1, "--batch-size", 16, "--export", tmp_path / "serving", "--output", output, *small_preset]
    said = run("classify.py", "--data", QUESTIONS, *arguments)
    results = json.loads(output.read_text(encoding="utf-8"))
    assert results["rows"] == [102, 18, 30]
    assert results["probe"]["accuracy"] > 1 / 6  # six classes; the encoder is random
    assert results["fine_tuned"]["accuracy"] == results["fine_tuned"]["accuracy_exported"]
    assert "NOT equal" not in said
    answers = run("ask.py", tmp_path / "serving", "where is my parcel?", "")  # the newest version
    assert answers == run("ask.py", tmp_path / "serving" / "1", "where is my parcel?", "")
    assert [line.split("\t")[2] for line in answers.splitlines()] == ["where is my parcel?", ""]


def write(folder, splits, columns):
    """Writes `train.tsv`, `dev.tsv` and `test.tsv`."""
    for name, rows in splits.items():
        with open(folder / f"{name}.tsv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t").writerows([columns, *rows])


def questions_by_intent(name):
    """The texts of each intent of the support questions."""
    found = {}
    for row in read(name):
        found.setdefault(row["label"], []).append(row["text"])
    return list(found.values())


@pytest.mark.slow
@pytest.mark.usefixtures("minilm_folder")
def test_tag_entities_trains_both_heads_and_serves_the_last(tmp_path):
    rows = [[("Anna", "B-person"), ("Berg", "I-person"), ("is", "O"), ("in", "O"), (place, "B-place"), (".", "O")]
            for place in ("Oslo", "Paris", "Rome", "Berlin")]  # fmt: skip
    for name in ("train", "dev", "test"):
        lines = ["".join(f"{word}\t{tag}\n" for word, tag in row) for row in rows * 4]
        (tmp_path / f"{name}.conll").write_text("\n".join(lines), encoding="utf-8")
    output = tmp_path / "scores.json"
    arguments = ["--heads", "linear", "crf", "--epochs", 12, "--folder", tmp_path / "entities", "--output", output]
    said = run("tag_entities.py", "--data", tmp_path, *arguments, "--verbose", 0, "--report", tmp_path / "report")
    results = json.loads(output.read_text(encoding="utf-8"))
    assert [each["head"] for each in results] == ["linear", "crf"]
    assert all(each["test_f1"] > 0.9 for each in results)
    assert said.rstrip().endswith("finds the same")
    assert (tmp_path / "report" / "crf_0" / "reliability.png").exists()


@pytest.mark.slow
def test_similarity_sts_trains_by_each_loss(tmp_path, small_preset):
    splits = {}
    for name in ("train", "dev", "test"):
        intents = questions_by_intent(name)
        alike = [(texts[0], text, 4.5) for texts in intents for text in texts[1:3]]
        unlike = [
            (a[0], b[1], 0.5 + i % 3) for i, (a, b) in enumerate(zip(intents, intents[1:] + intents[:1], strict=False))
        ]
        splits[name] = alike + unlike
    write(tmp_path, splits, ("sentence1", "sentence2", "score"))
    chosen = ["contrastive", "multiple negatives"]
    arguments = ["--epochs", 1, "--batch-size", 8, "--losses", *chosen, "--output", tmp_path / "results.json"]
    arguments += small_preset
    # Training on this few pairs makes the model worse, which raises a warning.
    said = run("similarity_sts.py", "--data", tmp_path, *arguments, PYTHONWARNINGS="ignore::UserWarning")
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(results["losses"]) == chosen
    assert all(-1 <= found["test"] <= 1 for found in results["losses"].values())
    assert "untrained: test Spearman" in said


@pytest.mark.slow
def test_triplets_nli_pulls_anchor_and_positive_together(tmp_path, small_preset):
    splits = {
        name: [
            (a[i], a[i + 1], b[i])
            for a, b in zip(questions_by_intent(name), questions_by_intent(name)[1:], strict=False)
            for i in range(2)
        ]
        for name in ("train", "dev", "test")
    }
    write(tmp_path, splits, ("anchor", "positive", "negative"))
    chosen = ["hinge", "margin ranking"]
    arguments = ["--epochs", 3, "--batch-size", 4, "--losses", *chosen, "--output", tmp_path / "results.json"]
    arguments += small_preset
    run("triplets_nli.py", "--data", tmp_path, *arguments)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(results) == ["untrained", *chosen]
    assert all(found["triplet_margin"] >= results["untrained"]["triplet_margin"] for found in results.values())


@pytest.mark.slow
@pytest.mark.usefixtures("minilm_folder")
def test_siamese_nli_decodes_classes(tmp_path):
    splits = {}
    for name in ("train", "dev", "test"):
        intents = questions_by_intent(name)
        same = [(a, b, "entailment") for texts in intents for a, b in itertools.pairwise(texts)]
        other = [(a, b, "contradiction") for x, y in itertools.pairwise(intents) for a, b in zip(x, y, strict=False)]
        splits[name] = same + other + [(texts[0], "", "neutral") for texts in intents]
    write(tmp_path, splits, ("premise", "hypothesis", "label"))
    # With this few rows, the decoder trains only one step per epoch.
    decoder = ["--decoder-epochs", 300, "--decoder-learning-rate", 0.01]
    arguments = [*decoder, "--batch-size", 16, "--output", tmp_path / "results.json"]
    run("siamese_nli.py", "--data", tmp_path, *arguments)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["all layers"]["accuracy"] > 0.5
    assert 0 < results["decoder alone"]["average_precision"] <= 1


@pytest.mark.slow
def test_search_captions_finds_more_after_training(tmp_path, small_preset):
    splits = {
        name: [(a, b) for texts in questions_by_intent(name) for a, b in zip(texts[::2], texts[1::2], strict=False)]
        for name in ("train", "dev", "test")
    }
    # The example scores ranks up to 10.
    splits["dev"] = splits["dev"] + splits["train"][:6]
    write(tmp_path, splits, ("anchor", "positive"))
    arguments = ["--epochs", 2, "--batch-size", 8, "--output", tmp_path / "results.json", *small_preset]
    said = run("search_captions.py", "--data", tmp_path, *arguments)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["queries"] == len(splits["test"])
    assert 0 <= results["before"]["recall@1"] <= results["before"]["recall@10"] <= 1
    assert results["after"]["ndcg@10"] > 0
    assert "queries in" in said


@pytest.mark.slow
@pytest.mark.usefixtures("minilm_folder")
def test_search_stack_scores_every_stage_and_goes_on_from_its_own_folder(tmp_path):
    splits = {}
    for name in ("train", "dev", "test"):
        pairs = [pair for texts in questions_by_intent(name) for pair in zip(texts[::2], texts[1::2], strict=False)]
        splits[name] = [(a, b, number) for number, (a, b) in enumerate(pairs)]
    write(tmp_path, splits, ("anchor", "positive", "image_id"))
    arguments = ["--epochs", 1, "--pairs", 24, "--negatives", 2, "--depth", 5]
    said = run("search_stack.py", "--data", tmp_path, *arguments, "--output", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    stages = {name for name in results if name != "training"}
    assert len(stages) == 9 and all(name in said for name in stages)
    for name in stages:
        low, high = results[name]["intervals"]["ndcg@10"]
        assert 0 <= low <= results[name]["ndcg@10"] <= high <= 1
    # Reranking reorders the best results and drops none.
    assert results["words and vectors, reranked"]["recall@100"] == results["words and vectors"]["recall@100"]
    again = run("search_stack.py", "--data", tmp_path / "out" / "beir", *arguments, "--output", tmp_path / "again")
    assert again.splitlines()[0] == said.splitlines()[0]
    words = json.loads((tmp_path / "again" / "results.json").read_text(encoding="utf-8"))["words"]
    assert words["ndcg@10"] == results["words"]["ndcg@10"]


@pytest.mark.slow
def test_gradual_unfreezing_compares_what_trains(tmp_path, small_preset):
    for name in ("train", "dev", "test"):
        rows = [(row["text"].partition(" ")[0], row["text"], row["label"]) for row in read(name)]
        write(tmp_path, {name: rows}, ("start", "question", "intent"))
    columns = ["--text", "start", "question", "--label", "intent", "--scored-on", "dev"]
    size = ["--rows-per-class", 6, "--epochs", 2, "--batch-size", 8, "--seeds", 1, 2]
    output = ["--methods", "head only", "gradual", "--output", tmp_path / "results.json"]
    output += ["--sequence-length", 32, *small_preset]
    said = run("gradual_unfreezing.py", "--data", tmp_path, *columns, *size, *output)
    runs = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["runs"]
    assert {method: [each["seed"] for each in found] for method, found in runs.items()} == {
        "head only": [1, 2],
        "gradual": [1, 2],
    }
    assert {each["trained"] for each in runs["head only"]} == {8 * 6 + 6}
    assert all(each["trained"] > 500 for each in runs["gradual"])  # the upper block trains, too
    assert all(0 <= each["accuracy"] <= 1 for found in runs.values() for each in found)
    assert "36 rows, 2 epochs; dev" in said


@pytest.mark.slow
def test_tune_exports_the_best_of_its_trials(tmp_path, small_preset):
    output = tmp_path / "results.json"
    folders = ["--folder", tmp_path / "search", "--export", tmp_path / "serving", "--output", output]
    size = ["--trials", 2, "--epochs", 1, "--rows-per-class", 6]
    size += ["--sequence-length", 32, *small_preset]
    said = run("tune.py", "--data", QUESTIONS, "--tuner", "random", *size, *folders)
    found = json.loads(output.read_text(encoding="utf-8"))
    assert [trial["status"] for trial in found["trials"]] == ["COMPLETED", "COMPLETED"]
    assert found["trials"][0]["score"] >= found["trials"][1]["score"]
    assert set(found["results"]) == {"first guesses", "by hand", "best trial"}
    best = found["results"]["best trial"]
    assert best["dev"] == found["trials"][0]["score"] and best["accuracy"] == best["accuracy_exported"]
    assert "2 trials on 36 rows" in said and "NOT equal" not in said


@pytest.mark.slow
@pytest.mark.usefixtures("minilm_folder")
def test_text_and_columns_prints_its_table_and_is_served(tmp_path, real_data):
    folder, scores = real_data / "clothing_reviews", tmp_path / "scores.json"
    arguments = ("--rows", 64, "--test-rows", 100, "--verbose", 0, "--folder", tmp_path, "--output", scores)
    output = run("text_and_columns.py", "--data", folder, *arguments)
    found = json.loads(scores.read_text(encoding="utf-8"))
    assert len(found) == 6 and all(0 <= each["auc"] <= 1 for [each] in found.values())
    assert all(f"{name:44}{each['accuracy']:10.3f}" in output for name, [each] in found.items())
    served, answers = re.search(r"from the export: (\[.*\]), in Python: (\[.*\])", output).groups()
    assert served == answers


@pytest.mark.slow
@pytest.mark.usefixtures("minilm_folder")
def test_the_tour_fills_its_table_and_goes_on_where_it_was(tmp_path, real_data):
    output = tmp_path / "cells.json"
    ways = ["frozen probe", "dense connections to all layers", "conditional random field for a head", "augmentation"]
    arguments = ("--data", real_data, "--seeds", 0, "--rows", 24, "--test-rows", 30, "--epochs", 1, "--output", output)
    first = run("transfer_tour.py", *arguments, "--sets", "wnut17", "--ways", *ways)
    cells = json.loads(output.read_text(encoding="utf-8"))
    assert [(cell["way"], cell["score"] is None) for cell in cells] == [(way, "dense" in way) for way in ways]
    assert all(any(line.startswith(way) for line in first.splitlines()) for way in ways)
    run("transfer_tour.py", *arguments, "--sets", "wnut17", "goemotions", "--ways", *ways[:1])
    again = json.loads(output.read_text(encoding="utf-8"))
    assert again[: len(cells)] == cells and [cell["set"] for cell in again[len(cells) :]] == ["goemotions"]


@pytest.mark.slow
def test_a_task_of_ones_own_learns_and_is_served(tmp_path, real_data):
    arguments = ("--data", real_data / "clothing_reviews", "--rows", 96, "--folder", tmp_path / "stars")
    output = run("own_task.py", *arguments, *preset(tmp_path, 6))
    error = float(re.search(r"mean error ([0-9.]+) stars", output)[1])
    answers = json.loads(re.search(r"from the export: (\[.*?\])", output)[1])
    assert 0 < error < 1.5
    assert len(answers) == 8 and set(answers) <= {1, 2, 3, 4, 5}
