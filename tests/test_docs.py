"""The documentation: code blocks run with a small encoder; names, links and files exist; the site builds."""

import html.parser
import importlib.util
import inspect
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse
import zlib

import doc_pages
import keras
import pytest

import tfxfer as tx

# Patched below, because pages download checkpoints by name.
from tfxfer.backbones import _presets

ROOT, DOCS = doc_pages.ROOT, doc_pages.DOCS
PROGRAMS = [page for page in doc_pages.PAGES if doc_pages.blocks(page) and page not in doc_pages.REAL]


def module(name):
    """Imports a module from the folder `docs`."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """The folders of the checkpoints that the pages name."""
    return doc_pages.presets(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def plain_graphs():
    """Disables TensorFlow's graph optimizers, because they take longer than the small encoder."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.mark.slow
@pytest.mark.usefixtures("plain_graphs")
@pytest.mark.parametrize("page", PROGRAMS)
def test_the_blocks_of_a_page_run(page, checkpoints, tmp_path, monkeypatch):
    # A folder of that name in the working directory takes precedence over the preset.
    shutil.copytree(checkpoints[6 if page in doc_pages.DEEP else 1], tmp_path / "all_minilm_l6_v2")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_presets, "_download", lambda name, _: checkpoints[name.removeprefix("hf://")])
    keras.utils.set_random_seed(0)
    ran = doc_pages.run(page, doc_pages.Names(__name__="page"))
    assert ran or doc_pages.notes(page)


def test_blocks_that_are_not_run_compile():
    for page in doc_pages.PAGES:
        for line, code, _ in doc_pages.blocks(page):
            compile("\n" * line + code, page, "exec")


def test_every_block_is_found():
    for page in doc_pages.PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        assert text.count("```python") == len(doc_pages.blocks(page)), page
        assert text.count("<!-- not run:") == len(doc_pages.notes(page)), page


@pytest.mark.parametrize("page", doc_pages.PAGES)
def test_links_between_pages_lead_somewhere(page):
    folder = (DOCS / page).parent
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", (DOCS / page).read_text(encoding="utf-8"))
    missing = [target for target in targets if not (folder / target).exists() and "reference/" not in target]
    assert missing == []


MODULES = "|".join(module("reference").public_modules())


@pytest.mark.parametrize("page", doc_pages.PAGES)
def test_names_of_the_package_in_pages_exist(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    named = set(re.findall(rf"(?<![\w./*-])(?:tx\.)?({MODULES})\.([a-zA-Z]\w*)", text))
    ends = ("md", "pdf", "json", "py")
    assert [
        f"{module}.{name}"
        for module, name in sorted(named)
        if name not in ends and not hasattr(getattr(tx, module), name)
    ] == []


def test_names_of_keras_hub_in_its_page_exist():
    import keras_hub

    text = (DOCS / "coming_from" / "keras_hub.md").read_text(encoding="utf-8")
    named = re.findall(r"keras_hub\.(\w+)\.(\w+)", text)
    assert named
    assert [name for part, name in named if not hasattr(getattr(keras_hub, part), name)] == []


def test_names_in_the_picture_exist_and_the_picture_is_that_of_the_code():
    picture = module("picture")
    for name in picture.names():
        value = tx
        for part in name.split("."):
            value = getattr(value, part)
    drawn = (DOCS / "_static" / "way_of_the_data.svg").read_text(encoding="utf-8")
    assert drawn == picture.svg(), "Run docs/generate.py."


def test_figures_name_every_script_and_every_result():
    text = (DOCS / "figures.md").read_text(encoding="utf-8")
    results = {path.name for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert set(re.findall(r"`results/([\w.]+\.json)`", text)) == results
    scripts = set(re.findall(r"`((?:benchmarks|examples)/\w+\.py)`", text))
    assert [script for script in scripts if not (ROOT / script).exists()] == []


def test_the_reference_has_every_public_name_and_method():
    reference = module("reference")
    for name, value in reference.public_modules().items():
        written = "\n".join(reference.pages(name, value).values())
        heads = set(re.findall(r"^:+\{py:(?:class|function|data)\} (\w+)", written, re.MULTILINE))
        assert heads == set(value.__all__), name
        for each in value.__all__:
            if inspect.isclass(getattr(value, each)):
                for member, _, _ in reference.members(getattr(value, each)):
                    assert re.search(rf"^::::\{{py:(?:method|property)\}} {member}\b", written, re.MULTILINE), member


DOCSTRING = """\
Scores texts, see `fit`.

| a | b |
|---|---|
| `x` | 1 |

Rows: two texts; see https://arxiv.org/abs/1.2.

Args:
    margin, scale: float. The first line
        and the second.
    **kwargs: passed on.

Returns:
    A float.

>>> 1 + 1
2

Raises:
    ValueError: always.
"""


def test_a_docstring_becomes_markdown():
    written = module("reference").docstring(DOCSTRING)
    assert "| `x` | 1 |" in written
    assert "**Rows:** two texts; see <https://arxiv.org/abs/1.2>." in written
    assert "- `margin`, `scale`: float. The first line\n      and the second." in written
    assert "- `**kwargs`: passed on." in written
    assert "**Returns**\n\nA float." in written
    assert "```pycon\n>>> 1 + 1\n2\n```" in written
    assert "- `ValueError`: always." in written


def test_a_signature_has_defaults_and_no_types():
    def f(a: int, *, b: str = "x", c=print): ...

    assert module("reference").signature(f) == "(a, *, b='x', c=print)"


class Page(html.parser.HTMLParser):
    """The ids and the links of a built page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        elif tag in ("script", "img", "link") and (attrs.get("src") or attrs.get("href")):
            self.loads.append(attrs.get("src") or attrs["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    if any(importlib.util.find_spec(name) is None for name in ("sphinx", "furo", "myst_parser", "sphinx_copybutton")):
        pytest.skip("no Sphinx with furo, myst-parser and sphinx-copybutton (the extra `docs`)")
    folder = tmp_path_factory.mktemp("site")
    ignored = shutil.ignore_patterns("reference", "_build", "__pycache__")
    for name in ("docs", "examples", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder / name)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "html"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "html"


@pytest.mark.slow
def test_the_site_builds_and_no_link_in_it_is_broken(site):
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    broken, remote = [], []
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = urllib.parse.unquote(link).partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            found = (path.parent / target.partition("?")[0]).resolve() if target else path
            if not found.exists() or (anchor and found in pages and anchor not in pages[found].ids):
                broken.append((path.name, link))
        remote += [(path.name, load) for load in page.loads if re.match(r"(?:[a-z]+:)?//", load)]
    assert broken == []
    assert remote == [], "A page loads something from the network."


@pytest.mark.slow
def test_the_built_reference_and_search_have_every_public_name(site):
    body = (site / "objects.inv").read_bytes().split(b"zlib.\n", 1)[1]
    names = {line.split()[0] for line in zlib.decompress(body).decode().splitlines()}
    assert set(module("reference").public_names()) <= names
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    titles = json.loads(index.removeprefix("Search.setIndex(").rstrip(")"))["titles"]
    assert {"First steps", "Concepts", "Search: words, vectors, both"} <= set(titles)


def test_the_site_is_not_in_the_package():
    assert not [path for path in pathlib.Path(tx.__file__).parent.rglob("*") if path.suffix in (".md", ".rst", ".css")]
