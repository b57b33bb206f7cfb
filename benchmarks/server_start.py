"""A server's start by part: processor seconds and resident memory of imports, loading an export, first requests.

    python benchmarks/server_start.py

The export of all-MiniLM-L6-v2 is loaded by a fresh process with only tensorflow and tensorflow_text, as the servers of
`serving.py` load it, `--rounds` times: medians. Memory is divided into anonymous pages and pages of files, mostly
libraries, which processes share. The size of the export is also told. Results go to `results/server_start.json`.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import json
import statistics
import subprocess
import tempfile
import time

PRESET = "all_minilm_l6_v2"
PARTS = ("python", "import tensorflow", "import tensorflow_text", "load", "first request", "second", "batch of 32")


def memory():
    """Returns the resident MiB of this process: anonymous pages, pages of files."""
    lines = pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    return [int(values[name]) / 1024 for name in ("RssAnon", "RssFile")]


def serve(folder):
    """Loads an export in this process; returns the seconds of the processor and the memory after each part."""
    found = [[time.process_time(), *memory()]]

    def done():
        found.append([time.process_time(), *memory()])

    import tensorflow as tf

    done()
    import tensorflow_text  # noqa: F401  (registers the operations)

    done()
    model = tf.saved_model.load(folder)
    done()
    answer = model.signatures["serving_default"]
    (name,) = answer.structured_input_signature[1]
    for texts in (["Where is my card?"], ["Where is my card?"], ["Where is my card?"] * 32):
        answer(**{name: tf.constant(texts)})
        done()
    return found


def size_of(folder):
    """Returns the number of functions and operations of an export, and its size by file."""
    from tensorflow.core.protobuf import saved_model_pb2

    read = saved_model_pb2.SavedModel()
    read.ParseFromString((folder / "saved_model.pb").read_bytes())
    functions = read.meta_graphs[0].graph_def.library.function
    sizes = {"graph": "saved_model.pb", "weights": "variables/variables.data-00000-of-00001"}
    return {
        "functions": len(functions),
        "operations": sum(len(function.node_def) for function in functions),
        **{f"mb_{name}": round((folder / file).stat().st_size / 1e6, 1) for name, file in sizes.items()},
    }


def main():
    """Exports, loads in fresh processes, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="load this version of an export in this process")
    arguments = parser.parse_args()
    if arguments.folder:
        print(json.dumps(serve(arguments.folder)))
        return
    import types

    import tfxfer as tx
    from benchmarks import _harness

    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        tx.export.saved_model(tx.models.TextEmbedder.from_preset(PRESET), folder)
        version = pathlib.Path(folder, "1")
        about = size_of(version)
        for _ in range(arguments.rounds):
            command = [sys.executable, __file__, "--folder", str(version)]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rounds.append(json.loads(answer.splitlines()[-1]))
    rows = []
    for i, part in enumerate(PARTS):
        times, anonymous, files = zip(*(each[i] for each in rounds), strict=True)
        before = [each[i - 1][0] for each in rounds] if i else [0.0] * len(rounds)
        seconds = statistics.median(a - b for a, b in zip(times, before, strict=True))
        rows.append(
            {
                "part": part,
                "seconds": round(seconds, 3),
                "mib_anonymous": round(statistics.median(anonymous)),
                "mib_files": round(statistics.median(files)),
            }
        )
        print(f"{part:24} {rows[-1]['seconds']:7.3f} s, {rows[-1]['mib_anonymous']:5} + {rows[-1]['mib_files']:4} MiB")
    print(about)
    worker = types.SimpleNamespace(versions={"tfxfer": tx.__version__})
    result = {
        "machine": _harness.machine(),
        "preset": PRESET,
        "rounds": arguments.rounds,
        "export": about,
        "parts": rows,
    }
    _harness.write("server_start", result, [worker])


if __name__ == "__main__":
    main()
