"""A trained model as a SavedModel with the tokenizer in its graph."""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from tfxfer import _check, _disk, _texts, models
from tfxfer.export import (
    _adapters,
    _canaries,
    _description,
    _explain,
    _folder,
    _index,
    _readme,
    _signatures,
    _warmup,
    _weights,
)

_METHODS = {"classify": "tensorflow/serving/classify", "regress": "tensorflow/serving/regress"}
# The prefix of a version that is being written; TF Serving ignores directories whose names are not numbers.
_TEMPORARY = ".export"
_DAY = 24 * 60 * 60
# Texts of typical lengths.
_EXAMPLES = (
    "Where is my card?",
    "I ordered a new card two weeks ago and it still has not arrived. What can I do about it?",
    "Hello",
    "The parcel came this morning, but one of the two lamps in it is broken. I took photographs of the box and of the "
    "lamp before I opened anything else. I would like to have the lamp replaced, or the money for it back, whichever "
    "is quicker, as we move at the end of the month. The other lamp works and looks as it did in the catalogue, so "
    "there is no need to send both again. Please tell me also whether I have to pay for sending the broken one back.",
    "How much does it cost to send money abroad?",
)


def saved_model(
    model: Any,
    folder: str | os.PathLike[str],
    version: int | None = None,
    *,
    pairs: bool | Sequence[str] = False,
    adapters: Mapping[str, str | os.PathLike[str]] | None = None,
    index: Any = None,
    max_k: int = 10,
    explain: bool = False,
    weights_dtype: Literal["bfloat16", "int8"] | None = None,
    max_batch_size: int | None = None,
    warmup: Literal["short", "full", "none"] = "short",
    examples: Sequence[str] | tuple[Sequence[str], Sequence[str]] | None = None,
    metadata: Mapping[str, Any] | None = None,
    reference: Mapping[str, Any] | None = None,
    keep: int | None = None,
) -> Any:
    """Writes a model as a SavedModel for TF Serving: strings in, answers out.

    | model | signature: inputs | outputs |
    |---|---|---|
    | `TextEmbedder`, `Siamese` | `embed`: `text` | `embedding` `(batch, dim)` |
    | | `embed_<prompt>` for each prompt: `text` | `embedding` |
    | | `similarity`: `text_a`, `text_b` | `similarity` `(batch,)`, the cosine |
    | | `rank`: `query`, `documents` | `scores`, of the shape of `documents` |
    | | `search`, with an `index`: `query`, `k` | `ids`, `texts`, `scores`, each `(batch, max_k)`; see `max_k` |
    | `TextClassifier` | `classify`: `text` | `labels`, `scores`, `probabilities`, each `(batch, classes)` |
    | | with a threshold or decisions | also `in_scope`, bool `(batch,)`, or `set`, bool `(batch, classes)`, or both |
    | | `classify_examples`, for TF Serving's Classify API | `classes`, `scores` |
    | `TextRegressor` | `regress`: `text` | `outputs` `(batch, num_outputs)` |
    | `Reranker` | `regress`, `rank` on pairs | as above |
    | | `regress_examples`, for the Regress API, with one output | `outputs` |
    | these with `pairs` | as above, with `text_a`, `text_b` | as above |
    | | `rank`, with two labels (the score is the second's) or one output | `scores` |
    | `SiameseClassifier` | `classify` on pairs, and its embedder's | as above |
    | `MultiTask` | `<task>_<signature>` for each task's signatures, e.g. `intent_classify` | as above |
    | with `explain=True` | `explain`: `text` | `words`, `attributions`, positions, `score` and others |
    | `SparseEmbedder` | `embed`: `text` | `token_ids`, `weights`, each `(batch, n)`; `counts` `(batch,)` |
    | `LateInteractionEmbedder` | `embed_document`, `embed_query`: `text` | `vectors` `(batch, n, dim)`; `counts` |
    | both | `similarity`, `rank` | as above, with the model's own `similarity` |
    | `TokenTagger` | `extract`: `text` | `labels`, `texts`, `scores`, positions, each `(batch, n)`; `counts` |

    `serving_default` is a model's first signature: `embed`, `classify` or `regress`. Texts are string `(batch,)`, `k`
    is int32 `(batch,)`, outputs are float32, string or (ids) int64. The Classify and Regress APIs take `inputs`,
    serialized `tf.Example`s with the feature `text`, or `text_a` and `text_b`. `documents` is one text per row,
    `(batch,)`, which a server may merge with other requests, or n texts per query, `(batch, n)`. `labels` and `scores`
    start with the likeliest class; `probabilities` and `set` are in the order of `assets/labels.txt`. `embed` and
    `similarity` use the embedder's default prompt, `rank` and `search` its prompts for queries and documents, if any.
    `extract` reads a text of any length, in windows. Its positions are `starts` and `ends` in code points,
    `byte_starts` and `byte_ends` in bytes of UTF-8; the columns after the `counts[i]` entities of a text hold "", -1
    and 0.

    A classifier's decisions (`calibrate`, `fit_decisions`, `threshold`) are in the graph and match `classify`:
    probabilities are calibrated; `in_scope` is false if the model should not answer; `set` is the conformal set, or the
    assigned labels with `multi_label`.

    The tokenizer is in the graph: loading needs `tensorflow` and `tensorflow_text`, but not this package. A batch is
    padded to its longest text. Weights are stored once for all signatures, and no state grows. A tensor of the wrong
    shape, columns of different lengths or a missing feature fail the request, and those that a server with batching
    merged with it. A text may hold any bytes. An export reads the first 64 bytes of a text for each token
    that the model takes, and at least 32 KiB (`extract` reads all bytes): a longer text costs no more, and gets the
    answer of `predict` unless those bytes hold fewer tokens than the model takes.

    The version appears atomically: a server that watches `folder` never sees a partial version, and concurrent
    exporters get different numbers. Next to the versions are `README.md` with the exact calls, `models.config` and
    `batching_parameters.txt`; the last two are written only if they are missing, so your changes to them are kept.
    `assets.extra/tf_serving_warmup_requests` holds requests that the server runs before it answers the first one, and
    `assets.extra/tfxfer.json` the description for `describe`. `assets.extra/canaries.json` holds the examples with the
    model's outputs in this process; `check.py` next to the versions sends the examples to a server and compares its
    answers (see `check`).

    Args:
        model: a model of the table, with its preprocessor. For a `Siamese`, its embedder is exported.
        folder: string or path on the local disk. The model's base directory, whose name becomes the model's name;
            versions are numbered subdirectories.
        version: int. Defaults to the next number, 1 in an empty directory.
        pairs: bool. Whether a `TextClassifier` or `TextRegressor` was trained on two texts per row (a cross-encoder).
            For a `MultiTask`, the names of the tasks that were.
        adapters: dict of name to a file written by `freezing.save_adapters`, or a PEFT directory: sets of low-rank
            adapters on the shared backbone, with the heads in the files. `embed`, `classify` and `regress` then take a
            second input, `adapter`, string `(batch,)`: the set of each row, or `""` for the model without adapters.
            Each row gets the outputs of the model with only that set. Other signatures are left out. For embedders,
            classifiers and regressors that have no adapters themselves.
        index: the corpus of `search`: a `search.SemanticIndex` (`float32`, or `int8` with a cosine), the directory of a
            saved one, or a dict of `texts`, and optionally `ids` (ints or strings), `embeddings` and `similarity`. The
            search is exact; its cost grows with the number of texts.
        max_k: int. The most results that `search` returns for a query, and the width of its outputs, which is limited
            to the number of texts in the index (see `describe(...)["index"]["max_k"]`). Defaults to 10.
        explain: bool. Whether to add a signature `explain`, which returns the contribution of each word to the answer,
            as `TextClassifier.explain` does by default (with words as coarse as the tokenizer allows: see
            `docs/explain.md`). For classifiers and regressors of one text, without `weights_dtype`. Defaults to
            `False`, because it makes the graph larger.
        weights_dtype: `"bfloat16"` or `"int8"`: stores the backbone's matrices in half or about a quarter of the bytes,
            on disk and in memory; each call converts them to floats. The 93 MB of all-MiniLM-L6-v2 become 48 and 27,
            the least cosine of its vectors to the exact ones on STS-B is 0.99997 and 0.9991, and a call takes 4 to 10
            ms more on two cores, for any batch size (`benchmarks/export.py`). Defaults to the model's own dtype; the
            kernels of an encoder with `dtype="mixed_bfloat16"` are in bfloat16 in any case, as it reads them so.
        max_batch_size: int. Rows that the server computes at a time, for a new batching config, and the most rows of a
            warm-up request. Defaults to the value in `folder/batching_parameters.txt`, or 32.
        warmup: string. The requests that the server runs on each load before it answers. `"short"`: one short text for
            each signature, and a batch of up to 8 for the first, so every graph runs once. `"full"`: also the longest
            example for each signature, and batches up to the largest; this takes minutes for several large models.
            `"none"`: no requests, as with the server's `--enable_model_warmup=false`; the first call of each signature
            is then slow. Defaults to `"short"`.
        examples: list of typical texts, for warm-up, README and canaries; for pairs, a tuple of two lists. Defaults to
            short texts that `fit` received in this process, else to five built-in texts. They are written into the
            directory: pass others if your texts must not appear there.
        metadata: dict of JSON values to keep with the model: `preset`, `metrics`, `license` and the like. `describe`
            returns it.
        reference: the dict that `evaluation.reference` returned for typical texts and the model's answers. It is stored
            next to the graph; `export.reference` reads it back, for `evaluation.drift` on texts sent to the server.
        keep: int. Number of versions to keep in `folder`: this one and the newest before it. A server unloads removed
            versions. Later versions are always kept. By default, all versions are kept.

    Returns:
        The path of the version's directory, e.g. `serving/sts/1`.

    Raises:
        ValueError: if the model is of another kind, has no preprocessor, or has decisions that training made stale; if
            the version exists; if the model does not use an argument; if the index is damaged or of another embedder;
            if the server could not read the batching parameters; if `folder` is a URL such as `gs://...` (export
            locally and copy the version's directory); or if the Keras backend is not TensorFlow.

    Example:

    ```python
    path = tx.export.saved_model(classifier, "serving/intents", metadata={"metrics": {"accuracy": 0.93}})
    served = tf.saved_model.load(path).signatures["serving_default"]  # after `import tensorflow_text`
    served(text=tf.constant(["My card is gone"]))["labels"][:, 0]
    ```

    Reference: Olston et al., 2017, TensorFlow-Serving, https://arxiv.org/abs/1712.06139.
    """
    folder = _disk.local_path("folder", folder, kind="folder")
    pairs = check_model(model, pairs, index)
    if any(getattr(part, "is_for_saved_models_alone", False) for part in model.served_parts().values()):
        for argument, given in (("adapters", adapters), ("explain", explain), ("weights_dtype", weights_dtype)):
            if given:
                expected = "left out for a model whose output also reads the token ids or the whole token table"
                raise _check.invalid(argument, expected, given)
    if adapters is not None:
        for argument, given in (("index", index), ("weights_dtype", weights_dtype)):
            if given is not None:
                raise _check.invalid(argument, "None with `adapters`", given)
        if getattr(model, "decisions", None) is not None:
            remedy = (
                "They were fitted for the model without these adapters. Set `model.decisions = None` for the export."
            )
            raise _check.invalid("adapters", "None for a model with decisions", list(adapters), remedy)
    if _check.instance("explain", explain, bool, "True or False"):
        for argument, given in (("adapters", adapters), ("weights_dtype", weights_dtype)):
            if given is not None:
                raise _check.invalid(argument, "None with `explain`", given)
        _explain.check(model.served_model(), pairs)
    if weights_dtype is not None:
        _check.one_of("weights_dtype", weights_dtype, _weights.DTYPES)
        if model.backbone.quantization is not None:
            remedy = "Its quantized weights are exported unchanged."
            raise _check.invalid("weights_dtype", "None for a quantized model", weights_dtype, remedy)
    _check.integer("max_batch_size", max_batch_size, optional=True)
    _check.integer("keep", keep, optional=True)
    _check.one_of("warmup", warmup, _warmup.KINDS)
    takes_pairs = pairs and len(model.served_parts()) == 1
    rows = example_rows(seen(model, takes_pairs) if examples is None else examples, takes_pairs)
    sets = None if adapters is None else _adapters.Adapters(model, adapters)
    reference = _canaries.checked_reference(model, reference)
    metadata = _description.plain("metadata", _check.instance("metadata", metadata or {}, dict, "a dict"))
    folder.mkdir(parents=True, exist_ok=True)
    version = _free_version(folder, version)
    if index is not None:
        index = _index.make(index, model.tower(), max_k)
    batch_size = _folder.batch_size(folder, max_batch_size)
    _disk.remove_parts(folder, _TEMPORARY, age=_DAY)
    # Next to the versions, on the same disk, so that the rename is atomic.
    with _disk.temporary_folder(_disk.part(folder, _TEMPORARY)) as temporary:
        signatures = _write(model, temporary, index, weights_dtype, pairs, sets, explain)
        details = {"pairs": pairs, "index": index, "weights_dtype": weights_dtype, "metadata": metadata}
        description = _description.of_model(model, signatures, adapters=adapters, **details)
        _write_extra(temporary, description, _warmup.requests(warmup, signatures, rows, batch_size))
        _canaries.write(temporary, _canaries.made(signatures, rows), reference)
        shown = sorted(rows, key=lambda row: len("".join(row)))[:2]
        asked = {name: s for name, s in signatures.items() if name != _signatures.DEFAULT and s.api == "predict"}
        answers = {name: signature.answer(shown) for name, signature in asked.items()}
        _folder.write_configuration(folder, max_batch_size)
        _canaries.write_check(folder)
        _disk.sync(temporary)
        target = _publish(temporary, folder, version)
    _readme.write(target, description, signatures, shown, answers, reference, model.record_lines())
    if keep is not None:
        remove_old(folder, target, keep)
    return str(target)


