"""Which weights move: freezing by layer group, low-rank adapters, and frozen layers computed once."""

from tfxfer.freezing._cache import AboveFrozen
from tfxfer.freezing._groups import freeze, unfreeze
from tfxfer.freezing._lora import add_lora, load_adapters, merge_lora, save_adapters
from tfxfer.freezing._summary import GroupSummary, summary

__all__ = [
    "AboveFrozen",
    "GroupSummary",
    "add_lora",
    "freeze",
    "load_adapters",
    "merge_lora",
    "save_adapters",
    "summary",
    "unfreeze",
]
