"""Small models from large ones: only the first blocks, separable convolutions, a table of token vectors."""

from typing import Any, Literal

import keras
import numpy as np

from tfxfer import _check, backbones, data, preprocessing

WEIGHTINGS = ("sif", "zipf")
# The smoothing of frequencies in Arora et al. and Model2Vec.
_SMOOTHING = 1e-4
_TOKENS_AT_A_TIME = 1024


def with_blocks(model: Any, number: int) -> Any:
    """Makes a copy of a task model with the first blocks of its encoder; see `TextTask.with_blocks`."""
    old = model.backbone
    if not isinstance(old, backbones.Backbone):
        raise _check.invalid("model", "a model on one of this package's own encoders", type(old).__name__)
    if _check.integer("number", number) > old.num_layers:
        raise _check.invalid("number", f"an int from 1 to {old.num_layers}, the encoder's number of blocks", number)
    groups = old.parts.groups
    if len(groups) not in (1, old.num_layers) or any(len(group) != 1 for group in groups):
        raise _check.invalid("number", "an encoder whose groups of blocks do not repeat", old.family)
    for name, what in (("lora", "adapters"), ("quantization", "quantized weights")):
        if getattr(old, name) is not None:
            raise _check.invalid("model", f"a model without {what}", name, "Merge adapters first, and quantize last.")
    config = {**old.get_config(), "num_layers": number, "frozen": ()}
    if "layer_types" in config:  # families with several kinds of blocks list the kind of each
        config["layer_types"] = config["layer_types"][:number]
    made = _on(model, backbones.Backbone.from_config(config), model.preprocessor, {"trainable": None})
    new = made.backbone
    for ours, theirs in zip(_parts(new), _parts(old), strict=False):
        ours.set_weights(theirs.get_weights())
    if new.parts.final_norm is not None:
        new.parts.final_norm.set_weights(old.parts.final_norm.get_weights())
    below, others = ({id(weight) for weight in each.backbone.weights} for each in (made, model))
    tops = [w for w in made.weights if id(w) not in below], [w for w in model.weights if id(w) not in others]
    if [w.shape for w in tops[0]] != [w.shape for w in tops[1]]:
        remedy = "Its head, or its mean over layers, has weights for each block and needs all of them."
        raise _check.invalid("number", f"{old.num_layers}, all blocks, for this model", number, remedy)
    for ours, theirs in zip(*tops, strict=True):
        ours.assign(theirs)
    flags = {name: any(layer.trainable for layer in found) for name, found in model.layer_groups().items()}
    made.set_trainable({name: flag for name, flag in flags.items() if name in made.layer_groups()})
    return made


def _parts(backbone):
    """The layers of an encoder from the embeddings up to the last block."""
    parts = backbone.parts
    return [parts.embeddings, *parts.shared.values(), *(block for group in parts.groups for block in group)]


def _on(model, backbone, preprocessor, changes):
    """Makes the same task on another encoder, with changed arguments."""
    config = model.get_config()
    config.pop("new_head", None)
    for name in ("head", "pooling"):
        if isinstance(config.get(name), dict):  # was built for the old encoder
            config[name] = {key: value for key, value in config[name].items() if key != "build_config"}
    if "embedder" in config:
        inner = model.embedder
        config["embedder"] = _on(inner, backbone, preprocessor, {k: v for k, v in changes.items() if k == "trainable"})
        return type(model).from_config({**config, **changes})
    return type(model).from_config({**config, "backbone": backbone, "preprocessor": preprocessor, **changes})