@contextlib.contextmanager
def _without_paths():
    """Keeps TensorFlow from reporting in interactive sessions where it writes: the directory is renamed afterwards."""
    logger, silent = tf.get_logger(), lambda record: " written to: " not in record.getMessage()
    logger.addFilter(silent)
    try:
        yield
    finally:
        logger.removeFilter(silent)


def remove_old(folder, newest, keep):
    """Removes the versions before the one just written, except the newest `keep - 1` of them.

    Each version is first renamed to a name that no server reads, then its files are removed.
    """
    older = [path for number, path in _description.versions_in(folder).items() if number < int(newest.name)]
    for path in older[: max(len(older) - keep + 1, 0)]:
        with contextlib.suppress(FileNotFoundError):  # another exporter removed it first
            hidden = path.rename(_disk.part(folder, _TEMPORARY))
            shutil.rmtree(hidden, ignore_errors=True)


def check_model(model, pairs, index):
    """Raises if the model cannot be exported; returns whether the model itself takes pairs."""
    _check.instance("model", model, models.TextTask, "a task model of `tfxfer.models`, or a subclass of yours")
    parts = model.served_parts()
    if any(part.preprocessor is None for part in parts.values()):
        raise _check.invalid("model", "a model with a preprocessor", model, "Set `model.preprocessor` again.")
    if keras.config.backend() != "tensorflow":
        raise _check.invalid(
            "model",
            "a model on Keras's TensorFlow backend",
            keras.config.backend(),
            "Save it with `model.save` and load it in a process with KERAS_BACKEND=tensorflow.",
        )
    if len(parts) > 1 and not isinstance(pairs, bool):
        for name in _check.instance("pairs", pairs, (list, tuple), "a bool or a list of tasks"):
            _check.one_of("pairs", name, parts)
    else:
        _check.instance("pairs", pairs, bool, "a bool")
    for part in parts.values():
        if hasattr(part, "check_decisions"):
            part.check_decisions()
    kinds = {signature.kind for signature in model.served_model().signatures()}
    if pairs and "vectors" in kinds and not kinds & {"classes", "values"}:
        raise _check.invalid("pairs", "False for an embedder, which has `similarity` and `rank`", pairs)
    if index is not None and "search" not in kinds:
        raise _check.invalid("index", f"None for a {type(model).__name__}, which returns no vectors", index)
    if len(parts) > 1:
        if index is not None and model.tower() is model:
            raise _check.invalid(
                "index", "None for several embedders", index, "Export the task by itself: `multi[name]`."
            )
        return pairs
    return pairs or model.served_model().reads_pairs()


