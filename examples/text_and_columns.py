"""Predicts from the text, numbers and categories of a review whether its writer recommends the garment.

    python examples/text_and_columns.py --data data/clothing_reviews

`--data` is a directory of train.tsv and test.tsv with the columns title, review, age, positive_feedback_count,
division, department, class and recommended (0 or 1). The table compares the text alone, the columns alone (gradient
boosting), both by gradient boosting on columns and frozen embeddings, and both in one model. The model is then
exported, and the export is called with the names of its columns.

What to expect: on these reviews the columns add little to the text. If they add much, both together win.
"""

import argparse
import json
import pathlib
import statistics

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras
import numpy as np
import sklearn.ensemble
import sklearn.metrics
import sklearn.preprocessing
import tensorflow as tf

NUMBERS, CATEGORIES = ["age", "positive_feedback_count"], ["division", "department", "class"]
LABELS = ["0", "1"]


def read(path):
    """Returns the rows of a file, with title and review joined into one text."""
    rows = tx.data.read(path)
    texts = [f"{title}. {review}" for title, review in zip(rows["title"], rows["review"], strict=True)]
    return {"text": texts, "label": rows["recommended"], **{name: rows[name] for name in NUMBERS + CATEGORIES}}


def scores(probabilities, truth):
    """Returns the accuracy and the area under the ROC curve."""
    return {
        "accuracy": float(((probabilities > 0.5) == truth).mean()),
        "auc": float(sklearn.metrics.roc_auc_score(truth, probabilities)),
    }


def boosted(train, test, vectors=None, seed=0):
    """Returns probabilities by gradient boosting on the columns and, if given, on frozen embeddings."""
    numbers = [np.array([[float(value) for value in rows[name]] for name in NUMBERS]).T for rows in (train, test)]
    encoder = sklearn.preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    names = [np.array([rows[name] for name in CATEGORIES], object).T for rows in (train, test)]
    parts = [numbers, [encoder.fit_transform(names[0]), encoder.transform(names[1])], *([vectors] if vectors else [])]
    features = [np.concatenate(each, axis=1) for each in zip(*parts, strict=True)]
    model = sklearn.ensemble.HistGradientBoostingClassifier(random_state=seed)
    return model.fit(features[0], train["label"]).predict_proba(features[1])[:, 1]


def trained(arguments, train, test, columns, way, seed):
    """Trains a model on the text and, if given, on columns; returns it and its probabilities for the test rows."""
    keras.utils.set_random_seed(seed)
    options = {"labels": LABELS, "sequence_length": 96}
    if columns:
        model = tx.models.MultimodalClassifier.from_preset(
            arguments.preset, columns=columns, fusion=arguments.fusion, **options
        )
    else:
        model = tx.models.TextClassifier.from_preset(arguments.preset, **options)
    rows = [{name: part[name] for name in ("text", *columns)} if columns else part["text"] for part in (train, test)]
    if way == "probe":
        tx.freezing.probe(model, rows[0], train["label"])
    else:
        model.compile()
        model.fit(rows[0], train["label"], epochs="auto", batch_size=16, seed=seed, verbose=arguments.verbose)
    return model, model.classify(rows[1]).probabilities[:, 1]


def main():
    """Prints the table, then exports the last model and asks the export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="directory with train.tsv and test.tsv")
    parser.add_argument("--preset", default="all_minilm_l6_v2", help="pretrained encoder")
    parser.add_argument("--rows", type=int, default=500, help="number of training rows")
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--fusion", default="concat", choices=tx.layers.FUSIONS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--verbose", type=int, default=1, help="0: silent, 1: progress bar, 2: one line per epoch")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/text_and_columns"))
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the scores")
    arguments = parser.parse_args()

    everything, test = read(arguments.data / "train.tsv"), read(arguments.data / "test.tsv")
    test = {name: values[: arguments.test_rows] for name, values in test.items()}
    truth = np.array([label == "1" for label in test["label"]])
    embedder = tx.models.TextEmbedder.from_preset(arguments.preset, sequence_length=96)
    of_test = embedder.encode(test["text"])
    results = {}
    for seed in arguments.seeds:
        chosen = np.random.default_rng(seed).permutation(len(everything["text"]))[: arguments.rows]
        train = {name: [values[i] for i in chosen] for name, values in everything.items()}
        columns = tx.data.tabular_columns(train, numbers=NUMBERS, categories=CATEGORIES)
        pair = [embedder.encode(train["text"]), of_test]
        found = {
            "columns, gradient boosting": boosted(train, test, seed=seed),
            "columns and embeddings, gradient boosting": boosted(train, test, pair, seed),
        }
        for way in ("probe", "fine-tuned"):
            for name, given in (("text", {}), ("text and columns", columns)):
                print(f"seed {seed}: {name}, {way}", flush=True)
                model, found[f"{name}, {way}"] = trained(arguments, train, test, given, way, seed)
        for name, probabilities in found.items():
            results.setdefault(name, []).append(scores(probabilities, truth))

    print(f"\n{arguments.rows} rows to train on, {len(truth)} to test, of which {truth.mean():.3f} are recommended")
    print(f"{'':44}{'accuracy':>10}{'AUC':>16}")
    for name, found in results.items():
        aucs = [each["auc"] for each in found]
        spread = f" ± {statistics.stdev(aucs):.3f}" if len(aucs) > 1 else ""
        accuracy = statistics.fmean(each["accuracy"] for each in found)
        print(f"{name:44}{accuracy:10.3f}{statistics.fmean(aucs):8.3f}{spread:>8}")
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    path = tx.export.saved_model(model, arguments.folder, keep=1)
    served = tf.saved_model.load(path).signatures["serving_default"]
    rows = {name: test[name][:4] for name in ("text", *columns)}
    given = {
        # An input cannot be named after a Python keyword: the column "class" is the input "class_".
        "class_" if name == "class" else name: tf.constant(list(map(float, values)) if name in NUMBERS else values)
        for name, values in rows.items()
    }
    print("from the export:", [name.decode() for name in served(**given)["labels"][:, 0].numpy()], end=", ")
    print("in Python:", model.classify(rows).labels)


if __name__ == "__main__":
    main()
