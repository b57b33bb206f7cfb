"""The quality lost with small codes and recovered by rescoring; the speed of the exact search.

STS-B: Spearman of test rows with both vectors as codes, or one of them. caption_pairs: the 680 test captions search for
their other caption among all captions of the set. Speed: 1,000 queries against 100,000 random vectors of 384
components, the ten best, compared with the bare matrix product in blocks, numpy's argpartition over all scores at once,
and faiss if it is installed.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import importlib.metadata
import statistics
import time

import numpy as np

import tfxfer as tx
from benchmarks import _harness

INDEXES = [
    ("float32", None, 1),
    ("int8", None, 1),
    ("int8", "float32", 4),
    ("binary", None, 1),
    *(("binary", rescore, multiplier) for rescore in ("binary", "int8", "float32") for multiplier in (2, 4, 10)),
]


def codes_of(vectors, kind, calibration):
    """Returns vectors decoded from codes."""
    if kind == "float32":
        return vectors
    if kind == "int8 codes as numbers":
        return tx.search.quantize(vectors, calibration=calibration).codes.astype("float32")
    return tx.search.quantize(vectors, kind, calibration=calibration if kind == "int8" else None).dequantize()


def similarity(embedder, folder):
    """Returns Spearman of STS-B's test rows for each kind of code, on both sides or one."""
    rows = tx.data.read(folder / "test.tsv")
    scores = [float(score) for score in rows["score"]]
    first, second = (embedder.encode(rows[name]) for name in ("sentence1", "sentence2"))
    # The ranges of int8 come from other texts than the scored ones.
    calibration = embedder.encode(tx.data.read(folder / "train.tsv")["sentence1"][:2000])
    found = {}
    for kind in ("float32", "int8", "int8 codes as numbers", "binary"):
        coded = codes_of(second, kind, calibration)
        both = tx.evaluation.similarity_scores(codes_of(first, kind, calibration), coded, scores)
        one = tx.evaluation.similarity_scores(first, coded, scores)
        found[kind] = {"both": round(both["spearman"], 4), "one": round(one["spearman"], 4)}
    print(f"\n{'STS-B, Spearman':24}{'both sides':>12}{'one side':>12}")
    for kind, each in found.items():
        print(f"{kind:24}{each['both']:12.4f}{each['one']:12.4f}")
    return found


def retrieval(embedder, folder):
    """Returns recall and nDCG of the test captions for each kind of index, and its share of the exact ten."""
    parts = {name: tx.data.read(folder / f"{name}.tsv") for name in ("train", "dev", "test")}
    corpus = list(dict.fromkeys(text for name in ("test", "dev", "train") for text in parts[name]["positive"]))
    places = {text: place for place, text in enumerate(corpus)}
    relevant = [[places[text]] for text in parts["test"]["positive"]]
    documents, queries = embedder.encode(corpus), embedder.encode(parts["test"]["anchor"])
    exact = tx.search.top_k(queries, documents, 10).ids
    print(f"\ncaption_pairs, {len(queries)} queries in {len(corpus)} captions")
    names = ("recall@1", "recall@10", "ndcg@10", "overlap", "MB")
    print(f"{'index':10}{'re-scored by':>14}{'times k':>9}" + "".join(f"{name:>11}" for name in names))
    found = []
    for precision, rescore, multiplier in INDEXES:
        index = tx.search.SemanticIndex(
            None, corpus, embeddings=documents, precision=precision, rescore=rescore, multiplier=multiplier
        )
        ids = index.search(queries, 10).ids
        scores = tx.evaluation.retrieval_scores(ids, relevant, ks=(1, 10))
        overlap = statistics.fmean(len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), exact.tolist(), strict=True))
        each = {name: round(scores[name], 4) for name in ("recall@1", "recall@10", "ndcg@10")}
        each |= {"overlap": round(overlap, 4), "megabytes": round(index.nbytes / 1e6, 2)}
        found.append({"precision": precision, "rescore": rescore, "multiplier": multiplier, **each})
        print(
            f"{precision:10}{rescore or '-':>14}{multiplier if rescore else '-':>9}{each['recall@1']:11.4f}"
            f"{each['recall@10']:11.4f}{each['ndcg@10']:11.4f}{overlap:11.4f}{each['megabytes']:11.2f}"
        )
    return {"queries": len(queries), "documents": len(corpus), "indexes": found}


def sides(queries, corpus):
    """Returns the ways of searching to time, each a function without arguments."""
    codes, binary = tx.search.quantize(corpus), tx.search.quantize(corpus, "binary")
    query_codes = tx.search.quantize(queries, "binary")

    def product():
        for start in range(0, len(corpus), 8192):
            queries @ corpus[start : start + 8192].T

    timed = {
        "bare matrix product": product,
        "tfxfer float32": lambda: tx.search.top_k(queries, corpus, 10),
        "tfxfer int8": lambda: tx.search.top_k(queries, codes, 10),
        "tfxfer binary": lambda: tx.search.top_k(query_codes, binary, 10),
        "argpartition of all": lambda: np.argpartition(queries @ corpus.T, -10, axis=1)[:, -10:],
    }
    try:
        import faiss
    except ImportError:
        return timed
    faiss.omp_set_num_threads(_harness.THREADS)
    flat = faiss.IndexFlatIP(corpus.shape[1])
    flat.add(corpus)
    return {**timed, "faiss IndexFlatIP": lambda: flat.search(queries, 10)}


def speed(rounds):
    """Returns the seconds for 1,000 queries in 100,000 vectors, the median over alternating rounds."""
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=(100_000, 384)).astype("float32")
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    queries = corpus[:1000] + 0.02 * rng.normal(size=(1000, 384)).astype("float32")
    timed = sides(queries, corpus)
    seconds = {name: [] for name in timed}
    for _ in range(rounds):
        for name, run in timed.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    found = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    print("\n1,000 queries in 100,000 vectors, seconds")
    for name, value in found.items():
        print(f"{name:24}{value:8.3f}")
    return found


def main():
    """Measures, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with stsb and caption_pairs")
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    embedder = tx.models.TextEmbedder.from_preset(arguments.preset)
    result = {
        "preset": arguments.preset,
        "stsb": similarity(embedder, arguments.data / "stsb"),
        "caption_pairs": retrieval(embedder, arguments.data / "caption_pairs"),
        "seconds": speed(arguments.rounds),
        "packages": {name: importlib.metadata.version(name) for name in ("numpy", "tensorflow", "keras")},
    }
    _harness.write("search", result, [])


if __name__ == "__main__":
    main()
