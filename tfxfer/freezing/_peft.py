"""Adapters in PEFT's format: a directory with adapter_config.json and adapter_model.safetensors."""

import json
import math
import re

import keras
import numpy as np
import safetensors
import safetensors.numpy

from tfxfer import _check, _disk
from tfxfer.backbones import _lora, _weights, _write_head
from tfxfer.backbones.families import FAMILIES

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ROOT = "base_model.model."
_TARGETS = {path: name for name, path in _lora.TARGETS.items()}
_KEY = re.compile(r"(.+)\.lora_([AB])\.weight")
# Config keys that do not affect results here: their values are read from the tensors, matter in training only, or
# describe the base model.
_ANY = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
_READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "bias"}


# === The modules that adapters are on ===


def modules(backbone):
    """Returns the dense modules of the blocks as named in transformers' class.

    Returns:
        A dict that maps a module's path to (block layer, names of its group and its number within it, parts). Several
        parts are one module there, concatenated along the outputs.
    """
    family, found = FAMILIES[backbone.family], {}
    names = family.modules or family.tensors_in_block(backbone.arguments)
    prefix = family.module_prefix or family.block_prefix
    for block, group, number in backbone.blocks():
        for name, parts in names.items():
            parts = parts if isinstance(parts, tuple) else (parts,)
            if all(part in _TARGETS and _weights.part_of(block, part) is not None for part in parts):
                found[prefix.format(group, number) + name] = (block, f"block_{group}/{number}", parts)
    return found


# === Writing ===


def write(model, folder, *, head=False, base_model=None):
    """Writes the adapters of a model; arguments as in `save_adapters`."""
    lora, backbone = model.backbone.lora, model.backbone
    above = _head(model) if head else None
    prefix = "" if above is None else above.prefix
    tensors, ranks = {}, {}
    for path, (block, name, parts) in modules(backbone).items():
        adapted = [part for part in parts if _TARGETS[part] in lora["targets"]]
        if adapted and name.partition("/")[0] in lora["groups"]:
            key = f"{_ROOT}{prefix}{path}"
            tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = _joined(block, parts, adapted)
            ranks[path] = lora["rank"] * len(adapted)
    if above is not None:
        tensors.update((f"{_ROOT}{name}", value) for name, value in above.tensors().items())
    config = _config(backbone, lora, ranks, above, base_model)
    with _disk.replacing_folder(folder) as staged:
        arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        safetensors.numpy.save_file(arrays, staged / WEIGHTS, {"format": "pt", "tfxfer": json.dumps(lora)})
        _disk.write_json(staged / CONFIG, config)


def _joined(block, parts, adapted):
    """Returns A `(rank, inputs)` and B `(outputs, rank)` of a module.

    If several parts are one module, each keeps its own A: B is zero where one part's A meets another's outputs, and the
    rank is the sum of their ranks.
    """
    pairs = {part: _pair(_weights.part_of(block, part)) for part in adapted}
    rank = next(iter(pairs.values()))[0].shape[1]
    rows = []
    for part in parts:
        row = np.zeros((_weights.part_of(block, part).units, rank * len(adapted)), "float32")
        if part in pairs:
            at = rank * adapted.index(part)
            row[:, at : at + rank] = pairs[part][1].T
        rows.append(row)
    return np.concatenate([a.T for a, _ in pairs.values()]), np.concatenate(rows)


def _pair(dense):
    return tuple(
        np.asarray(keras.ops.convert_to_numpy(variable), "float32")
        for variable in (dense.lora_kernel_a, dense.lora_kernel_b)
    )


def _config(backbone, lora, ranks, above, base_model):
    """Returns the entries of adapter_config.json that differ from their defaults, and those that readers require."""
    usual = min(ranks.values())
    others = {path: rank for path, rank in ranks.items() if rank != usual}
    saved = [] if above is None else [name.removeprefix(above.prefix).split(".")[0] for name in above.variables]
    return {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION" if above is None else "SEQ_CLS",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": usual,
        "lora_alpha": lora["alpha"] * usual / lora["rank"],
        "lora_dropout": 0.0,
        "rank_pattern": {re.escape(path): rank for path, rank in others.items()},
        "alpha_pattern": {re.escape(path): lora["alpha"] * rank / lora["rank"] for path, rank in others.items()},
        "target_modules": rf"(?:.*\.)?(?:{'|'.join(map(re.escape, ranks))})",
        "modules_to_save": list(dict.fromkeys(saved)) or None,
        "fan_in_fan_out": FAMILIES[backbone.family].stores_kernels_by_input,
        "bias": "none",
        "use_rslora": False,
    }


