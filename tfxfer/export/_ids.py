"""Exports of a model without its tokenizer: token ids in, numbers out, for runtimes without strings."""

import dataclasses
import importlib
import importlib.metadata
import json
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfxfer import _check, _disk, models
from tfxfer.backbones import _unpadding
from tfxfer.export import _description, _ids_words, _saved_model, _signatures

# The limit for one message or buffer, weights included.
_MOST_BYTES = 2**31 - 2**24
_README = """\
# {name}

A `{kind}` without its tokenizer, exported by tfxfer {tfxfer} for {target}.

- `{file}`: ids in, {output} out; any batch size and length
- `tokenizer.json`, `tokenizer_config.json`: the tokenizer in the format of Hugging Face's `tokenizers`, which truncates
  texts to {sequence_length} tokens and pads to the longest
{labels}{decisions}- `assets.extra/tfxfer.json`: the full description
- largest difference from the model itself at export: {difference:.1e}
{prompts}
| | name | dtype | shape |
|---|---|---|---|
{table}

In Python, with `pip install numpy tokenizers {package}`:

```python
{json}import numpy as np
import tokenizers
{imports}

tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
{special}{load}
{run}

run({texts!r})
```
"""
_RUN = """

def run(texts):
    rows = tokenizer.encode_batch(texts)
    ids = {{
{ids}
    }}
    return {call}
"""
_COLUMNS = {"token_ids": "ids", "padding_mask": "attention_mask", "segment_ids": "type_ids"}


@dataclasses.dataclass(frozen=True)
class Target:
    """A format and its runtime.

    Attributes:
        name: string. The name shown to users.
        extra: string. The extra of this package that installs the requirements.
        packages: names of the modules to import.
        file: string. The name of the model file.
        convert: function `(module, file)` that writes the file; the module is a `Graph`.
        load: function `(file)` that returns a function from a dict of int32 arrays to the output array.
        readme: dict of the parts of the README that differ: `package`, `imports`, `load`, `call`.
    """

    name: str
    extra: str
    packages: tuple
    file: str
    convert: Callable
    load: Callable
    readme: dict


class Graph(tf.Module):
    """A model as a function of token ids, without operations that only TensorFlow has.

    Args:
        model: a task model.
        is_raw: bool. Whether to return the model's own outputs instead of an export's answers.

    Attributes:
        run: a `tf.function` from int32 tensors, in the order of `specs`, to a dict of one float32 tensor.
        specs: list of `tf.TensorSpec`s, named.
        output: string. The name of the output.
    """

    def __init__(self, model, is_raw=False):
        super().__init__()
        self.output, finish = ("outputs", tf.identity) if is_raw else answer_of(model)
        count = model.text_count if model.text_form == "separate" else None
        self.specs = [
            tf.TensorSpec(
                [count if i == 1 and len(tensor.shape) == 3 else n for i, n in enumerate(tensor.shape)],
                keras.backend.standardize_dtype(tensor.dtype),
                name=name,
            )
            for name, tensor in model.input.items()
        ]
        self._values = [weight.value for weight in model.weights]
        names = list(model.input)

        def run(*ids):
            with _unpadding.padded():
                outputs = model(dict(zip(names, ids, strict=True)), training=False)
            return {self.output: finish(tf.cast(outputs, tf.float32))}

        self.run = tf.function(run, input_signature=self.specs, autograph=False)


def answer_of(model):
    """Returns the name of a model's numeric answer, and the function from the model's outputs to it."""
    signature = model.signatures()[0]
    names = {"classes": "probabilities", "vectors": "embedding", "entities": "emissions", "tags": "emissions"}
    name = names.get(signature.kind, signature.output)
    return name, tf.identity if signature.finish is None else signature.finish


def write(target, model, folder, *, pairs, examples, tolerance, metadata):
    """Writes a folder for a target; see `onnx` and `litert`."""
    folder = _disk.local_path("folder", folder, kind="folder")
    require(target)
    if len(_check.instance("model", model, models.TextTask, "a task model of `tfxfer.models`").served_parts()) > 1:
        remedy = "Export each task, `multi[name]`, or all of them with `export.saved_model`."
        raise _check.invalid("model", "a model of one task", type(model).__name__, remedy)
    pairs = _saved_model.check_model(model, pairs, None)
    model = model.served_model()
    check_convertible(target, model)
    rows = _saved_model.example_rows(_saved_model.seen(model, pairs) if examples is None else examples, pairs)
    _check.number("tolerance", tolerance, above=0)
    metadata = _description.plain("metadata", _check.instance("metadata", metadata or {}, dict, "a dict"))
    if folder.exists() and any(folder.iterdir()):
        raise _check.invalid("folder", "a folder that does not exist yet, or is empty", str(folder), "Name another.")
    with _disk.replacing_folder(folder) as staged:
        graph = Graph(model)
        run = converted(target, graph, staged / target.file)
        difference = parity(target.name, model, run, rows, pairs, tolerance, answer_of(model)[1])
        _write_beside(target, model, graph, staged, folder.name, rows, pairs, difference, tolerance, metadata)
    return str(folder)


