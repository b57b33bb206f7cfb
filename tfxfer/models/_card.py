"""The model card that is saved with a model: README.md with the header that the Hugging Face Hub reads."""

import json
import math
import numbers

from tfxfer import _check

FILE = "README.md"
# This line identifies a card as written by this package: saving again replaces it.
MARK = "<!-- Written by tfxfer's `save_to_preset`. A card without this line is kept. -->"
# The keys of `metadata`, with their types and the wording of errors.
_TEXT, _TEXTS = (str,), (str, list, tuple)
KEYS = {
    "name": (_TEXT, "a string, the title"),
    "description": (_TEXT, "a string, in Markdown"),
    "repo_id": (_TEXT, "a string, 'user/name' on the hub"),
    "license": (_TEXT, "a string such as 'apache-2.0'"),
    "license_name": (_TEXT, "a string, with license='other'"),
    "license_link": (_TEXT, "a string, with license='other'"),
    "language": (_TEXTS, "a code such as 'en', or a list of them"),
    "base_model": (_TEXTS, "a hub id such as 'sentence-transformers/all-MiniLM-L6-v2', or a list of them"),
    "datasets": (_TEXTS, "a hub id such as 'PolyAI/banking77', or a list of them"),
    "data": (_TEXT, "a string about the training data, in Markdown"),
    "metrics": ((dict,), "a dict of names to finite numbers, or of data sets to such dicts"),
    "tags": (_TEXTS, "a string, or a list of them"),
}
_LIBRARIES = {"tfxfer": "tfxfer", "sentence-transformers": "sentence-transformers", "huggingface": "transformers"}
_MOST_LABELS = 200


def check_metadata(metadata):
    """Checks the metadata of a card and wraps single strings in lists where a list is allowed.

    Args:
        metadata: dict with keys from `KEYS`, or `None`.

    Returns:
        A dict of the checked metadata.

    Raises:
        ValueError: if a key is unknown, or a value has the wrong type.
    """
    found = {}
    for key, value in _check.instance("metadata", metadata or {}, dict, "a dict").items():
        _check.one_of("metadata", key, KEYS)
        kinds, expected = KEYS[key]
        _check.instance(f"metadata[{key!r}]", value, kinds, expected)
        if kinds is _TEXTS:
            value = [value] if isinstance(value, str) else list(value)
            if not all(isinstance(item, str) for item in value):
                raise _check.invalid(f"metadata[{key!r}]", expected, value)
        found[key] = _metrics(value) if key == "metrics" else value
    return found


def _metrics(metrics):
    """Returns a dict of data set (`None` if unnamed) to metrics, each with its value and its interval or `None`."""
    nested = bool(metrics) and all(isinstance(value, dict) for value in metrics.values())
    by_data = metrics if nested else {None: metrics}
    return {data: metrics_of(found) for data, found in by_data.items()}


def metrics_of(found):
    """Returns a dict of name to (value, `None` or (low, high)), from a dict of numbers or an evaluation's result."""
    if "intervals" not in found and "per_class" not in found:
        return {str(name): (_finite(name, value), None) for name, value in found.items()}
    intervals = found.get("intervals") or {}
    return {
        name: (_finite(name, value), tuple(intervals[name]) if intervals.get(name) else None)
        for name, value in found.items()
        if isinstance(value, numbers.Real) and not isinstance(value, bool)
    }


def shown_metric(value, interval):
    """Returns a value with its interval as text."""
    return f"{value:.6g}" if interval is None else f"{value:.4g} ({interval[0]:.4g} to {interval[1]:.4g})"


def _finite(name, value):
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise _check.invalid("metadata['metrics']", KEYS["metrics"][1], {name: value})
    return float(value)