def _head(model):
    """Returns the `_write.Head` of a model, in the form that transformers uses."""
    if not hasattr(model, "problem_type"):
        raise _check.invalid("head", "False for a model without a classifier's head", True)
    found, reason = _write_head.read(
        model.backbone,
        model.preprocessor,
        model.pooling,
        model.head,
        labels=range(model.output_shape[-1]),
        problem_type=model.problem_type,
    )
    if reason is not None:
        raise _check.invalid("head", f"False with the format 'peft': {reason}", True)
    return found


# === Reading ===


def is_folder(path):
    """Returns whether a path is a PEFT directory."""
    return (path / CONFIG).is_file()


def read(reader, model):
    """Reads a PEFT directory in the form in which `load_adapters` reads a file of this package.

    Args:
        reader: `_disk.Reader` of the directory.
        model: the model that the adapters are for.

    Returns:
        (tensors, lora): arrays by the names of the model's adapters and head, and the arguments of `add_lora`.

    Raises:
        ValueError: for a damaged directory, an unsupported option, adapters of modules that the encoder does not have,
            or different adapted modules per block.
    """
    config_file, file = reader.path / CONFIG, reader.path / WEIGHTS
    config = reader.json(config_file, {"peft_type": str, "r": int, "lora_alpha": (int, float)})
    _check_config(reader, config_file, config)
    reader.check_file(file)
    with reader.guard(file), safetensors.safe_open(str(file), "np") as opened:
        own = _own(opened.metadata())
        tensors = {name.removeprefix(_ROOT): opened.get_tensor(name) for name in opened.keys()}
    tensors = {name: np.asarray(value, "float32") for name, value in tensors.items()}
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise reader.error(file, f"holds numbers that are not finite as {name!r}")
    pairs, rest = _pairs(reader, file, tensors)
    found = {}
    for path, (a, b) in _in_blocks(reader, file, pairs, model.backbone).items():
        with reader.guard(config_file):
            scale = _scale(config, path, len(a))
        block, name, parts = modules(model.backbone)[path]
        for part, values in _split(block, parts, a, b, own).items():
            found[f"{name}/{_TARGETS[part]}"] = (*values, scale)
    lora, arrays = _alike(reader, file, found, own)
    return {**arrays, **_head_tensors(reader, file, rest, model)}, lora


def _own(metadata):
    """Returns the arguments of `add_lora` that this package stored in a file; `None` in files of other packages."""
    found = json.loads((metadata or {}).get("tfxfer", "null"))
    is_whole = isinstance(found, dict) and found.keys() == {"rank", "alpha", "targets", "groups"}
    return found if is_whole and isinstance(found["rank"], int) and isinstance(found["targets"], list) else None


def _check_config(reader, file, config):
    """Raises for an option that changes what the adapters compute."""
    if config["peft_type"] != "LORA":
        raise reader.error(file, f"is of peft_type {config['peft_type']!r}; only 'LORA' is supported")
    if config.get("bias", "none") != "none":
        raise reader.error(file, f"has bias={config['bias']!r}: biases that trained are not read")
    unknown = sorted(key for key, value in config.items() if value and key not in _ANY | _READ)
    if unknown:
        raise reader.error(file, f"sets {', '.join(unknown)}, which this package does not compute")


def _pairs(reader, file, tensors):
    """Splits tensors into (A, B) pairs by module, and the remaining tensors."""
    pairs, rest = {}, {}
    for name, value in tensors.items():
        found = _KEY.fullmatch(name)
        if found is None:
            rest[name] = value
        else:
            pairs.setdefault(found[1], {})[found[2]] = value
    for path, pair in pairs.items():
        shapes = [pair[key].shape for key in "AB" if key in pair]
        if [len(shape) for shape in shapes] != [2, 2] or shapes[0][0] != shapes[1][1]:
            raise reader.error(file, f"holds adapters of {path} with the shapes {shapes}")
    return {path: (pair["A"], pair["B"]) for path, pair in pairs.items()}, rest