def seen(model, pairs):
    """Returns texts that the model trained on in this process, in the form of `examples`; `None` without any."""
    texts = model.example_texts
    if isinstance(texts, tuple):
        return texts[:2] if pairs else texts[0]
    return (texts, texts[1:] + texts[:1]) if pairs and texts else texts


def example_rows(examples, pairs):
    """Returns `(first text, second text)` rows; if the model takes one text, the second is the next row's."""
    if examples is None:
        examples = _EXAMPLES
    elif pairs:
        columns, _ = _texts.text_columns("examples", examples, 2, "(firsts, seconds)")
        return list(zip(*columns[:2], strict=True))
    texts = _texts.strings("examples", examples)
    return list(zip(texts, texts[1:] + texts[:1], strict=True))


def _free_version(folder, version):
    if version is None:
        return None
    version = _check.integer("version", version)
    if version in _description.versions_in(folder):
        raise _check.invalid("version", f"a version that is not in {folder} yet", version, "Leave it out for the next.")
    return version


def _write(model, path, index, weights_dtype, pairs, sets, explain):
    """Writes the graph and variables; returns the signatures."""
    with tempfile.TemporaryDirectory() as scratch:
        labels_files = []
        for name, part in model.served_parts().items():
            labels = _signatures.labels_of(part)
            if labels is not None:
                file = pathlib.Path(scratch) / (f"labels_{name}.txt" if name else "labels.txt")
                lines = [" ".join(str(label).splitlines()) for label in labels]
                file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
                labels_files.append(file)
        served = _signatures.Served(model, weights_dtype, index, labels_files, sets, explain)
        found = served.signatures(pairs)
        own = next(iter(found.values()))
        found = {_signatures.DEFAULT: own, **found}
        with _without_paths():
            tf.saved_model.save(served, str(path), signatures={name: s.function for name, s in found.items()})
    names = {name: _METHODS[signature.api] for name, signature in found.items() if signature.api in _METHODS}
    if names:
        updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(path))
        for name, method in names.items():
            updater.replace_method_name(signature_key=name, method_name=method, tags="serve")
        with _without_paths():
            updater.save()
    return found


def _write_extra(path, description, requests):
    """Writes the description and the warm-up requests."""
    extra = path / "assets.extra"
    extra.mkdir()
    _disk.write_json(extra / _description.FILE.name, description)
    if requests:
        _warmup.write(extra / _warmup.FILE, requests)


def _publish(temporary, folder, version):
    """Renames a finished directory to its version number, by default the next free one."""
    while True:
        number = version or max(_description.versions_in(folder), default=0) + 1
        try:
            return temporary.rename(folder / str(number))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            _free_version(folder, version)  # raises if the caller asked for this number
