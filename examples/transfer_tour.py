"""Compares the ways to transfer with plain fine-tuning and the frozen probe, on the same rows for the same epochs.

    python examples/transfer_tour.py --data data

`--data` is a directory with the data sets banking77, clothing_reviews, goemotions, nli (train.tsv, test.tsv) and wnut17
(train.conll, test.conll). Scores: accuracy (banking77, nli), the area under the ROC curve (clothing_reviews: whether
the garment is recommended), mean average precision over all labels and rows (goemotions), F1 of whole entities
(wnut17). Seconds include training and everything before it; the last column is the number of weights trained.

The whole table takes hours. It is filled cell by cell in `--output`; cells that are there are not computed again:

    python examples/transfer_tour.py --data data --sets banking77 --seeds 0
    python examples/transfer_tour.py --data data

The table shows every way, whether it wins or loses against plain fine-tuning. A dash marks a way that does not apply.
"""

import argparse
import collections
import json
import math
import pathlib
import random
import statistics
import time

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras
import sklearn.metrics

BATCH_SIZE, LENGTH = 16, 64
NUMBERS, CATEGORIES = ["age", "positive_feedback_count"], ["division", "department", "class"]

Rows = collections.namedtuple("Rows", ["x", "y"])
# The input of a way: the data set, its training rows, up to 2,000 of its texts, the arguments, and the seed.
Job = collections.namedtuple("Job", ["kind", "train", "texts", "arguments", "seed"])


class Labels:
    """A data set with one label per row; `name` is the score."""

    task = tx.models.TextClassifier
    multi_label = False

    def __init__(self, folder, text, label, name="accuracy"):
        self.folder, self.text, self.label, self.name = folder, text, label, name

    def read(self, split):
        """Returns the rows of a split, without those that have no text."""
        rows = tx.data.read(self.folder / f"{split}.tsv")
        found = [(self.text(row), self.label(row)) for row in rows]
        return Rows(*map(list, zip(*(pair for pair in found if pair[0]), strict=True)))

    def labels(self, rows):
        """Returns the names of the classes."""
        return sorted({name for y in rows.y for name in (y if self.multi_label else [y])})

    def options(self, job):
        """Returns the arguments of a model for the rows."""
        return {"labels": self.labels(self.read("train")), "multi_label": self.multi_label, "sequence_length": LENGTH}

    def x(self, rows):
        """Returns the texts, or pairs as two columns."""
        return tuple(map(list, zip(*rows.x, strict=True))) if isinstance(rows.x[0], tuple) else rows.x

    def fit(self, model, rows, **options):
        """Trains a model on rows."""
        return model.fit(self.x(rows), rows.y, **options)

    def score(self, model, rows):
        """Returns the score of a model on rows."""
        if self.name == "accuracy":  # by name: a small sample may lack a class
            found = model.classify(self.x(rows)).labels
            return statistics.fmean(name == y for name, y in zip(found, rows.y, strict=True))
        logits = model.predict(self.x(rows), verbose=0)
        truth = model.read_targets(rows.y)
        if self.multi_label:
            return float(sklearn.metrics.average_precision_score(truth, logits, average="micro"))
        return float(sklearn.metrics.roc_auc_score(truth, logits[:, 1] - logits[:, 0]))


class SeveralLabels(Labels):
    """A data set with any number of labels per row."""

    multi_label = True


class Entities:
    """A data set of sentences with entities."""

    task, name = tx.models.TokenTagger, "span F1"

    def __init__(self, folder):
        self.folder = folder

    def read(self, split):
        """Returns the sentences of a split."""
        rows = tx.data.read_conll(self.folder / f"{split}.conll")
        return Rows(list(rows["words"]), list(rows["tags"]))

    def options(self, job):
        """Returns the arguments of a tagger."""
        tags = tx.data.tag_names({"tags": self.read("train").y})
        return {"tags": tags, "sequence_length": LENGTH}

    def x(self, rows):
        """Returns the words of each sentence."""
        return rows.x

    fit = Labels.fit

    def score(self, model, rows):
        """Returns the F1 of whole entities."""
        examples = tx.data.tagged({"words": rows.x, "tags": rows.y}, labels=model.tags)
        return float(tx.evaluation.entities(model, examples)["micro_f1"])


def data_sets(folder):
    """Returns the data sets of the tour by name."""
    return {
        "banking77": Labels(folder / "banking77", lambda row: row["text"], lambda row: row["label"]),
        "clothing_reviews": Labels(
            folder / "clothing_reviews", lambda row: row["review"], lambda row: row["recommended"], "AUC"
        ),
        "goemotions": SeveralLabels(
            folder / "goemotions", lambda row: row["text"], lambda row: row["labels"].split(), "average precision"
        ),
        "nli": Labels(folder / "nli", lambda row: (row["premise"], row["hypothesis"]), lambda row: row["label"]),
        "wnut17": Entities(folder / "wnut17"),
    }


