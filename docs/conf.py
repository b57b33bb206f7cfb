"""Settings of the site, `make docs`. A build needs no network; warnings are errors."""

import os
import pathlib
import re
import sys

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tfxfer  # noqa: E402
from docutils import nodes  # noqa: E402
from sphinx import addnodes  # noqa: E402

import reference  # noqa: E402

project = "tfxfer"
author = "The tfxfer authors"
copyright = "The tfxfer authors, Apache-2.0"
version = release = tfxfer.__version__

extensions = ["myst_parser", "sphinx_copybutton"]
# Sphinx's own page of search results is `search.html`: `search.md` is the page `searching`, which includes it.
exclude_patterns = ["_build", "search.md"]
nitpicky = True
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
add_function_parentheses = False

html_theme = "furo"
html_title = f"tfxfer {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = ">>> "

# `tx.losses.CoSENTLoss`, `losses.CoSENTLoss(...)` or `CoSENTLoss`, in code within a sentence: a link to the reference.
NAMES = {}
for full in reference.public_names():
    short = full.removeprefix("tfxfer.")
    NAMES[short] = full
    last = short.rpartition(".")[2]
    if last[0].isupper() and not last.isupper():
        NAMES.setdefault(last, full)
METHODS = {
    f"tfxfer.{module}.{name}.{member}"
    for module, value in reference.public_modules().items()
    for name in value.__all__
    if isinstance(getattr(value, name), type)
    for member, kind, _ in reference.members(getattr(value, name))
    if kind != "property"
}
CODE = re.compile(r"(?:tx\.|tfxfer\.)?(?P<name>[A-Za-z]\w*(?:\.[A-Za-z]\w*)*)(?:\(.*\))?", re.DOTALL)


def link_names(app, doctree):
    """Makes names of the package in running text links to their entries of the reference."""
    for node in list(doctree.findall(nodes.literal)):
        within = node.parent
        if isinstance(within, (nodes.reference, addnodes.pending_xref, nodes.title, nodes.term)):
            continue
        found = CODE.fullmatch(node.astext())
        entry = next((each for each in ancestors(node) if isinstance(each, addnodes.desc)), None)
        target = found and NAMES.get(found["name"])
        if found and not target and entry is None and app.env.docname.startswith("reference/"):
            module = app.env.docname.removeprefix("reference/")  # its docstring names what it holds without the module
            target = NAMES.get(f"{module}.{found['name']}")
        if found and not target:  # within the entry of a class, the class's own methods
            classes = (each[0]["ids"] for each in ancestors(node) if each.get("objtype") == "class")
            target = next((f"{ids[0]}.{found['name']}" for ids in classes if ids), None)
            target = target if target in METHODS else None
        if not target or (entry is not None and target in entry[0].get("ids", ())):
            continue
        link = addnodes.pending_xref(
            "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=True
        )
        link["refdoc"] = app.env.docname
        node.replace_self(link)
        link += node


def widen(app, doctree):
    """Lets the table of losses, of six columns, have the place of the contents at the side."""
    if app.env.docname == "losses":
        app.env.metadata["losses"]["hide-toc"] = ""
        for table in doctree.findall(nodes.table):
            table["classes"].append("wide")


def ancestors(node):
    """The nodes around a node, from the inside."""
    while node.parent is not None:
        node = node.parent
        yield node


def link_to_searching(app, docname, source):
    """Leads links to `search.md` to the page that includes it."""
    if not docname.startswith("reference/"):
        source[0] = re.sub(r"(\]\((?:\.\./)?)search\.md", r"\1searching.md", source[0])


def setup(app):
    """Writes the reference before a build, and links names to it."""
    app.connect("builder-inited", lambda app: reference.write(pathlib.Path(app.srcdir) / "reference"))
    app.connect("source-read", link_to_searching)
    app.connect("include-read", lambda app, path, docname, source: link_to_searching(app, docname, source))
    app.connect("doctree-read", link_names)
    app.connect("doctree-read", widen)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
