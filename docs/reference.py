"""Writes a page of the reference for every public module: each name of its `__all__`, from the docstrings.

Docstrings are Markdown with Google's sections, so they are written as MyST Markdown and not passed through reStructured
Text. `conf.py` calls `write` before each build of the site.
"""

import inspect
import pathlib
import re
import shutil
import textwrap
import types

import tfxfer

# Modules of few names with many methods each: a page for each name. The other modules have a page for all their names.
SPLIT = ("models",)
SECTIONS = {
    "Args": "Arguments",
    "Call arguments": "Call arguments",
    "Attributes": "Attributes",
    "Returns": "Returns",
    "Yields": "Yields",
    "Raises": "Raises",
    "Example": "Example",
    "Examples": "Examples",
    "Reference": "Reference",
    "References": "References",
}
# Sections whose lines are `name: text`.
LISTS = ("Args", "Call arguments", "Attributes", "Raises")
# Paragraphs that begin with a word for what they hold.
LEADS = "Rows|Choose it|Neighbou?rs|References?|Input|Output|Values|Memory|Returns|Raises|Yields"
ENTRY = re.compile(r"(?P<names>[\w.*`]+(?:, [\w.*`]+)*)(?: \([^)]*\))?: +(?P<text>.*)")
URL = re.compile(r"(?<![\w(<\[`\"'])https?://(?:\([^\s<>()]+\)|[^\s<>()`\]])+(?<![.,;:])")


def public_modules():
    """The public modules of the package by name, in the order of `__all__`."""
    found = {name: getattr(tfxfer, name) for name in tfxfer.__all__}
    return {name: value for name, value in found.items() if isinstance(value, types.ModuleType)}


def public_names():
    """The full names of everything public: `tfxfer.losses.CoSENTLoss` ..."""
    return [f"tfxfer.{module}.{name}" for module, value in public_modules().items() for name in value.__all__]


def outside_code(function, text):
    """Applies a function to what lies outside of code spans."""
    parts = re.split(r"(`[^`\n]*(?:\n[^`\n]+)?`)", text)
    return "".join(part if i % 2 else function(part) for i, part in enumerate(parts))


def prose(text):
    """A part of a docstring without fenced blocks: links and lead words as Markdown, doctests as blocks."""
    lines, out, is_test = text.split("\n"), [], False
    for line in lines:
        if line.lstrip().startswith(">>>") and not is_test:
            indent = line[: len(line) - len(line.lstrip())]
            if out and out[-1].strip():
                out.append("")
            out.append(f"{indent}```pycon")
            is_test = True
        if is_test and not line.strip():
            out += [f"{indent}```", line]
            is_test = False
            continue
        out.append(line if is_test else outside_code(lambda part: URL.sub(r"<\g<0>>", part), line))
    if is_test:
        out.append(f"{indent}```")
    found = "\n".join(out)
    return re.sub(rf"^({LEADS}): (?=\S)", r"**\1:** ", found, flags=re.MULTILINE)


def page_link(found):
    """A link to a page that a docstring names by its file; Sphinx has a `search.html` of its own."""
    page = "searching" if found["page"] == "search" else found["page"]
    return f"[{found['file']}](/{page}.md)"


def markdown(text):
    """A docstring's text as Markdown; fenced blocks stay as they are."""
    text = re.sub(r"`?(?P<file>docs/(?P<page>\w+)\.md)`?(?! -)", page_link, text)
    parts = re.split(r"(^ *```.*?^ *```$)", text, flags=re.MULTILINE | re.DOTALL)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = part.replace("```python", "```pycon", 1) if ">>>" in part else part
        else:
            parts[i] = prose(part)
    return "".join(parts)


def entries(body):
    """The lines `name: text` of a section as a list."""
    out = []
    for line in body.split("\n"):
        found = ENTRY.fullmatch(line)
        if found:
            names = ", ".join(f"`{name.strip('`')}`" for name in found["names"].split(", "))
            out.append(f"- {names}: {found['text']}")
        else:
            out.append(f"  {line}" if line.strip() else "")
    return "\n".join(out)


def docstring(text):
    """A whole docstring as Markdown."""
    out, lines, i = [], text.split("\n"), 0
    while i < len(lines):
        found = re.fullmatch(r"([A-Z][a-z ]+):", lines[i])
        if not found or found[1] not in SECTIONS:
            out.append(lines[i])
            i += 1
            continue
        body, i = [], i + 1
        while i < len(lines) and (not lines[i].strip() or lines[i].startswith("  ")):
            body.append(lines[i])
            i += 1
        body = textwrap.dedent("\n".join(body)).strip("\n")
        out += ["", f"**{SECTIONS[found[1]]}**", ""]
        if body:
            out += [entries(body) if found[1] in LISTS else body, ""]
    return markdown("\n".join(out)).strip("\n") + "\n"


