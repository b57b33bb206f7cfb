"""Code, docs and examples avoid the habits of prose that make English read as translated."""

import io
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Patterns, each with what plain English says instead.
HABITS = {
    r"\bstands? (?:for itself|as|at|on|where|still|there)\b": "is, are",
    r"\banew\b": "again",
    r"\bshall\b": "should, must, or the present tense",
    r"\b(?:behind|beside)\b": "after, next to, alongside, in addition to, with",
    r"\bgo(?:es)? on (?:with|where|from|as)\b|\bwent on\b": "continue, resume",
    r"\b(?:every |after |each )?so many\b(?! as\b)": "that many, or the number",
    r"\bnone (?:that|such|which|of it)\b": "not one that",
    r"\bworked off\b": "consumed, processed",
    r"\bat hand\b": "available, installed",
    r"\blikewise\b": "also, in the same way",
    r"\b(?:is|are|be) such as\b|\bsuch as (?:is|are|fit|has|have|the file's)\b": "one that, those that",
    r"(?<!there )\b(?:is|are) (?:no|none) (?:string|number|integer|list|model|loss|file|name|text|row)s?\b": "is not a",
    r"\bfor want of\b": "without",
    r"\bof (?:which|whom) (?:one|it) (?:is|are) to\b": "which",
    r"\bat once, (?:for|where|if)\b": "immediately, if",
    r"\b(?:by|in|of) (?:itself|themselves) alone\b": "by itself",
    r"\bin want of\b|\bin the stead\b|\bin place of it\b": "instead",
    r"\bnor would\b|\bnor does it\b|\bnor is it\b": "and it does not",
    r"\b(?:thereby|wherein|whereby|hereby|therein|thereof|hitherto|ere)\b": "which, there, so far",
    r"\bcomes? to naught\b|\bcome what may\b|\bwith an end\b": "fails, always",
    r"\bto be had\b": "available",
    r"\b(?:mend|mends|mended|parted|put together)\b": "repair, split, combine",
    r"\bas (?:it|they|\w+) (?:has|have|takes?|gives?|makes?) (?:it|them)\b": "in the form that ...",
    r"\bon the disk\b": "on disk",
    r"\bfor ever\b": "forever",
    r"\bwhite space\b": "whitespace",
    r"\b(?:is|are) told\b|\bif need be\b|\bother ones\b": "is reported, if necessary, others",
    # American spelling, as in Keras; names with another spelling (`data.labelled`) are code, not prose.
    r"\b(?:token|normal|quant|regular|initial|general|optim|penal|random)is(?:e|es|ed|er|ing|ation)\b": "z for s",
    r"\b(?:un)?labelled (?:texts?|rows?|pairs?|data|examples?)\b|\bjudgements?\b(?! *[=(])": "labeled, judgment",
    r"(?<!\{)\b(?:colours?|behaviours?|favours?|grey|towards|neighbouring|modelling)\b": "color, gray, toward",
}
FOLDERS = ("tfxfer", "examples", "benchmarks", "docs", "tests")
PAGES = ("README.md", "CONTRIBUTING.md")
# The changelog describes old versions and keeps its wording.
EXCEPT = {"CHANGELOG.md"}


def files():
    found = [ROOT / name for name in PAGES]
    for folder in FOLDERS:
        found += [path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in (".py", ".md")]
    return [path for path in found if path.name not in EXCEPT and not {"_build", "reference"} & set(path.parts)]


def prose(path):
    """Yields (line, text) of a file's prose: comments and strings, of tests comments only; pages without their code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        kinds = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
        if ROOT / "tests" in path.parents:  # their strings are data, and the messages that they expect
            kinds = kinds[:1]
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in kinds:
                yield from enumerate(token.string.split("\n"), token.start[0])
        return
    is_code = False
    for number, line in enumerate(text.split("\n"), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code:
            yield number, line


@pytest.mark.parametrize("folder", [*FOLDERS, "pages"])
def test_prose_keeps_to_plain_english(folder):
    chosen = [
        path
        for path in files()
        if (path.relative_to(ROOT).parts[0] == folder) or (folder == "pages" and path.parent == ROOT)
    ]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()!r}, in plain English: {better}"
        for path in chosen
        for number, line in prose(path)
        for pattern, better in HABITS.items()
        for match in re.finditer(pattern, line, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)
