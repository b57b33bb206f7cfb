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
# What is being written; TF Serving ignores folders whose names are not numbers.
_TEMPORARY = ".export"
_DAY = 24 * 60 * 60
# Of usual lengths.
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
    """Writes a model as a SavedModel that TF Serving runs as it is: strings in, answers out.

    | model | signature: inputs | outputs |
    |---|---|---|
    | `TextEmbedder`, `Siamese` | `embed`: `text` | `embedding` `(batch, dim)` |
    | | `embed_<prompt>` for each prompt: `text` | `embedding` |
    | | `similarity`: `text_a`, `text_b` | `similarity` `(batch,)`, the cosine |
    | | `rank`: `query`, `documents` | `scores`, of the shape of `documents` |
    | | `search`, with an `index`: `query`, `k` | `ids`, `texts`, `scores`, each `(batch, max_k)`; see `max_k` |
    | `TextClassifier` | `classify`: `text` | `labels`, `scores`, `probabilities`, each `(batch, classes)` |
    | | with a threshold or decisions | perhaps `in_scope`, bool `(batch,)`, and `set`, bool `(batch, classes)` |
    | | `classify_examples`, for TF Serving's Classify API | `classes`, `scores` |
    | `TextRegressor` | `regress`: `text` | `outputs` `(batch, num_outputs)` |
    | `Reranker` | `regress`, `rank` on pairs | as above |
    | | `regress_examples`, for its Regress API, of one output | `outputs` |
    | these on `pairs` | as above, with `text_a`, `text_b` | as above |
    | | `rank`, of two labels (the second counts) or one output | `scores` |
    | `SiameseClassifier` | `classify` on pairs, and its embedder's | as above |
    | `MultiTask` | `<task>_<signature>` for those of each task, such as `intent_classify` | as above |
    | with `explain=True` | `explain`: `text` | `words`, `attributions`, places, `score` and others |
    | `SparseEmbedder` | `embed`: `text` | `token_ids`, `weights`, each `(batch, n)`; `counts` `(batch,)` |
    | `LateInteractionEmbedder` | `embed_document`, `embed_query`: `text` | `vectors` `(batch, n, dim)`; `counts` |
    | both | `similarity`, `rank` | as above, by the model's own `similarity` |
    | `TokenTagger` | `extract`: `text` | `labels`, `texts`, `scores`, places, each `(batch, n)`; `counts` `(batch,)` |

    `serving_default` is the first of a model: `embed`, `classify` or `regress`. Texts are string `(batch,)`, `k` is
    int32 `(batch,)`, outputs are float32, string or (ids) int64. The two APIs take `inputs`, serialized `tf.Example`s
    with the features `text`, or `text_a` and `text_b`. `documents` is one text a row, `(batch,)`, the form that a
    server may merge with other requests, or n texts for each query, `(batch, n)`. `labels` and `scores` go from the
    likeliest class down, `probabilities` and `set` in the order of `assets/labels.txt`. `embed` and `similarity` use
    the embedder's default prompt, `rank` and `search` the prompts for queries and documents that it has. `extract`
    reads a text of any length, in windows; its places are `starts` and `ends` in code points, `byte_starts` and
    `byte_ends` in bytes of UTF-8, and the columns behind the `counts[i]` entities of a text hold "", -1 and 0.

    What a classifier decides by (`calibrate`, `fit_decisions`, `threshold`) is in the graph, and answers as `classify`
    does: probabilities are calibrated; `in_scope` is false where the model should not answer; `set` is the conformal
    set, or with `multi_label` the labels that are given.

    The tokenizer is in the graph: a reader needs `tensorflow` and `tensorflow_text`, nothing of this package. A batch
    is padded to its own longest text. Weights are stored once, whatever the number of signatures; no state grows. A
    tensor of the wrong shape, columns of different lengths or a missing feature are an error of that request, and of
    those that a server with batching has merged with it; no text is an error, whatever its bytes. The first 64 bytes of
    a text for each token that the model takes are read, at least 32 KiB (`extract` reads all): a longer one costs no
    more, and is answered as `predict` answers it unless those bytes hold fewer tokens than the model takes.

    The version appears in one step: a server that watches `folder` never sees half of it, and exporters that run at the
    same time get a number each. Beside the versions lie `README.md` with the exact calls, `models.config` and
    `batching_parameters.txt`; the last two are written only where they are missing, so that changes by hand stay.
    `assets.extra/tf_serving_warmup_requests` holds requests that the server runs before it answers the first one, and
    `assets.extra/tfxfer.json` what `describe` reads. `assets.extra/canaries.json` holds the examples with the
    numbers that the model gave for them here; `check.py` beside the versions asks a server the same and compares them
    (see `check`).

    Args:
        model: a model of the table, with its preprocessor. Of a `Siamese` its embedder is written.
        folder: string or path on the local disk. The model's base folder, named as the model is to be called; versions
            are numbered folders in it.
        version: int. Defaults to the next number, 1 in an empty folder.
        pairs: bool. Whether a `TextClassifier` or `TextRegressor` was trained on two texts a row (a cross-encoder). Of
            a `MultiTask`, the names of the tasks that were.
        adapters: dict of name to a file by `freezing.save_adapters`, or a PEFT folder: sets of low-rank adapters on the
            one backbone, with the heads that the files hold. `embed`, `classify` and `regress` then take a second
            input, `adapter`, string `(batch,)`: the set of each row, or `""` for the model as it is. A row is computed
            as the model with these adapters alone would. Other signatures are left out. For embedders, classifiers and
            regressors without adapters of their own.
        index: what `search` looks into: a `search.SemanticIndex` (`float32`, or `int8` with a cosine), the folder of a
            saved one, or a dict of `texts`, and perhaps `ids` (ints or strings), `embeddings` and `similarity`. The
            search is exact; its cost grows with the number of texts.
        max_k: int. The most that `search` returns for a query, and the width of its outputs; those of an index with
            fewer texts are as wide as it has texts (`describe(...)["index"]["max_k"]` says so). Defaults to 10.
        explain: bool. Whether there is a signature `explain`, which says what each word of a text adds to the answer,
            as `TextClassifier.explain` says it with its defaults (in words as coarse as the tokenizer allows: see
            `docs/explain.md`). For classifiers and regressors of one text with the weights as they are. Off by
            default: it makes the graph larger.
        weights_dtype: `"bfloat16"` or `"int8"`: the backbone's matrices in half or about a quarter of the bytes, on
            disk and in memory; each call turns them into floats. The 93 MB of all-MiniLM-L6-v2 become 48 and 27, the
            least cosine of its vectors to the exact ones on STS-B is 0.99997 and 0.9991, and a call takes 4 to 10 ms
            more on two cores, whatever its batch (`benchmarks/export.py`). Defaults to the weights as they are.
        max_batch_size: int. Rows that the server computes at a time: of the batching config, where there is none yet,
            and the most that a warm-up request holds. Defaults to what `folder/batching_parameters.txt` says, or 32.
        warmup: which requests the server runs at each load before it answers. `"short"`: one short text for each
            signature, and a batch of up to 8 for the first, so that every graph has run once. `"full"`: each signature
            also with the longest of the examples, and with batches up to the largest; of several large models this
            takes minutes. `"none"`: no requests, as with the server's `--enable_model_warmup=false`; the first call of
            each signature is then slow. Defaults to `"short"`.
        examples: list of usual texts, for warm-up, README and canaries; for pairs a tuple of two lists. Defaults to
            short ones of the texts that `fit` got in this process, else to five of ours. They are written into the
            folder: name others where texts must not get there.
        metadata: dict of what is to be kept with the model, as far as JSON knows it: `preset`, `metrics`, `licence`
            and the like. `describe` gives it back.
        reference: what `evaluation.reference` says of typical texts and the model's answers to them. It is kept beside
            the graph; `export.reference` reads it back, for `evaluation.drift` on the texts that the server is asked.
        keep: int. How many versions stay in `folder`, this one and those before it, the newest first; a server unloads
            those that are removed. Later versions always stay. By default all do.

    Returns:
        The path of the folder written, e.g. `serving/sts/1`.

    Raises:
        ValueError: for another kind of model, one without a preprocessor or with decisions that training has made
            stale, a version that exists, an argument that the model has no use for, an index of another embedder or a
            damaged one, batching parameters that the server could not read, a URL such as `gs://...` for a folder
            (export locally and copy the version's folder), or a Keras backend other than TensorFlow.

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
                expected = "left out for a model that reads the ids of tokens, or the whole table, besides its encoder"
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
            remedy = "Its weights are written in the few bits that they have"
            raise _check.invalid("weights_dtype", "None for a model that was quantized", weights_dtype, remedy)
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
    # Beside the versions, on the same disk, so that the rename is atomic.
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


def remove_old(folder, newest, keep):
    """Removes the versions before one that was just written, but for the `keep - 1` newest of them.

    Each leaves under a name that no server reads, before its files are removed.
    """
    older = [path for number, path in _description.versions_in(folder).items() if number < int(newest.name)]
    for path in older[: max(len(older) - keep + 1, 0)]:
        with contextlib.suppress(FileNotFoundError):  # another exporter was faster
            hidden = path.rename(_disk.part(folder, _TEMPORARY))
            shutil.rmtree(hidden, ignore_errors=True)


def check_model(model, pairs, index):
    """Raises for what cannot be exported; returns whether the model itself takes pairs."""
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
        raise _check.invalid("index", f"None for a {type(model).__name__}, which gives no vectors", index)
    if len(parts) > 1:
        if index is not None and model.tower() is model:
            raise _check.invalid(
                "index", "None for several embedders", index, "Export the task by itself: `multi[name]`."
            )
        return pairs
    return pairs or model.served_model().reads_pairs()


def seen(model, pairs):
    """Returns texts that the model trained on in this process, in the form of `examples`; `None` for none."""
    texts = model.example_texts
    if isinstance(texts, tuple):
        return texts[:2] if pairs else texts[0]
    return (texts, texts[1:] + texts[:1]) if pairs and texts else texts


def example_rows(examples, pairs):
    """Returns `(first text, second text)` rows; where the model takes one text, the second is the next row's."""
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
    """Writes graph and variables; returns the signatures."""
    with tempfile.TemporaryDirectory() as scratch:
        labels_files = []
        for name, part in model.served_parts().items():
            labels = _signatures.labels_of(part)
            if labels is not None:
                file = pathlib.Path(scratch) / (f"labels_{name}.txt" if name else "labels.txt")
                lines = [" ".join(str(label).splitlines()) for label in labels]
                file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
                labels_files.append(file)
        served = _signatures.Served(model, weights_dtype, index, labels_files, sets)
        found = served.signatures(pairs, explain)
        own = next(iter(found.values()))
        found = {_signatures.DEFAULT: own, **found}
        tf.saved_model.save(served, str(path), signatures={name: s.function for name, s in found.items()})
    names = {name: _METHODS[signature.api] for name, signature in found.items() if signature.api in _METHODS}
    if names:
        updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(path))
        for name, method in names.items():
            updater.replace_method_name(signature_key=name, method_name=method, tags="serve")
        updater.save()
    return found


def _write_extra(path, description, requests):
    """Writes description and warm-up requests."""
    extra = path / "assets.extra"
    extra.mkdir()
    _disk.write_json(extra / _description.FILE.name, description)
    if requests:
        _warmup.write(extra / _warmup.FILE, requests)


def _publish(temporary, folder, version):
    """Gives a finished folder its number, the next one that is free where none was asked for."""
    while True:
        number = version or max(_description.versions_in(folder), default=0) + 1
        try:
            return temporary.rename(folder / str(number))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            _free_version(folder, version)  # raises where the number was asked for
