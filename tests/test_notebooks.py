"""The notebooks match their scripts and run."""

import importlib.util
import json
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "examples" / "notebooks"
NAMES = ("classify", "freeze", "search", "similarity", "tag")


def sources(notebook):
    """(kind, text) of each cell."""
    return [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook["cells"]]


def cells(script):
    """(kind, text) of each cell of a script in the percent format."""
    found = []
    for part in script.split("# %%")[1:]:
        kind, _, text = part.partition("\n")
        if "markdown" in kind:
            text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.split("\n"))
        found.append(("markdown" if "markdown" in kind else "code", text.strip()))
    return found


def test_every_script_has_its_notebook():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(NAMES)
    assert sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "generate") == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_holds_the_cells_of_its_script_and_small_outputs(name):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert sources(notebook) == cells((FOLDER / f"{name}.py").read_text(encoding="utf-8")), "Run generate.py."
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] == place for place, cell in enumerate(code, 1)), "run from top to bottom"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs and all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 20_000


@pytest.mark.slow
@pytest.mark.usefixtures("minilm_folder")
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name):
    for package in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(package, reason=f"no {package}, of the extra `notebooks`")
    spec = importlib.util.spec_from_file_location("generate_notebooks", FOLDER / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    notebook = generate.make(name)
    printed = list(generate.texts(notebook))
    assert printed and max(map(len, printed)) <= generate.MOST
