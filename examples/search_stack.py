"""Builds a search in stages: words, vectors, both, a reranker, and vectors that learn from the reranker.

    python examples/search_stack.py --data ../shared/data/caption_pairs --output runs/search_stack
    python examples/search_stack.py --data beir/scifact --output runs/scifact

`--data` is a directory in BEIR's layout (`corpus.jsonl`, `queries.jsonl`, `qrels/train.tsv`, `dev.tsv`, `test.tsv`), or
one with `train.tsv`, `dev.tsv` and `test.tsv` of caption pairs (`anchor`, `positive`, `image_id`). Caption pairs are
first written in BEIR's layout: the queries are the anchors, the corpus is the positives, and the relevant documents are
those of the same image.

1. BM25 and an embedder search alone, then together. The weight of the vectors is chosen on the dev queries.
2. The embedder mines negatives for the training queries, and a reranker learns from these lists which document is
   right. It reorders the best `--depth` documents. Its score is also added to that of the search, with a weight that is
   chosen on the dev queries.
3. The reranker scores the same lists again, and the embedder learns its margins. The result is a search without a
   reranker that knows some of what the reranker knows.

All stages are scored on the test queries, with 95 % intervals; the table shows which of them pay off. The runs are
written as TREC files, which trec_eval reads.
"""

import argparse
import json
import pathlib
import time

import tfxfer as tx  # before Keras, so that TensorFlow starts quietly

# isort: split
import keras

SCORES = ("ndcg@10", "recall@100", "mrr")
SPLITS = ("train", "dev", "test")


def write_beir(source, folder):
    """Writes caption pairs in BEIR's layout and returns its directory."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    rows = {split: tx.data.read(source / f"{split}.tsv") for split in SPLITS}
    every = [text for part in rows.values() for text in part["positive"]]
    documents = {text: f"d{number}" for number, text in enumerate(dict.fromkeys(every))}
    queries = []
    for split, part in rows.items():
        of_image = {}
        for text, image in zip(part["positive"], part["image_id"], strict=True):
            of_image.setdefault(image, []).append(documents[text])
        lines = ["query-id\tcorpus-id\tscore"]
        for number, (text, image) in enumerate(zip(part["anchor"], part["image_id"], strict=True)):
            queries.append({"_id": f"{split}{number}", "text": text})
            # An anchor may be a positive as well: its own text is not a result to find.
            found = [name for name in dict.fromkeys(of_image[image]) if name != documents.get(text)]
            lines += [f"{split}{number}\t{name}\t1" for name in found]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    corpus = [{"_id": name, "text": text} for text, name in documents.items()]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


class Stack:
    """Runs, scores, fuses and reranks the searches over one corpus."""

    def __init__(self, folder, depth):
        self.depth = depth
        self.tasks = {split: tx.data.read_beir(folder, split=split) for split in SPLITS}
        self.corpus = self.tasks["test"].corpus
        self.texts, self.ids = list(self.corpus.values()), list(self.corpus)
        self.k = min(100, len(self.texts))

    def run(self, split, search):
        """Returns the results of a search for the queries of a split, as a run, and the seconds per query."""
        queries = self.tasks[split].queries
        start = time.perf_counter()
        hits = search(list(queries.values()))
        seconds = (time.perf_counter() - start) / len(queries)
        run = {
            query: {name: float(score) for name, score in zip(ids, scores, strict=True) if name}
            for query, ids, scores in zip(queries, hits.ids, hits.scores, strict=True)
        }
        return run, seconds

    def scores(self, split, run, **options):
        """Scores a run; a query without results counts as 0."""
        relevant = self.tasks[split].relevant
        return tx.evaluation.run_scores(run, relevant, ks=(10, 100), unanswered="zero", **options)

    def fused(self, split, runs, weight):
        """Adds the scores of two runs, with a weight on the second."""
        return tx.search.fuse(runs, 100, method="weighted", normalize="z_score", weights=[1, weight])

    def best_weight(self, runs):
        """Returns the weight of the second run that gives the best NDCG@10 on the dev queries."""
        return max((0.5, 1, 2, 4, 8), key=lambda weight: self.scores("dev", self.fused("dev", runs, weight))["ndcg@10"])

    def reranked(self, split, run, reranker):
        """Returns a reranker's scores for the best `depth` documents of a run, and the seconds per query."""
        queries, best = self.tasks[split].queries, {}
        for query, found in run.items():
            best[query] = list(found)[: self.depth]
        start = time.perf_counter()
        lists = [[self.corpus[name] for name in best[query]] for query in queries]
        ranked = reranker.rank_many(list(queries.values()), lists)
        seconds = (time.perf_counter() - start) / len(queries)
        made = zip(queries, ranked, strict=True)
        return {query: {best[query][one.index]: float(one.score) for one in found} for query, found in made}, seconds

    def reordered(self, run, scores):
        """Returns a run whose best documents are ordered by a reranker's scores; the others follow in the old order."""
        return {
            query: found | {name: -1e3 - place for place, name in enumerate(run[query]) if name not in found}
            for query, found in scores.items()
        }


def training_lists(stack, embedder, limit, negatives, split="train"):
    """Returns rows of a query, its relevant documents, and hard negatives that the embedder mines."""
    task = stack.tasks[split]
    pairs = [
        (task.queries[query], task.corpus[name])
        for query, grades in task.relevant.items()
        for name, grade in grades.items()
        if grade > 0
    ][:limit]
    mined = tx.search.hard_negatives(
        embedder, tuple(map(list, zip(*pairs, strict=True))), stack.texts,
        num_negatives=negatives, ranks=(3, 50), relative_margin=0.05, sampling="random", layout="wide", progress=False,
    )  # fmt: skip
    return tx.data.lists_from_negatives(mined)


