"""Merges requests that arrive together, as batching_session.cc does."""

import collections
import dataclasses
import logging
import os
import re
import threading
import time

import numpy as np

from contract_server import errors

LOG = logging.getLogger("contract_server")


@dataclasses.dataclass
class Parameters:
    """The fields of `--batching_parameters_file`, with the scheduler's own defaults."""

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0
    thread_pool_name: str = ""
    allowed_batch_sizes: tuple = ()
    # Not a field of the file: whether a request without rows waits forever, as in TF Serving.
    hangs_on_empty: dataclasses.InitVar[bool] = True

    def __post_init__(self, hangs_on_empty):
        self.hangs_on_empty = hangs_on_empty
        largest = self.execution_size
        if self.max_execution_batch_size and not self.enable_large_batch_splitting:
            raise errors.invalid("max_execution_batch_size needs enable_large_batch_splitting")
        if largest > self.max_batch_size:
            raise errors.invalid("max_execution_batch_size must be no larger than max_batch_size")
        if self.allowed_batch_sizes and self.allowed_batch_sizes[-1] != largest:
            raise errors.invalid(f"the last of allowed_batch_sizes must be {largest}")

    @property
    def execution_size(self):
        return self.max_execution_batch_size or self.max_batch_size


def read(path):
    """Reads parameters from a file in protobuf's text format; an unknown field is an error, as in TF Serving."""
    with open(path, encoding="utf-8") as file:
        text = re.sub("#.*", "", file.read())
    kinds = {field.name: field.type for field in dataclasses.fields(Parameters)}
    found = collections.defaultdict(list)
    pattern = re.compile(r"\s*(\w+)\s*(?::?\s*{\s*value\s*:\s*([^\s}]+)\s*}|:\s*([^\s{]+))\s*[,;]?")
    position = 0
    while text[position:].strip():
        match = pattern.match(text, position)
        if not match or match[1] not in kinds:
            raise errors.invalid(f"{path}: not batching parameters: {text[position:].strip()[:60]!r}")
        found[match[1]].append(match[2] or match[3])
        position = match.end()
    values = {}
    for name, texts in found.items():
        if kinds[name] is tuple:
            values[name] = tuple(map(int, texts))
        elif kinds[name] is bool:
            values[name] = {"true": True, "false": False}[texts[-1]]
        else:
            values[name] = kinds[name](texts[-1].strip("\"'"))
    return Parameters(**values)


class Task:
    """A waiting request; its rows go into one batch or several."""

    def __init__(self, inputs, size):
        self.inputs, self.size = inputs, size
        self.taken = self.answered = 0
        self.parts, self.error = {}, None
        self.arrived, self.done = time.monotonic(), threading.Event()


class Queue:
    """The requests of one signature.

    Args:
        run: callable. Takes a dict of tensor name to array; returns the list of outputs.
        parameters: `Parameters`.
    """

    def __init__(self, run, parameters):
        self._run, self._parameters = run, parameters
        self._tasks, self._changed, self._closed = collections.deque(), threading.Condition(), False
        self._hanging, self._released = [], False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(parameters.num_batch_threads)]
        for thread in self._threads:
            thread.start()

    def __call__(self, inputs):
        task = Task(inputs, _size(inputs))
        with self._changed:
            self._check_room(task.size)
            # The scheduler forms no batch without rows, and nothing notifies the request.
            hangs = not task.size and self._parameters.hangs_on_empty and not self._released
            (self._hanging if hangs else self._tasks).append(task)
            self._changed.notify_all()
        if hangs:
            LOG.warning("with batching, a request without rows waits forever, as in TF Serving")
        task.done.wait()
        if task.error is not None:
            raise errors.of(task.error)
        parts = [task.parts[start] for start in sorted(task.parts)]
        return parts[0] if len(parts) == 1 else [np.concatenate(each) for each in zip(*parts, strict=True)]

    def release(self):
        """Fails the requests that would wait forever, so that the server can stop."""
        with self._changed:
            self._released = True
            for task in self._hanging:
                task.error = errors.ServingError(errors.UNAVAILABLE, "the server is stopping")
                task.done.set()
            self._hanging.clear()

    def close(self):
        self.release()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _check_room(self, size):
        limit = self._parameters.max_batch_size
        if size > limit:
            raise errors.invalid(f"Task size {size} is larger than maximum input batch size {limit}")
        waiting = sum(task.size - task.taken for task in self._tasks)
        room = self._parameters.max_enqueued_batches * self._parameters.execution_size
        if waiting + size > room:
            message = f"The batch scheduling queue to which this task was submitted is full; task size is {size}"
            raise errors.ServingError(errors.UNAVAILABLE, message)

    def _work(self):
        while (parts := self._next()) is not None:
            try:
                self._process(parts)
            except Exception as error:
                for task, _, _ in parts:
                    task.error = error
                    task.done.set()

    def _next(self):
        """Waits for a batch that is full or has waited long enough; returns `(task, start, stop)` of its parts."""
        limit = self._parameters.execution_size
        with self._changed:
            while True:
                if not self._tasks:
                    if self._closed:
                        return None
                    self._changed.wait()
                    continue
                left = self._tasks[0].arrived + self._parameters.batch_timeout_micros / 1e6 - time.monotonic()
                if left <= 0 or self._closed or sum(task.size - task.taken for task in self._tasks) >= limit:
                    return self._take(limit)
                self._changed.wait(left)

    def _take(self, room):
        parts = []
        while self._tasks and room:
            task = self._tasks[0]
            rest = task.size - task.taken
            if rest > room and not self._parameters.enable_large_batch_splitting:
                break
            count = min(rest, room)
            parts.append((task, task.taken, task.taken + count))
            task.taken += count
            room -= count
            if task.taken == task.size:
                self._tasks.popleft()
        return parts

    def _process(self, parts):
        size = sum(stop - start for _, start, stop in parts)
        padded = next((allowed for allowed in self._parameters.allowed_batch_sizes if allowed >= size), size)
        merged = {}
        for name in parts[0][0].inputs:
            rows = [task.inputs[name][start:stop] for task, start, stop in parts]
            if len({each.shape[1:] for each in rows}) > 1:
                message = f"Tensors with name '{name}' from different tasks have different shapes and padding is off."
                raise errors.ServingError(errors.FAILED_PRECONDITION, message)
            rows += [rows[-1][:1]] * (padded - size)
            merged[name] = np.concatenate(rows)
        outputs = self._run(merged)
        for output in outputs:
            if output.ndim == 0:
                raise errors.ServingError(errors.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
            if output.shape[0] != padded:
                message = (
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors"
                )
                raise errors.ServingError(errors.FAILED_PRECONDITION, message)
        position = 0
        for task, start, stop in parts:
            end = position + stop - start
            self._answer(task, start, stop, [output[position:end] for output in outputs])
            position = end

    def _answer(self, task, start, stop, outputs):
        with self._changed:
            task.parts[start] = outputs
            task.answered += stop - start
            finished = task.answered == task.size
        if finished:
            task.done.set()


def _size(inputs):
    if not inputs:
        raise errors.invalid("Batching Run() must have at least one input tensor")
    if any(value.ndim == 0 for value in inputs.values()):
        raise errors.invalid("Batching input tensors must have at least one dimension")
    sizes = {value.shape[0] for value in inputs.values()}
    if len(sizes) > 1:
        message = "Batching input tensors supplied in a given call must have equal 0th-dimension size"
        raise errors.invalid(message)
    return sizes.pop()