# === Ways ===


def made(job, start=None, **options):
    """Returns a model with a new head for the rows of a job, on a preset or on a copy of a trained model."""
    arguments = {**job.kind.options(job), **options}
    if start is None:
        return job.kind.task.from_preset(job.arguments.preset, **arguments)
    arguments.pop("sequence_length")
    return job.kind.task.from_model(start, backbone_only=True, **arguments)


def trained(job, model, optimizer="auto", **options):
    """Compiles and trains a model with the budget that all ways share."""
    model.compile(optimizer)
    settings = {"batch_size": BATCH_SIZE, "epochs": job.arguments.epochs, "seed": job.seed, "verbose": 0}
    job.kind.fit(model, job.train, **{**settings, **options})
    return model


def has_classes(job):
    """Whether each row is a single text with one label."""
    return type(job.kind) is Labels and isinstance(job.train.x[0], str)


def probe(job):
    """Fits a regression on the features of the frozen encoder."""
    model = made(job)
    model.backbone.trainable = False
    tx.freezing.probe(model, job.kind.x(job.train), job.train.y)
    return model


def plain(job):
    """Trains all layers from a random head."""
    model = made(job)
    return trained(job, model, tx.optimizers.AdamW(1e-4))


def recipe(job):
    """Trains with the defaults of `compile` and `fit`: the head starts as the probe."""
    return trained(job, made(job))


