"""The pretrained encoders of a search: read once, rebuilt for each trial."""

import dataclasses
from typing import Any

from tfxfer import _check, backbones


@dataclasses.dataclass(frozen=True)
class Preset:
    """The contents of a preset: what rebuilds its encoder, and what all trials share."""

    kind: Any  # the class of the encoder
    config: dict
    weights: list
    preprocessor: Any
    embedding: Any
    depth: int  # blocks

    def pretrained(self):
        """Returns a new encoder with the pretrained weights, and the preprocessor that all trials share."""
        made = self.kind.from_config(self.config)
        made.set_weights(self.weights)
        return backbones.Pretrained(made, self.preprocessor, self.embedding)


def read(presets, *, dtype, sequence_length):
    """Reads presets.

    Trials share the preprocessor: they can reuse the token ids, and the vocabulary's tables are in memory once. The
    weights are kept as arrays, because reading them again for each trial would cost more than copying them.

    Args:
        presets: a name or path, or a list of them.
        dtype: dtype policy of the encoders.
        sequence_length: int, or `None` for the presets' length.

    Returns:
        A dict of name to `Preset`.
    """
    names = [str(name) for name in presets] if isinstance(presets, (list, tuple)) else [str(presets)]
    if not names or len(set(names)) < len(names):
        raise _check.invalid("presets", "a preset, or a list of different presets", presets)
    found = {}
    for name in names:
        loaded = backbones.load(name, dtype=dtype, sequence_length=sequence_length)
        found[name] = Preset(
            type(loaded.backbone),
            loaded.backbone.get_config(),
            loaded.backbone.get_weights(),
            loaded.preprocessor,
            loaded.embedding,
            sum(group.startswith("block_") for group in loaded.backbone.layer_groups()),
        )
    return found
