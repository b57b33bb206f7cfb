"""Late interaction trained on caption pairs, and its loss of quality with few bits per token, against single vectors.

    python benchmarks/kinds.py --data ../shared/data

caption_pairs: all-MiniLM-L6-v2 with a new dense layer (`models.LateInteractionEmbedder`) trains for one pass over
`--pairs` pairs of the training split with in-batch negatives. The 680 test captions then search for their other caption
among `--documents` captions, in indexes of 32 (`None`), 4, 2 and 1 bits per component, and with `nprobe` candidates.
Queries are padded with mask tokens to 32, or not padded. The comparisons are all-MiniLM-L6-v2 itself, and the same
encoder trained on the same pairs with one vector per text.

Results go to `results/kinds.json` row by row, trained models to `--models`; existing results are not computed again.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import json

import tfxfer as tx

# isort: split
import keras

from benchmarks import _harness

PRESET = "all_minilm_l6_v2"
BATCH = 32
LATE = "late interaction"
# Bits per component of the index, and the number of centroids that a query token probes.
INDEXES = [(None, None), (4, None), (2, None), (1, None), (2, 1), (2, 4)]


def task(folder, documents):
    """Returns the test captions, the documents with the other captions first, and the positions of these."""
    parts = {name: list(_harness.read_tsv(folder / f"{name}.tsv")) for name in ("train", "dev", "test")}
    corpus = list(dict.fromkeys(row["positive"] for name in ("test", "dev", "train") for row in parts[name]))
    corpus = corpus[: max(documents, len({row["positive"] for row in parts["test"]}))]
    places = {text: place for place, text in enumerate(corpus)}
    queries = [row["anchor"] for row in parts["test"]]
    return parts["train"], queries, corpus, [[places[row["positive"]]] for row in parts["test"]]


def trained(kind, rows, folder):
    """Returns an embedder trained on pairs, loaded from the folder if it is already there."""
    late = kind.startswith(LATE)
    cls = tx.models.LateInteractionEmbedder if late else tx.models.TextEmbedder
    if (folder / "tfxfer.json").exists():
        return cls.from_preset(folder)
    keras.utils.set_random_seed(0)
    options = {"dim": 128, "query_length": 32, "augment_queries": kind == LATE} if late else {}
    embedder = cls.from_preset(PRESET, sequence_length=64, **options)
    model = tx.models.Siamese(embedder)
    loss = tx.losses.MaxSimRankingLoss() if late else tx.losses.MultipleNegativesRankingLoss()
    model.compile(loss=loss)
    dataset = tx.data.pairs(rows, ("anchor", "positive"))
    model.fit(dataset, batch_size=BATCH, seed=0, verbose=2)
    embedder.save_to_preset(folder)
    return embedder


def scored(index, queries, relevant, **options):
    """Returns the scores of an index, and its bytes per text."""
    ids = index.search(queries, 10, **options).ids
    scores = tx.evaluation.retrieval_scores(ids, relevant, ks=(1, 10))
    found = {name: round(scores[name], 4) for name in ("recall@1", "recall@10", "ndcg@10")}
    return {**found, "bytes": round(index.nbytes / len(index), 1)}


def main():
    """Fills the table and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the data sets")
    parser.add_argument("--pairs", type=int, default=640)
    parser.add_argument("--documents", type=int, default=1500)
    parser.add_argument("--models", type=pathlib.Path, default=_harness.ROOT / "runs" / "kinds")
    parser.add_argument("--output", type=pathlib.Path, default=_harness.RESULTS / "kinds.json")
    arguments = parser.parse_args()
    rows, queries, corpus, relevant = task(arguments.data / "caption_pairs", arguments.documents)
    key = {"pairs": arguments.pairs, "documents": len(corpus), "queries": len(queries)}
    cells = json.loads(arguments.output.read_text()) if arguments.output.exists() else []

    def fill(name, make):
        if any({**key, "index": name}.items() <= cell.items() for cell in cells):
            return
        cells.append({**key, "index": name, **make()})
        print(cells[-1], flush=True)
        part = arguments.output.with_suffix(".part")
        part.write_text(json.dumps(cells, indent=1) + "\n")
        part.replace(arguments.output)

    for kind in ("one vector, as it is", "one vector", LATE, f"{LATE} without mask tokens"):
        indexes = INDEXES if kind == LATE else INDEXES[:1]
        names = [f"{kind}, bits {bits}, nprobe {nprobe}" for bits, nprobe in indexes]
        names = names if kind.startswith(LATE) else [kind]
        if all(any({**key, "index": name}.items() <= cell.items() for cell in cells) for name in names):
            continue
        folder = arguments.models / f"{kind.replace(' ', '_')}_{arguments.pairs}"
        if kind == "one vector, as it is":
            embedder = tx.models.TextEmbedder.from_preset(PRESET, sequence_length=64)
        else:
            embedder = trained(kind, rows[: arguments.pairs], folder)
        encoded, documents = embedder.encode_query(queries), embedder.encode_document(corpus)
        if not kind.startswith(LATE):
            index = tx.search.SemanticIndex(None, corpus, embeddings=documents)
            fill(kind, lambda index=index, encoded=encoded: scored(index, encoded, relevant))
            continue
        for name, (bits, nprobe) in zip(names, indexes, strict=True):
            index = tx.search.LateInteractionIndex(None, corpus, embeddings=documents, bits=bits)
            options = {} if nprobe is None else {"nprobe": nprobe}
            fill(
                name, lambda index=index, options=options, encoded=encoded: scored(index, encoded, relevant, **options)
            )
    for cell in cells:
        print(f"{cell['index']:42}" + "".join(f"{cell[name]:11}" for name in ("recall@10", "ndcg@10", "bytes")))


if __name__ == "__main__":
    main()
