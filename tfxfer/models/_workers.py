"""Encoding with several processes, each with a copy of the model."""

import collections
import hashlib
import importlib
import multiprocessing.connection
import os
import pathlib
import pickle
import re
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import keras
import numpy as np

from tfxfer import _check
from tfxfer._cores import cores, limits

# The number of parts of a stream to start before the first of them is complete.
_AHEAD = 3
# The number of values of a weight to check for changes.
_SAMPLE = 65_536
_THREADS = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Seconds to wait for a process to end by itself.
_GRACE = 2.0


class Workers:
    """Processes that each encode texts with a copy of an embedder; `TextEmbedder.workers` creates them.

    They keep the model as it was at that time, and serve any number of calls. Functions that take an embedder also take
    workers: `search.SemanticIndex(workers, texts)`.

    Args:
        model: `TextEmbedder` without an engine.
        count: int. The number of processes. Defaults to the number of devices.
        devices: list of `"cpu"` and `"gpu:0"`, `"gpu:1"` and so on, one for each process. By default, each process sees
            the devices of this process.
        threads: int. Threads of each process. By default, the number of cores divided by the number of processes.

    Attributes:
        model: the embedder.
        devices: list of strings or `None`, one for each process.
        threads: int. Threads of each process, as far as TensorFlow and numpy respect it.

    Raises:
        ValueError: if a device is unknown or missing, or the model has an engine.

    Example:

    ```python
    if __name__ == "__main__":
        with embedder.workers(4) as workers:
            vectors = workers.encode(texts)
    ```
    """

    def __init__(
        self, model: Any, count: int | None = None, *, devices: Sequence[str] | None = None, threads: int | None = None
    ) -> None:
        self.devices, count = _devices(count, devices)
        self.threads = _threads(count) if threads is None else _check.integer("threads", threads)
        if model.engine is not None:
            remedy = "An engine has its own threads. Set `model.engine = None`."
            raise _check.invalid("engine", "None for a model that several processes compute", model.engine, remedy)
        self.model = model
        self._made_of = _fingerprint(model)
        self._processes: list[_Process] = []
        self._folder: Any = tempfile.TemporaryDirectory(prefix="tfxfer-workers-")
        try:
            model.save(pathlib.Path(self._folder.name) / "model.keras")
            about = _About(self._folder.name, bool(model.jit_compile), _modules(model))
            for device in self.devices:
                self._processes.append(_Process(about, _environment(device, self.threads)))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self.devices)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __del__(self):
        if getattr(self, "_folder", None) is not None:
            self.close()

    def __repr__(self):
        return f"Workers({self.model.name}, {len(self)} processes, {self.threads} threads each)"

    @property
    def prompts(self) -> Any:
        """The model's prompts."""
        return self.model.prompts

    def encode(self, texts: Any, batch_size: int = 32, **kwargs: Any) -> Any:
        """Encodes `texts` in batches of `batch_size`: `model.encode(texts, batch_size, workers=self, **kwargs)`."""
        return self.model.encode(texts, batch_size, **{**kwargs, "workers": self})

    def encode_query(self, texts: Any, batch_size: int = 32, **kwargs: Any) -> Any:
        """Encodes the queries `texts` in batches of `batch_size`: `model.encode_query(..., workers=self, **kwargs)`."""
        return self.model.encode_query(texts, batch_size, **{**kwargs, "workers": self})

    def encode_document(self, texts: Any, batch_size: int = 32, **kwargs: Any) -> Any:
        """Encodes the documents `texts` in batches of `batch_size`: `model.encode_document(..., workers=self)`."""
        return self.model.encode_document(texts, batch_size, **{**kwargs, "workers": self})

    def close(self) -> None:
        """Ends the processes, even if they are busy; they cannot encode after that."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.end()
        for process in processes:
            process.wait()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def check(self, model: Any) -> None:
        """Raises if the processes do not have the current state of `model`, or have ended."""
        self._check_open()
        if model.engine is not None:
            raise _check.invalid("engine", "None for `workers`, which compute the model itself", model.engine)
        if model is not self.model or _fingerprint(model) != self._made_of:
            remedy = "They keep the model as it was when they were created. Create new ones: `model.workers(n)`."
            raise _check.invalid("workers", "processes of this model as it is now", repr(self), remedy)

    def _check_open(self):
        if self._folder is None:
            raise _check.invalid("workers", "running processes", "ended ones", "Create new ones: `model.workers(n)`.")

    # === Work ===

    def run(
        self,
        parts: Iterable[tuple[np.ndarray, list[np.ndarray]]],
        arguments: dict[str, Any],
        report: Callable[[int], Any] | None = None,
    ) -> Iterator[Any]:
        """Yields the results of the model's `encode`, part by part in the order of the texts.

        Args:
            parts: iterable of texts, an object array of bytes, and the rows of each batch.
            arguments: dict of the further arguments of `encode`.
            report: function to call with the number of texts of each finished batch.

        Raises:
            RuntimeError: if a batch fails (the error names its row and text), or if a process has ended.
        """
        coming, first = iter(parts), 0
        opened: collections.deque[_Part] = collections.deque()
        while True:
            for process in self._processes:
                if not process.is_free:
                    continue
                part = next((part for part in opened if part.waiting), None)
                if part is None and len(opened) < _AHEAD and (found := next(coming, None)) is not None:
                    part = _Part(first, *found, report)
                    opened.append(part)
                    first += len(part.texts)
                if part is None:
                    break
                rows = part.waiting.popleft()
                if not process.start((part.texts[rows].tolist(), arguments), (part, rows)):
                    raise self._lost(process)
            for part in opened:
                if part.error is not None:
                    raise part.error
            if opened and opened[0].is_done:
                yield opened.popleft().result()
                continue  # another call may have taken the results meanwhile: hand out work again before waiting
            if not opened:
                if (found := next(coming, None)) is None:
                    return
                opened.append(_Part(first, *found, report))
                first += len(opened[-1].texts)
                continue
            self._receive()

    def _receive(self):
        """Waits for results and stores them in their call, which may continue later or never."""
        self._check_open()  # the processes may have been ended between two parts of a stream
        waited: dict[Any, _Process] = {process.connection: process for process in self._processes}
        waited |= {process.sentinel: process for process in self._processes}
        answered = {id(waited[each]): waited[each] for each in multiprocessing.connection.wait(list(waited))}
        for process in answered.values():
            message = process.receive()
            if message is None:
                raise self._lost(process)
            kind, *content = message
            if kind == "ready":
                process.is_ready = True
                continue
            if kind == "broken":
                self.close()
                remedy = (
                    "If a custom class is missing there: a new process imports the modules of the model's layers and "
                    "the script's file, but not a notebook."
                )
                raise RuntimeError(f"A worker could not load the model: {content[1]}. {remedy}\n{content[2]}")
            (part, rows), process.task = process.task, None
            if kind == "failed":
                part.error = _failure(process, part, rows, content)
            else:
                part.take(rows, content[0])

    def _lost(self, process):
        """Returns the error for a process that has ended, and ends the others."""
        code = process.wait()
        self.close()
        was_killed = code is not None and code < 0
        ended = f"was killed by signal {-code}" if was_killed else f"ended with exit code {code}"
        remedy = "Memory may have run out: use fewer processes or smaller batches."
        if not (process.is_ready or was_killed):
            remedy = (
                "It ended during startup. A script that creates workers needs `if __name__ == '__main__':` around its "
                "code, as each process imports the script."
            )
        return RuntimeError(f"Worker process {process.pid} {ended}. {remedy}")


class _Part:
    """Texts whose batches several processes compute."""

    def __init__(self, first, texts, batches, report):
        self.first, self.texts, self._report = first, texts, report
        self.error: RuntimeError | None = None
        self.waiting = collections.deque(batches)
        self._count, self._found = len(batches), []

    @property
    def is_done(self):
        return len(self._found) == self._count

    def take(self, rows, found):
        self._found.append((rows, found))
        if self._report is not None:
            self._report(len(rows))

    def result(self):
        """The rows in the order of the texts: an array, or a list of arrays."""
        if isinstance(self._found[0][1], list):
            made: Any = [None] * len(self.texts)
            for rows, found in self._found:
                for row, each in zip(rows.tolist(), found, strict=True):
                    made[row] = each
            return made
        some = self._found[0][1]
        made = np.empty((len(self.texts), *some.shape[1:]), some.dtype)
        for rows, found in self._found:
            made[rows] = found
        return made


class _Process:
    """A worker process, as seen from the main process."""

    def __init__(self, about, environment):
        context = multiprocessing.get_context("spawn")  # a fork of a process with TensorFlow's threads may hang
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, about), daemon=True)
        before = {name: os.environ.get(name) for name in environment}
        try:
            # TensorFlow reads them on import, before any of our code runs there.
            os.environ.update(environment)
            self._process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        theirs.close()
        self.is_ready = False
        self.task: Any = None

    @property
    def pid(self):
        return self._process.pid

    @property
    def sentinel(self):
        return self._process.sentinel

    @property
    def is_free(self):
        return self.is_ready and self.task is None

    def start(self, message, task):
        """Sends a task; returns whether the process is alive to take it."""
        try:
            self.connection.send(message)
        except OSError:
            return False
        self.task = task
        return True

    def receive(self):
        """Returns a received message, or `None` if the process has ended."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (OSError, EOFError):
            return None

    def end(self):
        self._process.terminate()
        self.connection.close()

    def wait(self):
        """Returns the exit code of an ending process."""
        self._process.join(_GRACE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_GRACE)
        return self._process.exitcode