def card(model, format, metadata, name):
    """Returns the text of a model's card.

    Args:
        model: a task model.
        format: string, as in `save_to_preset`.
        metadata: dict, as returned by `check_metadata`.
        name: string. The title if the metadata have no name.
    """
    title = metadata.get("name", name)
    parts = [
        f"---\n{_header(model, format, metadata, title)}\n---\n{MARK}",
        f"# {title}",
        metadata.get("description"),
        _about(model, format, metadata),
        _labels(getattr(model, "labels", None)),
        _prompts(model),
        _section("Training data", _data(metadata)),
        _section("Training", "\n".join(f"- {line}" for line in model.record_lines())),
        _scores(metadata.get("metrics")),
        *(_code(library, text) for library, text in model.usage(format, metadata.get("repo_id")).items()),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _header(model, format, metadata, title):
    """Returns the YAML header that the Hub reads."""
    import huggingface_hub.repocard_data as repocard  # only here: the import is slow

    scores = [
        repocard.EvalResult(
            task_type=model.pipeline_tag,
            dataset_type=data or "unknown",
            dataset_name=data or "Unknown",
            metric_type=name,
            metric_value=value,
        )
        for data, found in metadata.get("metrics", {}).items()
        for name, (value, _) in found.items()
    ]
    names = ("license", "license_name", "license_link", "language", "base_model", "datasets")
    library = _LIBRARIES[format]
    return repocard.ModelCardData(
        **{key: metadata.get(key) for key in names},
        library_name=library,
        pipeline_tag=model.pipeline_tag,
        tags=[*dict.fromkeys([library, "tfxfer", *metadata.get("tags", [])])],
        metrics=list(dict.fromkeys(score.metric_type for score in scores)) or None,
        model_name=title if scores else None,
        eval_results=scores or None,
    ).to_yaml()


def _about(model, format, metadata):
    """The section that describes the model, line by line."""
    backbone = model.backbone
    rows = {
        "Model": f"`{type(model).__name__}`",
        "Encoder": f"{backbone.family}, {backbone.num_layers} layers of {backbone.hidden_dim}, "
        f"{backbone.count_params():,} parameters",
        "Base model": ", ".join(metadata.get("base_model", [])),
        "License": metadata.get("license_name") or metadata.get("license"),
        "Language": ", ".join(metadata.get("language", [])),
        "Longest text": f"{model.preprocessor.sequence_length} tokens" if model.preprocessor else None,
        **model.card_rows(),
    }
    return _section("Model", "\n".join(f"- {key}: {value}" for key, value in rows.items() if value))


def _labels(labels):
    if not labels:
        return None
    shown = [f"`{json.dumps(label, ensure_ascii=False)}`" for label in labels[:_MOST_LABELS]]
    more = f"\n\n... and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
    return _section(f"Labels ({len(labels)})", ", ".join(shown) + more)


def _prompts(model):
    prompts = getattr(model, "prompts", None)
    if not prompts:
        return None
    default = model.default_prompt_name
    rows = [
        f"| `{name}`{' (default)' if name == default else ''} | `{json.dumps(text, ensure_ascii=False)}` |"
        for name, text in prompts.items()
    ]
    return _section("Prompts", "\n".join(["| name | set before each text |", "|---|---|", *rows]))


def _data(metadata):
    names = [f"[{name}](https://huggingface.co/datasets/{name})" for name in metadata.get("datasets", [])]
    return "\n\n".join(part for part in (metadata.get("data"), ", ".join(names)) if part)


def _scores(metrics):
    if not metrics:
        return None
    rows = [
        f"| {data or ''} | {name} | {shown_metric(*found)} |"
        for data, by_name in metrics.items()
        for name, found in by_name.items()
    ]
    return _section("Metrics", "\n".join(["| data | metric | value |", "|---|---|---|", *rows]))


def _section(title, text):
    return f"## {title}\n\n{text}" if text else None


def _code(library, text):
    return _section(f"Use with {library}", f"```python\n{text.strip()}\n```")


def is_foreign(folder):
    """Returns whether a folder has a card that was not written by this package."""
    file = folder / FILE
    return file.is_file() and MARK not in file.read_text(encoding="utf-8", errors="replace")
