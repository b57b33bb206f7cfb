"""A regression on frozen features as the head of a model."""

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
    """Makes the head of a model the regularised regression on its frozen features: a linear probe, in seconds.

    The encoder runs once over the rows. On what it gives, a logistic regression is fitted (a softmax for one label a
    row or one tag a word, a sigmoid each for several labels) or, for numbers, a ridge regression:

        sum over rows of weight * loss  +  penalty / 2 * squared kernel

    on features that are centred and scaled, all by one number, to a mean square length of 1, so that a penalty means
    the same for every encoder. The penalty is the one that predicts held-out rows best. The kernel and bias then go
    into the head, with centring and scaling worked in: the model answers as the regression does.

    Of more than 20,000 words of tagged texts, that many are fitted on: all of rare tags, and of frequent ones such as
    "O" a random part, each word weighing as many as it stands for.

    It is a good start for fine-tuning, since a new head sends random gradients into the encoder at first (Kumar et
    al., 2022), and a score that fine-tuning has to beat. `head="probe"` of a model, and `optimizer="auto"`, make the
    first `fit` begin so, with ten times the penalty: what fits its rows to the end leaves no gradient to learn from.

    | head | starts as a probe |
    |---|---|
    | `TextClassifier`, `TextRegressor`, `TokenTagger` with `head="linear"` or `"probe"` | yes |
    | `layers.Head` without hidden layers, a linear `keras.layers.Dense`, `SiameseClassifier` without hidden layers | yes |
    | `layers.DenselyConnectedHead` with `connection="concat"` and no hidden layers | yes |
    | hidden layers (`"mlp"`, `hidden_dims`), other connections, `layers.SeparableConvHead` | no: what they learn below the output has no regression to start from |
    | `head="crf"` | no: the regression knows no transitions |

    Args:
        model: task model whose output is that of one linear layer on fixed features, see the table, or a task of your
            own that ends in such a layer (`linear_head`). Nothing but the head changes; which groups train makes no
            difference.
        x: rows, or a finite dataset of rows or batches, as `fit` takes them.
        y: targets, for rows that do not bring them along.
        sample_weight: float array, a weight >= 0 for each row.
        penalties: floats > 0 to choose from. One is taken as it is.
        folds: int >= 2. Parts of the rows that are held out in turn.
        batch_size: int. Rows computed at a time.

    Returns:
        `Probe`: `penalty`, `losses` by penalty, cross-validated `scores`, and the number of `rows`.

    Raises:
        ValueError: for a model without such a layer, a generator of batches or an endless dataset, and as `fit`.

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