_About = collections.namedtuple("_About", ["folder", "jit_compile", "modules"])


def _work(connection, about):
    """The code of a process: loads the model, and encodes until there are no more tasks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the process that waits ends the others
    try:
        for name in about.modules:
            importlib.import_module(name)
        model = keras.saving.load_model(pathlib.Path(about.folder) / "model.keras", compile=False)
        if bool(model.jit_compile) != about.jit_compile:
            model.jit_compile = about.jit_compile
    except Exception as error:
        connection.send(("broken", *_told(error)))
        return
    try:
        connection.send(("ready",))
        while True:
            texts, arguments = connection.recv()
            connection.send(_answer(model, texts, arguments))
    except (EOFError, OSError):  # the other side has closed
        return


def _answer(model, texts, arguments):
    try:
        return "done", model.encode(texts, len(texts), progress=False, **arguments)
    except Exception as error:
        for i, text in enumerate(texts):
            try:
                model.encode([text], 1, progress=False, **arguments)
            except Exception as of_one:
                return "failed", i, *_told(of_one)
        return "failed", None, *_told(error)


def _told(error):
    """Prepares an exception for another process: itself, if picklable; its name and message; its traceback."""
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:
        content = None
    return content, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))


def _failure(process, part, rows, content):
    """Returns the error for a batch that a process could not encode."""
    place, blob, message, remote = content
    if place is None:
        first = [int(part.first + row) for row in rows[:5]]
        more = ", ..." if len(rows) > 5 else ""
        where = f"in the batch of rows {', '.join(map(str, first))}{more} (counting from 0), each of which works alone"
    else:
        text = part.texts[rows[place]].decode(errors="replace")
        shown = repr(text if len(text) <= 200 else f"{text[:200]}...")
        where = f"in row {int(part.first + rows[place])} (counting from 0), the text {shown}"
    error = RuntimeError(f"Worker process {process.pid} could not encode {where}: {message}")
    cause = RuntimeError(message) if blob is None else pickle.loads(blob)
    cause.add_note(f"In the worker:\n{remote}")
    error.__cause__ = cause
    return error


# === Settings ===


def _devices(count, devices):
    if devices is None:
        count = _check.integer("count", count)
        return [None] * count, count
    devices = [devices] if isinstance(devices, str) else list(devices)
    for device in devices or [None]:
        if not isinstance(device, str) or not re.fullmatch(r"cpu|gpu:\d+", device):
            raise _check.invalid("devices", "a list of 'cpu' and 'gpu:0', 'gpu:1' and so on", devices)
    if count is not None and _check.integer("count", count) != len(devices):
        raise _check.invalid("count", f"None, or {len(devices)}, the number of devices", count)
    return devices, len(devices)


def _threads(count):
    """Threads for each process: in total at most the number of cores, and each at most as many as this process has."""
    return max(1, min([cores() // count, *limits(*_THREADS[:2])]))


def _environment(device, threads):
    """The environment variables of a new process in addition to those of this one."""
    found = dict.fromkeys(_THREADS, str(threads)) | {"TF_NUM_INTEROP_THREADS": "1"}
    found["KERAS_BACKEND"] = keras.config.backend()
    # Several processes may share a GPU.
    found |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if device == "cpu":
        found |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    elif device is not None:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        number = int(device.removeprefix("gpu:"))
        names = [name.strip() for name in seen.split(",")] if seen is not None else None
        if names is not None and number >= len(names):
            raise _check.invalid("devices", f"GPUs among the {len(names)} in CUDA_VISIBLE_DEVICES", device)
        found["CUDA_VISIBLE_DEVICES"] = str(number) if names is None else names[number]
    return found


def _modules(model):
    """The modules of a model's classes, whose import registers the classes."""
    names = {type(each).__module__ for each in (model, model.preprocessor, model.backbone, *model.layers)}
    return sorted(names - {"__main__", "__mp_main__"})


def _fingerprint(model):
    """A hash of everything on which the vectors depend; of large weights, only a sample."""
    made = hashlib.blake2b(digest_size=16)
    preprocessor = model.preprocessor
    settings = [preprocessor.sequence_length, preprocessor.padding_side, preprocessor.tokenizer.vocabulary_size()]
    settings += [preprocessor.tokenizer.special_tokens_in_strings, bool(model.jit_compile), model.include_prompt]
    made.update(repr(settings).encode())
    for weight in model.weights:
        values = np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).reshape(-1)
        made.update(f"{values.dtype}{weight.shape}".encode())
        made.update(np.ascontiguousarray(values[:: max(1, len(values) // _SAMPLE)]).view("uint8").data)
    return made.digest()