def upper_layers(job):
    """Freezes the lower two thirds of the layers."""
    model = made(job)
    tx.freezing.freeze(model, below=model.backbone.num_layers * 2 // 3)
    return trained(job, model)


def thawed(job):
    """Unfreezes one group after the other from the output back, down to the middle."""
    model = made(job)
    lowest = f"block_{model.backbone.num_layers // 2}"
    return trained(job, model, callbacks=[tx.callbacks.GradualUnfreezing(lowest=lowest)])


def adapters(job):
    """Trains low-rank adapters and the head."""
    model = made(job)
    tx.freezing.add_lora(model, rank=8)
    return trained(job, model, tx.optimizers.Auto(1e-3))


def connected(job):
    """Trains with a head that reads every block."""
    if job.kind.task is not tx.models.TextClassifier:
        return None
    head = tx.layers.DenselyConnectedHead(len(job.kind.options(job)["labels"]))
    return trained(job, made(job, head=head))


def convolved(job):
    """Trains with a head of convolutions over the states of the tokens."""
    if job.kind.task is not tx.models.TextClassifier:
        return None
    return trained(job, made(job, head=tx.layers.SeparableConvHead(len(job.kind.options(job)["labels"]))))


def transitions(job):
    """Trains with a head that scores which tags follow each other."""
    return trained(job, made(job, head="crf")) if job.kind.task is tx.models.TokenTagger else None


def masked(job):
    """Continues pretraining on the data set's own texts first."""
    filler = tx.models.MaskedLanguageModel.from_preset(job.arguments.preset, sequence_length=LENGTH)
    filler.compile()
    filler.fit(job.texts, batch_size=32, epochs=1, seed=job.seed, verbose=0)
    return trained(job, made(job, filler))


def twice(job):
    """Trains a sentence encoder first, on each text encoded twice with different dropout."""
    embedder = tx.models.TextEmbedder.from_preset(job.arguments.preset, sequence_length=LENGTH)
    tx.models.simcse(embedder, job.texts, seed=job.seed, verbose=0)
    return trained(job, made(job, embedder))


def other_task(job):
    """Returns a job of another task: banking77, or goemotions if the task is banking77."""
    sets = data_sets(job.arguments.data)
    other = sets["goemotions" if job.kind.folder.name == "banking77" else "banking77"]
    rows = taken(other.read("train"), job.arguments.rows, job.seed)
    return job._replace(kind=other, train=rows)


def from_other(job):
    """Trains task A first, then task B on A's encoder."""
    return trained(job, made(job, recipe(other_task(job))))


def together(job):
    """Trains both tasks on one encoder."""
    other = other_task(job)
    model = made(job)
    beside = other.kind.task.from_model(model, share_backbone=True, backbone_only=True, **without_length(other))
    multi = tx.models.MultiTask({"own": model, "other": beside})
    for each in multi.tasks.values():
        each.compile()
    multi.compile()
    x = {"own": (job.kind.x(job.train), job.train.y), "other": (other.kind.x(other.train), other.train.y)}
    multi.fit(x, batch_size=BATCH_SIZE, epochs=job.arguments.epochs, seed=job.seed, verbose=0)
    return multi["own"]


def without_length(job):
    """Returns the arguments of a model for an existing backbone."""
    options = job.kind.options(job)
    del options["sequence_length"]
    return options


def augmented(job):
    """Trains on texts that are changed in each epoch."""
    if job.kind.task is tx.models.TokenTagger:
        change = tx.augmentation.ReplaceMentions.from_rows(job.train.x, job.train.y)
    else:
        change = tx.augmentation.OneOf([tx.augmentation.Delete(), tx.augmentation.Swap(), tx.augmentation.Typos()])
    return trained(job, made(job), augment=change)


def mixed_up(job):
    """Trains on mixed logits and targets of two rows."""
    return trained(job, made(job, mixup=0.2)) if type(job.kind) is Labels else None


def contrastive(job):
    """Trains the encoder to tell which texts share a label, then fits a regression."""
    if not has_classes(job):
        return None
    options = {"way": "setfit", "seed": job.seed, "sequence_length": LENGTH}
    return tx.models.few_shot(job.arguments.preset, job.train.x, job.train.y, num_pairs=5, **options)


WAYS = {
    "frozen probe": probe,
    "plain fine-tuning": plain,
    "probe, then fine-tuning (the default)": recipe,
    "upper third of the layers": upper_layers,
    "gradual unfreezing": thawed,
    "adapters (LoRA)": adapters,
    "dense connections to all layers": connected,
    "separable convolutions for a head": convolved,
    "conditional random field for a head": transitions,
    "masked language model on its texts first": masked,
    "texts twice (SimCSE) first": twice,
    "another task first": from_other,
    "another task alongside": together,
    "augmentation": augmented,
    "mixup": mixed_up,
    "contrastive pairs first (SetFit)": contrastive,
}


# === Table ===


def taken(rows, count, seed):
    """Returns a random sample of rows, fixed by a seed."""
    order = random.Random(seed).sample(range(len(rows.x)), min(count, len(rows.x)))
    return Rows(*([values[i] for i in order] for values in rows))


def run(way, name, kind, seed, arguments):
    """Computes a cell and returns it as a dict."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    everything = kind.read("train")
    texts = [" ".join(x) if isinstance(x, (tuple, list)) else x for x in taken(everything, 2000, 0).x]
    job = Job(kind, taken(everything, arguments.rows, seed), texts, arguments, seed)
    start, cpu_start = time.perf_counter(), time.process_time()
    model = WAYS[way](job)
    cell = {"set": name, "way": way, "seed": seed, "rows": len(job.train.x), "epochs": arguments.epochs}
    if model is None:
        return {**cell, "score": None}
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    weights = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    score = kind.score(model, taken(kind.read("test"), arguments.test_rows, 0))
    return {**cell, "score": score, "seconds": seconds, "cpu_seconds": cpu_seconds, "trainable": weights}


def show(cells, sets):
    """Prints the table of mean scores and mean seconds, and the mean number of trained weights over all sets."""
    print(f"\n{'':42}" + "".join(f"{name:>20}" for name in sets) + f"{'trained':>12}")
    print(f"{'':42}" + "".join(f"{kind.name:>20}" for kind in sets.values()) + f"{'weights':>12}")
    for way in WAYS:
        line = f"{way:42}"
        for name in sets:
            found = [each for each in cells if (each["set"], each["way"]) == (name, way)]
            scores = [each["score"] for each in found if each["score"] is not None]
            if scores:
                spread = f"±{statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
                seconds = statistics.fmean(each["seconds"] for each in found)
                line += f"{statistics.fmean(scores):.3f}{spread} {seconds:4.0f} s".rjust(20)
            else:
                line += ("-" if found else "").rjust(20)
        sizes = [each["trainable"] for each in cells if each["way"] == way and each["score"] is not None]
        print(line + (f"{statistics.fmean(sizes):12,.0f}" if sizes else ""))


def main():
    """Fills the table and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="directory of the data sets")
    parser.add_argument("--preset", default="all_minilm_l6_v2", help="pretrained encoder")
    parser.add_argument("--sets", nargs="+", help="data sets; default: all")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=400, help="number of training rows")
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/transfer_tour.json"))
    arguments = parser.parse_args()

    sets = data_sets(arguments.data)
    sets = {name: sets[name] for name in arguments.sets or sets}
    cells = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.exists() else []
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for name, kind in sets.items():
            for way in arguments.ways:
                key = {"set": name, "way": way, "seed": seed}
                if any(key.items() <= cell.items() for cell in cells):
                    continue
                cells.append(run(way, name, kind, seed, arguments))
                print(cells[-1], flush=True)
                part = arguments.output.with_suffix(".part")
                part.write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
                part.replace(arguments.output)
    show(cells, sets)


if __name__ == "__main__":
    main()
