"""Few-shot classifiers in one call."""

from collections.abc import Sequence
from typing import Any, Literal

from tfxfer import _check, data, losses, optimizers
from tfxfer.models import _probing
from tfxfer.models._classifier import TextClassifier
from tfxfer.models._embedder import TextEmbedder
from tfxfer.models._siamese import Siamese
from tfxfer.models._task import TextTask

WAYS = ("setfit", "probe", "probe_then_finetune", "lora")
# The peak learning rate of each way that trains the encoder.
_RATES = {"setfit": 2e-5, "probe_then_finetune": 1e-4, "lora": 1e-3}
_LORA_RANK = 8


def few_shot(
    preset: Any,
    texts: Sequence[str],
    labels: Sequence[Any],
    *,
    way: Literal["setfit", "probe", "probe_then_finetune", "lora"] = "probe_then_finetune",
    num_pairs: int | None = None,
    epochs: int | None = None,
    batch_size: int = 16,
    learning_rate: float | None = None,
    seed: int | None = None,
    verbose: int | str = 0,
    **arguments: Any,
) -> TextClassifier:
    """Trains a classifier on a few labeled texts, in one of four ways.

    | `way` | training |
    |---|---|
    | `"setfit"` | trains the encoder on pairs with equal or different labels, then fits a logistic regression |
    | `"probe"` | fits a logistic regression on the frozen encoder; takes seconds |
    | `"probe_then_finetune"` | the same, then trains all layers, like `compile()` and `fit` |
    | `"lora"` | the same, then trains low-rank adapters and the head |

    `"setfit"` is the published method (Tunstall et al., 2022): each text is in about `num_pairs` pairs with equal
    labels and as many with different labels, with target cosines of 1 and 0. Its cost grows with `num_pairs`; that of
    the others does not. It needs an encoder whose vectors do not tell the classes apart yet: on 8 rows for each of
    Banking77's 77 classes, all-MiniLM-L6-v2 reaches 0.833 as a probe, 0.850 with the default and 0.797 with `"setfit"`
    (`benchmarks/few_shot.py`, ten draws of rows). With more rows the order changes; see `docs/recipes.md`.

    Args:
        preset: a preset for `from_preset`, or a task model in memory, whose backbone is copied. Sentence encoders are
            the best start.
        texts: sequence of strings.
        labels: sequence with one label for each text, strings or ints; at least two different labels.
        way: see the table. Defaults to `"probe_then_finetune"`.
        num_pairs: int, for `"setfit"` only: pairs of each kind per text. Defaults to 20, as in the paper.
        epochs: int. Passes over the pairs or rows. Defaults to 1 for `"setfit"`, otherwise to the plan of
            `fit(epochs="auto")`.
        batch_size: int. Rows or pairs in a batch. Defaults to 16.
        learning_rate: float > 0. The peak learning rate, after a warmup over a tenth of the steps and before a decay to
            zero. Defaults to 2e-5 for `"setfit"`, 1e-4 for fine-tuning, 1e-3 for adapters.
        seed: int >= 0. Makes pairs and the order of rows repeatable; dropout follows `keras.utils.set_random_seed`.
        verbose: as in `keras.Model.fit`. Defaults to 0.
        **arguments: further arguments of `TextClassifier.from_preset`, for example `sequence_length`, `pooling` or
            `dtype`; for a model in memory, of `from_model`.

    Returns:
        A `TextClassifier` with the labels in sorted order. With `"lora"` it has adapters; `freezing.merge_lora` merges
        them into the weights.

    Raises:
        ValueError: if the way is unknown or does not have an argument, lengths differ, or labels cannot be sorted; for
            `"setfit"`, if no class has two texts, or a text has two labels.

    Example:

    ```python
    model = tx.models.few_shot("all_minilm_l6_v2", texts, labels, seed=0, sequence_length=64)
    model.classify(["My card has not arrived"]).labels
    ```

    References:
        - [Tunstall et al., 2022](https://arxiv.org/abs/2209.11055), SetFit
        - [Kumar et al., 2022](https://arxiv.org/abs/2202.10054), a probe first, fine-tuning from there
        - [Hu et al., 2021](https://arxiv.org/abs/2106.09685), adapters
    """
    _check.one_of("way", way, WAYS)
    _check.integer("num_pairs", num_pairs, optional=True)
    if way != "setfit" and num_pairs is not None:
        raise _check.invalid("num_pairs", f"None for way={way!r}", num_pairs, "Only way='setfit' makes pairs.")
    _check.integer("batch_size", batch_size)
    _check.integer("epochs", epochs, optional=True)
    if way == "probe":
        for name, value in (("epochs", epochs), ("learning_rate", learning_rate)):
            if value is not None:
                raise _check.invalid(name, "None for way='probe', which does not train the encoder", value)
    texts, labels, names = _rows(texts, labels)
    rate = learning_rate or _RATES.get(way, 0.0)
    options: dict[str, Any] = {"seed": seed, "verbose": verbose}

    if way == "setfit":
        embedder, pairs = _start(preset, arguments), num_pairs or 20
        return _setfit(embedder, texts, labels, names, pairs, epochs, batch_size, rate, options)
    model = _start(preset, {**arguments, "labels": names}, TextClassifier)
    if way == "probe":
        _probing.probe_rows(model, texts, labels, batch_size=batch_size)
        return model
    if way == "lora":
        model.backbone.enable_lora(_LORA_RANK)
        model.set_trainable({"head": True})
    model.compile(optimizers.Auto(rate))
    model.fit(texts, labels, batch_size=batch_size, epochs=epochs or "auto", **options)
    return model


def _setfit(embedder, texts, labels, names, num_pairs, epochs, batch_size, rate, options):
    """Trains an embedder on pairs, and fits a logistic regression on its vectors."""
    rows = {"text": texts, "label": labels}
    pairs = data.pairs_from_labels(rows, "text", "label", max_pairs=2 * num_pairs * len(texts), seed=options["seed"])
    towers = Siamese(embedder)
    towers.compile(optimizers.Auto(rate), loss=losses.CosineMSELoss())
    towers.fit(pairs, batch_size=batch_size, epochs=epochs or 1, **options)
    model = TextClassifier.from_model(embedder, share_backbone=True, backbone_only=True, labels=names)
    _probing.probe_rows(model, texts, labels, batch_size=batch_size)
    return model


def _start(preset, arguments, kind=TextEmbedder):
    """Creates a model on the backbone of a preset, or on a copy of a model's backbone."""
    # An embedder still keeps its dense layers: they are part of how it computes vectors.
    make = kind.from_model if isinstance(preset, TextTask) else kind.from_preset
    return make(preset, backbone_only=True, **arguments)


def _rows(texts, labels):
    """Returns texts and labels as lists, and the sorted label names."""
    texts = data.read_list("texts", texts)
    labels = list(labels.tolist() if hasattr(labels, "tolist") else labels)
    if len(labels) != len(texts):
        raise _check.invalid("labels", f"{len(texts)} labels, one for each text", f"{len(labels)} labels")
    for row, label in enumerate(labels):
        if isinstance(label, bool) or not isinstance(label, (str, int)):
            remedy = f"It is in row {row} (counting from 0). For several labels per text, use `TextClassifier.fit`."
            raise _check.invalid("labels", "a string or an int for each text", label, remedy)
    if len({isinstance(label, int) for label in labels}) > 1:
        raise _check.invalid("labels", "strings or ints, not both", sorted(map(str, set(labels)))[:10])
    names = sorted(set(labels))
    if len(names) < 2:
        raise _check.invalid("labels", "at least two different labels", names)
    return texts, labels, names
