"""Runs the Python blocks of the README and of pages of the docs, each page from top to bottom as one program."""

import pathlib
import re

import pytest

import tfxfer as tx

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Pages whose blocks form one program that uses the weights of all-MiniLM-L6-v2.
PROGRAMS = ("README.md", "docs/tour.md", "docs/checkpoints.md")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.usefixtures("minilm_folder")
@pytest.mark.parametrize("page", PROGRAMS)
def test_the_code_blocks_run(page, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert blocks
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        code = compile("\n" * line + block[1], page, "exec")  # so that a traceback names the page's line
        exec(code, names)


def test_links_to_files_lead_somewhere():
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_every_make_target_that_it_names_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z]+)\b(?=`|\n| +#)", README))
    assert {"quickstart", "test"} <= named
    assert not [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)]


MODULES = "augmentation|backbones|callbacks|data|evaluation|export|freezing|layers|losses|models|optimizers|schedules"


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_names_of_the_package_in_pages_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(rf"(?<![\w./*])(?:tx\.)?({MODULES})\.([a-zA-Z]\w*)", text))
    named = {(module, name) for module, name in named if name not in ("md", "pdf")}
    assert [f"{module}.{name}" for module, name in sorted(named) if not hasattr(getattr(tx, module), name)] == []
