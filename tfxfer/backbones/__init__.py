"""Pretrained encoders of eight families in one form, and what belongs to them."""
import pathlib
from tfxfer.backbones._backbone import Backbone
from tfxfer.backbones import _checkpoint, _families, _weights

def _load_folder(folder, dtype=None):
    folder = pathlib.Path(folder)
    family, arguments = _families.from_config(_checkpoint.read_json(folder / "config.json"), folder / "config.json")
    backbone = Backbone(family, **arguments, dtype=dtype)
    entry = _families.FAMILIES[family]
    _weights.assign(backbone, _checkpoint.Checkpoint(_checkpoint.read_tensors(folder), entry.anchor, entry.prefixes, str(folder)))
    return backbone
