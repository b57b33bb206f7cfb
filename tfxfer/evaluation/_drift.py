"""Whether incoming texts still resemble those that a model was built for."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import scipy.stats

from tfxfer import _check, _neighbours, _texts, data
from tfxfer.evaluation import _labels

FORMAT = 1
# Rows whose values are kept: two samples of this size distinguish proportions that differ by 0.05.
_KEPT = 2000
# Number of texts tokenized at a time.
_PART = 2048
# The values measured on a text, and the test that compares two samples of them.
_TESTS = {"confidence": "kolmogorov_smirnov", "tokens": "kolmogorov_smirnov", "unknown": "mann_whitney"}
_TESTS["distance"] = "kolmogorov_smirnov"
# Labels with a lower expected number of rows are pooled.
_RARE = 5.0
_KEYS = {"format": int, "rows": int, "values": dict}


def reference(model: Any, texts: Any, *, seed: int = 0, batch_size: int = 32, verbose: int | str = 0) -> dict[str, Any]:
    """Describes typical texts and a model's answers to them, as a reference for `drift`.

    | value of each text | available for |
    |---|---|
    | `confidence`: the probability of its label (with several labels, of the least confident decision) | classifiers |
    | `tokens`: its length, before truncation and without special tokens | models with a preprocessor |
    | `unknown`: the fraction of its tokens missing from the vocabulary | tokenizers with an unknown token |
    | `distance`: 1 - cosine between its vector and the mean of all unit vectors | models that produce one vector |

    The reference also records how often the model predicts each label. Use texts as they arrive in production that the
    model was not trained on, such as development rows: the model is more confident on its training rows.
    `export.saved_model(reference=...)` ships the reference inside an export.

    (The distance uses the cosine. A Mahalanobis distance would store `dim` squared numbers, and would need many more
    texts than dimensions before the texts it is estimated on look like others.)

    Args:
        model: a classifier, an embedder, or another task model of this package; or any object with `classify` and
            `labels`, or with `encode`.
        texts: rows in memory, as in `predict`, at least 2: a list of strings, or a tuple of two lists for models of
            pairs. Labels are ignored.
        seed: int. Seed of the sample of 2,000 texts whose values are kept if there are more.
        batch_size: int. Number of texts encoded at a time.
        verbose: 0, 1 or `"auto"`: whether to show a progress bar.

    Returns:
        A JSON-serializable dict: `format`; `rows`; `labels` and `label_rows` (the number of rows of each; `None`
        without labels); `multi_label`; `values`, a dict of the names in the table to lists of floats, all of the same
        texts; `means` over all texts; and `center`, the mean vector, or `None`.

    Raises:
        ValueError: if there are fewer than 2 texts, a text is not a string, or none of the values is available.

    Example:

    ```python
    described = tx.evaluation.reference(model, dev["text"])
    tx.export.saved_model(model, "serving/support", reference=described)
    tx.evaluation.drift(tx.export.reference("serving/support"), asked_today, model=model)["drifted"]
    ```
    """
    _check.integer("seed", seed, minimum=0)
    found = _measured(model, texts, batch_size, verbose)
    values, rows = found["values"], found["rows"]
    center = None
    if found["vectors"] is not None:
        vectors = _neighbours.unit(np.asarray(found["vectors"], "float64"))
        total = vectors.sum(axis=0)
        center = total / rows
        # Each text against the others, because later texts have no part in the mean either.
        values["distance"] = 1 - _neighbours.paired(vectors, total - vectors, "cosine")
    kept = np.sort(np.random.default_rng(seed).choice(rows, min(rows, _KEPT), replace=False))
    return {
        "format": FORMAT,
        "rows": rows,
        "labels": found["labels"],
        "multi_label": found["multi_label"],
        "label_rows": found["label_rows"],
        "values": {name: _rounded(each[kept]) for name, each in values.items()},
        "means": {name: float(each.mean()) for name, each in values.items()},
        "center": None if center is None else _rounded(center),
    }


def drift(
    reference: Mapping[str, Any],
    texts: Any,
    *,
    model: Any,
    level: float = 0.05,
    least: float = 0.0,
    batch_size: int = 32,
    verbose: int | str = 0,
) -> dict[str, Any]:
    """Tests whether texts, and a model's answers to them, still resemble the reference.

    | check | what differs | test | `statistic`, from 0 to 1 |
    |---|---|---|---|
    | `labels` | the proportion of each label | chi-squared, rare labels pooled | half the sum of the differences |
    | the same, several labels per text | | Fisher's per label, times the number of labels | the largest difference |
    | `confidence`, `tokens`, `distance` | the distribution | Kolmogorov-Smirnov | the largest gap between the CDFs |
    | `unknown` | more or fewer unknown tokens | Mann-Whitney | how much more often one side is larger |

    p-values are adjusted for the number of checks (Holm): if the texts do resemble the reference, the probability that
    any check raises a false alarm is at most about `level`. With very many texts, even negligible differences are
    significant; set `least` to the smallest difference that matters.

    Args:
        reference: the result of `reference`, possibly read from an export.
        texts: the later texts, in any form that `reference` accepts; at least 2.
        model: the model that the reference describes.
        level: float between 0 and 1. The probability of a false alarm; intervals have a confidence of 1 - `level`.
        least: float in `[0, 1]`. The smallest `statistic` that counts as drift. Defaults to 0.
        batch_size: int. Number of texts encoded at a time.
        verbose: 0, 1 or `"auto"`: whether to show a progress bar.

    Returns:
        A dict: `drifted`, whether any check has drifted; `rows` and `reference_rows`; `level`; and `checks`, a dict of
        name to a dict: `statistic`, `p_value`, `adjusted_p_value`, `test` and `drifted`. Checks of values also have
        the means, `reference` and `now`, their `difference`, and its `interval` (Welch). The check of labels has
        `shares`, a dict of label to these four (Agresti and Caffo; not adjusted for the number of labels).

    Raises:
        ValueError: if `reference` is not a reference, or is that of a model with other labels, vectors or values; if
            there are fewer than 2 texts, or if a text is not a string.

    Example:

    ```python
    found = tx.evaluation.drift(described, asked_today, model=model, least=0.1)
    print([name for name, check in found["checks"].items() if check["drifted"]])
    ```

    References:
        - [Rabanser et al., 2019](https://arxiv.org/abs/1810.11953), which tests detect shifts
        - [Holm, 1979](https://www.jstor.org/stable/4615733)
        - [Agresti and Caffo, 2000](https://doi.org/10.1080/00031305.2000.10474560), intervals of differences of
          proportions
    """
    check_reference("reference", reference)
    level = _check.number("level", level, above=0.0)
    if level >= 1:
        raise _check.invalid("level", "a number > 0 and < 1, for example 0.05", level)
    least = _check.number("least", least, minimum=0.0, maximum=1.0)
    found = _measured(model, texts, batch_size, verbose)
    if found["labels"] != reference["labels"] or found["multi_label"] != reference["multi_label"]:
        remedy = "Create a reference with the current model: `evaluation.reference`."
        raise _check.invalid(
            "reference", f"one of a model with the labels {found['labels']}", reference["labels"], remedy
        )
    values = found["values"]
    if found["vectors"] is not None and reference["center"] is not None:
        vectors, center = np.asarray(found["vectors"], "float64"), np.array(reference["center"])
        if vectors.shape[1] != len(center):
            expected = f"one of a model whose vectors have {vectors.shape[1]} components"
            raise _check.invalid("reference", expected, len(center))
        values["distance"] = 1 - _neighbours.paired(vectors, center[None], "cosine")
    if set(values) != set(reference["values"]):
        expected = f"a reference with {', '.join(map(repr, values))}, as this model has"
        raise _check.invalid("reference", expected, sorted(reference["values"]))
    checks = {}
    if found["label_rows"] is not None:
        checks["labels"] = _labels_check(reference, found, level)
    for name, test in _TESTS.items():
        if name in values:
            checks[name] = _values_check(np.array(reference["values"][name]), values[name], test, level)
    adjusted = _holm([check["p_value"] for check in checks.values()])
    for check, p_value in zip(checks.values(), adjusted, strict=True):
        check["adjusted_p_value"] = p_value
        check["drifted"] = bool(p_value <= level and check["statistic"] >= least)
    return {
        "drifted": any(check["drifted"] for check in checks.values()),
        "rows": found["rows"],
        "reference_rows": reference["rows"],
        "level": level,
        "checks": checks,
    }


def check_reference(argument, value):
    """Returns `value` if it is a result of `reference`; raises otherwise."""
    remedy = "`evaluation.reference(model, texts)` creates one."
    _check.instance(argument, value, Mapping, "a result of `evaluation.reference`", remedy)
    wrong = [key for key, kind in _KEYS.items() if not isinstance(value.get(key), kind)]
    wrong += [key for key in ("labels", "multi_label", "label_rows", "center") if key not in value]
    if wrong or value["format"] != FORMAT:
        received = wrong if wrong else value["format"]
        expected = (
            f"a result of `evaluation.reference` of format {FORMAT} (received: the missing or wrong keys, or format)"
        )
        raise _check.invalid(argument, expected, received, remedy)
    return value


# === Values of texts ===


def _measured(model, texts, batch_size, verbose):
    """Returns the rows, labels, values and vectors of texts, as far as the model provides them."""
    texts, columns = _read(model, texts)
    count = len(columns[0]) if columns else 0
    if count < 2:
        raise _check.invalid("texts", "at least 2 texts", texts)
    vectors, probabilities = _answers(model, texts, columns, batch_size, verbose)
    found: dict[str, Any] = {"rows": count, "values": {}, "vectors": vectors}
    found |= dict.fromkeys(("labels", "multi_label", "label_rows"))
    if probabilities is not None:
        several = bool(getattr(model, "multi_label", False))
        found["labels"], found["multi_label"] = list(model.labels), several
        if several:
            given = probabilities >= _labels.thresholds(model.threshold, list(model.labels), probabilities.dtype)
            sure = np.where(given, probabilities, 1 - probabilities).min(axis=1)
        else:
            given = probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])
            sure = probabilities.max(axis=1)
        found["label_rows"], found["values"]["confidence"] = given.sum(axis=0).tolist(), sure
    preprocessor = getattr(model, "preprocessor", None)
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if tokenizer is not None:
        tokens, unknown = _tokens(tokenizer, columns)
        found["values"]["tokens"] = tokens
        if unknown is not None:
            found["values"]["unknown"] = unknown
    if vectors is None and not found["values"]:
        raise _check.invalid("model", "a model with `classify`, `encode`, or a preprocessor", model)
    return found


def _read(model, texts):
    """Returns the texts as the model takes them, and their columns, lists of strings."""
    if "text" in getattr(model, "input_columns", dict)():
        form, found = data.Gate(model, ("texts", "y", "sample_weight"), asks=True).read(texts, needs_y=False)
        if form != "rows":
            raise _check.invalid("texts", "rows in memory", texts)
        read = found.x
        if isinstance(read, dict):  # categories are strings too, not only texts
            columns = model.prediction_columns()
            read = {name: each for name, each in read.items() if isinstance(columns[name], data.TextColumn)}
        return found.x, list(_texts.columns_of(read).values())
    if _texts.is_dataset(texts):
        texts, _ = _texts.columns(texts)
    found = _texts.strings("texts", texts)
    return found, [found]


def _answers(model, texts, columns, batch_size, verbose):
    """Returns vectors and probabilities, each `None` if the model has none; the encoder runs once."""
    is_classifier = hasattr(model, "classify")
    if hasattr(model, "head_features") and _has_features(model):
        features = model.head_features(texts, batch_size=batch_size, verbose=verbose)
        if not is_classifier:
            return features, None
        probabilities = model.probabilities(keras.ops.convert_to_tensor(model.head_outputs(features)))
        return features, np.asarray(keras.ops.convert_to_numpy(probabilities), "float64")
    vectors = None
    if _texts.embedder_of(model) is not None and len(columns) == 1:
        vectors = _texts.encode(model, columns[0], batch_size=batch_size)
    if not is_classifier:
        return vectors, None
    found = model.classify(texts, batch_size=batch_size, verbose=verbose).probabilities
    return vectors, np.asarray(found, "float64")


def _has_features(model):
    if hasattr(model, "encode"):  # its vectors include all modules and prompts
        return False
    try:
        model.feature_tensor()
    except ValueError:  # a head that reads token states
        return False
    return True


def _tokens(tokenizer, columns):
    """Returns the number of tokens per row, and the fraction of unknown ones, `None` if there is no unknown token."""
    unknown_id = tokenizer.unk_token_id
    lengths, unknown = np.zeros((2, len(columns[0])))
    for column in columns:
        for start in range(0, len(column), _PART):
            ids = tokenizer(data.read_list("texts", column[start : start + _PART]))
            part, rows = slice(start, start + _PART), np.asarray(ids.row_lengths())
            lengths[part] += rows
            if unknown_id is not None:
                is_unknown = np.asarray(ids.flat_values) == unknown_id
                row = np.repeat(np.arange(len(rows)), rows)
                unknown[part] += np.bincount(row, weights=is_unknown, minlength=len(rows))
    return lengths, None if unknown_id is None else unknown / np.maximum(lengths, 1)


def _rounded(values):
    """Returns the values as floats with seven digits, which are shorter in JSON."""
    return [float(f"{value:.7g}") for value in np.asarray(values, "float64").tolist()]


# === Tests ===


def _values_check(before, now, test, level):
    now = np.array(_rounded(now))  # rounded like the reference, else equal values would differ
    if test == "mann_whitney":
        statistic, p_value = 0.0, 1.0
        if np.ptp(np.concatenate([before, now])) > 0:
            found = scipy.stats.mannwhitneyu(now, before, method="asymptotic")
            statistic, p_value = abs(2 * found.statistic / (len(before) * len(now)) - 1), found.pvalue
    else:
        found = scipy.stats.ks_2samp(before, now, method="asymp")
        statistic, p_value = found.statistic, found.pvalue
    difference = float(now.mean() - before.mean())
    return {
        "statistic": float(statistic),
        "p_value": float(p_value),
        "test": test,
        "reference": float(before.mean()),
        "now": float(now.mean()),
        "difference": difference,
        "interval": _welch(before, now, difference, level),
    }


def _welch(before, now, difference, level):
    """The interval of a difference of means with unequal variances."""
    parts = np.array([np.var(each, ddof=1) / len(each) for each in (before, now)])
    if not parts.sum():
        return [difference, difference]
    freedom = parts.sum() ** 2 / np.sum(parts**2 / (np.array([len(before), len(now)]) - 1))
    half = float(scipy.stats.t.ppf(1 - level / 2, freedom) * math.sqrt(parts.sum()))
    return [difference - half, difference + half]


def _labels_check(reference, found, level):
    counts = np.array([reference["label_rows"], found["label_rows"]], "float64")
    rows = np.array([reference["rows"], found["rows"]], "float64")
    shares = counts / rows[:, None]
    gaps = np.abs(shares[1] - shares[0])
    if found["multi_label"]:
        tables = [np.array([column, rows - column]) for column in counts.T]
        p_value = min(1.0, len(tables) * min(float(scipy.stats.fisher_exact(table).pvalue) for table in tables))
        statistic, test = gaps.max(), "fisher_exact"
    else:
        p_value, statistic, test = _chi2(counts), gaps.sum() / 2, "chi2"
    return {
        "statistic": float(statistic),
        "p_value": p_value,
        "test": test,
        "shares": {label: _share(counts[:, k], rows, shares[:, k], level) for k, label in enumerate(found["labels"])},
    }


def _chi2(counts):
    """The p-value that the label counts of two samples have one distribution; rare labels are pooled."""
    counts = counts[:, counts.sum(axis=0) > 0]
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    is_rare = expected.min(axis=0) < _RARE
    rare = counts[:, is_rare].sum(axis=1, keepdims=True)
    counts = np.concatenate([counts[:, ~is_rare], rare], axis=1) if is_rare.any() else counts
    if counts.shape[1] < 2:
        return 1.0
    return float(scipy.stats.chi2_contingency(counts, correction=False).pvalue)


def _share(counts, rows, shares, level):
    """The proportions of a label, with the interval of their difference."""
    # Add one row with the label and one without to both samples.
    more = (counts + 1) / (rows + 2)
    half = scipy.stats.norm.ppf(1 - level / 2) * math.sqrt(np.sum(more * (1 - more) / (rows + 2)))
    middle = float(more[1] - more[0])
    return {
        "reference": float(shares[0]),
        "now": float(shares[1]),
        "difference": float(shares[1] - shares[0]),
        "interval": [max(-1.0, float(middle - half)), min(1.0, float(middle + half))],
    }


def _holm(p_values):
    """Returns the p-values adjusted for their number, in the same order."""
    order, adjusted, largest = np.argsort(p_values, kind="stable"), [1.0] * len(p_values), 0.0
    for place, k in enumerate(order):
        largest = max(largest, min(1.0, float(p_values[k]) * (len(p_values) - place)))
        adjusted[k] = largest
    return adjusted
