"""Embeds a corpus with Ray Data and an exported embedder, on one machine or a Ray cluster.

    python examples/embed_corpus_ray.py --model serving/sts/1 --corpus corpus/ --output runs/corpus --workers 4
    ray job submit --working-dir . -- python examples/embed_corpus_ray.py ... --workers 100 --gpus 1

Reads texts from a Parquet, CSV or JSON Lines file, or from a directory of files of one of these formats, with one
column for the text and one for the id. Writes Parquet files with `id`, `embedding` and `model_version`. The environment
needs ray[data], pyarrow, tensorflow and tensorflow_text, but not tfxfer:

    pip install "ray[data]>=2.50" "tensorflow==2.21.*" "tensorflow-text==2.21.*"

Each worker loads the export once. Ray passes it blocks of rows as they are read, and retries the blocks of a worker
that dies. Only the blocks in progress are in memory. A run that was killed as a whole starts over, in an empty
directory; `embed_corpus_beam.py` resumes instead.
"""

import argparse
import hashlib
import json
import pathlib
import time

import numpy as np
import pyarrow.parquet as pq
import ray

READERS = {"parquet": ray.data.read_parquet, "csv": ray.data.read_csv, "jsonl": ray.data.read_json}


class Embedder:
    """Runs a signature of an exported embedder; Ray creates one as an actor on each worker."""

    def __init__(self, model, signature, batch_size, columns):
        import tensorflow as tf
        import tensorflow_text  # noqa: F401  (registers the tokenizer's ops)

        described = json.loads(pathlib.Path(model, "assets.extra", "tfxfer.json").read_text())
        if signature not in described["signatures"]:
            names = ", ".join(sorted(described["signatures"]))
            raise ValueError(f"--signature {signature}: the model has {names}")
        content = json.dumps({name: described[name] for name in ("weights", "signatures")}, sort_keys=True)
        self.version = f"{described['name']}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        self.loaded = tf.saved_model.load(model)  # keeps its signatures alive
        self.run, self.tensor = self.loaded.signatures[signature], tf.constant
        self.batch_size, self.columns = batch_size, columns

    def __call__(self, block):
        """Returns ids, vectors and model version for a block, a dict of columns; batches texts of similar length."""
        text, number = self.columns
        ids, texts = block[number], block[text]
        for place, (one, value) in enumerate(zip(ids, texts, strict=True)):
            if one is None or one != one or not isinstance(value, str):
                raise ValueError(f"no {text!r} or {number!r} in a row: id {one!r}, row {place} of its block")
        order = sorted(range(len(texts)), key=lambda row: (len(texts[row]), row))
        parts = []
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            parts.append(self.run(text=self.tensor([texts[row] for row in rows]))["embedding"].numpy())
        vectors = np.concatenate(parts)
        restored = np.empty_like(vectors)
        restored[order] = vectors
        return {
            "id": np.array([str(one) for one in ids]),
            "embedding": restored,
            "model_version": np.array([self.version] * len(ids)),
        }


def kind_of(corpus):
    """Returns the format of a file, or of the files in a directory, taken from the names."""
    path = pathlib.Path(corpus)
    names = [found.name for found in path.iterdir()] if path.is_dir() else [path.name]
    kinds = {name.rsplit(".", 1)[-1].lower() for name in names if not name.startswith((".", "_"))}
    if len(kinds) != 1 or not kinds <= set(READERS):
        raise SystemExit(f"--corpus {corpus}: expected files of one format of {', '.join(READERS)}, got {kinds}")
    return kinds.pop()


def main():
    """Embeds the corpus and counts the rows of the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="version directory that `export.saved_model` wrote")
    parser.add_argument("--corpus", required=True, help="a .parquet, .csv or .jsonl file, or a directory of them")
    parser.add_argument("--output", required=True, help="output directory, on a file system that all workers share")
    parser.add_argument("--text", default="text", help="name of the text column")
    parser.add_argument("--id", default="id", help="name of the id column")
    parser.add_argument("--signature", default="embed", help="e.g. embed_document, if the model has that prompt")
    parser.add_argument("--batch-size", type=int, default=32, help="texts per call of the model")
    parser.add_argument("--block-rows", type=int, default=4096, help="rows per block that a worker receives")
    parser.add_argument("--workers", type=int, default=1, help="number of workers, each with a copy of the model")
    parser.add_argument("--cpus", type=float, default=1, help="CPU cores per worker")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs per worker")
    arguments = parser.parse_args()
    if min(arguments.batch_size, arguments.block_rows, arguments.workers) < 1:
        parser.error("--batch-size, --block-rows and --workers must be positive")
    output = pathlib.Path(arguments.output).resolve()
    if output.exists() and any(output.iterdir()):
        raise SystemExit(f"--output {output}: is not empty")

    rows = READERS[kind_of(arguments.corpus)](str(pathlib.Path(arguments.corpus).resolve()))
    missing = {arguments.text, arguments.id} - set(rows.schema().names)
    if missing:
        raise SystemExit(f"--corpus {arguments.corpus}: no column {', '.join(sorted(missing))}")
    start = time.perf_counter()
    embedded = rows.select_columns([arguments.id, arguments.text]).map_batches(
        Embedder,
        batch_size=arguments.block_rows,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=arguments.workers),
        num_cpus=arguments.cpus,
        num_gpus=arguments.gpus,
        fn_constructor_kwargs={
            "model": str(pathlib.Path(arguments.model).resolve()),
            "signature": arguments.signature,
            "batch_size": arguments.batch_size,
            "columns": (arguments.text, arguments.id),
        },
    )
    embedded.write_parquet(str(output))
    seconds = time.perf_counter() - start
    written = sum(pq.read_metadata(path).num_rows for path in output.glob("*.parquet"))
    expected = rows.count()
    if written != expected:
        raise SystemExit(f"{written} rows in {output}, {expected} in the corpus")
    print(f"{written} texts embedded, {written / seconds:.1f} a second")


if __name__ == "__main__":
    main()
