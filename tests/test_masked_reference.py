"""The logits of masked language models against transformers', with files that either package wrote.

transformers runs in the benchmark environment (`make .venv-bench/.installed`), once for all tests. Written with
torch 2.13.0 and transformers 5.24.0. Differences are relative to the largest value.
"""

import json
import pathlib
import shutil
import subprocess

import keras
import numpy as np
import pytest
import tiny
from test_masked import FAMILIES_WITH_HEADS, masked_of

from tfxfer import models

pytestmark = pytest.mark.slow

PYTHON = pathlib.Path(__file__).resolve().parent.parent / ".venv-bench" / "bin" / "python"
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The folder with transformers' outputs, and this package's inputs and outputs, by family."""
    if not PYTHON.exists():
        pytest.skip("no benchmark environment: make .venv-bench/.installed")
    folder, jobs, own = tmp_path_factory.mktemp("masked"), [], {}
    for family in FAMILIES_WITH_HEADS:
        (folder / family).mkdir()
        model = masked_of(family, folder / family)
        model.save_to_preset(folder / family / "written", format="huggingface")
        x = tiny.inputs(model)
        own[family] = x, keras.ops.convert_to_numpy(model(x))
        paths = {"folder": str(folder / family / "written"), "again": str(folder / family / "again")}
        ids = {"ids": x["token_ids"].tolist(), "mask": x["padding_mask"].tolist()}
        jobs.append({"kind": "masked", "name": family, **paths, **ids})
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    script = pathlib.Path(__file__).with_name("reference_reader.py")
    subprocess.run([PYTHON, script, folder], check=True, capture_output=True, timeout=3600)
    return folder, own


@pytest.mark.parametrize("family", FAMILIES_WITH_HEADS)
def test_transformers_gives_the_same_logits_and_its_files_are_read(answers, family):
    folder, own = answers
    failed = folder / f"{family}.txt"
    assert not failed.exists(), failed.read_text(encoding="utf-8")
    x, expected = own[family]
    found = np.load(folder / f"{family}.npz")["logits"]
    is_asked = x["mask_positions"] >= 0
    found = np.take_along_axis(found, np.maximum(x["mask_positions"], 0)[..., None], axis=1)[is_asked]
    scale = np.abs(found).max()
    np.testing.assert_allclose(expected[is_asked], found, rtol=0, atol=TOLERANCE * scale)
    for file in (folder / family / "written").glob("*tokenizer*"):
        shutil.copy(file, folder / family / "again")
    again = models.MaskedLanguageModel.from_preset(folder / family / "again")
    logits = keras.ops.convert_to_numpy(again(x))
    np.testing.assert_allclose(logits[is_asked], found, rtol=0, atol=TOLERANCE * scale)
