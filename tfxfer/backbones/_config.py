"""Reads a Hugging Face `config.json` and validates its values before anything is built from them."""

import difflib
import math
import re

from tfxfer import _check
from tfxfer.backbones import _checkpoint
from tfxfer.backbones._backbone import RATES, complete
from tfxfer.backbones.families import FAMILIES

# No encoder comes near these sizes. Beyond them, a config is damaged and its encoder would not fit into memory.
_LARGEST = {"num_layers": 1000, "num_groups": 1000, "num_inner_repetitions": 1000}
_LARGEST_SIZE = 2**24
# Keys that families read themselves. `null` means absent.
_KINDS = {
    "rope_parameters": (dict, "an object"),
    "rope_scaling": (dict, "an object"),
    "layer_types": (list, "a list"),
    "architectures": (list, "a list"),
    "feed_forward_proj": (str, "a string"),
    "afn": (str, "a string"),
    "is_causal": (bool, "a bool"),
    "use_bidirectional_attention": (bool, "a bool"),
}
_POSITIVE = ("rope_theta", "global_rope_theta", "local_rope_theta", "rope_local_base_freq", "rotary_emb_base")
_COUNTS = ("global_attn_every_n_layers", "sliding_window_pattern", "_sliding_window_pattern")
_NULLABLE = (*_KINDS, *_POSITIVE, *_COUNTS)


def read(folder, config=None):
    """Reads the `config.json` of an encoder.

    Args:
        folder: path of a directory with `config.json`.
        config: dict. Used instead of the file if given.

    Returns:
        (config, family, arguments): the content of the file, the `Family`, and the complete arguments of its
        `Backbone`.

    Raises:
        ValueError: if the file is not a JSON object, its `model_type` is unknown, or a value is missing, of the wrong
            type or out of range. The message names the file and the key.
    """
    file = folder / "config.json"
    config = _checkpoint.read_json(file) if config is None else config
    if not isinstance(config, dict):
        raise _check.invalid("preset", f"a folder whose config.json is an object, {file}", config)
    family = _family(config, file)
    config = {key: value for key, value in config.items() if value is not None or key not in _NULLABLE}
    _check_values(family, config, file)
    try:
        arguments = complete(family, family.from_config(config, file))
    except ValueError as error:
        raise _located(error, family, file) from error
    return config, family, arguments


def _family(config, file):
    """Returns the family of a config.json's `model_type`."""
    types = {name: family for family in FAMILIES.values() for name in family.model_types}
    received = config.get("model_type")
    if not isinstance(received, str) or received not in types:
        close = difflib.get_close_matches(received, types, n=2) if isinstance(received, str) else []
        hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise _check.invalid("model_type", f"one of {', '.join(map(repr, types))}", received, f"{hint}In {file}")
    return types[received]


def _check_values(family, config, file):
    """Raises if a value in config.json is of the wrong type or out of range."""
    where = f"In {file}"
    for argument, entry in family.config.items():
        key, *default = entry if isinstance(entry, tuple) else (entry,)
        value = config.get(key)
        if value is None:
            if key in config and default and default[0] is not None:
                raise _check.invalid(key, f"a value, such as {default[0]!r}", None, where)
            continue
        _check_value(family, argument, key, value, default, where)
    for key, (kind, name) in _KINDS.items():
        if key in config and not isinstance(config[key], kind):
            raise _check.invalid(key, name, config[key], where)
    for key in _POSITIVE:
        if key in config:
            _positive(key, config[key], where)
    for key in _COUNTS:
        if key in config:
            _whole(key, config[key], _LARGEST["num_layers"], 1, where)
    for name, rope in (config.get("rope_parameters") or {}).items():
        if isinstance(rope, dict) and rope.get("rope_theta") is not None:
            _positive("rope_theta", rope["rope_theta"], f"In rope_parameters of {file}")
        elif name == "rope_theta":
            _positive(name, rope, f"In rope_parameters of {file}")


def _check_value(family, argument, key, value, default, where):
    if argument == "activation":
        if not isinstance(value, str):
            raise _check.invalid(key, "the name of an activation", value, where)
    elif argument in RATES:
        _number(key, value, 0, 1, where)
    elif argument == "layer_norm_epsilon":
        _positive(key, value, where)
    elif argument == "query_scale_dim":
        _positive(key, value, where)
    else:
        smallest = 0 if argument in family.may_be_zero else 1
        if default and isinstance(default[0], int) and value == default[0]:
            return  # a default that means none, such as -1
        _whole(key, value, _LARGEST.get(argument, _LARGEST_SIZE), smallest, where)


def _whole(key, value, largest, smallest, where):
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not smallest <= value <= largest:
        raise _check.invalid(key, f"a whole number from {smallest} to {largest}", value, where)


def _positive(key, value, where):
    _number(key, value, None, None, where)
    if value <= 0:
        raise _check.invalid(key, "a number > 0", value, where)


def _number(key, value, smallest, largest, where):
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    expected = "a finite number" if smallest is None else f"a number from {smallest} to {largest}"
    if not is_number or not math.isfinite(value) or (smallest is not None and not smallest <= value <= largest):
        raise _check.invalid(key, expected, value, where)


def _located(error, family, file):
    """Returns an error that names the file, and the keys of the arguments in the message."""
    message = str(error)
    keys = {name: key[0] if isinstance(key, tuple) else key for name, key in family.config.items()}
    named = [name for name in re.findall(r"`(\w+)`|(\w+)=", message) for name in name if name in keys]
    renamed = [f"`{keys[name]}` is {name}" for name in dict.fromkeys(named) if keys[name] != name]
    if str(file) not in message:
        message = f"{message}. In {file}"
    return ValueError(f"{message} ({', '.join(renamed)})" if renamed else message)