def conv_student(
    teacher: Any,
    *,
    num_layers: int = 3,
    hidden_dim: int | None = None,
    kernel_size: int = 5,
    intermediate_dim: int | None = None,
    dropout: float = 0.0,
    name: str | None = None,
) -> Any:
    """Makes a small task model of separable convolutions to distill a large one into.

    The encoder is the family `"separable_conv"`: blocks of a depthwise-separable convolution over `kernel_size` tokens
    and a feed-forward part. Its token vectors start as the teacher's, reduced by PCA; blocks and head start at random
    and learn from the teacher's outputs for any texts.

    | teacher | student | how it learns |
    |---|---|---|
    | `TextEmbedder` | an embedder with vectors of the same size: mean over tokens, a dense layer, unit length if the teacher's have it | `losses.EmbeddingDistillationLoss` on `teacher.encode(texts)` |
    | `TextClassifier` | a classifier with the same labels, a mean over tokens and a linear head | `teacher.classify(texts).probabilities` as targets: the cross-entropy with class probabilities is the Kullback-Leibler divergence up to a constant |
    | `TextRegressor` | a regressor with as many outputs | `teacher.predict(texts)` as targets |

    The student is a normal model: you can save, export, serve and fine-tune it, and freeze it by layer group.

    Args:
        teacher: `models.TextEmbedder`, `TextClassifier`, `TextRegressor`, or a custom task with the same arguments, on
            an encoder of this package, with a preprocessor. The teacher does not change.
        num_layers: int. The number of blocks. Defaults to 3.
        hidden_dim: int. Size of token vectors. Defaults to the teacher's, at most 256.
        kernel_size: int. The number of tokens that a block's convolution reads. Defaults to 5.
        intermediate_dim: int. Size between the dense layers of the feed-forward part. Defaults to `2 * hidden_dim`.
        dropout: float in `[0, 1)`. Rate in the encoder. Defaults to 0, as overfitting a teacher's targets is hard.
        name: string.

    Returns:
        An uncompiled model of the teacher's class.

    Raises:
        ValueError: if the teacher has no preprocessor or another kind of encoder, or a size is out of range.

    Example:

    ```python
    student = tx.models.conv_student(teacher, num_layers=3)
    student.compile(tx.optimizers.AdamW(1e-3), loss=tx.losses.EmbeddingDistillationLoss("cosine"))
    student.fit(texts, teacher.encode(texts), epochs=5, batch_size=64)
    ```

    References:
        - [Chollet, 2017](https://arxiv.org/abs/1610.02357), separable convolutions
        - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531), learning from a teacher's probabilities
        - [Reimers and Gurevych, 2020](https://arxiv.org/abs/2004.09813), learning from a teacher's embeddings
    """  # noqa: E501  (a table's row)
    table = _table(teacher)
    old = teacher.backbone
    hidden_dim = min(table.shape[1], 256) if hidden_dim is None else _check.integer("hidden_dim", hidden_dim)
    sizes: dict[str, Any] = {} if intermediate_dim is None else {"intermediate_dim": intermediate_dim}
    backbone = backbones.Backbone(
        "separable_conv",
        vocabulary_size=old.vocabulary_size,
        num_layers=num_layers,
        hidden_dim=hidden_dim,
        embedding_dim=min(hidden_dim, table.shape[1]),
        kernel_size=kernel_size,
        max_sequence_length=old.max_sequence_length,
        dropout=dropout,
        dtype=old.dtype_policy,
        **sizes,
    )
    # A normalization follows, so only directions matter.
    backbone.token_embedding.embeddings.assign(principal_components(table, backbone.embedding_dim))
    options = {**teacher.preprocessor.get_config(), "segment_ids": False}
    preprocessor = _preprocessor(teacher, options)
    changes: dict[str, Any] = {"name": name}
    if _is_embedder(teacher):
        changes["modules"] = [{"class": "Dense", "units": teacher.embedding_dim}, *_normalize(teacher)]
    return _student(teacher, backbone, preprocessor, changes)


def static_student(
    teacher: Any,
    *,
    dim: int | None = 256,
    weighting: Literal["sif", "zipf"] | None = "sif",
    batch_size: int = _TOKENS_AT_A_TIME,
    name: str | None = None,
) -> Any:
    """Distills a teacher into a table of token vectors, without any texts, as Model2Vec does.

    Each token of the vocabulary goes through the teacher as a separate text, with special tokens. Its vector is the
    output of the teacher's pooling or, for an embedder with dense layers after it, their output before scaling to unit
    length. PCA reduces the vectors to `dim`. Then they are weighted by the rarity of the token; the index in the
    vocabulary serves as the frequency rank, as WordPiece and others sort by frequency. A text is the mean of its
    tokens: no attention, no word order, and tens of times the speed.

    | weighting | weight of the token of rank `r = 1, 2, ...` |
    |---|---|
    | `"sif"` | `a / (a + p)`, `p = 1 / (r + 1)` divided by the sum of these, `a = 1e-4` |
    | `"zipf"` | `log(1 + r)` |
    | `None` | 1 |

    The student of an embedder needs no training. That of a classifier has a new linear head; train it with
    `freezing.probe` or `student.fit(texts, teacher.classify(texts).probabilities)`.

    Args:
        teacher: as in `conv_student`, but without a head that reads token states.
        dim: int. Size of the vectors; at most the teacher's. `None` skips PCA and leaves them unchanged.
        weighting: `"sif"` (default), `"zipf"` or `None`; see the table.
        batch_size: int. Tokens per batch of the teacher.
        name: string.

    Returns:
        An uncompiled model of the teacher's class on a backbone of the family `"static"`. It truncates texts to 512
        tokens, adds no special tokens, and drops unknown tokens, as Model2Vec does.

    Raises:
        ValueError: as `conv_student`, and if the weighting is unknown.

    Example:

    ```python
    student = tx.models.static_student(teacher, dim=256)
    student.encode(["Where is my card?"]).shape  # (1, 256)
    ```

    References:
        - [Tulkens and van Dongen, 2024](https://github.com/MinishLab/model2vec), Model2Vec
        - [Arora et al., 2017](https://openreview.net/forum?id=SyK00v5xx), SIF weights
    """
    table = _table(teacher)
    if weighting is not None:
        _check.one_of("weighting", weighting, WEIGHTINGS)
    vectors = _token_vectors(teacher, _check.integer("batch_size", batch_size))
    if dim is not None:
        if _check.integer("dim", dim) > vectors.shape[1]:
            raise _check.invalid("dim", f"an int from 1 to {vectors.shape[1]}, the teacher's size, or None", dim)
        vectors = principal_components(vectors, dim)
    vectors = vectors * rarity(len(vectors), weighting)[:, np.newaxis]
    rows = np.zeros((len(table), vectors.shape[1]), "float32")
    rows[: len(vectors)] = vectors
    backbone = backbones.Backbone("static", vocabulary_size=len(rows), hidden_dim=rows.shape[1])
    backbone.token_embedding.embeddings.assign(rows)
    options = {**teacher.preprocessor.get_config(), "segment_ids": False, "sequence_length": 512}
    preprocessor = _preprocessor(teacher, {**options, "add_special_tokens": False, "drop_unknown_tokens": True})
    changes: dict[str, Any] = {"name": name}
    if _is_embedder(teacher):
        changes |= {"modules": _normalize(teacher), "prompts": {}, "default_prompt_name": None}
    return _student(teacher, backbone, preprocessor, changes)


