"""Saving a task model as a folder, in this package's format or those of other libraries."""

from tfxfer import _check, _disk, backbones
from tfxfer._version import __version__
from tfxfer.backbones import _write, _write_head, _write_sentence_transformers
from tfxfer.models import _card

FORMATS = ("tfxfer", "sentence-transformers", "huggingface")
MODEL_FILE = "model.keras"
METADATA_FILE = "tfxfer.json"
# Files that a reader of a format would take for a part of the model although they are not written here. The first of
# each marks the folder as one of another format.
_TOKENIZERS = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_OTHERS = (METADATA_FILE, "metadata.json", "adapter_config.json", "model.safetensors.index.json", *_TOKENIZERS)
_FOREIGN = {"tfxfer": (), "sentence-transformers": _OTHERS, "huggingface": ("modules.json", *_OTHERS)}


def save(model, preset_dir, format, metadata, dtype):
    """Writes a model; arguments as in `TextTask.save_to_preset`."""
    _check.one_of("format", format, FORMATS)
    _check.one_of("dtype", dtype, _write.DTYPES)
    metadata = _card.check_metadata(metadata)
    if format == "tfxfer" and dtype != "float32":
        raise _check.invalid("dtype", "'float32' with format='tfxfer', which keeps the model's own dtypes", dtype)
    if format != "tfxfer" and isinstance(model.backbone, backbones.KerasHubBackbone):
        remedy = "`model.backbone.hub().export_to_transformers` writes the formats that KerasHub supports"
        raise _check.invalid("format", "'tfxfer' for an unconverted backbone of KerasHub", format, remedy)
    folder = _disk.local_path("preset_dir", preset_dir, kind="folder")
    _check_folder(folder, format)
    with _disk.replacing_folder(folder) as staged:
        if format == "tfxfer":
            model.save(staged / MODEL_FILE)
            about = {"tfxfer": __version__, "class": type(model).__name__}
            _disk.write_json(staged / METADATA_FILE, about)
        else:
            model.write_checkpoint(staged, format, dtype)
        if metadata or not _card.is_foreign(folder):
            card = _card.card(model, format, metadata, folder.resolve().name)
            _disk.write_text(staged / _card.FILE, card)


def _check_folder(folder, format):
    """Raises if a folder holds files that a reader would mix with those to be written."""
    found = [name for name in _FOREIGN[format] if (folder / name).exists()]
    if found:
        expected = f"a new folder, or one with a model of the format {format!r}"
        raise _check.invalid("preset_dir", expected, str(folder), f"It contains {', '.join(found)}")


def write_classifier(model, folder, format, dtype):
    """Writes a classifier or regressor in another library's format; arguments as in `TextTask.write_checkpoint`.

    For sentence-transformers, it writes a sequence classifier of transformers if the head is one, otherwise modules.
    """
    labels = getattr(model, "labels", None) or [f"LABEL_{i}" for i in range(model.output_shape[-1])]
    above = {"labels": labels, "problem_type": model.problem_type, "activation": model.score_activation}
    parts = (model.backbone, model.preprocessor)
    head, reason = _write_head.read(*parts, model.pooling, model.head, **above)
    modules = _write_head.modules(model.pooling, model.head)
    if head is not None and format == "huggingface":
        _write.write(folder, *parts, head=head, dtype=dtype)
    elif head is not None:
        _write_sentence_transformers.write_cross_encoder(
            folder, *parts, head, activation=model.score_activation, dtype=dtype
        )
    elif modules is not None and format == "sentence-transformers":
        _write_sentence_transformers.write_modular_cross_encoder(
            folder, *parts, model.pooling, modules, dtype=dtype, **above
        )
    else:
        remedy = "format='sentence-transformers' has any pooling with a `layers.Head`"
        raise _check.invalid("format", f"'tfxfer' for this model: {reason}", format, remedy)


def write_tagger(model, folder, format, dtype):
    """Writes a tagger as a token classifier of transformers; arguments as in `TextTask.write_checkpoint`."""
    head, reason = None, None
    if format != "huggingface":
        reason = "sentence-transformers has no taggers; format='huggingface' writes one of transformers"
    elif model.crf is not None:
        reason = "transformers has no head='crf'"
    elif model.word_pooling != "first":
        reason = f"word_pooling={model.word_pooling!r}, but transformers tags each token, and a word by its first token"
    elif model.temperature != 1.0:
        reason = f"temperature={model.temperature}, which transformers cannot store; set it to 1.0 to leave it out"
    else:
        head, reason = _write_head.read_tokens(model.backbone, model.head, model.tags)
    if head is None:
        raise _check.invalid("format", f"'tfxfer' for this model: {reason}", format)
    _write.write(folder, model.backbone, model.preprocessor, head=head, dtype=dtype)
