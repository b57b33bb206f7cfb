"""Decisions of a classifier: out-of-scope rejection, calibration, and the coverage of conformal sets.

    python benchmarks/decisions.py --data ../shared/data

Three parts, each over three seeds, on all-MiniLM-L6-v2; no choice uses test rows.

- `methods`: AUROC of each method of `decisions.Rejection` on *dev* rows of four settings, with a probe on frozen
  features: Banking77 without 10 of its intents, against these; the same against questions of another data set;
  garment classes of clothing reviews without 4 of them, against these; the same against remarks of Reddit users.
- `outside`: Banking77 without 10 intents on *test* rows, with the probe and with a model fine-tuned on 20 texts of each
  other intent: AUROC, false positives when 95 % of the in-scope rows are accepted, and, at the threshold that accepts
  95 % of the in-scope dev rows, the share of answered rows, of correct answers, and of accepted out-of-scope rows.
- `sets` and `scaling`: coverage and size of conformal sets of coverage 0.9, and expected calibration error before and
  after scaling, on the in-scope rows of the same test sets.

A tenth of the training rows is held out for the scaling; thresholds and sets are fitted on dev rows. Frozen features
are encoded once and cached in `--cache`. Results go to `results/decisions.json`.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import importlib.metadata
import random
import statistics
import time
import types
import warnings

import tfxfer as tx

# isort: split
import keras
import numpy as np
import sklearn.metrics

from benchmarks import _harness
from tfxfer import _regression
from tfxfer.decisions import ConformalSets, Rejection, Scaling

PRESET = "all_minilm_l6_v2"
METHODS = ("probability", "margin", "mahalanobis", "neighbours", "combined")
SETS = {
    "LAC": ConformalSets("lac"),
    "APS": ConformalSets("aps"),
    "RAPS": ConformalSets("raps", penalty=0.02, free=2),
    "LAC by class": ConformalSets("lac", by_class=True),
}
ROWS_A_CLASS, EPOCHS, LENGTH, OTHERS = 20, 3, 48, 1000


def embedder_of(model):
    """Returns the embedder whose vectors a model's head reads."""
    return tx.models.TextEmbedder(model.backbone, model.preprocessor, pooling=model.pooling, normalize=False)


class Frozen:
    """Features of the frozen encoder, cached on disk."""

    def __init__(self, path):
        self.path = path
        self.known = dict(np.load(path)) if path.exists() else {}
        self._embedder = None

    def __call__(self, name, texts):
        """Returns the features of texts, cached under a name."""
        if name not in self.known:
            if self._embedder is None:
                model = tx.models.TextClassifier.from_preset(PRESET, labels=["a", "b"], sequence_length=LENGTH)
                self._embedder = embedder_of(model)
            self.known[name] = self._embedder.encode(texts)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(self.path, **self.known)
        if len(self.known[name]) != len(texts):
            raise ValueError(f"{self.path} holds other rows for {name}: remove the file.")
        return self.known[name]


def false_positives(inside, outside, rate=0.95):
    """Returns the share of out-of-scope rows accepted when `rate` of the in-scope rows are."""
    threshold = np.sort(inside)[::-1][int(np.ceil(rate * len(inside) - 1e-9)) - 1]
    return float((outside >= threshold).mean())


def auroc(inside, outside):
    """Returns the probability that an in-scope row has a larger score than an out-of-scope row."""
    kinds = np.repeat([1, 0], [len(inside), len(outside)])
    return float(sklearn.metrics.roc_auc_score(kinds, np.concatenate([inside, outside])))


