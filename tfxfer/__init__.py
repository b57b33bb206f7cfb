"""Transfer learning on text in Keras 3: pretrained encoders, fine-tuned and served, strings in.

```python
import tfxfer as tx

embedder = tx.models.TextEmbedder.from_preset("all_minilm_l6_v2")
embedder.encode(["Where is my card?", "My card has not arrived"])  # float32 (2, 384)
```
"""

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
from tfxfer._version import __version__

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
