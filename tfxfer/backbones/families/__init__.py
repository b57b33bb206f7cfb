"""One file for each family of pretrained encoders: all that is particular to it.

A family is a `Family` named `FAMILY` in a file of this folder; there is no other list of them.
"""

import importlib
import pkgutil

from tfxfer.backbones._family import Family

FAMILIES: dict[str, Family] = {}
for _module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
    _family = importlib.import_module(f"{__name__}.{_module.name}").FAMILY
    FAMILIES[_family.name] = _family

__all__ = ["FAMILIES"]
