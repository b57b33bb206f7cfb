"""Shared by the benchmarks: workers in separate environments, alternating slices, ratios with their spread.

Each side of a comparison is a long-lived process, started with its own interpreter and driven over pipes by lines of
JSON. A round asks every side for one slice of a few seconds, in an order that rotates from round to round. Ratios are
computed within a round, so that a slow minute of the machine affects all sides. Only one side works at a time.

Standard library only: both environments import this file.
"""

import csv
import datetime
import json
import os
import pathlib
import platform
import random
import re
import resource
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results"
ROOT = HERE.parent
LOGS = ROOT / "runs" / "benchmarks"
THREADS = 2


def read_tsv(path):
    """Reads a TSV file with a header line into a list of dicts."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


class Worker:
    """One side of a comparison, from the benchmark's point of view."""

    def __init__(self, name, python, module, setup, root=ROOT, environment=None, wait=True):
        self.name = name
        threads = str(THREADS)
        # On a machine with these cores alone, both stacks keep to them by default.
        limits = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), threads)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            **(limits if os.cpu_count() > THREADS else {}),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TOKENIZERS_PARALLELISM": "true",
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "-1",
            **(environment or {}),
        }
        LOGS.mkdir(parents=True, exist_ok=True)
        self._log = LOGS / f"{module.strip('_')}.log"
        self._process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.{module}", json.dumps({**setup, "threads": THREADS})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("a", encoding="utf-8"),
            text=True,
            cwd=root,
            env=environment,
        )
        if wait:
            self.ready()

    def ready(self):
        """Waits until the worker has started."""
        self.facts = self._answer()
        self.versions = self.facts.pop("versions")

    def ask(self, **request):
        """Has the worker run one slice; returns its answer, which includes `rows` and `seconds`."""
        self.start(**request)
        return self.finish()

    def start(self, **request):
        """Sends the worker a request; `finish` waits for its answer."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def finish(self):
        """Returns the answer to the request sent by `start`."""
        return self._answer()

    def close(self):
        """Ends the worker."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} died; its last output is in {self._log}")
        return json.loads(line)


class Requests:
    """The worker's end of the pipes. Output of libraries goes to the log instead."""

    def __init__(self):
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    @staticmethod
    def setup():
        """Returns the settings that the worker was started with."""
        return json.loads(sys.argv[1])

    def send(self, **answer):
        """Sends one answer."""
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()

    def next(self):
        """Returns the next request, or `None` at the end."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def serve(self, work):
        """Answers every request with `work(request)`, a dict; measures the seconds unless `work` did."""
        while (request := self.next()) is not None:
            start = time.perf_counter()
            answer = work(request)
            self.send(**{"seconds": time.perf_counter() - start, **answer})


def alternate(sides, request_of, rounds, report=print):
    """Asks all sides for a slice, `rounds` times.

    Args:
        sides: dict of name to `Worker` or to `(Worker, fixed part of its requests)`.
        request_of: function of the round's number and the name that returns the request, a dict.
        rounds: int.
        report: called with a line for each round.

    Returns:
        A dict of name to the list of its answers, one per round.
    """
    answers = {name: [] for name in sides}
    names = list(sides)
    for turn in range(rounds):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for name in order:
            side = sides[name]
            worker, fixed = side if isinstance(side, tuple) else (side, {})
            answers[name].append(worker.ask(**fixed, **request_of(turn, name)))
        rates = "  ".join(f"{name} {rate(answers[name][-1]):.1f}/s" for name in names)
        report(f"  round {turn + 1}/{rounds}: {rates}")
    return answers


def rate(answer):
    """Returns the rows per second of one answer."""
    return answer["rows"] / answer["seconds"]


def quantile(values, share):
    """Returns a quantile of a short list, by linear interpolation."""
    values = sorted(values)
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def compare(answers, baseline, group=1):
    """Summarizes the answers relative to a baseline.

    Args:
        answers: the result of `alternate`.
        baseline: the name that the ratios compare with.
        group: int. The number of successive rounds that form one ratio, from their summed rows and seconds; above 1 if
            a single slice has too few batches to be representative.

    Returns:
        A dict of name to `rows_per_second` (over everything), `ratio` (median), `p10` and `p90` of the ratios, `whole`
        (the ratio of the rates over everything) and `rounds`.
    """

    def rates(name):
        chunks = [answers[name][i : i + group] for i in range(0, len(answers[name]), group)]
        return [sum(a["rows"] for a in chunk) / sum(a["seconds"] for a in chunk) for chunk in chunks]

    def whole(name):
        return sum(a["rows"] for a in answers[name]) / sum(a["seconds"] for a in answers[name])

    summary = {}
    for name in answers:
        ratios = [own / other for own, other in zip(rates(name), rates(baseline), strict=True)]
        summary[name] = {
            "rows_per_second": round(whole(name), 2),
            "ratio": round(statistics.median(ratios), 3),
            "p10": round(quantile(ratios, 0.1), 3),
            "p90": round(quantile(ratios, 0.9), 3),
            "whole": round(whole(name) / whole(baseline), 3),
            "rounds": len(ratios),
        }
    return summary


def show(title, summary, extra=()):
    """Prints a summary as a table; `extra` names further columns."""
    print(f"\n{title}")
    width = max(len(name) for name in summary)
    print(f"{'':{width}}  {'rows/s':>8}  {'ratio':>6}  {'p10':>6}  {'p90':>6}" + "".join(f"  {e:>17}" for e in extra))
    for name, row in summary.items():
        tail = "".join(f"  {row.get(column, ''):>17}" for column in extra)
        print(
            f"{name:{width}}  {row['rows_per_second']:8.1f}  {row['ratio']:6.2f}  {row['p10']:6.2f}  "
            f"{row['p90']:6.2f}{tail}"
        )


def peak_mib():
    """Returns the peak memory of this process, in MiB."""
    status = pathlib.Path("/proc/self/status")
    if status.is_file():  # `ru_maxrss` starts with the parent's memory at the fork
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def machine():
    """Returns the machine's properties that affect the figures, as far as they are known."""
    model, flags = platform.processor() or platform.machine(), []
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        facts = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        facts = {name.strip(): value.strip() for name, value in facts.items()}
        model = facts.get("model name", model)
        flags = [flag for flag in facts.get("flags", "").split() if flag.startswith(("avx2", "avx512", "amx", "fma"))]
    return {
        "processor": model,
        "flags": flags,
        "cores": os.cpu_count(),
        "threads": THREADS,
        "system": platform.system(),
    }


def write(name, result, workers, folder=RESULTS, quiet=False):
    """Writes `results/<name>.json` with machine, versions and date; returns the path."""
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    versions = {}
    for worker in workers:
        versions.update(worker.versions)
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": dict(sorted(versions.items())),
        **result,
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if not quiet:
        print(f"\nwritten: {os.path.relpath(path, ROOT)}")
    return path


def shuffled_rows(rows, batch_size, seed):
    """Returns a copy in random order, truncated to a multiple of the batch size, so that all batches are full."""
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows[: len(rows) - len(rows) % batch_size]
