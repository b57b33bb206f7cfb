"""Retrieval with BM25, vectors and both; and the memory of an index on disk.

caption_pairs: the 680 test captions search for their other caption among all captions of the set, with the variants of
BM25, with vectors, and with both fused. Memory: the peak anonymous memory (`RssAnon`) of a process while
`SemanticIndex.build` writes random vectors and a search reads them, for two sizes.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import importlib.metadata
import multiprocessing
import re
import tempfile
import threading
import time

import numpy as np

import tfxfer as tx
from benchmarks import _harness

VARIANTS = ("robertson", "lucene", "atire", "bm25l", "bm25+")
FUSIONS = {
    "reciprocal ranks": {},
    "reciprocal ranks, weights 1 : 3": {"weights": [1, 3]},
    "weighted, min-max": {"method": "weighted"},
    "weighted, min-max, 1 : 3": {"method": "weighted", "weights": [1, 3]},
    "weighted, z-scores, 1 : 3": {"method": "weighted", "normalize": "z_score", "weights": [1, 3]},
}
DIM = 128
BLOCK = 25_000


def quality(embedder, folder):
    """Returns recall and nDCG of the test captions for each way of searching."""
    parts = {name: tx.data.read(folder / f"{name}.tsv") for name in ("train", "dev", "test")}
    corpus = list(dict.fromkeys(text for name in ("test", "dev", "train") for text in parts[name]["positive"]))
    places = {text: place for place, text in enumerate(corpus)}
    relevant = [[places[text]] for text in parts["test"]["positive"]]
    queries = parts["test"]["anchor"]
    vectors = tx.search.SemanticIndex(embedder, corpus).search(queries, 100)
    found = {
        f"BM25, {variant}": tx.search.BM25Index(corpus, variant=variant).search(queries, 100) for variant in VARIANTS
    }
    words = found["BM25, lucene"]
    found["vectors"] = vectors
    found |= {name: tx.search.fuse([words, vectors], 100, **options) for name, options in FUSIONS.items()}
    print(f"\ncaption_pairs, {len(queries)} queries in {len(corpus)} captions")
    print(f"{'search':34}{'ndcg@10':>10}{'recall@10':>11}{'recall@100':>12}")
    result = {}
    for name, hits in found.items():
        scores = tx.evaluation.retrieval_scores(hits.ids, relevant, ks=(10, 100))
        result[name] = {key: round(scores[key], 4) for key in ("ndcg@10", "recall@10", "recall@100")}
        print(
            f"{name:34}"
            + "".join(f"{value:{width}.4f}" for value, width in zip(result[name].values(), (10, 11, 12), strict=True))
        )
    return {"queries": len(queries), "documents": len(corpus), "searches": result}


def own_memory():
    """Returns the bytes of the process that are not file pages."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024


class Peak:
    """The peak memory within a block, sampled a hundred times per second."""

    def __enter__(self):
        self.bytes, self._is_over = own_memory(), False
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._is_over = True
        self._thread.join()

    def _watch(self):
        while not self._is_over:
            self.bytes = max(self.bytes, own_memory())
            time.sleep(0.01)


def build_and_search(rows, connection):
    """Writes an index of random vectors and searches it; sends the megabytes used by each."""

    def vectors():
        rng = np.random.default_rng(0)
        for _ in range(rows // BLOCK):
            yield rng.normal(size=(BLOCK, DIM)).astype("float32")

    queries = np.random.default_rng(1).normal(size=(10, DIM)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        texts = ["text"] * rows
        before = own_memory()
        with Peak() as building:
            index = tx.search.SemanticIndex.build(folder, None, texts, embeddings=vectors())
        with Peak() as searching:
            index.search(queries, 10)
    megabytes = [rows * DIM * 4, building.bytes - before, searching.bytes - before]
    connection.send([round(value / 1e6) for value in megabytes])


def memory(sizes):
    """Returns the megabytes of vectors, building and searching for each number of rows, each in its own process."""
    context = multiprocessing.get_context("spawn")
    print(f"\n{'rows':>10}{'vectors MB':>12}{'build MB':>10}{'search MB':>11}")
    result = []
    for rows in sizes:
        ours, theirs = context.Pipe()
        process = context.Process(target=build_and_search, args=(rows, theirs))
        process.start()
        found = dict(zip(("vectors", "build", "search"), ours.recv(), strict=True))
        process.join()
        result.append({"rows": rows, **found})
        print(f"{rows:10}{found['vectors']:12}{found['build']:10}{found['search']:11}")
    return result


def main():
    """Measures, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with caption_pairs")
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 800_000], help="sizes of the index on disk")
    arguments = parser.parse_args()
    result = {"preset": arguments.preset, "megabytes": memory(arguments.rows)}
    embedder = tx.models.TextEmbedder.from_preset(arguments.preset)
    result["caption_pairs"] = quality(embedder, arguments.data / "caption_pairs")
    result["packages"] = {name: importlib.metadata.version(name) for name in ("numpy", "tensorflow", "keras", "bm25s")}
    _harness.write("hybrid", result, [])


if __name__ == "__main__":
    main()
