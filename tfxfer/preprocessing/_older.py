"""Tokenizers from files older than `tokenizer.json`, completed by the conventions of their class."""

from tfxfer import _check
from tfxfer.preprocessing import _json, _json_parts, _patterns, _spec


def roles(settings, guesses, names):
    """Returns the roles of tokens: those in the directory's settings, then the usual ones whose tokens exist.

    Args:
        settings: dict from the name of a small JSON file to its content.
        guesses: list of dicts from a role to a token.
        names: the tokens that exist.
    """
    said = {}
    for role in _spec.ROLES:
        for name in ("tokenizer_config", "special_tokens_map"):
            if f"{role}_token" in settings[name] and said.get(role) is None:
                said[role] = _content(settings[name][f"{role}_token"])
    found = {role: token for role, token in said.items() if token is not None}
    for guess in guesses:
        for role, token in guess.items():
            if token in names and role not in said:  # an explicit null means that no token has the role
                found.setdefault(role, token)
    return found


def _content(token):
    return token["content"] if isinstance(token, dict) else token


def _flags(settings):
    """Returns the directory's settings of its added tokens, and the ids that it gives them."""
    flags, ids = {}, dict(settings["added_tokens"])
    for i, token in settings["tokenizer_config"].get("added_tokens_decoder", {}).items():
        ids.setdefault(token["content"], int(i))
        flags[token["content"]] = token
    for name in ("special_tokens_map", "tokenizer_config"):
        for role in _spec.ROLES:
            token = settings[name].get(f"{role}_token")
            if isinstance(token, dict):
                flags.setdefault(token["content"], token)
        for key in ("additional_special_tokens", "extra_special_tokens"):
            more = settings[name].get(key) or []
            for token in more.values() if isinstance(more, dict) else more:
                flags.setdefault(_content(token), {**(token if isinstance(token, dict) else {}), "special": True})
    return flags, ids


def _add(tokens, settings, kind):
    """Appends the tokens that the vocabulary lacks, in Hugging Face's order.

    Returns the dict from a role to an id, and the list of added tokens.
    """
    found = {**kind.tokens, **roles(settings, [kind.tokens], set(tokens))}
    flags, ids = _flags(settings)
    model = set(tokens)
    index = {token: i for i, token in enumerate(tokens)}
    for token, i in sorted(ids.items(), key=lambda item: item[1]):
        if token not in index:
            _json.place(tokens, [{"id": i, "content": token}])
            index[token] = i
    order = [found.get(role) for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
    for token in [*order, *flags]:
        if token is not None and token not in index:
            index[token] = len(tokens)
            tokens.append(token)
    added = []
    for token in dict.fromkeys([*found.values(), *ids, *flags]):
        flag = dict(flags.get(token, {}))
        flag["special"] = token in found.values() or flag.get("special", False)
        flag["normalized"] = flag.get("normalized", not flag["special"])
        flag["lstrip"] = flag.get("lstrip", kind.mask_lstrip and token == found.get("mask"))
        flag.update(content=token, id=index[token], in_model=token in model)
        added.append(_spec.added_token(**{key: flag[key] for key in flag if key in (*_spec.FLAGS, "content", "id")}))
    return {role: index[token] for role, token in found.items()}, sorted(added, key=lambda token: token["id"])


def _finished(kind, convention, tokens, special, added, options):
    single, pair = convention.template(False, special), convention.template(True, special)
    return _spec.Spec(kind, tokens, special, added, single, pair, convention.segments, options)


def wordpiece(tokens, settings, convention):
    """Returns the `Spec` of a WordPiece vocabulary, a list ordered by id."""
    config, tokens = settings["tokenizer_config"], list(tokens)
    if config.get("tokenize_chinese_chars", True) is not True or config.get("do_basic_tokenize", True) is not True:
        raise _json.unsupported("tokenizer_config.json", "tokenize_chinese_chars or do_basic_tokenize is false")
    special, added = _add(tokens, settings, convention)
    lowercase = config.get("do_lower_case", convention.lowercase)
    options = _json_parts.wordpiece_options(lowercase, config.get("strip_accents"), special["unk"])
    return _finished("wordpiece", convention, tokens, special, added, options)


def byte_pair(vocabulary, merges, settings, convention):
    """Returns the `Spec` of a BPE vocabulary, a dict from token to id, and its merges."""
    tokens = _json_parts.in_order(vocabulary)
    special, added = _add(tokens, settings, convention)
    options: dict = {"merges": [list(merge) for merge in merges], "unk_id": None}
    if not convention.bytes:
        lowercase = bool(settings["tokenizer_config"].get("do_lower_case", convention.lowercase))
        options |= {
            "normalizer": [["Bert", lowercase, lowercase]],
            "words": "bert",
            "suffix": "</w>",
            "byte_fallback": False,
            "fuse_unk": False,
            "unk_id": special["unk"],
        }
        return _finished("character_bpe", convention, tokens, special, added, options)
    options |= {
        "normalizer": [list(step) for step in convention.normalizer],
        "splits": [["isolated", convention.pattern or _patterns.GPT2]],
        "add_prefix_space": bool(settings["tokenizer_config"].get("add_prefix_space", False)),
        "ignore_merges": convention.ignore_merges,
    }
    return _finished("bpe", convention, tokens, special, added, options)


def load_sentencepiece(source, name=None):
    """Returns the SentencePiece model in a file, or in bytes, which `name` names in errors."""
    from google.protobuf import message
    from sentencepiece import sentencepiece_model_pb2

    data = source if isinstance(source, bytes) else source.read_bytes()
    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(data)
    except message.DecodeError as error:
        model = sentencepiece_model_pb2.ModelProto()
        reason = str(error)
    else:
        reason = "no pieces"
    if not any(piece.type == piece.UNKNOWN for piece in model.pieces):
        where = ("tokenizer", name) if isinstance(source, bytes) else ("folder", str(source.parent))
        file = name or source.name
        raise _check.invalid(where[0], f"a complete SentencePiece model in {file} ({reason})", where[1])
    return model


def usual(model, name):
    """Returns the name of the class that usually reads such a model: `name`, unless the model rules it out."""
    pieces = {piece.piece for piece in model.pieces}
    if name == "Albert" and "[CLS]" not in pieces:
        return "T5"
    if name == "Llama":
        if model.trainer_spec.model_type == model.trainer_spec.UNIGRAM:
            return "T5"
        return "Gemma" if "<bos>" in pieces else "Llama"
    return name


def sentencepiece(model, settings, convention):
    """Returns the `Spec` of a SentencePiece model."""
    if model.trainer_spec.model_type == model.trainer_spec.BPE:
        return _sentencepiece_bpe(model, settings, convention)
    if model.trainer_spec.model_type != model.trainer_spec.UNIGRAM or model.trainer_spec.byte_fallback:
        raise _json.unsupported(
            "SentencePiece model", "a model other than Unigram and BPE, or Unigram with byte_fallback"
        )
    config = settings["tokenizer_config"]
    if config.get("split_by_punct"):
        raise _json.unsupported("tokenizer_config.json", "split_by_punct")
    pieces, unknown = _numbered(model, convention)
    extra = int(config.get("extra_ids", convention.extra_ids))
    names = [f"<extra_id_{i}>" for i in range(extra - 1, -1, -1)]
    pieces += [(token, 0.0) for token in names if token not in {piece for piece, _ in pieces}]
    tokens = [piece for piece, _ in pieces]
    special, added = _add(tokens, settings, convention)
    for i, token in enumerate(tokens[: len(pieces)]):
        if token in names or (convention.ids == "positions" and i in _controls(model)):
            added.append(_spec.added_token(token, i))
    added = sorted({token["id"]: token for token in added[::-1]}.values(), key=lambda token: token["id"])
    charsmap = model.normalizer_spec.precompiled_charsmap
    steps = _steps(convention, config) + ([["Precompiled", _json_parts.charsmap(charsmap)]] if charsmap else [])
    options = {"normalizer": steps, "whitespace_split": True, "unk_id": unknown, "scores": [s for _, s in pieces]}
    options["pieces"] = len(pieces)
    return _finished("unigram", convention, tokens, special, added, options)


def _controls(model):
    return {i for i, piece in enumerate(model.pieces) if piece.type in (piece.CONTROL, piece.UNKNOWN)}


def _numbered(model, convention):
    """Returns the pieces with their scores, ordered by id, and the id of the unknown piece."""
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    if convention.ids == "positions":
        return pieces, min(i for i, piece in enumerate(model.pieces) if piece.type == piece.UNKNOWN)
    if convention.ids == "fairseq":
        # Four fairseq tokens instead of SentencePiece's three, and the mask at the end.
        own = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
        return own + pieces[3:] + [("<mask>", 0.0)], 3
    own = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)]
    return own + pieces[1:] + [("<mask>", 0.0)], 3


