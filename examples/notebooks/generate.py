"""Makes the notebooks of this directory from its scripts, and runs them: python generate.py [name ...]."""

import argparse
import pathlib

import jupytext
import nbclient

HERE = pathlib.Path(__file__).resolve().parent
NAMES = ("classify", "search", "tag", "similarity", "freeze")
# Characters of a cell's output that are kept.
MOST = 4_000


def make(name, run=True):
    """Returns the notebook of a script, executed if `run`; its cells have stable ids and no times of execution."""
    notebook = jupytext.read(HERE / f"{name}.py")
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{name}-{number}"
        cell.metadata = {}
    if run:
        resources = {"metadata": {"path": str(HERE)}}
        nbclient.NotebookClient(notebook, timeout=900, resources=resources, record_timing=False).execute()
    notebook.metadata.pop("language_info", None)
    return notebook


def texts(notebook):
    """What the cells printed or returned, as one string for each."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield output.get("text") or str(output.get("data", {}).get("text/plain", ""))


def main():
    """Writes the notebooks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    for name in parser.parse_args().names:
        notebook = make(name)
        longest = max((len(text) for text in texts(notebook)), default=0)
        if longest > MOST:
            raise ValueError(f"{name}: a cell printed {longest} characters. Expected at most {MOST}.")
        jupytext.write(notebook, HERE / f"{name}.ipynb")
        print(f"{name}.ipynb")


if __name__ == "__main__":
    main()
