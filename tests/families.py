"""Directories of reference numbers for encoder families, and which of them are shipped with the tests.

Reference: transformers 5.23.0 and 5.24.0, tokenizers 0.23.3, torch 2.15 and 2.14.1 (golden/families and families2).
"""

import pathlib

import numpy as np
import pytest

# The directories of each set.
SETS = {
    "families": (
        "albert",
        "bert",
        "bert_cased",
        "deberta_v3",
        "distil_bert",
        "electra",
        "gpt2",
        "roberta",
        "xlm_roberta",
    ),
    "families2": (
        "bert_unigram",
        "eurobert",
        "gemma3",
        "gte",
        "llama_both_ways",
        "modernbert",
        "mpnet",
        "nomic_bert",
        "openai_gpt",
        "qwen3",
        "t5",
        "t5_gated",
    ),
}
NAMES = tuple(name for names in SETS.values() for name in names)
# The directories that are shipped with the tests, found by their `expected.npz`.
SHIPPED = {path.parent.name: path.parent for path in (pathlib.Path(__file__).parent / "golden").glob("*/expected.npz")}


class Found(dict):
    """Results of `each` by directory name; a test that asks for a missing one is skipped."""

    def __missing__(self, name):
        pytest.skip(f"no reference numbers of {name}")


def each(golden, kind, names, make):
    """Returns `make(folder)` by name for those directories of a set that exist."""
    folders = {name: pathlib.Path(golden, kind, name) for name in names}
    return Found((name, make(folder)) for name, folder in folders.items() if folder.is_dir())


# Directories that also have the config.json of an older transformers, or of the model code on the Hub.
OLDER_CONFIGS = {
    "eurobert": "config_v4.json",
    "gemma3": "config_v4.json",
    "llama_both_ways": "config_v4.json",
    "modernbert": "config_v4.json",
    "nomic_bert": "config_hub.json",
    "qwen3": "config_v4.json",
}


def folder(golden, name):
    """Returns the directory of a family; `golden` is the directory of all reference numbers."""
    if name in SHIPPED:
        return SHIPPED[name]
    return pathlib.Path(next(golden / kind / name for kind, names in SETS.items() if name in names))


def expected(golden, name):
    """Returns the ids, masks and hidden states of a directory, without the rows that have no tokens.

    Row 12 is the empty string. With tokenizers without special tokens (GPT, GPT-2), it consists only of padding, where
    the reference is undefined.

    Returns:
        (rows, ids, mask, hidden): int arrays of the row numbers `(rows,)`, the ids and the mask `(rows, length)`, and a
        float32 array of the hidden states `(rows, length, hidden_dim)`.
    """
    with np.load(folder(golden, name) / "expected.npz") as found:
        rows = np.flatnonzero(found["attention_mask"].sum(axis=1))
        return rows, *(found[key][rows] for key in ("input_ids", "attention_mask", "last_hidden_state"))
