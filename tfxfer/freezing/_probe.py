"""Fits a regression on frozen features as the head of a model."""

from collections.abc import Sequence
from typing import Any

from tfxfer import _check, _regression, models
from tfxfer.models import _probing
from tfxfer.models._probing import Probe


def probe(
    model: Any,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    penalties: Sequence[float] = _regression.PENALTIES,
    folds: int = _regression.FOLDS,
    batch_size: int = 32,
) -> Probe:
    """Sets the head of a model to a regularized regression on its frozen features: a linear probe, in seconds.

    The encoder runs once over the rows. On its output, `probe` fits a logistic regression (a softmax for one label per
    row or one tag per word, one sigmoid per label for multiple labels) or, for numbers, a ridge regression:

        sum over rows of weight * loss  +  penalty / 2 * squared kernel

    on features that are centered and scaled, all by one number, to a mean square length of 1, so that a penalty has the
    same meaning for every encoder. The penalty is the one that best predicts held-out rows. The kernel and the bias are
    then written to the head, with centering and scaling folded in: the model computes the same as the regression.

    For tagged texts with more than 20,000 words, the regression is fitted on 20,000 of them: all words with rare tags
    and a random sample of those with frequent tags such as "O", weighted by the number of words that each represents.

    A probe is a good start for fine-tuning, because a new head initially sends random gradients into the encoder (Kumar
    et al., 2022). Its score is also a baseline for fine-tuning. `head="probe"` of a model, and `optimizer="auto"`, make
    the first `fit` start with a probe, with ten times the penalty: a head that fits its rows perfectly leaves no
    gradient to learn from.

    | head | starts as a probe |
    |---|---|
    | `TextClassifier`, `TextRegressor`, `TokenTagger` with `head="linear"` or `"probe"` | yes |
    | `layers.Head` without hidden layers, a linear `keras.layers.Dense`, `SiameseClassifier` without hidden layers | yes |
    | `layers.DenselyConnectedHead` with `connection="concat"` and no hidden layers | yes |
    | hidden layers (`"mlp"`, `hidden_dims`), other connections, `layers.SeparableConvHead` | no: the regression has no start for the layers below the output |
    | `head="crf"` | no: the regression has no transitions |

    Args:
        model: task model whose output is that of one linear layer on fixed features, see the table, or a custom task
            that ends in such a layer (`linear_head`). Only the head changes; it does not matter which groups train.
        x: rows, or a finite dataset of rows or batches, as in `fit`.
        y: targets, for rows that do not contain them.
        sample_weight: float array, a weight >= 0 for each row.
        penalties: floats > 0 to choose from. A single one is used without cross-validated selection.
        folds: int >= 2. Number of parts of the rows that are held out in turn.
        batch_size: int. Number of rows to encode at a time.

    Returns:
        `Probe`: `penalty`, `losses` by penalty, cross-validated `scores`, and the number of `rows`.

    Raises:
        ValueError: for a model without such a layer, a generator of batches or an infinite dataset, and as in `fit`.

    Example:

    ```python
    model = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=["card", "loan"])
    found = tx.freezing.probe(model, train["text"], train["label"])
    found.scores  # {"accuracy": 0.9}, of rows that were held out
    model.classify(["My card is gone"])
    ```

    References:
        - [Alain and Bengio, 2016](https://arxiv.org/abs/1610.01644), linear probes
        - [Kumar et al., 2022](https://arxiv.org/abs/2202.10054), a probe first, fine-tuning from there
    """  # noqa: E501  (a table's row)
    _check.instance("model", model, models.TextTask, "a task model of `tfxfer.models`, or a subclass")
    _probing.check(model)
    penalties = [_check.number("penalties", each, above=0.0) for each in penalties]
    if not penalties:
        raise _check.invalid("penalties", "at least one number > 0", penalties)
    _check.integer("folds", folds, minimum=2)
    _check.integer("batch_size", batch_size)
    return _probing.probe_rows(model, x, y, sample_weight, batch_size, penalties=penalties, folds=folds)
