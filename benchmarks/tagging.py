"""Tagging WNUT17: step time, sentences per second and quality, against a plain KerasHub backbone with a dense layer.

    python benchmarks/tagging.py --data ../shared/data            # steps and sentences
    python benchmarks/tagging.py --data ../shared/data --quality  # trains the baseline for five epochs, three seeds

The baseline follows Keras's own tutorials: `keras_hub.models.BertBackbone` with the same weights, a dense layer on
every token, the tag on the first piece of each word, batches of random rows padded to their longest, AdamW (5e-5,
warm-up and linear decay), the likeliest tag of each word.

Steps: 32 rows of exactly 64 tokens, without padding; a linear head, a CRF, and the baseline in turn. Sentences:
WNUT17's test rows, from words to tags. The encoder is the upper bound: `encoder` is `tagger.predict`.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import json
import time
import types

import tfxfer as tx

# isort: split
import keras
import keras_hub
import numpy as np
import tensorflow as tf

from benchmarks import _harness
from benchmarks.encode import weights_folder

LENGTH, ROWS, BATCH_SIZE = 64, 32, 16
BASELINE = "KerasHub and a dense layer"


class Baseline:
    """A KerasHub backbone with a dense layer on every token."""

    def __init__(self, folder, tags):
        self.tags = tags
        self._tokenizer = keras_hub.models.BertTokenizer.from_preset(folder)
        backbone = keras_hub.models.BertBackbone.from_preset(folder)
        outputs = keras.layers.Dropout(0.1)(backbone.output["sequence_output"])
        self.model = keras.Model(backbone.input, keras.layers.Dense(len(tags), dtype="float32")(outputs))

    def compile(self, steps):
        """Compiles for the given total number of steps."""
        rate = tx.schedules.warmup_linear(5e-5, steps) if steps > 1 else 5e-5
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), loss)

    def pieces(self, rows):
        """Returns the ids of each word of each row, truncated to 126 pieces."""
        words = sorted({word for row in rows for word in row})
        ids = dict(zip(words, (np.asarray(each).tolist() for each in self._tokenizer(words)), strict=True))
        return [[ids[word] for word in row] for row in rows]

    def batch(self, pieces, tags=None):
        """Returns the model's inputs, the position of each word's first piece, and targets with their weights."""
        rows = []
        for row in pieces:
            tokens, firsts = [self._tokenizer.cls_token_id], []
            for word in row:
                fits = word and len(tokens) + len(word) <= 127
                firsts.append(len(tokens) if fits else -1)
                tokens += word if fits else []
            rows.append(([*tokens, self._tokenizer.sep_token_id], firsts))
        length = max(len(tokens) for tokens, _ in rows)
        ids = np.zeros((len(rows), length), "int32")
        y, weights = np.zeros(ids.shape, "int32"), np.zeros(ids.shape, "float32")
        for i, (tokens, firsts) in enumerate(rows):
            ids[i, : len(tokens)] = tokens
            for place, first in enumerate(firsts):
                if tags is not None and first >= 0:
                    y[i, first], weights[i, first] = self.tags.index(tags[i][place]), 1.0
        lengths = np.array([len(tokens) for tokens, _ in rows])[:, None]
        mask = (np.arange(length) < lengths).astype("int32")
        x = {"token_ids": ids, "padding_mask": mask, "segment_ids": np.zeros_like(ids)}
        return x, [firsts for _, firsts in rows], y, weights

    def tag(self, rows):
        """Returns the likeliest tag of each word; rows are sorted by length and padded to the longest of a batch."""
        pieces = self.pieces(rows)
        order = sorted(range(len(rows)), key=lambda i: -sum(map(len, pieces[i])))
        found = {}
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            x, firsts, _, _ = self.batch([pieces[i] for i in chosen])
            best = np.asarray(self.model.predict_on_batch(x)).argmax(axis=-1)
            for i, places, row in zip(chosen, firsts, best, strict=True):
                found[i] = [self.tags[row[place]] if place >= 0 else "O" for place in places]
        return [found[i] for i in range(len(rows))]

    def fit(self, words, tags, epochs, seed):
        """Trains on random batches."""
        pieces, order = self.pieces(words), np.random.default_rng(seed)
        self.compile(epochs * -(-len(words) // BATCH_SIZE))
        for _ in range(epochs):
            rows = order.permutation(len(words))
            for start in range(0, len(rows), BATCH_SIZE):
                chosen = rows[start : start + BATCH_SIZE]
                x, _, y, weights = self.batch([pieces[i] for i in chosen], [tags[i] for i in chosen])
                self.model.train_on_batch(x, y, sample_weight=weights)


def side(run, rows):
    """Returns one side of `_harness.alternate` in this process, which repeats `run` for some seconds."""

    def ask(seconds):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            run()
            count += rows
        return {"rows": count, "seconds": time.perf_counter() - start}

    run()
    return types.SimpleNamespace(ask=ask)


def steps(folder, taggers, words, tags):
    """Measures the rows per second of a training step at equal shapes."""
    whole = [word for row in words for word in row if word.isascii() and word.isalpha()]
    baseline = Baseline(folder, tags)
    single = [word for word, [pieces] in zip(whole, baseline.pieces([[word] for word in whole]), strict=True)
              if len(pieces) == 1]  # fmt: skip
    rng = np.random.default_rng(0)
    rows = [[single[i] for i in rng.integers(len(single), size=LENGTH - 2)] for _ in range(ROWS)]
    targets = [["O"] * (LENGTH - 2)] * ROWS
    baseline.compile(1)
    x, _, y, weights = baseline.batch(baseline.pieces(rows), targets)
    sides = {BASELINE: side(lambda: baseline.model.train_on_batch(x, y, sample_weight=weights), ROWS)}
    for name, tagger in taggers.items():
        tagger.compile()
        batch = next(iter(tagger_batches(tagger, rows, targets)))
        sides[name] = side(lambda tagger=tagger, batch=batch: keras.Model.train_on_batch(tagger, *batch), ROWS)
    return sides


def tagger_batches(tagger, rows, tags):
    """Returns batches of ids and targets, as made by `fit`."""
    examples = tx.data.tagged({"words": rows, "tags": tags}, labels=tagger.tags)
    gate = tx.data.Gate(tagger)
    return gate.ready(tx.data.batches(examples, tagger, len(rows), shuffle=False), True)


def train_baseline(folder, tags, train, test, seeds):
    """Trains the baseline with each seed and adds the scores to the file with the speeds."""
    path = _harness.RESULTS / "tagging.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    result["quality"] = []
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        baseline = Baseline(folder, tags)
        start = time.perf_counter()
        baseline.fit(list(train["words"]), list(train["tags"]), epochs=5, seed=seed)
        seconds = time.perf_counter() - start
        found = tx.evaluation.entity_scores(list(test["tags"]), baseline.tag(list(test["words"])), scheme="IOB2")
        result["quality"].append({"seed": seed, "test_f1": found["micro_f1"], "seconds": seconds})
        print(
            f"{BASELINE}, seed {seed}: test F1 {found['micro_f1']:.4f} after five epochs in {seconds:.0f} s", flush=True
        )
    path.write_text(json.dumps(result, indent=2) + "\n")


def main():
    """Measures, prints tables and writes `results/tagging.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a slice")
    parser.add_argument("--quality", action="store_true", help="only train the baseline, for five epochs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the trainings")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(_harness.THREADS)
    train, test = (tx.data.read_conll(arguments.data / "wnut17" / f"{name}.conll") for name in ("train", "test"))
    tags, folder = tx.data.tag_names(train), weights_folder()
    if arguments.quality:
        return train_baseline(folder, tags, train, test, arguments.seeds)
    taggers = {
        f"tfxfer, {head}": tx.models.TokenTagger.from_preset(
            "all_minilm_l6_v2", tags=tags, head=head, sequence_length=128
        )
        for head in ("linear", "crf")
    }
    ask = lambda turn, name: {"seconds": arguments.seconds}  # noqa: E731
    result = {}

    answers = _harness.alternate(steps(folder, taggers, train["words"], tags), ask, arguments.rounds)
    result["steps"] = _harness.compare(answers, "tfxfer, linear")
    _harness.show(f"training, rows a second: {ROWS} rows of {LENGTH} tokens", result["steps"])

    rows = list(test["words"])
    baseline = Baseline(folder, tags)
    sides = {BASELINE: side(lambda: baseline.tag(rows), len(rows))}
    sides["encoder"] = side(lambda: taggers["tfxfer, linear"].predict(rows, verbose=0), len(rows))
    for name, tagger in taggers.items():
        sides[name] = side(lambda tagger=tagger: tagger.tag(rows), len(rows))
    texts = [" ".join(row) for row in rows]
    sides["tfxfer, crf, extract"] = side(lambda: taggers["tfxfer, crf"].extract(texts), len(rows))
    result["sentences"] = _harness.compare(_harness.alternate(sides, ask, arguments.rounds), BASELINE)
    _harness.show("WNUT17's test rows, sentences a second from words to tags", result["sentences"])

    _harness.write("tagging", result, [])


if __name__ == "__main__":
    main()
