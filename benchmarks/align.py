"""The recall lost by searching an old index with a new embedder through a map.

    python benchmarks/align.py --data ../shared/data

The old embedder is all-MiniLM-L6-v2. The new one is its first five blocks, fine-tuned for an epoch on 2,000 caption
pairs. 680 test captions search for their other caption among 3,000 captions. The map (`search.align`) is fitted on the
captions of the index, without the held-out ones for its scores. Results go to `results/align.json`.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import importlib.metadata
import time
import types

import tfxfer as tx

# isort: split
import keras

from benchmarks import _harness

PRESET = "all_minilm_l6_v2"
DOCUMENTS, TRAINED, BLOCKS = 3000, 2000, 5
KEYS = ("recall@1", "recall@10", "ndcg@10")


def made(old, rows, seed):
    """Returns the new embedder."""
    keras.utils.set_random_seed(seed)
    new = old.with_blocks(BLOCKS)
    model = tx.models.Siamese(new)
    model.compile(tx.optimizers.AdamW(2e-5), loss=tx.losses.MultipleNegativesRankingLoss())
    pairs = tx.data.pairs({name: rows[name][:TRAINED] for name in ("anchor", "positive")}, ("anchor", "positive"))
    model.fit(pairs, batch_size=32, epochs=1, seed=seed, verbose=0)
    return new


def main():
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with caption_pairs")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.process_time()
    parts = {name: tx.data.read(arguments.data / "caption_pairs" / f"{name}.tsv") for name in ("train", "test")}
    # The training pairs are not in the index.
    others = parts["train"]["positive"][TRAINED:]
    corpus = list(dict.fromkeys([*parts["test"]["positive"], *others]))[:DOCUMENTS]
    places = {text: place for place, text in enumerate(corpus)}
    relevant = [[places[text]] for text in parts["test"]["positive"]]
    old = tx.models.TextEmbedder.from_preset(PRESET, sequence_length=64)
    new = made(old, parts["train"], arguments.seed)
    documents = {name: embedder.encode(corpus) for name, embedder in (("old", old), ("new", new))}
    queries = {name: embedder.encode(parts["test"]["anchor"]) for name, embedder in (("old", old), ("new", new))}
    searches = {
        "old queries, old index": (queries["old"], documents["old"]),
        "new queries, new index": (queries["new"], documents["new"]),
        "new queries, old index": (queries["new"], documents["old"]),
    }
    maps = {}
    for method in ("orthogonal", "affine"):
        began = time.process_time()
        maps[method] = found = tx.search.align(documents["old"], documents["new"], method=method, seed=arguments.seed)
        searches[f"{method} map, old index"] = (found(queries["new"]), documents["old"])
        found.scores["seconds"] = round(time.process_time() - began, 2)
        print(method, found.scores, flush=True)
    cells = {}
    print(f"\n{'':28}" + "".join(f"{key:>11}" for key in KEYS))
    for name, (asked, index) in searches.items():
        scores = tx.evaluation.retrieval_scores(tx.search.top_k(asked, index, 10).ids, relevant, ks=(1, 10))
        cells[name] = {key: round(scores[key], 4) for key in KEYS}
        print(f"{name:28}" + "".join(f"{cells[name][key]:11.4f}" for key in KEYS))
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy", "scipy")}
    result = {
        "preset": PRESET,
        "queries": len(relevant),
        "documents": len(corpus),
        "searches": cells,
        "maps": {name: found.scores for name, found in maps.items()},
        "seconds_of_processor": round(time.process_time() - start),
    }
    _harness.write("align", result, [types.SimpleNamespace(versions=versions)])


if __name__ == "__main__":
    main()