def signature(value):
    """A signature without annotations: the docstring has the types."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    kept = []
    for each in found.parameters.values():
        if each.name in ("self", "cls") and not kept:
            continue
        default = each.default
        if default is not inspect.Parameter.empty and re.search(
            r"<.* at 0x|<(?:class|function|built-in)", repr(default)
        ):
            name = getattr(default, "__name__", None)
            default = types.SimpleNamespace() if name is None else _Shown(name)
        kept.append(each.replace(annotation=inspect.Parameter.empty, default=default))
    return str(inspect.Signature(kept))


class _Shown:
    """A default value that is shown by its name."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name


def members(cls):
    """(name, kind, object) of the documented public methods and properties that this package defines."""
    found = {}
    for base in cls.__mro__:
        if not base.__module__.startswith("tfxfer"):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") or name in found:
                continue
            kinds = {classmethod: "classmethod", staticmethod: "staticmethod"}
            if isinstance(value, property):
                found[name] = ("property", value)
            elif isinstance(value, (classmethod, staticmethod)):
                found[name] = (kinds[type(value)], value.__func__)
            elif inspect.isfunction(value):
                found[name] = ("method", value)
    for name, (kind, value) in sorted(found.items()):
        if value.__doc__:
            yield name, kind, value


def block(directive, head, options, body, colons=3):
    """A directive of Sphinx in MyST."""
    fence = ":" * colons
    lines = [
        f"{fence}{{{directive}}} {head}",
        *(f":{option}" if ":" in option else f":{option}:" for option in options),
        "",
        body.rstrip("\n"),
        "",
        fence,
    ]
    return "\n".join(lines) + "\n"


def entry(module, name, value):
    """The entry of one public name."""
    place = [f"module: tfxfer.{module}"]
    if inspect.isclass(value):
        inner = [docstring(inspect.getdoc(value) or "")]
        for member, kind, method in members(value):
            is_property = kind == "property"
            options = [kind] if kind in ("classmethod", "staticmethod") else []
            options += [] if module in SPLIT else ["no-contents-entry"]
            head = member + ("" if is_property else signature(method))
            directive = "py:property" if is_property else "py:method"
            inner.append(block(directive, head, options, docstring(inspect.getdoc(method)), colons=4))
        return block("py:class", name + signature(value), place, "\n".join(inner), colons=5)
    if callable(value):
        return block("py:function", name + signature(value), place, docstring(inspect.getdoc(value) or ""), colons=5)
    return block("py:data", name, place, f"`{names_of(value)}`\n", colons=5)


def names_of(value):
    """A constant as it is shown: of a dict its names."""
    return repr(tuple(value)) if isinstance(value, dict) else repr(value)


def summary(value):
    """The first sentence of a docstring, as a cell of a table."""
    text = f"`{names_of(value)}`"
    if callable(value):
        text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return re.sub(r"(?<!\\)\|", r"\|", text)


def kinds_of(module, value):
    """The names of a module: classes, functions, and what is neither."""
    found = {"Classes": [], "Functions": [], "Constants": []}
    for name in value.__all__:
        each = getattr(value, name)
        kind = "Classes" if inspect.isclass(each) else "Functions" if callable(each) else "Constants"
        found[kind].append((name, each))
    return {kind: names for kind, names in found.items() if names}


def pages(name, module):
    """The pages of one public module, by file name."""
    found = {}
    text = markdown(inspect.getdoc(module) or "")
    parts = [f"# tfxfer.{name}\n", f"```{{py:module}} tfxfer.{name}\n```\n", text + "\n"]
    kinds = kinds_of(name, module)
    for kind, names in kinds.items():
        rows = [f"| {{py:obj}}`{each} <tfxfer.{name}.{each}>` | {summary(value)} |" for each, value in names]
        parts += [f"## {kind}\n", "| name | what it does |", "|---|---|", *rows, ""]
    every = [each for names in kinds.values() for each in names]
    if name in SPLIT:
        for each, value in every:
            found[f"{name}/{each}.md"] = f"# {each}\n\n" + entry(name, each, value)
        paths = [f"{name}/{each}" for each, _ in every]
        parts += ["```{toctree}", ":hidden:", "", *paths, "```", ""]
    else:
        parts += ["## Reference\n", *(entry(name, each, value) + "\n" for each, value in every)]
    return {f"{name}.md": "\n".join(parts), **found}


HEAD = """\
# Reference

Every public name. `import tfxfer as tx`; modules are `tx.models`, `tx.losses` and so on. These pages are made from the
docstrings, which `help(tx.models.TextClassifier)` shows as well.

| module | what it holds |
|---|---|
"""


def write(folder):
    """Writes all pages into a folder, which is made again."""
    folder = pathlib.Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    rows, names = [], []
    for name, module in public_modules().items():
        names.append(name)
        first = " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split())
        rows.append(f"| [tfxfer.{name}]({name}.md) | {first} |\n")
        for path, text in pages(name, module).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    toctree = "\n".join(["", "```{toctree}", ":hidden:", "", *names, "```", ""])
    (folder / "index.md").write_text(HEAD + "".join(rows) + toctree, encoding="utf-8")
