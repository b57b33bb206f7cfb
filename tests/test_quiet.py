"""The package prints nothing that the user did not ask for."""

import os
import pathlib
import subprocess
import sys

import pytest


def stderr_of(code, **environment):
    """Runs code in a new process and returns what it writes to standard error."""
    kept = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**kept, **environment}
    )
    return done.stderr


def test_importing_the_package_and_a_first_operation_write_nothing():
    assert stderr_of("import tfxfer, tensorflow as tf; tf.constant(1.0) + 1.0") == ""


def test_the_users_own_level_of_tensorflows_log_stays():
    code = "import tfxfer, os; assert os.environ['TF_CPP_MIN_LOG_LEVEL'] == '0'"
    assert "oneDNN" in stderr_of(code, TF_CPP_MIN_LOG_LEVEL="0")


@pytest.mark.parametrize(("level", "left"), [("1", b"WE"), ("2", b"E"), ("3", b"")])
def test_a_level_of_the_users_own_leaves_out_what_it_says_while_tensorflow_starts(tmp_path, level, left):
    lines = b"".join(b"%c0000 00:00:1.1 1 a.cc:1] said\n" % letter for letter in b"IWE")
    assert stderr_at_start(tmp_path, lines, TF_CPP_MIN_LOG_LEVEL=level).encode() == b"".join(
        b"%c0000 00:00:1.1 1 a.cc:1] said\n" % letter for letter in left
    )


def test_what_else_is_written_while_tensorflow_is_imported_comes_out(tmp_path):
    lines = b"I0000 00:00:1.1 1 a.cc:1] noise\na warning of yours\n"
    assert stderr_at_start(tmp_path, lines) == "a warning of yours\n"


def stderr_at_start(tmp_path, lines, **environment):
    """Returns what is left of lines that TensorFlow writes while it is imported."""
    (tmp_path / "tensorflow.py").write_text(f"import os\nos.write(2, {lines!r})\n")
    (tmp_path / "tensorflow_text.py").write_text("")
    code = "import importlib.util\n"
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tfxfer", "_quiet.py")
    code += f"spec = importlib.util.spec_from_file_location('quiet', {path!r})\n"
    code += "spec.loader.exec_module(importlib.util.module_from_spec(spec))"
    return stderr_of(code, PYTHONPATH=str(tmp_path), **environment)


MODELS = """
import pathlib, sys
sys.path.insert(0, {tests!r})
import numpy as np, tfxfer as tx, tiny
# TensorFlow warns of the third trace here, instead of the fifth.
from tensorflow.python.eager.polymorphic_function import polymorphic_function
assert polymorphic_function.FREQUENT_TRACING_WARNING_THRESHOLD == 5
polymorphic_function.FREQUENT_TRACING_WARNING_THRESHOLD = 3
names = (["card", "loan"] * 99)[: len(tiny.TEXTS)]
def trained(model, targets, **options):
    model.compile(tx.optimizers.AdamW(1e-3), **options)
    for _ in range(2):
        model.fit(tiny.TEXTS, targets, validation_data=(tiny.TEXTS, targets), verbose=0)
        model.evaluate(tiny.TEXTS, targets, verbose=0)
        model.predict(tiny.TEXTS, verbose=0)
    return model
for _ in range(3):
    parts = tiny.backbone(), tiny.preprocessor(pathlib.Path({folder!r}))
    trained(tx.models.TextClassifier(*parts, labels=["card", "loan"]), names, metrics=["accuracy"])
    embedder = tx.models.TextEmbedder(*parts)
    embedder.encode(tiny.TEXTS)
    embedder.engine = tx.export.Engine(embedder, "float32")
    embedder.encode(tiny.TEXTS)
    tiny.tagger(pathlib.Path({folder!r})).tag([["a", "card"]])
    tx.models.TextClassifier(*parts, labels=["card", "loan"]).explain(tiny.TEXTS)
"""


@pytest.mark.slow
def test_many_models_in_one_process_are_no_reason_to_warn_of_retracing(tmp_path):
    assert stderr_of(MODELS.format(tests=str(pathlib.Path(__file__).parent), folder=str(tmp_path))) == ""


def test_a_function_that_is_traced_again_and_again_is_still_warned_of():
    code = "import tfxfer, tensorflow as tf\nf = tf.function(lambda x: x)\nfor i in range(7): f(i)"
    assert "triggered tf.function retracing" in stderr_of(code)
