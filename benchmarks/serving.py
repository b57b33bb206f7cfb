"""Requests answered by an exported embedder and by sentence-transformers, both with the same thin HTTP server.

Sides: all-MiniLM-L6-v2 as written by `export.saved_model`, in a process with only tensorflow and tensorflow_text, and
sentence-transformers on PyTorch; float32, two threads, each with `_http_server.py` in front, which merges waiting
requests into batches of up to 32 texts. Clients send one Banking77 text at a time over a persistent connection, and
send the next one as soon as they have the answer. Parts:

- load: latency and throughput at 1, 8 and 32 clients, and throughput at saturation (128 clients), in turn;
- cold: from the start of the process to the first answer, with and without warm-up (the files are in the disk cache);
- size: bytes of the model's folder;
- memory: memory of the servers before, during and after `--load-minutes` of 8 clients each, in turn.

The parts can be run separately: `results/serving.json` keeps the results of the others.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import asyncio
import itertools
import json
import math
import random
import statistics
import tempfile
import time

from benchmarks import _harness
from benchmarks.encode import weights_folder

BASELINE = "sentence-transformers"
OURS = "tfxfer export"
SIDES = {BASELINE: "sentence_transformers", OURS: "exported"}
CLIENTS = (1, 8, 32)
SATURATION = 128
MAX_BATCH = 32
# Seconds not counted at the start of a slice, while connections open and queues fill.
LEAD_IN = 0.5
PARTS = ("load", "cold", "size", "memory")
DTYPES = ("float32", "bfloat16", "int8")


# === Clients ===


async def ask(reader, writer, texts, path="/"):
    """Sends one request; returns the bytes of the answer."""
    body = json.dumps({"instances": texts}).encode()
    writer.write(b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(head.decode())
    size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return await reader.readexactly(size)


async def client(port, texts, start, end, latencies, arrivals, path):
    """Sends one text after the other until `end`; records latencies and arrival times from `start` on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (begin := time.perf_counter()) < end:
        await ask(reader, writer, [next(texts)], path)
        now = time.perf_counter()
        if begin >= start:
            latencies.append(now - begin)
        if start <= now <= end:
            arrivals.append(now)
    writer.close()


def load(port, texts, clients, seconds, path="/"):
    """Runs one slice of load; returns the answered texts, the seconds and each latency."""

    async def run():
        latencies, arrivals = [], []
        start = time.perf_counter() + LEAD_IN
        own = (client(port, texts, start, start + seconds, latencies, arrivals, path) for _ in range(clients))
        await asyncio.gather(*own)
        return {"rows": len(arrivals), "seconds": seconds, "latencies": latencies}

    return asyncio.run(run())


def once(port, texts):
    """Returns the answer to one request on a new connection, and its seconds."""

    async def run():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = await ask(reader, writer, texts)
        writer.close()
        return json.loads(answer)["predictions"]

    begin = time.perf_counter()
    return asyncio.run(run()), time.perf_counter() - begin


def summarize(answers, baseline, title):
    """Prints and returns throughput, its ratio and latencies: a dict of the name to the answers of its slices."""
    summary = _harness.compare(answers, baseline)
    for name, rounds in answers.items():
        latencies = sorted(1e3 * latency for answer in rounds for latency in answer["latencies"])
        for share in (50, 95, 99):
            summary[name][f"p{share}_ms"] = round(_harness.quantile(latencies, share / 100), 1)
        summary[name]["requests"] = len(latencies)
    _harness.show(title, summary, ("p50_ms", "p95_ms", "p99_ms"))
    return summary


# === Sides ===


def export(weights, folder, dtypes=DTYPES):
    """Writes the model in each dtype; returns the folder of each."""
    import tfxfer as tx

    embedder = tx.models.TextEmbedder.from_preset(weights, sequence_length=256)
    return {
        dtype: tx.export.saved_model(
            embedder, pathlib.Path(folder, dtype), weights_dtype=None if dtype == "float32" else dtype
        )
        for dtype in dtypes
    }


class Sides:
    """Both servers: how to start them, and the requests to them."""

    def __init__(self, arguments, exported, texts):
        self.python = {BASELINE: arguments.torch_python, OURS: sys.executable}
        self.weights = {BASELINE: weights_folder(), OURS: exported["float32"]}
        self.texts = texts

    def start(self, name, warm=True):
        """Starts one side's server."""
        longest = sorted(self.texts, key=len)[-1:]
        setup = {
            "engine": SIDES[name],
            "weights": self.weights[name],
            "sequence_length": 256,
            "max_batch": MAX_BATCH,
            "warmup": [self.texts[:1], longest, self.texts[:8], self.texts[:MAX_BATCH]] if warm else [],
        }
        return _harness.Worker(name, self.python[name], "_http_server", setup)


def cosine(first, second):
    """Returns the cosine of two lists of numbers."""
    return sum(map(lambda a, b: a * b, first, second)) / math.hypot(*first) / math.hypot(*second)


# === Parts ===


