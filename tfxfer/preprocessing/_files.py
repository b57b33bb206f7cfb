"""Finds a tokenizer in a directory: `tokenizer.json`, or an older vocabulary with its settings files."""

import json
import pathlib

from tfxfer import _check
from tfxfer.preprocessing import _conventions, _json, _merges, _older

TOKENIZER, VOCAB_TXT, VOCAB_JSON, MERGES = "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"
# File of a SentencePiece model -> the class that usually reads it, in the order of the search.
SENTENCEPIECE_FILES = {
    "spiece.model": "Albert",
    "spm.model": "DebertaV2",
    "sentencepiece.bpe.model": "XLMRoberta",
    "tokenizer.model": "Llama",
}
LOOKED_FOR = (TOKENIZER, VOCAB_TXT, f"{VOCAB_JSON} and {MERGES}", *SENTENCEPIECE_FILES)
SETTINGS = ("tokenizer_config", "special_tokens_map", "added_tokens")
CLASS = "tokenizer_class"


def read(folder, convention=None):
    """Returns the `Spec` of the tokenizer in a directory in Hugging Face's format.

    Args:
        folder: path. `tokenizer.json` is read if it exists, otherwise the older files.
        convention: name of a tokenizer class, whose conventions apply if the directory names no class that fits its
            files.

    Raises:
        ValueError: if the directory has no tokenizer, or one with an unsupported part.
    """
    folder = pathlib.Path(folder)
    if convention is not None:
        _check.one_of("convention", convention, _conventions.CONVENTIONS)
    settings = {name: _load(folder / f"{name}.json") for name in SETTINGS if (folder / f"{name}.json").is_file()}
    settings = {name: settings.get(name, {}) for name in SETTINGS}
    config = _load(folder / "config.json") if (folder / "config.json").is_file() else {}
    names = [settings["tokenizer_config"].get(CLASS), config.get(CLASS), convention]
    if (folder / TOKENIZER).is_file():
        return _read_json(folder, settings, names)
    if (folder / VOCAB_TXT).is_file():
        kind = _fitting(names, _conventions.VOCAB_TXT, "Bert")
        return finish(_older.wordpiece(_lines(folder / VOCAB_TXT), settings, kind))
    if (folder / VOCAB_JSON).is_file() and (folder / MERGES).is_file():
        vocabulary = _load(folder / VOCAB_JSON)
        merges = _merges_of(folder / MERGES)
        kind = _fitting(names, _conventions.MERGES, _usual_for_merges(vocabulary))
        with _naming(folder / VOCAB_JSON):
            return finish(_older.byte_pair(vocabulary, merges, settings, kind))
    for name, usual in SENTENCEPIECE_FILES.items():
        if (folder / name).is_file():
            model = _older.load_sentencepiece(folder / name)
            kind = _fitting(names, _conventions.SENTENCEPIECE, _older.usual(model, usual))
            return finish(_older.sentencepiece(model, settings, kind))
    raise _check.invalid("folder", f"a folder that holds one of {', '.join(LOOKED_FOR)}", str(folder))


def _read_json(folder, settings, names):
    data = _load(folder / TOKENIZER)
    with _naming(folder / TOKENIZER):
        spec = _json.parse(data)
        padding = (data.get("padding") or {}).get("pad_token")
    index = {token: i for i, token in enumerate(spec.tokens)}
    found = [kind for kind in map(_conventions.named, names) if kind and _is_followed(kind, index)]
    known = found[0] if found else None
    guesses = [known.tokens] if known else _conventions.GUESSES
    roles = _older.roles(settings, guesses, index)
    if padding in index:
        roles.setdefault("pad", padding)
    spec.special = {role: index[token] for role, token in roles.items() if token in index}
    if "unk" not in spec.special and spec.unk_id is not None:
        spec.special["unk"] = spec.unk_id
    inputs = settings["tokenizer_config"].get("model_input_names")
    if inputs is not None:
        spec.segments = "token_type_ids" in inputs
    elif known:
        spec.segments = known.segments
    return finish(spec)


def finish(spec):
    """Completes a `Spec`: adds a padding token if there is none, and the ranks of merges."""
    if "pad" not in spec.special:
        # Padding is masked, so any token will do.
        substitute = next((spec.special[role] for role in ("eos", "bos", "unk") if role in spec.special), None)
        if substitute is None:
            raise _json.unsupported("padding token", None)
        spec.special["pad"] = substitute
    # `tokenizers` gives tokens outside its model ids after the model's vocabulary, so all ids below are in the model.
    outside = spec.outside
    end = max((i for i, token in enumerate(spec.tokens) if token not in outside), default=-1)
    for token in spec.added:
        token["in_model"] |= token["id"] < end
    if "merges" in spec.options:
        merges, suffix = spec.options.pop("merges"), spec.options.get("suffix", "")
        spec.options["ranks"] = _merges.ranks(spec.tokens, merges, suffix)
    return spec


def _is_followed(kind, index):
    """Whether a vocabulary has most of the tokens to which a convention gives roles."""
    tokens = set(kind.tokens.values())
    return 2 * len(tokens & index.keys()) > len(tokens)


def _fitting(names, file, usual):
    """Returns the first named convention that reads this kind of file."""
    found = [kind for kind in map(_conventions.named, names) if kind and kind.file == file]
    return found[0] if found else _conventions.CONVENTIONS[usual]


def _usual_for_merges(vocabulary):
    if any(token.endswith("</w>") for token in vocabulary):
        return "OpenAIGPT"
    return "Roberta" if "<s>" in vocabulary else "GPT2"


class _naming:
    """Turns errors from reading an invalid file into an error that names the file."""

    def __init__(self, path):
        self._path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, (KeyError, TypeError, AttributeError, IndexError)):
            expected = f"a complete {self._path.name} ({type(error).__name__}: {error})"
            raise _check.invalid("folder", expected, str(self._path.parent)) from error
        return False


def _merges_of(path):
    merges = [line.split(" ") for line in _lines(path) if line.strip() and not line.startswith("#version")]
    if any(len(merge) != 2 for merge in merges):
        wrong = next(merge for merge in merges if len(merge) != 2)
        raise _check.invalid("folder", f"two tokens in each line of {path.name} ({' '.join(wrong)})", str(path.parent))
    return merges


def _text(path):
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _check.invalid("folder", f"valid UTF-8 in {path.name} ({error})", str(path.parent)) from error


def _lines(path):
    lines = [line.rstrip("\r") for line in _text(path).split("\n")]
    lines = lines[:-1] if lines[-1] == "" else lines
    if not lines:
        raise _check.invalid("folder", f"tokens in {path.name}", str(path.parent))
    return lines


def _load(path):
    text = _text(path)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise _check.invalid("folder", f"valid JSON in {path.name} ({error})", str(path.parent)) from error
    if not isinstance(value, dict):
        raise _check.invalid("folder", f"a JSON object in {path.name}", str(path.parent))
    return value