def main():
    """Builds the stages in turn, scores each, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/search_stack"))
    parser.add_argument("--preset", default="all_minilm_l6_v2")
    parser.add_argument("--pairs", type=int, default=6000, help="maximum number of training pairs")
    parser.add_argument("--negatives", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2, help="training epochs of the reranker")
    parser.add_argument("--depth", type=int, default=30, help="documents to rerank per query")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    is_beir = (arguments.data / "qrels").is_dir()
    stack = Stack(arguments.data if is_beir else write_beir(arguments.data, arguments.output / "beir"), arguments.depth)
    options = {"sequence_length": 64}
    results, runs = {}, {}

    def note(name, run, seconds):
        runs[name] = run
        found = stack.scores("test", run, intervals=0.95)
        results[name] = {score: found[score] for score in SCORES} | {"seconds": seconds}
        results[name]["intervals"] = {score: found["intervals"][score] for score in SCORES}
        tx.data.write_run(
            arguments.output / f"{name.replace(', ', '_').replace(' ', '_')}.run", run, name=name.replace(" ", "_")
        )
        print(f"{name}: ndcg@10 {found['ndcg@10']:.3f}", flush=True)

    def searches(embedder, name):
        """Scores a search by vectors, and one by words and vectors; returns the latter's runs of dev and test."""
        index = tx.search.SemanticIndex(embedder, stack.texts, ids=stack.ids, progress=False)
        found = {split: stack.run(split, lambda queries: index.search(queries, k=stack.k)) for split in ("dev", "test")}
        note(name, *found["test"])
        weight = stack.best_weight([words["dev"][0], found["dev"][0]])
        both = {split: stack.fused(split, [words[split][0], found[split][0]], weight) for split in found}
        results[name]["weight"] = weight
        note(f"words and {name}", both["test"], words["test"][1] + found["test"][1])
        return both

    print(f"{len(stack.texts):,} documents, {len(stack.tasks['test'].queries):,} test queries")
    lexical = tx.search.BM25Index(stack.texts, ids=stack.ids)
    words = {split: stack.run(split, lambda queries: lexical.search(queries, k=stack.k)) for split in ("dev", "test")}
    note("words", *words["test"])
    embedder = tx.models.TextEmbedder.from_preset(arguments.preset, **options)
    both = searches(embedder, "vectors")

    print("mining negatives", flush=True)
    rows = training_lists(stack, embedder, arguments.pairs, arguments.negatives)
    reranker = tx.models.Reranker.from_preset(arguments.preset, **options)
    reranker.compile(loss=tx.losses.ListSoftmaxLoss())
    start = time.perf_counter()
    batches = tx.data.batches(tx.data.rankings(rows), reranker, max_documents=25, seed=arguments.seed)
    reranker.fit(batches, epochs=arguments.epochs, verbose=2)
    trained = round(time.perf_counter() - start)

    def rerank(base, name, seconds):
        """Scores a reranked search: by the reranker's score alone, and by the sum of both scores."""
        found = {split: stack.reranked(split, base[split], reranker) for split in ("dev", "test")}
        reordered = stack.reordered(base["test"], found["test"][0])
        note(f"{name}, reranked", reordered, seconds + found["test"][1])
        weight = stack.best_weight([base["dev"], found["dev"][0]])
        fused = stack.fused("test", [base["test"], found["test"][0]], weight)
        results[f"{name}, reranked"]["weight"] = weight
        note(f"{name} and reranker", fused, seconds + found["test"][1])

    rerank(both, "words and vectors", results["words and vectors"]["seconds"])

    print("teaching the embedder", flush=True)
    scores = tx.search.teacher_scores(reranker, rows, progress=False)
    distilled = tx.data.triplets_from_lists(rows, scores=scores, num_negatives=arguments.negatives)
    names = ["anchor", "positive", *(f"negative_{i + 1}" for i in range(arguments.negatives))]
    teacher = ["positive_score", *(f"negative_{i + 1}_score" for i in range(arguments.negatives))]
    siamese = tx.models.Siamese(embedder)
    siamese.compile(loss=tx.losses.DistillKLDivLoss())
    start = time.perf_counter()
    siamese.fit(tx.data.triplets(distilled, names, target=tuple(teacher)), batch_size=32, epochs=1, verbose=2)
    taught = round(time.perf_counter() - start)
    both = searches(embedder, "taught vectors")
    rerank(both, "words and taught vectors", results["words and taught vectors"]["seconds"])

    print(f"\n{'':40}{'ndcg@10':>8}{'95 %':>16}{'recall@100':>12}{'mrr':>8}{'ms a query':>12}")
    for name, found in results.items():
        low, high = found["intervals"]["ndcg@10"]
        print(
            f"{name:40}{found['ndcg@10']:8.3f}{f'{low:.3f} to {high:.3f}':>16}{found['recall@100']:12.3f}"
            f"{found['mrr']:8.3f}{found['seconds'] * 1000:12.1f}"
        )
    relevant = stack.tasks["test"].relevant
    sides = [
        tx.evaluation.run_scores(runs[name], relevant, ks=(10,), unanswered="zero", rows=True)
        for name in ("taught vectors", "vectors")
    ]
    found = tx.evaluation.compare(*sides, scores="ndcg@10")["scores"]["ndcg@10"]
    low, high = found["interval"]
    print(f"\nTaught vectors less vectors, ndcg@10: {found['difference']:+.3f} ({low:+.3f} to {high:+.3f})")
    print(f"The reranker trained for {trained} s on {len(rows):,} lists, the embedder for {taught} s.")
    results["training"] = {"reranker": trained, "embedder": taught, "lists": len(rows)}
    (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