def _steps(convention, config):
    """Returns the steps that a class applies to a text before the model's own normalization."""
    steps = [list(step) for step in convention.normalizer]
    if steps and not config.get("keep_accents", False):
        steps += [["NFKD"], ["StripAccents"]]
    if config.get("do_lower_case", convention.lowercase):
        steps += [["Lowercase"]]
    return steps


def _sentencepiece_bpe(model, settings, convention):
    """Returns the `Spec` of a SentencePiece BPE model, with the merges that transformers derives."""
    if not model.trainer_spec.byte_fallback or model.normalizer_spec.precompiled_charsmap:
        raise _json.unsupported("SentencePiece model", "BPE without byte_fallback, or with a map of characters")
    tokens = [piece.piece for piece in model.pieces]
    special, added = _add(tokens, settings, convention)
    known, controls = {token["id"] for token in added}, _controls(model)
    for i, piece in enumerate(model.pieces):
        is_special = i in controls
        if i not in known and (is_special or piece.type == piece.USER_DEFINED):
            added.append(_spec.added_token(piece.piece, i, special=is_special))
    options = {
        "normalizer": [list(step) for step in convention.normalizer],
        "words": "none",
        "suffix": "",
        "byte_fallback": True,
        "fuse_unk": True,
        "unk_id": min(i for i, piece in enumerate(model.pieces) if piece.type == piece.UNKNOWN),
        "merges": _pairs(model),
    }
    return _finished("character_bpe", convention, tokens, special, sorted(added, key=lambda t: t["id"]), options)


def _pairs(model):
    """Returns all pairs that make a piece, those of the piece with the highest score first."""
    scores = {piece.piece: piece.score for piece in model.pieces}
    found = [
        (piece[:i], piece[i:], score)
        for piece, score in scores.items()
        for i in range(1, len(piece))
        if piece[:i] in scores and piece[i:] in scores
    ]
    found.sort(key=lambda item: (item[2], len(item[0]), len(item[1])), reverse=True)
    return [(left, right) for left, right, _ in found]