def _in_blocks(reader, file, pairs, backbone):
    """Returns the pairs by the paths of `modules`, without a task model's prefix."""
    known, found = modules(backbone), {}
    prefixes = ("", *FAMILIES[backbone.family].prefixes)
    for path, pair in pairs.items():
        own = next((path.removeprefix(p) for p in prefixes if path.removeprefix(p) in known), None)
        if own is None:
            raise reader.error(file, f"has an adapter on {path}, which is not a dense layer of this encoder's blocks")
        found[own] = pair
    if not found:
        raise reader.error(file, "holds no adapters")
    return found


def _scale(config, path, rank):
    """Returns the factor on B A, computed as in PEFT."""
    alpha = _by_pattern(config.get("alpha_pattern"), path, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(patterns, path, default):
    return next(
        (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", path)),
        default,
    )


def _split(block, parts, a, b, own):
    """Returns the adapters of each part of a module: A `(inputs, rank)` and B `(rank, outputs)`.

    Parts of one module share A. A module that this package joined is split again, unless it was modified.
    """
    ends = np.cumsum([_weights.part_of(block, part).units for part in parts])
    split = np.split(b, ends[:-1])
    if len(parts) > 1 and own is not None:
        adapted = [part for part in parts if _TARGETS[part] in own["targets"]]
        rank = own["rank"]
        columns = {part: slice(i * rank, (i + 1) * rank) for i, part in enumerate(adapted)}
        mask = np.ones_like(b, bool)
        for part, rows in zip(parts, np.split(mask, ends[:-1]), strict=True):
            rows[:, columns.get(part, slice(0))] = False
        if len(a) == rank * len(adapted) and not b[mask].any():
            return {
                part: (a[columns[part]].T, rows[:, columns[part]].T)
                for part, rows in zip(parts, split, strict=True)
                if part in adapted
            }
    return {part: (a.T, rows.T) for part, rows in zip(parts, split, strict=True)}


def _alike(reader, file, found, own):
    """Returns adapters in the form of one `add_lora`: its arguments, and the arrays by name."""
    groups = list(dict.fromkeys(name.split("/")[0] for name in found))
    numbers = list(dict.fromkeys(name.rpartition("/")[0] for name in found))
    targets = [name for name in _lora.TARGETS if any(key.endswith(f"/{name}") for key in found)]
    missing = [f"{number}/{target}" for number in numbers for target in targets if f"{number}/{target}" not in found]
    if missing:
        raise reader.error(file, f"has adapters on some of {', '.join(targets)} in each block, but not {missing[0]}")
    rank = max(a.shape[1] for a, _, _ in found.values())
    scale = next(iter(found.values()))[2]
    lora = {"rank": rank, "alpha": _whole(scale * rank), "targets": targets, "groups": groups}
    if own is not None and {**own, "alpha": lora["alpha"]} == lora and math.isclose(own["alpha"], lora["alpha"]):
        lora = own
    arrays = {}
    for name, (a, b, factor) in found.items():
        room = rank - a.shape[1]
        arrays[f"{name}/a"] = np.pad(a, ((0, 0), (0, room)))
        arrays[f"{name}/b"] = np.pad(b if factor == scale else b * (factor / scale), ((0, room), (0, 0)))
    return lora, arrays


def _whole(number):
    """Returns a number as an int if it is a whole number."""
    return round(number) if math.isclose(number, round(number), rel_tol=1e-12) else number


def _head_tensors(reader, file, tensors, model):
    """Returns the tensors of the head under the names that `load_adapters` uses for the model's."""
    if not tensors:
        return {}
    above = _head(model)
    names = {id(weight): f"head/{i}" for i, weight in enumerate(_head_weights(model))}
    if set(tensors) != set(above.variables):
        expected = f"a head with {', '.join(above.variables)}"
        raise reader.error(file, f"holds {', '.join(tensors)}, where this model has {expected}")
    return {
        names[id(variable)]: tensors[name].T if is_transposed else tensors[name]
        for name, (variable, is_transposed) in above.variables.items()
    }


def _head_weights(model):
    return [weight for layer in model.layer_groups().get("head", ()) for weight in layer.weights]
