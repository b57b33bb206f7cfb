"""A trained model as a SavedModel with the tokenizer in its graph."""

import json
import pathlib
import shutil
import tempfile

import keras
import tensorflow as tf

import tfxfer
from tfxfer import _check, models
from tfxfer.export import _warmup

_TEXT = tf.TensorSpec([None], tf.string)
# Usual requests: one text, a small batch of texts of mixed length.
_WARMUP_TEXTS = (
    ["Where is my card?"],
    ["Hello", "I ordered a new card two weeks ago and it still has not arrived. What can I do about it?"],
)


class _Served(tf.Module):
    """What is written: the variables once, the tokenizer's tables, and one function a signature.

    `model.export` stores every weight twice (keras issue 23553); a module that tracks the variables themselves does
    not.
    """

    def __init__(self, model, labels_file):
        super().__init__()
        self._weights = [weight.value for weight in model.weights]
        self._tokenizer = list(model.preprocessor.tokenizer.trackables)
        if labels_file is not None:
            self._labels_file = tf.saved_model.Asset(str(labels_file))
        self._model = _Untracked(model)

    def run(self, *texts):
        model = self._model.value
        x = texts[0] if len(texts) == 1 else texts
        return model(model.preprocessor(x), training=False)


class _Untracked:
    """Hides a Keras model from the module's tracking, so that its layers are not saved a second time."""

    def __init__(self, value):
        self.value = value


def _embed(served, model):
    @tf.function(input_signature=[_TEXT], autograph=False)
    def embed(text):
        return {"embedding": tf.cast(served.run(text), tf.float32)}

    return embed


def _classify(served, model):
    labels = tf.constant([str(label) for label in model.labels])

    def answer(logits):
        probabilities = model.probabilities(tf.cast(logits, tf.float32))
        order = tf.argsort(probabilities, axis=-1, direction="DESCENDING", stable=True)
        return {
            "labels": tf.gather(labels, order),
            "scores": tf.gather(probabilities, order, batch_dims=1),
            "probabilities": probabilities,
        }

    @tf.function(input_signature=[_TEXT], autograph=False)
    def classify(text):
        return answer(served.run(text))

    return classify


def _regress(served, model):
    @tf.function(input_signature=[_TEXT], autograph=False)
    def regress(text):
        return {"outputs": tf.cast(served.run(text), tf.float32)}

    return regress


_SIGNATURES = {models.TextEmbedder: _embed, models.TextClassifier: _classify, models.TextRegressor: _regress}


def saved_model(model, folder, version=None):
    """Writes a model as a SavedModel that TF Serving runs as it is.

    The signature `serving_default` takes `text`, string `(batch,)`, and gives, by the model's class:

    | model | outputs |
    |---|---|
    | `TextEmbedder` | `embedding` float32 `(batch, dim)` |
    | `TextClassifier` | `labels` string, `scores` and `probabilities` float32, each `(batch, classes)` |
    | `TextRegressor` | `outputs` float32 `(batch, num_outputs)` |

    `labels` and `scores` go from the likeliest class down, `probabilities` in the order of `assets/labels.txt`.

    The tokenizer is in the graph: a reader needs `tensorflow` and `tensorflow_text`, nothing of this package. A batch
    is padded to its own longest text. Weights are stored once. `assets.extra/tf_serving_warmup_requests` holds requests
    that the server runs before it answers the first one. The version appears in one step: a server that watches
    `folder` never sees half of it.

    Args:
        model: `models.TextEmbedder`, `models.TextClassifier` or `models.TextRegressor`, with its preprocessor.
        folder: string or path. The model's base folder; versions are numbered folders in it.
        version: int. Defaults to the next number, 1 in an empty folder.

    Returns:
        The path of the folder written, e.g. `serving/sts/1`.

    Raises:
        ValueError: for another kind of model, one without a preprocessor, a version that exists, or a Keras backend
            other than TensorFlow.

    Example:

    ```python
    path = tx.export.saved_model(classifier, "serving/intents")
    served = tf.saved_model.load(path).signatures["serving_default"]  # after `import tensorflow_text`
    served(text=tf.constant(["My card is gone"]))["labels"][:, 0]
    ```
    """
    signature = next((make for kind, make in _SIGNATURES.items() if isinstance(model, kind)), None)
    if signature is None:
        raise _check.invalid(
            "model",
            "a TextEmbedder, TextClassifier or TextRegressor",
            model,
            "Of a `Siamese`, export `model.embedder`.",
        )
    if model.preprocessor is None:
        raise _check.invalid("model", "a model with a preprocessor", model, "Set `model.preprocessor` again.")
    if keras.config.backend() != "tensorflow":
        raise _check.invalid(
            "model",
            "a model on Keras's TensorFlow backend",
            keras.config.backend(),
            "Save it with `model.save` and load it in a process with KERAS_BACKEND=tensorflow.",
        )
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / str(_version(folder, version))
    # Beside the versions, on the same disk, so that the rename is atomic; a server ignores names that are no numbers.
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=folder))
    try:
        _write(model, signature, temporary)
        temporary.chmod(0o755)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return str(target)


def _version(folder, version):
    existing = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    if version is None:
        return max(existing, default=0) + 1
    version = _check.integer("version", version)
    if version in existing:
        raise _check.invalid("version", f"a version that is not in {folder} yet", version, "Leave it out for the next.")
    return version


def _write(model, signature, path):
    with tempfile.TemporaryDirectory() as scratch:
        labels_file = None
        if hasattr(model, "labels"):
            labels_file = pathlib.Path(scratch) / "labels.txt"
            labels_file.write_text("".join(f"{label}\n" for label in model.labels), encoding="utf-8")
        served = _Served(model, labels_file)
        served.serving_default = signature(served, model)
        tf.saved_model.save(served, str(path), signatures={"serving_default": served.serving_default})
    extra = path / "assets.extra"
    extra.mkdir()
    requests = [{"text": texts} for texts in _WARMUP_TEXTS]
    _warmup.write(extra / "tf_serving_warmup_requests", requests, signature="serving_default")
    metadata = {"tfxfer": tfxfer.__version__, "class": type(model).__name__, "name": model.name}
    (extra / "tfxfer.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