def require(target):
    for package in target.packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            name = f"`export.{target.extra}` needs {', '.join(target.packages)}"
            raise ImportError(f'{name}, and {package} is missing: pip install "tfxfer[{target.extra}]"') from error


def check_convertible(target, model):
    if getattr(model, "is_for_saved_models_alone", False):
        remedy = "`export.saved_model` writes it."
        raise _check.invalid("model", "a model with one row of numbers for each text", type(model).__name__, remedy)
    backbone = model.backbone
    policy = backbone.dtype_policy
    if policy.compute_dtype != "float32" or policy.variable_dtype != "float32":
        remedy = "Make it again with `dtype='float32'`, and then `again.set_weights(model.get_weights())`."
        raise _check.invalid("model", "a model that computes in float32", policy.name, remedy)
    size = 4 * model.count_params()
    if size > _MOST_BYTES:
        remedy = "`export.saved_model` has no such limit."
        raise _check.invalid("model", f"weights of less than 2 GB, the limit of a {target.name} file", size, remedy)


def converted(target, graph, file):
    """Writes the file and returns it as a function; raises with a remedy if the model cannot be converted."""
    try:
        target.convert(graph, file)
        return target.load(file)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in lines if "ops:" in line or "op " in line), lines[0] if lines else error)
        remedy = "`export.saved_model` writes any model of this package. A Keras layer as `head` may be the cause."
        raise _check.invalid("model", f"a model that can be converted to {target.name}", reason, remedy) from error


def parity(name, model, run, rows, pairs, tolerance, finish):
    """Returns the largest difference between a runtime's answers and the model's; raises if it is too large.

    Compares several shapes: up to three rows alone, and all rows together.

    Args:
        name: string. The runtime's name.
        model: the task model.
        run: function from a dict of int32 arrays to the answers.
        rows: list of tuples of texts.
        pairs: bool. Whether a row is two texts.
        tolerance: float. The largest difference allowed, relative to the largest answer if that is above 1.
        finish: function from the model's outputs to its answers.
    """
    largest = 0.0
    for batch in [*([row] for row in rows[:3]), rows]:
        columns = tuple(list(column) for column in zip(*batch, strict=True))
        ids = {name: value.numpy() for name, value in _ids(model, columns, pairs).items()}
        if _ids_words.reads_words(model):
            expected = model.predict_on_batch(ids)
        else:
            expected = model.predict(columns if pairs else columns[0], verbose=0)
        expected = finish(tf.constant(expected)).numpy()
        found = run(ids)
        scale = max(1.0, float(np.abs(expected).max()))
        difference = np.abs(found - expected).max() / scale if found.shape == expected.shape else np.inf
        # The negated comparison rejects NaN too.
        if not difference <= tolerance:
            remedy = f"Raise `tolerance` if that is acceptable; otherwise please report it with {name}'s version."
            expected = f"a model for which {name} matches `model.predict` to {tolerance}"
            raise _check.invalid("model", expected, f"a difference of {difference:.2g}", remedy)
        largest = max(largest, float(difference))
    return largest


def _ids(model, columns, pairs):
    if _ids_words.reads_words(model):
        return _ids_words.ids(model, columns[0])
    (column,) = model.prediction_columns().values()
    texts = column.read(columns if pairs else columns[0], "examples")
    return column.batch(column.encode(texts), "text")


