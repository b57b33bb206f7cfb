"""The interpreter that `make` takes, with stand-ins that print how long a piece of work takes."""

import os
import pathlib
import subprocess

import pytest

CHOOSE = pathlib.Path(__file__).resolve().parent.parent / ".ci" / "python"
CANNOT = "exit 1"  # it has no `venv`


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ({"a/python3.11": 1000}, "a/python3.11"),
        ({"a/python3.11": 1000, "b/python3.11": 900}, "a/python3.11"),
        ({"a/python3.11": 1000, "b/python3.11": 700}, "b/python3.11"),
        ({"a/python3.11": 1000, "b/python3.11": 700, "c/python3.11": 500}, "c/python3.11"),
        ({"a/python3.11": 500, "b/python3.11": 1000}, "a/python3.11"),
        ({"a/python3.12": 100, "b/python3.11": 1000}, "b/python3.11"),
        ({"a/python3.11": CANNOT, "b/python3.11": 1000}, "b/python3.11"),
        ({"a/python3.11": CANNOT, "b/python3.12": 1000}, "b/python3.12"),
        ({"a/python3.11": CANNOT, "b/python3.14": 1000}, None),
        ({}, None),
    ],
)
def test_it_is_the_first_that_works_unless_another_is_clearly_faster(found, chosen, tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for name, answer in found.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer if answer == CANNOT else f'echo {answer}'}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", CHOOSE, "3.11", "3.12"],
        env={**os.environ, "PATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout == ("" if chosen is None else f"{tmp_path / chosen}\n")
