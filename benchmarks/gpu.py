"""On a GPU: encoding and training with Keras's JAX backend against sentence-transformers on PyTorch, on one card.

encode: vectors per second for 16,384 short texts, from token ids: copies to the card and back are timed, the tokenizer
    is not, on both sides. Rows are sorted by length. tfxfer pads a batch to one of nine lengths, so that XLA compiles
    a handful of shapes, which are counted; sentence-transformers pads to the longest row.
pairs: a step of in-batch softmax (multiple negatives ranking) on pairs of texts, 32 tokens each including padding.
classes: a step of a classifier with a linear head on mean pooling, 32 tokens per text.
memory: a step of in-batch softmax on 4,096 pairs in one pass and in chunks: the peak memory of the card.
vectors: the same weights and ids on the card and on a CPU.

The encoders have the sizes of MiniLM (all-MiniLM-L6-v2) and BERT-base with random weights, the same on both sides.
float32 means TensorFloat-32 in matrix products on both sides, JAX's default; bfloat16 is `mixed_bfloat16` against
bfloat16 weights (encode) and autocast (training). AdamW, PyTorch's fused one; dropout on.

Two steps, because the token ids come from TensorFlow, which the machine with the card does not need:

    python benchmarks/gpu.py --make-rows rows.npz --data DIR --vectors
    python benchmarks/gpu.py --rows rows.npz --torch-python .venv-bench/bin/python

Without a GPU, the second step runs on the CPU, where its figures mean nothing; `--sizes tiny` makes that short.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time

import numpy as np

from benchmarks import _gpu_rows, _harness

OURS, THEIRS = "tfxfer", "sentence-transformers"
PARTS = ("encode", "pairs", "classes")
CHECKED = 256  # rows whose vectors are compared
TEXTS = 16384


def make_rows(arguments):
    """Writes the data sets' token ids from tfxfer's own tokenizer, and float32 vectors of the first rows."""
    import tfxfer as tx
    from benchmarks.encode import weights_folder

    preprocessor = tx.preprocessing.TextPreprocessor(
        tx.preprocessing.Tokenizer.from_folder(weights_folder()), sequence_length=_gpu_rows.LENGTHS[-1]
    )
    longest = _gpu_rows.LENGTHS[-1]

    def ids(texts):
        found = np.zeros((len(texts), longest), "int32")
        for start in range(0, len(texts), 4096):
            packed = np.asarray(preprocessor(texts[start : start + 4096])["token_ids"])
            found[start : start + len(packed), : packed.shape[1]] = packed
        return found

    banking = _harness.read_tsv(arguments.data / "banking77" / "train.tsv")
    triplets = _harness.read_tsv(arguments.data / "nli_triplets" / "train.tsv")
    names = sorted({row["label"] for row in banking})
    texts = [row["text"] for row in banking]
    columns = [[row[name] for row in triplets] for name in ("anchor", "positive")]
    texts = [*texts, *columns[0], *columns[1]][:TEXTS]
    rows = {
        "texts": texts,
        "ids": ids(texts),
        "pairs": np.stack([ids(column) for column in columns], axis=1),
        "labels": np.asarray([names.index(row["label"]) for row in banking], "int32"),
    }
    if arguments.vectors:
        for size in arguments.sizes[:1]:
            rows[f"vectors_{size}"] = processor_vectors(size, rows["ids"][:CHECKED])
    _gpu_rows.write_rows(arguments.make_rows, rows)
    print(f"written: {arguments.make_rows}, {len(texts)} texts, {len(columns[0])} pairs, {len(banking)} labeled texts")


def processor_vectors(size, ids):
    """Returns the vectors of ids on a CPU, in float32."""
    import tfxfer as tx
    from tfxfer.backbones._presets import read_backbone

    with tempfile.TemporaryDirectory() as folder:
        _gpu_rows.write_checkpoint(f"{folder}/model", size)
        embedder = tx.models.TextEmbedder(read_backbone(pathlib.Path(folder, "model")), pooling="mean", normalize=True)
    inputs = {"token_ids": ids, "padding_mask": (ids > 0).astype("int32"), "segment_ids": 0 * ids}
    return np.concatenate(
        [
            embedder.predict_on_batch({name: value[i : i + 64] for name, value in inputs.items()})
            for i in range(0, len(ids), 64)
        ]
    )


class Run:
    """The two sides, and the record that is filled cell by cell."""

    def __init__(self, arguments, folder):
        self.arguments = arguments
        self.start = time.perf_counter()
        # Parts that are not measured now keep their figures in the file.
        file = arguments.results / "gpu.json"
        previous = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        kept = {name: value for name, value in previous.items() if name not in ("date", "machine", "versions")}
        self.record = {"cells": [], **kept, "skipped": []}
        folders = {}
        for size in arguments.sizes:
            folders[size] = f"{folder}/{size}"
            _gpu_rows.write_checkpoint(folders[size], size, arguments.tokenizer)
        setup = {"rows": str(arguments.rows.resolve()), "folders": folders, "cpu": arguments.cpu}
        environment = {
            # Both sides share one card: neither may allocate all of it.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "CUDA_VISIBLE_DEVICES": "-1" if arguments.cpu else os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
            **({"JAX_PLATFORMS": "cpu"} if arguments.cpu else {}),
        }
        sides = {OURS: (sys.executable, "_gpu_keras_worker")}
        if arguments.torch_python is not None:
            sides[THEIRS] = (arguments.torch_python, "_gpu_torch_worker")
        self.sides = {}
        for name, (python, module) in sides.items():  # both start before waiting for either
            self.sides[name] = _harness.Worker(name, python, module, setup, environment=environment, wait=False)
        for worker in self.sides.values():
            worker.ready()
        self.record["devices"] = {name: worker.facts["device"] for name, worker in self.sides.items()}
        self.say(f"ready: {self.record['devices']}")

    def say(self, line):
        """Prints a line with the seconds since the start."""
        print(f"[{time.perf_counter() - self.start:6.1f}] {line}", flush=True)

    def is_late(self, what):
        """Whether the time is up; notes the skipped part."""
        late = time.perf_counter() - self.start > self.arguments.seconds
        if late:
            self.record["skipped"].append(what)
            self.say(f"left out, the time is up: {what}")
        return late

    def ask(self, name, **request):
        """Asks one side; an error is an answer too."""
        answer = self.sides[name].ask(**request)
        if "error" in answer:
            self.say(f"{name}: {request}: {answer['error']}")
        return answer

    def write(self):
        """Writes the results so far."""
        record = {**self.record, "seconds": round(time.perf_counter() - self.start, 1)}
        _harness.write("gpu", record, self.sides.values(), self.arguments.results, quiet=True)

    # === Parts ===

    def measure(self, group, cells):
        """Prepares the cells of a group on both sides at once, then measures them in turn."""
        for name, worker in self.sides.items():
            worker.start(do="prepare", cells=[cell for cell in cells if name in _sides_of(cell)])
        for name, worker in self.sides.items():
            answer = worker.finish()
            self.say(f"prepared {name}: {answer}")
            if name == OURS:
                self.record.setdefault("prepared", {})[group] = answer
        for cell in cells:
            if self.is_late(cell):
                continue
            found = self.cell(cell)
            self.record["cells"] = [each for each in self.record["cells"] if each["cell"] != cell] + [found]
            self.write()

    def cell(self, cell):
        """Measures one cell: alternating slices of equal duration."""
        names = [name for name in self.sides if name in _sides_of(cell)]
        repeats, answers, found = {}, {name: [] for name in names}, {"cell": cell}
        if os.environ.get("XLA_FLAGS"):
            found["xla_flags"] = os.environ["XLA_FLAGS"]
        for name in names:
            first = self.ask(name, do="slice", cell=cell, repeats=1)
            first = self.ask(name, do="slice", cell=cell, repeats=3) if "error" not in first else first
            if "error" in first:
                found[name] = first
                continue
            repeats[name] = max(1, min(1000, round(3 * self.arguments.slice / first["seconds"])))
        for turn in range(self.arguments.rounds):
            for name in list(repeats)[:: 1 if turn % 2 else -1]:
                answers[name].append(self.ask(name, do="slice", cell=cell, repeats=repeats[name]))
        for name in repeats:
            rates = [_harness.rate(answer) for answer in answers[name]]
            found[name] = {
                "rows_per_second": round(statistics.median(rates), 1),
                "ms_a_batch": round(1000 * cell["batch"] / statistics.median(rates), 3),
                "loss": answers[name][-1].get("loss"),
            }
        if OURS in repeats:
            facts = self.ask(OURS, do="facts", cell=cell)
            found[OURS] |= facts
            rate = facts.get("gflop_a_row", 0) * found[OURS]["rows_per_second"] / 1000
            found[OURS]["tflops_a_second"] = round(rate, 1)
        if len(repeats) == 2:
            ratios = [_harness.rate(a) / _harness.rate(b) for a, b in zip(answers[OURS], answers[THEIRS], strict=True)]
            found |= {"ratio": round(statistics.median(ratios), 3)}
            found |= {"p10": round(_harness.quantile(ratios, 0.1), 3), "p90": round(_harness.quantile(ratios, 0.9), 3)}
        rates = "  ".join(f"{name} {found[name].get('rows_per_second', 'failed')}" for name in names)
        self.say(f"{_title(cell)}: {rates}  ratio {found.get('ratio', '')}")
        return found

    def note(self, key, names=None, **request):
        """Records the answers to one request."""
        self.record[key] = {name: self.ask(name, **request) for name in names or self.sides}
        self.say(f"{key}: {json.dumps(self.record[key])[:3000]}")

    def profiles(self):
        """Records the kernels of an encoding slice and a training slice, for the first size in bfloat16."""
        batch = sorted(self.arguments.batches)[len(self.arguments.batches) // 2]
        self.record["profiles"] = []
        for cell in cells_of(self.arguments.sizes[0], "bfloat16", [batch], ("encode", "pairs")):
            self.ask(OURS, do="prepare", cells=[cell])
            self.ask(OURS, do="slice", cell=cell, repeats=1)
            save = str(_harness.LOGS / f"gpu_{cell['part']}.hlo")
            answer = self.ask(OURS, do="profile", cell=cell, repeats=3, save=save)
            self.record["profiles"].append({"cell": cell, **answer})
            self.say(f"profile {_title(cell)}: {answer.get('device_ms')} ms on the device in {answer.get('seconds')} s")

    def vectors(self, folder):
        """Compares the vectors of the first rows: the card with a CPU, and the sides with each other."""
        rows = _gpu_rows.read_rows(self.arguments.rows)
        found = []
        for size in self.arguments.sizes[:1]:
            made = {}
            kinds = [("float32", None), ("float32", "highest"), ("bfloat16", None)]
            for name in self.sides:
                for dtype, precision in kinds:
                    file = f"{folder}/vectors.npy"
                    answer = self.ask(
                        name, do="vectors", size=size, dtype=dtype, precision=precision, count=CHECKED, save=file
                    )
                    if "error" not in answer:
                        made[f"{name} {dtype} {precision or 'default'}"] = np.load(file)
            reference = rows.get(f"vectors_{size}", made.get(f"{OURS} float32 highest"))
            for kind, vectors in made.items():
                cosine = (vectors * reference).sum(axis=1) / np.linalg.norm(vectors, axis=1)
                found.append(
                    {
                        "size": size,
                        "kind": kind,
                        "to": "a processor" if f"vectors_{size}" in rows else f"{OURS} float32 highest",
                        "largest_difference": float(np.abs(vectors - reference).max()),
                        "lowest_cosine": float(cosine.min()),
                        "mean_cosine": float(cosine.mean()),
                    }
                )
                self.say(f"vectors {found[-1]}")
        self.record["vectors"] = found
        self.write()

    def memory(self):
        """Measures a step of in-batch softmax on the largest batch, in chunks and in one pass."""
        size, batch, chunk = self.arguments.sizes[0], max(self.arguments.batches), self.arguments.chunk
        self.record["memory"] = []
        for name in self.sides:
            for each in (chunk, None):
                if name == THEIRS:
                    self.ask(name, do="forget")
                cell = {"part": "pairs", "size": size, "dtype": "bfloat16", "batch": batch}
                cell |= {"chunk": each} if each else {}
                if self.is_late(("memory", name, cell)):
                    continue
                answer = self.ask(name, do="memory", cell=cell, steps=3)
                self.record["memory"].append({"side": name, "cell": cell, **answer})
                self.say(f"memory {name} {cell}: {answer}")
                self.write()


def _title(cell):
    """Formats a cell in one line."""
    further = [name for name in ("texts", "compiled") if cell.get(name)]
    further += [cell["prng"]] if cell.get("prng") else []
    further += [] if cell.get("dropout", True) else ["no dropout"]
    return " ".join([cell["part"], cell["size"], cell["dtype"], str(cell["batch"]), *further])


def _sides_of(cell):
    """Returns the sides of a cell: some settings exist in only one library."""
    if cell.get("texts") or cell.get("compiled"):
        return (THEIRS,)
    return (OURS,) if cell.get("prng") else (OURS, THEIRS)


def cells_of(size, dtype, batches, parts=PARTS, **further):
    """Returns the cells of a size and a dtype."""
    return [
        {"part": part, "size": size, "dtype": dtype, "batch": batch, **further} for part in parts for batch in batches
    ]


def show(record):
    """Prints the table of cells."""
    names = ("tfxfer/s", "theirs/s", "ratio", "p10", "p90", "TFLOP/s", "shapes")
    print("\n" + " " * 44 + " {:>10} {:>10} {:>6} {:>6} {:>6} {:>8} {:>6} fused".format(*names))
    for each in record["cells"]:
        ours, theirs = each.get(OURS, {}), each.get(THEIRS, {})
        print(
            f"{_title(each['cell']):44} {ours.get('rows_per_second', ''):>10} {theirs.get('rows_per_second', ''):>10} "
            f"{each.get('ratio', ''):>6} {each.get('p10', ''):>6} {each.get('p90', ''):>6} "
            f"{ours.get('tflops_a_second', ''):>8} {ours.get('shapes', ''):>6} {ours.get('fused_attention', '')}"
        )


def cell_groups(arguments):
    """Returns the groups of cells by name, the most informative first."""
    groups = {}
    for dtype, size, part in itertools.product(("bfloat16", "float32"), arguments.sizes, PARTS):
        # The activations that a pass over a large encoder keeps for its gradients must fit on the card.
        most = 1024 if size == "bert_base" and part != "encode" else max(arguments.batches)
        batches = [each for each in arguments.batches if each <= most]
        groups[f"{part}_{size}_{dtype}"] = cells_of(size, dtype, batches, (part,))
    for size in arguments.sizes:
        middle = sorted(arguments.batches)[len(arguments.batches) // 2 :][:1]
        groups[f"texts_{size}"] = cells_of(size, "bfloat16", arguments.batches, ("encode",), texts=True)
        groups[f"dropout_{size}"] = [
            *cells_of(size, "bfloat16", middle, ("pairs",), dropout=False),
            *cells_of(size, "bfloat16", middle, ("pairs",), prng="philox4x32"),
        ]
        groups[f"compiled_{size}"] = cells_of(size, "bfloat16", middle, ("pairs",), compiled=True)
    return groups


def selected(name, groups):
    """Returns the cells of `"pairs_minilm_float32"`, `"pairs_minilm_float32:64,1024"`, or several joined by +."""
    cells = []
    for each in name.split("+"):
        group, _, batches = each.partition(":")
        if group not in groups:
            raise SystemExit(f"no such group: {group}; there are {', '.join(groups)}")
        cells += [cell for cell in groups[group] if not batches or str(cell["batch"]) in batches.split(",")]
    return cells


def measure(arguments):
    """Measures all groups and writes after each cell."""
    groups = cell_groups(arguments)
    with tempfile.TemporaryDirectory() as folder:
        others = {
            "ceilings": lambda: run.note("ceilings", do="ceilings", **CEILINGS[arguments.cpu]),
            "vectors": lambda: run.vectors(folder),
            "memory": lambda: run.memory(),
            "attention": lambda: run.note("attention", (OURS,), do="attention", **ATTENTION[arguments.cpu]),
            "profile": lambda: run.profiles(),
        }
        asked = {
            name: None if name in others else selected(name, groups) for name in arguments.groups or [*others, *groups]
        }
        run = Run(arguments, folder)
        for name, cells in asked.items():
            if not run.is_late(name):
                others[name]() if cells is None else run.measure(name, cells)
                run.write()
        show(run.record)
        for worker in run.sides.values():
            worker.close()


CEILINGS = {False: {"side": 8192, "megabytes": 4096}, True: {"side": 128, "megabytes": 1}}
ATTENTION = {
    False: {
        "shapes": [
            [1024, 16, 12, 32],
            [1024, 32, 12, 32],
            [256, 128, 12, 32],
            [1024, 32, 12, 64],
        ],
        "places": 65536,
        "repeats": 20,
    },
    True: {"shapes": [[2, 8, 2, 16]], "places": 8, "repeats": 1},
}


def main():
    """Makes the rows, or measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-rows", type=pathlib.Path, help="file of token ids to write, from --data")
    parser.add_argument("--data", type=pathlib.Path, help="folder with banking77/ and nli_triplets/")
    parser.add_argument("--vectors", action="store_true", help="also store vectors computed on a CPU in the file")
    parser.add_argument("--rows", type=pathlib.Path, help="file of token ids; by default random ids")
    parser.add_argument("--torch-python", help="interpreter with torch and sentence-transformers; without, one side")
    parser.add_argument("--tokenizer", type=pathlib.Path, help="folder with vocab.txt, for the other side's own texts")
    parser.add_argument("--sizes", nargs="+", choices=list(_gpu_rows.SIZES), default=["minilm", "bert_base"])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument(
        "--groups",
        nargs="+",
        help="what to measure, in this order, by default all; for some batches pairs_minilm_float32:64,256",
    )
    parser.add_argument("--chunk", type=int, default=512, help="texts per chunk, for the memory of large batches")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slice", type=float, default=0.25, help="seconds of a slice")
    parser.add_argument(
        "--seconds", type=float, default=3600, help="time limit; parts that would start later are skipped"
    )
    parser.add_argument("--cpu", action="store_true", help="run on the CPU, with or without a GPU")
    parser.add_argument("--results", type=pathlib.Path, default=_harness.RESULTS, help="folder of gpu.json")
    arguments = parser.parse_args()
    if arguments.make_rows is not None:
        if arguments.data is None:
            parser.error("--make-rows needs --data")
        make_rows(arguments)
        return
    if arguments.rows is None:
        with tempfile.TemporaryDirectory() as folder:
            arguments.rows = pathlib.Path(folder, "rows.npz")
            _gpu_rows.write_rows(arguments.rows, _gpu_rows.random_rows(max(arguments.batches)))
            measure(arguments)
        return
    measure(arguments)


if __name__ == "__main__":
    main()