def _write_beside(target, model, graph, path, name, rows, pairs, difference, tolerance, metadata):
    """Writes the tokenizer, labels, description and README."""
    preprocessor = model.preprocessor
    preprocessor.tokenizer.to_folder(
        path, sequence_length=preprocessor.sequence_length, padding_side=preprocessor.padding_side
    )
    labels = _signatures.labels_of(model)
    if labels:
        lines = [" ".join(str(label).splitlines()) for label in labels]
        (path / "labels.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if _ids_words.reads_words(model):
        _disk.write_json(path / _ids_words.FILE, _ids_words.scores(model))
    description = _description.of_model(model, {}, pairs=pairs, index=None, weights_dtype=None, metadata=metadata)
    description["format"] = target.extra
    description["signatures"] = {"serving_default": _signature(model, graph)}
    description["parity"] = {"largest_difference": difference, "tolerance": tolerance}
    description["versions"] |= {
        package: importlib.metadata.version(package.replace("_", "-").partition(".")[0]) for package in target.packages
    }
    _disk.write_json(path / _description.FILE, description)
    (path / "README.md").write_text(_readme(target, model, graph, name, description, rows, pairs), encoding="utf-8")


def _signature(model, graph):
    shape = [None, *model.output_shape[1:]]
    return {
        "api": "ids",
        "purpose": "The model's output for token ids.",
        "inputs": {spec.name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()} for spec in graph.specs},
        "outputs": {graph.output: {"dtype": "float32", "shape": shape}},
    }


def _readme(target, model, graph, name, description, rows, pairs):
    signature = description["signatures"]["serving_default"]
    towers = model.text_form == "separate"
    table = []
    for kind in ("input", "output"):
        for key, tensor in signature[f"{kind}s"].items():
            free = "words" if key in ("word_mask", "emissions") else "length"
            sizes = [free if size is None else str(size) for size in tensor["shape"][1:]]
            table.append(f"| {kind} | `{key}` | {tensor['dtype']} | ({', '.join(['batch', *sizes])}) |")
    shape = ".reshape(-1, 2, len(rows[0].ids))" if towers else ""
    ids = "\n".join(
        f'        "{spec.name}": np.array([row.{_COLUMNS[spec.name]} for row in rows], "int32"){shape},'
        for spec in graph.specs
        if spec.name in _COLUMNS
    )
    # Towers take the two texts of a row one after the other.
    texts = rows[:2] if pairs and not towers else [text for row in rows[:2] for text in (row if towers else row[:1])]
    parts = {key: value.format(file=target.file, output=graph.output) for key, value in target.readme.items()}
    reads_words = _ids_words.reads_words(model)
    texts = _ids_words.example_words(model, texts) if reads_words else texts
    run = _ids_words.program(model, ids, parts["call"]) if reads_words else _RUN.format(ids=ids, call=parts["call"])
    special = "" if model.preprocessor.tokenizer.special_tokens_in_strings else _SPECIAL
    return _README.format(
        name=name,
        kind=description["class"],
        tfxfer=description["versions"]["tfxfer"],
        target=target.name,
        file=target.file,
        output=graph.output,
        sequence_length=description["sequence_length"],
        labels=_LABELS if description["labels"] and not reads_words else _TAGS if reads_words else "",
        decisions=_decisions(model),
        difference=description["parity"]["largest_difference"],
        table="\n".join(table),
        special=special,
        prompts=_prompts(description, getattr(model, "include_prompt", True)),
        json="import json\nimport pathlib\n\n" if reads_words else "",
        run=run,
        texts=texts,
        **parts,
    )


def _decisions(model):
    """Returns the README's lines on which of a classifier's decisions are in the graph."""
    found = _description.decisions_of(model) or {}
    lines = []
    if "scaling" in found:
        lines.append("- the probabilities are calibrated: the scaling is in the graph\n")
    left = [name for name in found if name not in ("scaling", "thresholds")]
    if left:
        lines.append(
            f"- not in the graph: {', '.join(left)}; `assets.extra/tfxfer.json` has their settings "
            "under `decisions`. `export.saved_model` writes all of them\n"
        )
    return "".join(lines)


def _prompts(description, are_pooled):
    if not description["prompts"]:
        return ""
    default = description["default_prompt_name"]
    used = f"; the default is {default!r}" if default else ""
    if not are_pooled:
        used += ". The model excludes their tokens from the pooling; this file pools all tokens that it receives"
    return f"- prompts to prepend to the texts, by name: {json.dumps(description['prompts'])}{used}\n"


_LABELS = "- `labels.txt`: the names of the classes in the order of the probabilities\n"
_TAGS = "- `labels.txt`: the types of entities; `tags.json`: the tags in the order of the emissions, and their scores\n"
_SPECIAL = "tokenizer.encode_special_tokens = True  # special tokens that a user types stay text\n"
