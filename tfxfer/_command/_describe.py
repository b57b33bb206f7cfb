"""`tfxfer describe`."""

import os
import pathlib

from tfxfer._command import _arguments

HELP = "describe a model, a preset or an export"
DESCRIPTION = """\
Describes a model as JSON: class, labels, sizes; for an export also its signatures, versions and metadata.

  tfxfer describe intents.keras
  tfxfer describe serving/intents
  tfxfer describe all_minilm_l6_v2       # a preset's name, without downloading it

In Python: tx.export.describe(folder), tx.backbones.presets().
"""


def add_arguments(parser):
    """Adds the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a .keras file, a preset, a folder of either, or an export")


def run(given):
    """Returns the description."""
    import tfxfer as tx

    path = pathlib.Path(given.model)
    if path.is_dir() and not (path / _arguments.SAVED).is_file():
        return tx.export.describe(path)
    if not path.exists() and path.suffix != ".keras" and os.sep not in given.model:
        presets = {each.name: each for each in tx.backbones.presets()}
        return presets[_arguments.known("preset", given.model, presets)]._asdict()
    model = _arguments.load(given.model)
    tokens = None if model.preprocessor is None else model.preprocessor.sequence_length
    described = {"class": type(model).__name__, "name": model.name, "parameters": model.count_params()}
    described |= {"sequence_length": tokens, "layer_groups": list(model.layer_groups())}
    for name in ("labels", "multi_label", "threshold", "tags", "prompts", "default_prompt_name", "embedding_dim"):
        if hasattr(model, name):
            described[name] = getattr(model, name)
    return described