def principal_components(vectors: Any, dim: int) -> np.ndarray:
    """Returns vectors `(n, features)`, centered and projected onto their first `dim` principal components.

    The largest entry of each component is positive, which makes the result deterministic.
    """
    vectors = np.asarray(vectors, "float64")
    centred = vectors - vectors.mean(axis=0)
    _, components = np.linalg.eigh(centred.T @ centred)
    components = components[:, ::-1][:, :dim]
    largest = components[np.abs(components).argmax(axis=0), np.arange(components.shape[1])]
    return (centred @ (components * np.sign(largest))).astype("float32")


def rarity(count: int, weighting: str | None) -> np.ndarray:
    """Returns the weights of tokens by rank, float64 `(count,)`; see `static_student`."""
    if weighting is None:
        return np.ones(count)
    if weighting == "zipf":
        return np.log1p(np.arange(1, count + 1))
    shares = 1.0 / np.arange(2, count + 2)
    return _SMOOTHING / (_SMOOTHING + shares / shares.sum())


def _table(teacher):
    """Checks a teacher and returns its token embeddings."""
    config = getattr(teacher, "get_config", dict)()
    if not isinstance(getattr(teacher, "backbone", None), backbones.Backbone) or "pooling" not in config:
        expected = "a task model that pools the tokens of one text, on an encoder of this package"
        raise _check.invalid("teacher", expected, type(teacher).__name__)
    if teacher.preprocessor is None:
        raise _check.invalid("teacher", "a model with a preprocessor", None)
    if teacher.backbone.quantization is not None:
        raise _check.invalid("teacher", "a model that is not quantized", teacher.name)
    return keras.ops.convert_to_numpy(keras.ops.cast(teacher.backbone.token_embedding.embeddings, "float32"))


def _token_vectors(teacher, batch_size):
    """A teacher's vectors of each single token of its tokenizer, float32 `(tokens, features)`."""
    outputs = teacher.boundary()[2]
    if _is_embedder(teacher) and teacher.dense:
        outputs = teacher.layers[-1].input if teacher.normalize else teacher.output
    if outputs is None or len(outputs.shape) != 2:
        raise _check.invalid("teacher", "a model that pools a text into one vector below its head", teacher.name)
    model = keras.Model(teacher.backbone.input, outputs)
    count, run, found = teacher.preprocessor.tokenizer.vocabulary_size(), None, []
    for start in range(0, count, batch_size):
        x = teacher.preprocessor.pack_each(np.arange(start, min(start + batch_size, count)))
        run = data.forward(model, x) if run is None else run
        found.append(np.asarray(run(x), "float32"))
    return np.concatenate(found)


def _is_embedder(model):
    return getattr(model, "keeps_embedding", False)


def _normalize(teacher):
    return [{"class": "Normalize"}] if teacher.normalize else []


def _preprocessor(teacher, options):
    left_out = ("tokenizer", "dtype", "name", "trainable")
    options = {name: value for name, value in options.items() if name not in left_out}
    return preprocessing.TextPreprocessor(teacher.preprocessor.tokenizer, **options)


def _student(teacher, backbone, preprocessor, changes):
    """A model of the teacher's class that averages an encoder's tokens, with its own head."""
    config = teacher.get_config()
    changes = {**changes, "pooling": "mean", "trainable": None}
    if _is_embedder(teacher):
        changes |= {"layer_start": None, "include_prompt": True}
    elif not isinstance(config.get("head"), str):
        changes["head"] = "linear"
    return _on(teacher, backbone, preprocessor, changes)
