"""Transfer learning on text in Keras 3: fine-tune and serve pretrained encoders that take raw strings.

```python
import tfxfer as tx

embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2")
embedder.encode(["Where is my card?", "My card has not arrived"])  # float32 (2, 384)
```
"""

import importlib as _importlib
import typing as _typing

from tfxfer import _collector, _program
from tfxfer._version import __version__

if _typing.TYPE_CHECKING or not _program.is_program():
    with _collector.paused():
        from tfxfer import _quiet  # noqa: F401 - before anything imports TensorFlow

        # isort: split
        from tfxfer import (
            augmentation,
            backbones,
            callbacks,
            data,
            decisions,
            evaluation,
            export,
            freezing,
            layers,
            losses,
            metrics,
            models,
            optimizers,
            preprocessing,
            schedules,
            search,
            tuning,
        )

__all__ = [
    "__version__",
    "augmentation",
    "backbones",
    "callbacks",
    "data",
    "decisions",
    "evaluation",
    "export",
    "freezing",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "preprocessing",
    "schedules",
    "search",
    "tuning",
]


_is_loading = False


def __getattr__(name: str) -> _typing.Any:
    """Loads TensorFlow and all modules when the command line first needs one; otherwise they are already loaded."""
    global _is_loading
    # While they load, `from tfxfer import data` has to import that module; Python does so if there is no attribute.
    if name not in __all__ or _is_loading:
        raise AttributeError(f"module 'tfxfer' has no attribute {name!r}")
    _is_loading = True
    try:
        _importlib.import_module("tfxfer._quiet")
        for module in __all__:
            if module != "__version__":
                _importlib.import_module(f"tfxfer.{module}")
    finally:
        _is_loading = False
    return globals()[name]
