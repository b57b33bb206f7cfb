"""Nothing is printed that nobody asked for."""

import os
import subprocess
import sys


def stderr_of(code, **environment):
    """What a new process that runs the code writes to standard error."""
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


def test_what_else_is_written_while_tensorflow_is_imported_comes_out(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'I0000 00:00:1.1 1 a.cc:1] noise\\na warning of yours\\n')\n"
    )
    (tmp_path / "tensorflow_text.py").write_text("")
    code = "import importlib.util\n"
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tfxfer", "_quiet.py")
    code += f"spec = importlib.util.spec_from_file_location('quiet', {path!r})\n"
    code += "spec.loader.exec_module(importlib.util.module_from_spec(spec))"
    assert stderr_of(code, PYTHONPATH=str(tmp_path)) == "a warning of yours\n"
