"""Embeds a corpus with Apache Beam's RunInference and an exported embedder.

    python examples/embed_corpus_beam.py --model serving/sts/1 --corpus "corpus/*.jsonl" --output runs/corpus
    python examples/embed_corpus_beam.py ... --runner DataflowRunner --project P --region R --temp_location gs://B/tmp \
        --requirements_file requirements.txt

Reads texts from TSV or CSV files with a header, JSON Lines or Parquet, with one column for the text and one for the id.
Writes Parquet files with `id`, `embedding` and `model_version`, one for each part of the corpus. Beam's own options
(runner, workers) follow the arguments. The environment needs apache-beam, pyarrow, tensorflow and tensorflow_text, but
not tfxfer. Use a separate environment, because Beam requires an older protobuf than the tokenizers do:

    pip install "apache-beam>=2.77" pyarrow "tensorflow==2.21.*" "tensorflow-text==2.21.*"

How a run survives the death of its workers: before it starts, it divides the files, in order, into parts of at most
`--part-rows` rows, and records in `_plan.json` the parts and everything else that the output depends on. One worker
reads, embeds and writes a part, to a file with a unique name under `_unfinished`, and moves the complete file to its
final name in one step. A worker that dies leaves at most an unfinished file, which does not count; a part that runs
twice overwrites itself with the same rows. Started again with the same arguments, a run processes the missing parts;
with different arguments, it stops and names those that differ.
"""

import argparse
import csv
import hashlib
import io
import json
import posixpath
import time
import uuid

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics.metric import Metrics
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

PLAN, UNFINISHED = "_plan.json", "_unfinished"
DELIMITERS = {"tsv": "\t", "csv": ","}


