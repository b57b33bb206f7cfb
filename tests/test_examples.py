"""Every example is run."""

import csv
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
QUESTIONS = EXAMPLES / "data" / "support_questions"


def run(script, *arguments):
    """Runs an example as a user would; returns what it printed."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
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
        "quickstart.py",
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
    said = run("quickstart.py", "--output", tmp_path)
    table = {line[:28].strip(): line[28:].split() for line in said.splitlines() if line[:6] in ("frozen", "fine-t")}
    assert set(table) == {"frozen, nearest class mean", "frozen, logistic regression", "fine-tuned"}
    assert float(table["fine-tuned"][0]) >= 0.6  # of 30 questions; 0.70 to 0.83 from run to run, 0.700 for the probe
    answers = [line.split("\t")[0] for line in said.splitlines() if line.count("\t") == 2]
    assert answers == ["delivery", "returns", "account"]


@pytest.mark.slow
@pytest.mark.usefixtures("minilm_folder")
def test_classify_gives_the_same_accuracy_from_the_export(tmp_path):
    output = tmp_path / "results.json"
    arguments = ["--epochs", 1, "--batch-size", 16, "--export", tmp_path / "serving", "--output", output]
    said = run("classify.py", "--data", QUESTIONS, *arguments)
    results = json.loads(output.read_text(encoding="utf-8"))
    assert results["rows"] == [102, 18, 30]
    assert results["probe"]["accuracy"] >= 0.7
    assert results["fine_tuned"]["accuracy"] == results["fine_tuned"]["accuracy_exported"]
    assert "NOT equal" not in said
