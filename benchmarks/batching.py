"""Concurrent clients of TF Serving's API, by its batching parameters and numbers of threads.

    python benchmarks/batching.py --data ../shared/data

The export of all-MiniLM-L6-v2, with the `batching_parameters.txt` that `export.saved_model` writes and with changes of
it, served by `examples/contract_server`, which imitates TF Serving's scheduler. Clients send one Banking77 text at a
time over HTTP and send the next one as soon as they have the answer. The servers are asked in turn, in slices. The
program in Python costs more per request than TF Serving does, so the ratios between settings count, not the rates.

A thread waits for each request that is being answered, so the number of threads bounds the size of a batch of single
texts: TF Serving's default for `--rest_api_num_threads` and `--grpc_max_threads` is four per core.
"""

import pathlib
import sys

# The `tokenize.py` next to this file would hide the standard library's module from the imports below.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import argparse
import contextlib
import itertools
import os
import random
import re
import socket
import subprocess
import tempfile
import time
import urllib.request

from benchmarks import _harness, serving
from benchmarks.encode import weights_folder

CLIENTS = (1, 8, 32, 64)
BASELINE = "as written"
# Name: the server's flags, and fields of the batching parameters that differ from what the export writes; `None`: as
# the server does it without batching.
MANY = "--rest_api_num_threads=64"
SETTINGS = {
    BASELINE: ([MANY], {}),
    "the server's default threads": ([], {}),
    "no batching": ([MANY], None),
    "one batch at a time": ([MANY], {"num_batch_threads": 1}),
    "four batches at a time": ([MANY], {"num_batch_threads": 4}),
    "no wait": ([MANY], {"batch_timeout_micros": 0}),
    "10 ms of wait": ([MANY], {"batch_timeout_micros": 10_000}),
    "batches of 8": ([MANY], {"max_execution_batch_size": 8}),
    "batches of 64": ([MANY], {"max_execution_batch_size": 64}),
}


def parameters(written, changes):
    """Returns the text of batching parameters with some fields changed."""
    for name, value in changes.items():
        line = f"{name} {{ value: {value} }}"
        written, count = re.subn(rf"^{name} .*$", line, written, flags=re.MULTILINE)
        written += "" if count else line + "\n"
    return written


class Server:
    """The server's program with one setting."""

    def __init__(self, name, base, folder):
        flags, changes = SETTINGS[name]
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            grpc, self.port = (each.getsockname()[1] for each in (one, two))
        flags = [*flags, f"--port={grpc}", f"--rest_api_port={self.port}", f"--model_base_path={base}"]
        if changes is not None:
            file = pathlib.Path(folder) / f"{name.replace(' ', '_')}.txt"
            file.write_text(parameters((base / "batching_parameters.txt").read_text(), changes))
            flags += ["--enable_batching=true", f"--batching_parameters_file={file}"]
        threads = str(_harness.THREADS)
        environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads}
        _harness.LOGS.mkdir(parents=True, exist_ok=True)
        with open(_harness.LOGS / "batching.log", "a", encoding="utf-8") as log:
            command = [sys.executable, str(_harness.ROOT / "examples" / "contract_server"), *flags]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def wait(self):
        """Returns once the model answers."""
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models/default", timeout=10).close()
                return
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended; its output is in {_harness.LOGS / 'batching.log'}")
            time.sleep(0.2)
        raise TimeoutError("the server does not answer")

    def close(self):
        """Ends the program."""
        self._process.terminate()
        self._process.wait()


def main():
    """Runs the comparison, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder that holds banking77/test.tsv")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slice", type=float, default=3, help="seconds")
    arguments = parser.parse_args()

    texts = [row["text"] for row in _harness.read_tsv(arguments.data / "banking77" / "test.tsv")]
    random.Random(0).shuffle(texts)
    stream = itertools.cycle(texts)
    names = [BASELINE, *(name for name in arguments.settings if name != BASELINE)]
    answers = {clients: {name: [] for name in names} for clients in CLIENTS}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        base = pathlib.Path(serving.export(weights_folder(), folder, ["float32"])["float32"]).parent
        servers = {name: Server(name, base, folder) for name in names}
        for server in servers.values():
            stack.callback(server.close)
        for server in servers.values():
            server.wait()
        for turn in range(-1, arguments.rounds):  # the first round warms up
            for clients, found in answers.items():
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    path = "/v1/models/default:predict"
                    answer = serving.load(servers[name].port, stream, clients, arguments.slice, path)
                    if turn >= 0:
                        found[name].append(answer)
                if turn >= 0:
                    rates = "  ".join(f"{name} {_harness.rate(found[name][-1]):.0f}/s" for name in names)
                    print(f"  round {turn + 1}/{arguments.rounds}, {clients} clients: {rates}", flush=True)
    result = {"slice_seconds": arguments.slice, "rounds": arguments.rounds, "baseline": BASELINE}
    for clients, found in answers.items():
        title = f"{clients} clients; ratio of the throughput to the parameters as written"
        result[f"{clients} clients"] = serving.summarize(found, BASELINE, title)
    _harness.write("batching", result, [])


if __name__ == "__main__":
    main()
