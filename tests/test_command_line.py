"""The command line: what it writes, how it fails, and that its help needs no TensorFlow."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import tiny

from tfxfer import __main__ as program

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMANDS = ("score", "embed", "train", "evaluate", "export", "describe", "try")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models and rows as files."""
    made = tmp_path_factory.mktemp("command")
    classifier = tiny.classifier(made)
    classifier.save(made / "model.keras")
    tiny.embedder(made).save_to_preset(made / "preset")
    frame = pd.DataFrame({"text": tiny.TEXTS, "label": tiny.LABELS, "n": range(8)})
    frame.to_csv(made / "rows.csv", index=False)
    frame.to_parquet(made / "rows.parquet")
    return made


@pytest.fixture
def call(capsys):
    """Runs the program and returns its output, read as JSON."""

    def run(*arguments):
        assert program.main([str(each) for each in arguments]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def fails(capsys):
    """Runs the program, which must fail, and returns its error of one line."""

    def run(*arguments):
        assert program.main([str(each) for each in arguments]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and "Traceback" not in said.err
        return said.err

    return run


def test_score_writes_the_answers_of_the_model(folder, tmp_path, call, fails):
    arguments = ["score", "--model", folder / "model.keras", "--input", folder / "rows.csv"]
    done = call(*arguments, "--output", tmp_path / "a.jsonl", "--probabilities", "--prefix", "m_")
    assert done["rows"] == 8 and done["output"] == str(tmp_path / "a.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert list(rows[0]) == [
        "text",
        "label",
        "n",
        "m_label",
        "m_probability",
        *(f"m_probability_{x}" for x in ("card", "loan", "other")),
    ]
    assert all(abs(row["m_probability"] - row[f"m_probability_{row['m_label']}"]) < 1e-6 for row in rows)
    assert "overwrite" in fails(*arguments, "--output", tmp_path / "a.jsonl")
    assert "'label' is no column" in fails(*arguments, "--output", tmp_path / "b.jsonl")
    wrong = ["--output", tmp_path / "b.csv", "--text-column", "txet"]
    assert "no column 'txet'. Did you mean 'text'?" in fails(*arguments, *wrong)
    assert "no such file" in fails("score", "--model", "none.keras", "--input", "a.csv", "--output", "b.csv")
    assert "give --task" in fails("score", "--model", "all_minilm", "--input", "a.csv", "--output", "b.csv")


@pytest.mark.slow
def test_a_program_that_is_killed_again_and_again_comes_to_its_end(folder, tmp_path, call):
    rows = [tiny.TEXTS[i % 8] for i in range(12_000)]
    pd.DataFrame({"n": range(len(rows)), "text": rows}).to_parquet(tmp_path / "a.parquet")
    arguments = ["score", "--model", folder / "model.keras", "--input", tmp_path / "a.parquet", "--batch-size", "16"]
    call(*arguments, "--output", tmp_path / "whole.parquet")
    target, state = tmp_path / "b.parquet", tmp_path / "b.parquet.parts" / "state.json"
    command = [sys.executable, "-m", "tfxfer", *map(str, arguments), "--output", str(target), "--resume", "--quiet"]
    starts = []
    for parts in (2, 5, 8):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while process.poll() is None and (json.loads(state.read_text())["parts"] if state.exists() else 0) < parts:
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert not target.exists()
        starts.append(json.loads(state.read_text())["records"])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["continued_at"] == starts[-1] and starts == sorted(starts) and done.stderr == ""
    assert pd.read_parquet(target).equals(pd.read_parquet(tmp_path / "whole.parquet"))


def test_embed_writes_vectors(folder, tmp_path, call, fails):
    arguments = ["embed", "--model", folder / "preset", "--input", folder / "rows.parquet"]
    call(*arguments, "--output", tmp_path / "a.parquet", "--truncate-dim", 4)
    found = pd.read_parquet(tmp_path / "a.parquet")
    assert len(found["embedding"][0]) == 4 and found["n"].tolist() == list(range(8))
    assert "truncate_dim" in fails(*arguments, "--output", tmp_path / "b.parquet", "--truncate-dim", 4000)
    assert "workers" in fails(*arguments, "--output", tmp_path / "b.parquet", "--workers", 0)


@pytest.mark.slow
def test_embed_writes_the_same_by_several_processes(folder, tmp_path, call):
    arguments = ["embed", "--model", folder / "preset", "--input", folder / "rows.parquet", "--batch-size", 2]
    call(*arguments, "--output", tmp_path / "a.parquet")
    call(*arguments, "--output", tmp_path / "b.parquet", "--workers", 2)
    one, two = (pd.read_parquet(tmp_path / name)["embedding"].tolist() for name in ("a.parquet", "b.parquet"))
    assert np.array_equal(one, two)


TOML = """
output = "made.keras"
seed = 0
[model]
class = "TextClassifier"
preset = "preset"
pooling = "max"
[data]
path = "rows.csv"
text = "text"
label = "label"
[validation]
path = "rows.csv"
text = "text"
label = "label"
[compile]
optimizer = { class = "AdamW", learning_rate = 0.01 }
[fit]
epochs = 2
batch_size = 4
"""


@pytest.mark.slow
def test_train_does_what_the_file_says(folder, call, fails, capsys):
    (folder / "a.toml").write_text(TOML)
    done = call("train", folder / "a.toml", "--quiet")
    assert done["epochs"] == 2 and {"loss", "accuracy", "val_accuracy"} <= set(done)
    described = call("describe", folder / "made.keras")
    assert described["class"] == "TextClassifier" and described["labels"] == ["card", "loan", "other"]
    assert "--overwrite" in fails("train", folder / "a.toml")
    scores = call("evaluate", "--model", folder / "made.keras", "--input", folder / "rows.csv")
    assert scores["accuracy"] == pytest.approx(done["val_accuracy"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "onnx", "--keep", "2"], "`--keep`.*nothing with --to onnx.*--to saved_model"),
        (["--to", "litert", "--warmup", "none"], "`--warmup`.*--to saved_model"),
        (["--dtype", "int8"], "`--dtype`.*nothing with --to saved_model"),
    ],
)
def test_an_option_of_another_form_is_not_left_out_in_silence(arguments, message, tmp_path, fails):
    said = fails("export", "--model", tmp_path / "none.keras", "--output", tmp_path / "out", *arguments)
    assert re.search(message, said)


