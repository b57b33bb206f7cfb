"""Freezing by layer group, low-rank adapters, caching of frozen layers' outputs, and linear probes."""

from tfxfer.freezing._cache import AboveFrozen
from tfxfer.freezing._groups import freeze, unfreeze
from tfxfer.freezing._lora import add_lora, load_adapters, merge_lora, save_adapters
from tfxfer.freezing._probe import Probe, probe
from tfxfer.freezing._summary import GroupSummary, summary

__all__ = [
    "AboveFrozen",
    "GroupSummary",
    "Probe",
    "add_lora",
    "freeze",
    "load_adapters",
    "merge_lora",
    "probe",
    "save_adapters",
    "summary",
    "unfreeze",
]