def measure_load(sides, workers, arguments):
    """Measures latency and throughput by the number of clients."""
    ports = {name: worker.facts["port"] for name, worker in workers.items()}
    some = sides.texts[:MAX_BATCH]
    first, second = (once(ports[name], some)[0] for name in SIDES)
    lowest = min(map(cosine, first, second))
    found = {"lowest_cosine": round(lowest, 6), "slice_seconds": arguments.slice, "rounds": arguments.rounds}
    answers = {clients: {name: [] for name in SIDES} for clients in (*CLIENTS, SATURATION)}
    streams = {name: itertools.cycle(sides.texts) for name in SIDES}
    for turn in range(arguments.rounds):
        order = list(SIDES) if turn % 2 else list(SIDES)[::-1]
        for clients, by_name in answers.items():
            for name in order:
                by_name[name].append(load(ports[name], streams[name], clients, arguments.slice))
            rates = "  ".join(f"{name} {_harness.rate(by_name[name][-1]):.1f}/s" for name in SIDES)
            print(f"  round {turn + 1}/{arguments.rounds}, {clients} clients: {rates}", flush=True)
    for clients, by_name in answers.items():
        title = f"{clients} clients; ratio of the throughput to {BASELINE}"
        found[f"{clients} clients"] = summarize(by_name, BASELINE, title)
    return found


def measure_cold(sides, arguments):
    """Measures the seconds to the first answers of a new process."""
    found = {(name, warm): [] for warm in (False, True) for name in SIDES}
    for _ in range(arguments.starts):
        for (name, warm), runs in found.items():
            begin = time.perf_counter()
            worker = sides.start(name, warm)
            ready = time.perf_counter() - begin
            port = worker.facts["port"]
            first = once(port, sides.texts[40:41])[1]
            answered = time.perf_counter() - begin
            batch = once(port, sides.texts[:MAX_BATCH])[1]
            later = statistics.median(once(port, [text])[1] for text in sides.texts[50:60])
            worker.close()
            runs.append(
                {
                    "ready_s": ready,
                    "first_answer_s": answered,
                    "first_ms": 1e3 * first,
                    "first_batch_ms": 1e3 * batch,
                    "later_ms": 1e3 * later,
                }
            )
    summary = {}
    print(f"\ncold start, median of {arguments.starts}")
    for (name, warm), runs in found.items():
        key = f"{name}, {'with' if warm else 'without'} warm-up"
        summary[key] = {part: round(statistics.median(run[part] for run in runs), 2) for part in runs[0]}
        print(f"{key:40}  " + "  ".join(f"{part} {value:.1f}" for part, value in summary[key].items()))
    return summary


def measure_size(exported):
    """Returns the megabytes of each served folder."""

    def size(folder):
        return round(sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file()) / 1e6, 1)

    found = {BASELINE: size(weights_folder()), **{f"{OURS}, {dtype}": size(path) for dtype, path in exported.items()}}
    print("\nmegabytes on disk\n" + "\n".join(f"{name:40}  {value}" for name, value in found.items()))
    return found


def measure_memory(sides, workers, arguments):
    """Measures the memory of the servers over some minutes of load, in megabytes."""
    streams = {name: itertools.cycle(sides.texts) for name in SIDES}
    loaded = dict.fromkeys(SIDES, 0.0)
    held = {name: [(0.0, worker.ask()["resident_mib"])] for name, worker in workers.items()}
    rows = dict.fromkeys(SIDES, 0)
    while min(loaded.values()) < 60 * arguments.load_minutes:
        for name, worker in workers.items():
            rows[name] += load(worker.facts["port"], streams[name], 8, arguments.memory_slice)["rows"]
            loaded[name] += arguments.memory_slice + LEAD_IN
            held[name].append((loaded[name], worker.ask()["resident_mib"]))
    found = {"load_minutes": arguments.load_minutes, "clients": 8}
    print(f"\nMiB held, over {arguments.load_minutes:g} minutes of 8 clients each")
    for name, values in held.items():
        middle = next(i for i, (seconds, _) in enumerate(values) if seconds >= loaded[name] / 2)
        found[name] = {
            "requests": rows[name],
            "before_mib": round(values[0][1]),
            "after_first_slice_mib": round(values[1][1]),
            "half_way_mib": round(values[middle][1]),
            "after_mib": round(values[-1][1]),
            "peak_mib": round(workers[name].ask()["peak_mib"]),
        }
        print(f"{name:24}" + "  ".join(f"{key} {value}" for key, value in found[name].items()))
    return found


def main():
    """Runs the parts, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder that holds banking77/test.tsv")
    parser.add_argument("--torch-python", required=True, help="interpreter with torch and sentence-transformers")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--slice", type=float, default=4, help="seconds")
    parser.add_argument("--starts", type=int, default=3, help="cold starts of each kind")
    parser.add_argument("--load-minutes", type=float, default=10, help="of each side")
    parser.add_argument("--memory-slice", type=float, default=20, help="seconds of load between memory readings")
    arguments = parser.parse_args()

    texts = [row["text"] for row in _harness.read_tsv(arguments.data / "banking77" / "test.tsv")]
    random.Random(0).shuffle(texts)
    path = _harness.RESULTS / "serving.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    result = {"texts": len(texts), "max_batch": MAX_BATCH, "baseline": BASELINE}
    result |= {part: before[part] for part in PARTS if part in before}
    with tempfile.TemporaryDirectory() as folder:
        exported = export(weights_folder(), folder)
        sides = Sides(arguments, exported, texts)
        if "size" in arguments.parts:
            result["size"] = measure_size(exported)
        if "cold" in arguments.parts:
            result["cold"] = measure_cold(sides, arguments)
        workers = {name: sides.start(name) for name in SIDES}
        for part, measure in (("load", measure_load), ("memory", measure_memory)):
            if part in arguments.parts:
                result[part] = measure(sides, workers, arguments)
        for worker in workers.values():
            worker.close()
    _harness.write("serving", result, workers.values())


if __name__ == "__main__":
    main()