@pytest.mark.slow
def test_export_writes_the_next_version_and_recipes(folder, tmp_path, call, fails):
    arguments = ["export", "--model", folder / "model.keras", "--output", tmp_path / "intents"]
    assert call(*arguments, "--warmup", "none")["version"] == 1
    done = call(*arguments, "--recipes", "--keep", "1")
    assert done["version"] == 2 and str(tmp_path / "intents" / "recipes" / "compose.yaml") in done["recipes"]
    assert sorted(name for name in os.listdir(tmp_path / "intents") if name.isdigit()) == ["2"]
    assert call("describe", tmp_path / "intents")["labels"] == ["card", "loan", "other"]
    assert "keep" in fails(*arguments, "--keep", "0")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs", "epoch", "[fit]: unknown key 'epoch'. Did you mean 'epochs'?"),
        ("pooling", "poling", "[model]: unknown key 'poling'. Did you mean 'pooling'?"),
        ("[compile]", "[compil]", "unknown key 'compil'. Did you mean 'compile'?"),
        ('text = "text"', 'txt = "text"', "[data]: unknown key 'txt'. Did you mean 'text'?"),
        ("AdamW", "AdamWW", "Did you mean 'AdamW'?"),
        ("learning_rate", "learning_rat", "unknown key 'learning_rat'. Did you mean 'learning_rate'?"),
        ("TextClassifier", "TextClasifier", "unknown task 'TextClasifier'. Did you mean 'TextClassifier'?"),
        ('preset = "preset"', "", "[model]: the key preset is missing"),
        ("seed = 0", "seed = ", "a.toml: Invalid value (at line 3"),
        ("label = ", "other = ", "unknown key 'other'"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_before_anything_is_trained(folder, tmp_path, fails, old, new, said):
    text = TOML.replace(old, new).replace('"made.keras"', '"other.keras"')
    for name in ("preset", "rows.csv"):
        text = text.replace(f'"{name}"', json.dumps(str(folder / name)))
    (tmp_path / "a.toml").write_text(text)
    assert said in fails("train", tmp_path / "a.toml")
    assert os.listdir(tmp_path) == ["a.toml"]


def test_describe_knows_presets_and_what_is_not_there(folder, call, fails):
    assert call("describe", "all_minilm_l6_v2")["family"] == "bert"
    assert call("describe", folder / "preset")["class"] == "TextEmbedder"
    assert "Did you mean 'all_minilm_l6_v2'?" in fails("describe", "all_minilm_l6")
    assert "no such file" in fails("describe", "none.keras")
    assert "export.saved_model" in fails("describe", folder)


def test_an_error_says_where_it_comes_from_on_request():
    with pytest.raises(FileNotFoundError):
        program.main(["--debug", "describe", "none.keras"])


def test_help_teaches_and_needs_no_tensorflow():
    options = {"capture_output": True, "text": True, "check": False, "cwd": ROOT}
    for arguments in ([], ["score"]):
        command = [sys.executable, "-X", "importtime", "-m", "tfxfer", *arguments, "--help"]
        done = subprocess.run(command, **options)
        assert done.returncode == 0 and "tfxfer score --model" in done.stdout
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "tfxfer._command" in imported and not imported & {"tensorflow", "keras", "numpy"}
    script = "import sys; sys.argv = ['/usr/bin/tfxfer', '--help']; from tfxfer.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", script], **options)  # as pip installs it
    assert "tfxfer score" in done.stdout and "| tensorflow\n" not in done.stderr
    done = subprocess.run([sys.executable, "-m", "tfxfer", "scor"], **options)
    assert done.returncode == 2 and "invalid choice" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        program.main([name, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and f"  tfxfer {name} " in said