def tenth(count, seed):
    """Splits rows into nine tenths and one tenth."""
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[count // 10 :]), np.sort(order[: count // 10])


def split_classes(names, held_out, seed):
    """Returns the in-scope and out-of-scope labels."""
    outside = set(random.Random(seed).sample(sorted(names), held_out))
    return sorted(set(names) - outside), outside


class Task:
    """Rows of a data set with some classes held out.

    Args:
        rows: dict of part to (features, names).
        held_out: int. The number of held-out classes.
        seed: int.
    """

    def __init__(self, rows, held_out, seed):
        names = {name for _, given in rows.values() for name in given}
        self.labels, out = split_classes(names, held_out, seed)
        place = {name: i for i, name in enumerate(self.labels)}
        self.inside, self.outside, self.rows_inside, self.rows_outside = {}, {}, {}, {}
        self._probe = None
        for part, (features, given) in rows.items():
            known = np.array([name not in out for name in given])
            targets = np.array([place[name] for name in given if name in place], "int64")
            self.inside[part] = features[known], targets
            self.outside[part] = features[~known]
            self.rows_inside[part], self.rows_outside[part] = np.flatnonzero(known), np.flatnonzero(~known)

    def probe(self):
        """Returns the function from features to logits of `freezing.probe` on nine tenths of the training rows."""
        if self._probe is None:
            features, targets = self.inside["train"]
            most, _ = tenth(len(targets), 0)
            found = _regression.fit(features[most], np.eye(len(self.labels))[targets[most]], kind="classes")
            self._probe = lambda rows: (rows @ found.kernel + found.bias).astype("float32")
        return self._probe


def fitted(method, scaled, dev, train):
    """Returns a rejection that accepts 95 % of the dev rows."""
    rejection = Rejection(method)
    own = {"features": dev[0], "train": train} if rejection.needs_features else {}
    return rejection.fit(scaled, dev[1], **own)


def scores_of(rejection, logits, features):
    """Scores as numpy."""
    return keras.ops.convert_to_numpy(rejection.scores(logits, features))


def methods_on_dev(settings):
    """Returns the AUROC of each method by setting: a dict of name to list over seeds."""
    found = {}
    for name, task, others in settings:
        features, targets = task.inside["train"]
        most, rest = tenth(len(targets), 0)
        run = task.probe()
        scaling = Scaling().fit(run(features[rest]), targets[rest])
        dev = task.inside["dev"]
        scaled = keras.ops.convert_to_numpy(scaling(run(dev[0])))
        beyond = keras.ops.convert_to_numpy(scaling(run(others)))
        for method in METHODS:
            rejection = fitted(method, scaled, dev, (features[most], targets[most]))
            score = auroc(scores_of(rejection, scaled, dev[0]), scores_of(rejection, beyond, others))
            found.setdefault(method, {}).setdefault(name, []).append(score)
    return {
        method: {name: round(statistics.fmean(values), 4) for name, values in by_setting.items()}
        for method, by_setting in found.items()
    }


def measured(kind, seed, run, parts, outside, train):
    """Measures one model on test rows; returns three lists of dicts."""
    plain = {part: run(features) for part, (features, _) in parts.items()}
    scaling = Scaling().fit(plain["rest"], parts["rest"][1])
    vector = Scaling("vector").fit(plain["rest"], parts["rest"][1])
    scaled = {part: keras.ops.convert_to_numpy(scaling(values)) for part, values in plain.items()}
    beyond = keras.ops.convert_to_numpy(scaling(run(outside)))
    test = parts["test"]
    right = scaled["test"].argmax(axis=1) == test[1]
    rejected = []
    for method in METHODS:
        rejection = fitted(method, scaled["dev"], parts["dev"], train)
        inner, outer = scores_of(rejection, scaled["test"], test[0]), scores_of(rejection, beyond, outside)
        accepted, passed = inner >= rejection.threshold, outer >= rejection.threshold
        rejected.append(
            {
                "model": kind,
                "seed": seed,
                "method": method,
                "auroc": auroc(inner, outer),
                "fpr_at_95": false_positives(inner, outer),
                "answered": float(accepted.mean()),
                "accuracy": float(right.mean()),
                "answered_accuracy": float(right[accepted].mean()),
                "outside_accepted": float(passed.mean()),
            }
        )
    softmax = lambda values: keras.ops.convert_to_numpy(keras.ops.softmax(values))  # noqa: E731
    covered = []
    for name, asked in SETS.items():
        sets = ConformalSets(**asked.settings())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about classes with few rows
            sets.fit(softmax(scaled["dev"]), parts["dev"][1])
        members = keras.ops.convert_to_numpy(sets.members(softmax(scaled["test"])))
        held = members[np.arange(len(members)), test[1]]
        by_class = [held[test[1] == each].mean() for each in np.unique(test[1])]
        covered.append(
            {
                "model": kind,
                "seed": seed,
                "sets": name,
                "coverage": float(held.mean()),
                "least_class": float(min(by_class)),
                "size": float(members.sum(axis=1).mean()),
                "one": float((members.sum(axis=1) == 1).mean()),
                "empty": float((members.sum(axis=1) == 0).mean()),
            }
        )
    errors = {"model": kind, "seed": seed, "temperature": scaling.temperature}
    for name, values in (
        ("plain", plain["test"]),
        ("scaled", scaled["test"]),
        ("vector", keras.ops.convert_to_numpy(vector(plain["test"]))),
    ):
        probabilities = softmax(values)
        errors[f"ece_{name}"] = tx.evaluation.calibration_scores(test[1], probabilities)["ece"]
        errors[f"loss_{name}"] = float(-np.log(probabilities[np.arange(len(test[1])), test[1]] + 1e-12).mean())
        errors[f"accuracy_{name}"] = float((probabilities.argmax(axis=1) == test[1]).mean())
    return rejected, covered, [errors]


def tuned(texts, task, seed):
    """Fine-tunes the encoder; returns the functions from features to logits and from texts to features."""
    keras.utils.set_random_seed(seed)
    rows, targets = task.rows_inside["train"], task.inside["train"][1]
    most, rest = tenth(len(targets), 0)
    counts, taken = {}, []
    for i in np.random.default_rng(seed).permutation(most):
        counts[targets[i]] = counts.get(targets[i], 0) + 1
        if counts[targets[i]] <= ROWS_A_CLASS:
            taken.append(i)
    model = tx.models.TextClassifier.from_preset(PRESET, labels=task.labels, sequence_length=LENGTH)
    model.compile()
    labels = [task.labels[targets[i]] for i in taken]
    model.fit([texts["train"][rows[i]] for i in taken], labels, epochs=EPOCHS, verbose=0, seed=seed)
    encode = embedder_of(model).encode

    def of(part, chosen):
        return encode([texts[part][i] for i in chosen])

    parts = {
        "rest": (of("train", rows[rest]), targets[rest]),
        **{part: (of(part, task.rows_inside[part]), task.inside[part][1]) for part in ("dev", "test")},
    }
    train = of("train", rows[taken]), targets[taken]
    run = lambda features: keras.ops.convert_to_numpy(model.head(features))  # noqa: E731
    return run, parts, of("test", task.rows_outside["test"]), train


def means(rows, keys):
    """Returns means over seeds, with the standard deviation of each, by the keys."""
    found = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    made = []
    for names, group in found.items():
        numbers = {k: [row[k] for row in group] for k in group[0] if k not in (*keys, "seed")}
        mean = {k: round(statistics.fmean(values), 4) for k, values in numbers.items()}
        spread = {k: round(statistics.stdev(values), 4) if len(values) > 1 else None for k, values in numbers.items()}
        made.append({**dict(zip(keys, names, strict=True)), **mean, "deviation": spread})
    return made


def shown(rows, keys):
    """Formats a table of means."""
    numbers = [key for key in rows[0] if key not in keys and key != "deviation"]
    lines = ["".join(f"{key:>19}" for key in (*keys, *numbers))]
    for row in rows:
        lines.append("".join(f"{row[key]:>19}" for key in keys) + "".join(f"{row[key]:19.4f}" for key in numbers))
    return "\n".join(lines)


def main():
    """Measures, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the data sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cache", type=pathlib.Path, default=_harness.LOGS / "decisions.npz")
    parser.add_argument("--probe-only", action="store_true", help="leave out the fine-tuned models")
    arguments = parser.parse_args()
    start = time.process_time()
    read = lambda name, part: _harness.read_tsv(arguments.data / name / f"{part}.tsv")  # noqa: E731
    frozen = Frozen(arguments.cache)
    texts, bank, clothes = {}, {}, {}
    for part in ("train", "dev", "test"):
        rows = read("banking77", part)
        texts[part] = [row["text"] for row in rows]
        bank[part] = frozen(f"banking77_{part}", texts[part]), [row["label"] for row in rows]
    for part in ("train", "dev"):
        rows = [row for row in read("clothing_reviews", part) if row["review"] and row["class"]]
        clothes[part] = frozen(f"clothes_{part}", [row["review"] for row in rows]), [row["class"] for row in rows]
    questions = frozen("questions", [row["text"] for row in read("query_wellformedness", "dev")[:OTHERS]])
    remarks = frozen("remarks", [row["text"] for row in read("goemotions", "dev")[:OTHERS]])

    settings, tasks = [], {}
    for seed in arguments.seeds:
        task, wear = Task(bank, 10, seed), Task(clothes, 4, seed)
        tasks[seed] = task
        settings += [
            ("other intents", task, task.outside["dev"]),
            ("other questions", task, questions),
            ("other garments", wear, wear.outside["dev"]),
            ("other remarks", wear, remarks),
        ]
    methods = methods_on_dev(settings)
    for method, by_setting in methods.items():
        by_setting["mean"] = round(statistics.fmean(by_setting.values()), 4)
        print(f"{method:>14}" + "".join(f"{name:>17}{value:8.4f}" for name, value in by_setting.items()), flush=True)

    results = [], [], []
    for seed in arguments.seeds:
        task = tasks[seed]
        features, targets = task.inside["train"]
        most, rest = tenth(len(targets), 0)
        run = task.probe()
        parts = {"rest": (features[rest], targets[rest]), "dev": task.inside["dev"], "test": task.inside["test"]}
        train = features[most], targets[most]
        found = [measured("probe", seed, run, parts, task.outside["test"], train)]
        if not arguments.probe_only:
            run, parts, outside, train = tuned(texts, task, seed)
            found.append(measured("fine-tuned", seed, run, parts, outside, train))
        for each in found:
            for whole, more in zip(results, each, strict=True):
                whole += more
        print(f"seed {seed}: {time.process_time() - start:.0f} s", flush=True)
    tables = {
        "outside": (results[0], ("model", "method")),
        "sets": (results[1], ("model", "sets")),
        "scaling": (results[2], ("model",)),
    }
    made = {name: means(rows, keys) for name, (rows, keys) in tables.items()}
    for name, rows in made.items():
        print(f"\n{name}\n{shown(rows, tables[name][1])}")
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "scikit-learn")}
    result = {
        "preset": PRESET,
        "seeds": arguments.seeds,
        "fine_tuning": {"rows_a_class": ROWS_A_CLASS, "epochs": EPOCHS, "sequence_length": LENGTH},
        "methods_on_dev": methods,
        **made,
        "runs": {name: rows for name, (rows, _) in tables.items()},
        "seconds_of_processor": round(time.process_time() - start),
    }
    _harness.write("decisions", result, [types.SimpleNamespace(versions=versions)])


if __name__ == "__main__":
    main()