def opened(path):
    """Opens a file for reading; Beam's file systems cover Google Cloud Storage, S3, HDFS and the local disk."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def listed(pattern):
    """Returns the files that match a pattern, with their sizes in bytes, sorted by path."""
    [match] = FileSystems.match([pattern])
    return sorted((found.path, found.size_in_bytes) for found in match.metadata_list)


def create(path, content):
    """Writes a small file in one step."""
    temporary = f"{path}.{uuid.uuid4().hex}"
    with FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        file.write(content)
    FileSystems.rename([temporary], [path])


# === Parts and where they begin ===


def kind_of(path):
    """Returns the format of a file, taken from its name."""
    kind = path.rsplit(".", 1)[-1].lower()
    if kind not in (*DELIMITERS, "jsonl", "parquet"):
        raise SystemExit(f"{path}: expected a name that ends in .tsv, .csv, .jsonl or .parquet")
    return kind


class Lines:
    """Iterates over the lines of a file; `offset` is the position in bytes after the last line read."""

    def __init__(self, file, offset=0):
        file.seek(offset)
        self.file, self.offset = file, offset

    def __iter__(self):
        return self

    def __next__(self):
        line = self.file.readline()
        if not line:
            raise StopIteration
        self.offset += len(line)
        return line.decode("utf-8-sig" if self.offset == len(line) else "utf-8")


def records(file, path, offset, header):
    """Yields `(offset after the row, row)` for each row of a text file from `offset` on; a row is a dict.

    A TSV or CSV file read without `header` yields its header, a list, first.
    """
    lines, kind = Lines(file, offset), kind_of(path)
    if kind == "jsonl":
        for line in lines:
            if line.strip():
                yield lines.offset, json.loads(line)
        return
    # The csv module reads all lines of a quoted field and does not read ahead.
    for row in csv.reader(lines, delimiter=DELIMITERS[kind]):
        if not row:
            continue
        if header is None:
            header = row
            yield lines.offset, header
        elif len(row) == len(header):
            yield lines.offset, dict(zip(header, row, strict=True))
        else:
            raise ValueError(f"{path}, before byte {lines.offset}: {len(row)} columns, the header has {len(header)}")


def parts_of(path, size):
    """Yields the parts of a file: path, first row, number of rows and, in text formats, the offset to read from."""
    kind = kind_of(path)
    if kind == "parquet":
        with opened(path) as file:
            rows = pq.ParquetFile(file).metadata.num_rows
        for first in range(0, rows, size):
            yield {"path": path, "first": first, "rows": min(size, rows - first)}
        return
    with opened(path) as file:
        found, header, start, rows, first, end = records(file, path, 0, None), None, 0, 0, 0, 0
        if kind != "jsonl":
            start, header = next(found, (0, []))
        for end, _ in found:
            rows += 1
            if rows == size:
                yield {"path": path, "first": first, "rows": rows, "offset": start, "header": header}
                first, rows, start = first + rows, 0, end
        if rows:
            yield {"path": path, "first": first, "rows": rows, "offset": start, "header": header}


def rows_of(part):
    """Yields the rows of a part."""
    with opened(part["path"]) as file:
        if kind_of(part["path"]) != "parquet":
            found = records(file, part["path"], part["offset"], part["header"])
            for (_, row), _ in zip(found, range(part["rows"]), strict=False):
                yield row
            return
        table, first, last = pq.ParquetFile(file), part["first"], part["first"] + part["rows"]
        before = 0
        for group in range(table.num_row_groups):
            after = before + table.metadata.row_group(group).num_rows
            if before < last and after > first:
                rows = table.read_row_group(group)
                yield from rows.slice(max(first - before, 0), min(last, after) - max(first, before)).to_pylist()
            before = after


def make_plan(arguments):
    """Returns everything that the output depends on, except the parts."""
    files = listed(arguments.corpus)
    if not files:
        raise SystemExit(f"--corpus {arguments.corpus}: no such file")
    with opened(posixpath.join(arguments.model, "assets.extra", "tfxfer.json")) as file:
        described = json.loads(file.read())
    if arguments.signature not in described["signatures"]:
        names = ", ".join(sorted(described["signatures"]))
        raise SystemExit(f"--signature {arguments.signature}: the model has {names}")
    weights = described["weights"]
    content = json.dumps({"weights": weights, "signatures": described["signatures"]}, sort_keys=True)
    return {
        "model_version": f"{described['name']}-{hashlib.sha256(content.encode()).hexdigest()[:16]}",
        "signature": arguments.signature,
        "files": [list(file) for file in files],
        "text": arguments.text,
        "id": arguments.id,
        "part_rows": arguments.part_rows,
    }


def plan_for(arguments):
    """Returns the plan in the output directory, and writes it if there is none; stops if that plan differs."""
    asked = make_plan(arguments)
    path = posixpath.join(arguments.output, PLAN)
    if FileSystems.exists(path):
        with opened(path) as file:
            found = json.loads(file.read())
        differing = [name for name, value in asked.items() if found.get(name) != value]
        if differing:
            raise SystemExit(f"--output {arguments.output}: belongs to a run with another {', '.join(differing)}")
        return found
    asked["parts"] = [part for path, _ in asked["files"] for part in parts_of(path, arguments.part_rows)]
    if not FileSystems.exists(arguments.output):
        FileSystems.mkdirs(arguments.output)
    create(path, json.dumps(asked).encode())
    return asked


# === The work on a part ===


def read(part):
    """Reads a part as `(number, ids, texts)`."""
    ids, texts = [], []
    for row in rows_of(part):
        text = row.get(part["text_column"])
        if not isinstance(text, str) or row.get(part["id_column"]) is None:
            place = f"{part['path']}, row {part['first'] + len(ids)}"
            raise ValueError(f"{place}: no {part['text_column']!r} or {part['id_column']!r}")
        ids.append(str(row[part["id_column"]]))
        texts.append(text)
    if len(ids) != part["rows"]:
        raise ValueError(f"{part['path']}: {len(ids)} rows from row {part['first']} on, expected {part['rows']}")
    return part["number"], ids, texts


class Embedder(ModelHandler):
    """Runs a signature of an exported embedder.

    An element is a whole part, so texts that are embedded together are also written together. A shuffle in between
    would hold back all output until the last vector is computed. The model receives batches of `batch_size` texts of
    similar length.
    """

    def __init__(self, model, signature, batch_size):
        super().__init__(min_batch_size=1, max_batch_size=1)
        self.model, self.signature, self.batch_size = model, signature, batch_size

    def load_model(self):
        """Loads the export on a worker."""
        import tensorflow as tf
        import tensorflow_text  # noqa: F401  (registers the tokenizer's ops)

        return tf.saved_model.load(self.model).signatures[self.signature]

    def run_inference(self, batch, model, inference_args=None):
        """Yields the float32 vectors `(rows, dim)` of each part."""
        import tensorflow as tf

        for part in batch:
            _, _, texts = part
            order = sorted(range(len(texts)), key=lambda row, texts=texts: (len(texts[row]), row))
            vectors = None
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                found = model(text=tf.constant([texts[row] for row in rows]))["embedding"].numpy()
                if vectors is None:
                    vectors = np.empty((len(texts), found.shape[1]), "float32")
                vectors[rows] = found
            yield PredictionResult(part, vectors)


class Write(beam.DoFn):
    """Writes a part under a temporary name and then moves it to its final name."""

    def __init__(self, output, parts, model_version):
        self.output, self.parts, self.model_version = output, parts, model_version

    def process(self, result):
        """Yields the number of the part."""
        number, ids, _ = result.example
        vectors = result.inference
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        table = pa.table(
            {
                "id": pa.array(ids, pa.string()),
                "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
                "model_version": pa.array([self.model_version] * len(ids), pa.string()),
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        name = part_name(number, self.parts)
        temporary = posixpath.join(self.output, UNFINISHED, f"{uuid.uuid4().hex}-{name}")
        with FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(buffer.getvalue())
        FileSystems.rename([temporary], [posixpath.join(self.output, name)])
        Metrics.counter("embed_corpus", "texts").inc(len(ids))
        yield number


def part_name(number, parts):
    """Returns the file name of a part."""
    return f"part-{number:05d}-of-{parts:05d}.parquet"


# === The run ===


def done_in(output, parts):
    """Returns the numbers of the parts that are already written."""
    there = {posixpath.basename(path.replace("\\", "/")) for path, _ in listed(posixpath.join(output, "part-*"))}
    return {number for number in range(parts) if part_name(number, parts) in there}


def main():
    """Plans the parts, embeds the missing ones, and counts the rows of the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="version directory that `export.saved_model` wrote")
    parser.add_argument("--corpus", required=True, help="pattern of .tsv, .csv, .jsonl or .parquet files")
    parser.add_argument("--output", required=True, help="output directory of one run and its restarts")
    parser.add_argument("--text", default="text", help="name of the text column")
    parser.add_argument("--id", default="id", help="name of the id column")
    parser.add_argument("--signature", default="embed", help="e.g. embed_document, if the model has that prompt")
    parser.add_argument("--batch-size", type=int, default=32, help="texts per call of the model")
    parser.add_argument("--part-rows", type=int, default=4096, help="maximum rows per output file")
    arguments, rest = parser.parse_known_args()
    if arguments.batch_size < 1 or arguments.part_rows < 1:
        parser.error("--batch-size and --part-rows must be positive")

    plan = plan_for(arguments)
    count = len(plan["parts"])
    unfinished = posixpath.join(arguments.output, UNFINISHED)
    if not FileSystems.exists(unfinished):
        FileSystems.mkdirs(unfinished)
    done = done_in(arguments.output, count)
    print(f"{count} parts, {len(done)} of them done", flush=True)
    columns = {"text_column": plan["text"], "id_column": plan["id"]}
    missing = [{**part, **columns, "number": i} for i, part in enumerate(plan["parts"]) if i not in done]
    start = time.perf_counter()
    if missing:
        with beam.Pipeline(options=PipelineOptions(rest)) as pipeline:
            (
                pipeline
                | "Parts" >> beam.Create(missing)
                | "Read" >> beam.Map(read)
                | "Embed" >> RunInference(Embedder(arguments.model, plan["signature"], arguments.batch_size))
                | "Write" >> beam.ParDo(Write(arguments.output, count, plan["model_version"]))
            )
    seconds = time.perf_counter() - start

    rows = sum(part["rows"] for part in plan["parts"])
    left = set(range(count)) - done_in(arguments.output, count)
    if left:
        raise SystemExit(f"{len(left)} parts are missing: run the command again")
    if FileSystems.exists(unfinished):
        FileSystems.delete([unfinished])
    embedded = sum(part["rows"] for part in missing)
    print(
        f"{rows} texts in {count} parts; {embedded} of them embedded now, {embedded / max(seconds, 1e-9):.1f} a second"
    )


if __name__ == "__main__":
    main()
