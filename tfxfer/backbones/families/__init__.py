"""One module for each family of pretrained encoders, with everything specific to it.

A family is a `Family` named `FAMILY` in a module of this package. `FAMILIES` is built from these modules; there is no
other list.
"""

import importlib
import pkgutil

from tfxfer.backbones._family import Family

FAMILIES: dict[str, Family] = {}
for _module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
    _family = importlib.import_module(f"{__name__}.{_module.name}").FAMILY
    FAMILIES[_family.name] = _family

__all__ = ["FAMILIES"]
