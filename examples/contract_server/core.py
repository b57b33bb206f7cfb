"""Finds versions of models in directories, loads them, warms them up, switches and unloads them."""

import contextlib
import logging
import os
import re
import threading

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (the stock server links these operations)
from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import get_model_status_pb2, prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from contract_server import batching, calls, errors

LOG = logging.getLogger("contract_server")
WARM_UP = os.path.join("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000
State = get_model_status_pb2.ModelVersionStatus.State


class Version:
    """One loaded SavedModel.

    Args:
        path: directory of the version.
        parameters: `batching.Parameters`, or `None` to run each request alone.
        warm_up: bool. Whether to run the warm-up requests.
        check_methods: bool. Whether a signature's method name must be that of the call.
    """

    def __init__(self, path, parameters, warm_up=True, check_methods=False):
        self._graph = tf.Graph()
        with self._graph.as_default():
            self._session = tf.compat.v1.Session()
            meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], path)
        self.signatures = dict(meta_graph.signature_def)
        self._parameters, self.check_methods = parameters, check_methods
        self._callables, self._queues, self._lock = {}, {}, threading.Lock()
        self._running, self._idle = 0, threading.Condition()
        self.runs = 0
        try:
            if warm_up:
                self._replay(os.path.join(path, WARM_UP))
        except Exception:
            self.close()
            raise

    def run(self, inputs, fetches):
        """Runs the graph, with batching together with other requests.

        Args:
            inputs: dict of tensor name to array.
            fetches: list of tensor names.

        Returns:
            A list of arrays.
        """
        key = tuple(sorted(inputs)), tuple(fetches)
        if self._parameters is None:
            return self._run(key, inputs)
        with self._lock:
            if key not in self._queues:
                self._queues[key] = batching.Queue(lambda merged: self._run(key, merged), self._parameters)
        return self._queues[key](inputs)

    def _run(self, key, inputs):
        names, fetches = key
        with self._lock:
            if key not in self._callables:
                # `Session.run` would check shapes in Python; a server in C++ does not.
                options = config_pb2.CallableOptions(feed=names, fetch=fetches)
                self._callables[key] = self._session._make_callable_from_options(options)
            self.runs += 1
        return [np.asarray(value) for value in self._callables[key](*(inputs[name] for name in names))]

    @contextlib.contextmanager
    def used(self):
        """Keeps the version open while a request runs."""
        try:
            yield self
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def take(self):
        with self._idle:
            self._running += 1

    def release(self):
        """Fails the requests that would wait forever."""
        with self._lock:
            queues = list(self._queues.values())
        for queue in queues:
            queue.release()

    def close(self):
        """Waits for the running requests, then frees the model."""
        self.release()
        with self._idle:
            self._idle.wait_for(lambda: not self._running)
        for queue in self._queues.values():
            queue.close()
        self._session.close()

    def _replay(self, path):
        """Runs the warm-up requests; one that fails, or more than `MAX_RECORDS`, fails the load."""
        if not os.path.exists(path):
            return
        apis = {"predict_log": calls.predict, "classify_log": calls.classify, "regress_log": calls.regress}
        for count, record in enumerate(tf.data.TFRecordDataset(path).as_numpy_iterator(), start=1):
            try:
                log = prediction_log_pb2.PredictionLog.FromString(record)
            except Exception as error:
                raise errors.invalid(f"Failed to parse warmup record: {error} from {path}") from error
            kind = log.WhichOneof("log_type")
            if kind in apis:
                apis[kind](self, getattr(log, kind).request)
            elif kind is not None:
                raise errors.ServingError(errors.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
            if count > MAX_RECORDS:
                raise errors.invalid(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")


class Model:
    """The versions in one base directory.

    Args:
        config: a `ModelConfig`.
        load: callable. Takes a path; returns a `Version`.
    """

    def __init__(self, config, load):
        self.name = config.name
        self._load, self._lock = load, threading.Lock()
        self._versions, self._states = {}, {}
        self.config = config

    def poll(self):
        """Loads the versions that the directory and the policy ask for, then unloads the others."""
        aspired = self._aspired()
        for number, path in sorted(aspired.items()):
            # A version that failed is not retried as long as its directory exists.
            if number not in self._versions and not self._states.get(number, (None, None))[1]:
                self._start(number, path)
        with self._lock:
            self._states = {n: found for n, found in self._states.items() if n in aspired or not found[1]}
            # Old versions stay until a new one can answer.
            ready = set(aspired) & set(self._versions)
            leaving = [number for number in self._versions if number not in aspired and (ready or not aspired)]
            closed = [self._versions.pop(number) for number in leaving]
            self._states.update(dict.fromkeys(leaving, (State.UNLOADING, None)))
        for version in closed:
            version.close()
        with self._lock:
            self._states.update(dict.fromkeys(leaving, (State.END, None)))

    def _aspired(self):
        """Returns the paths of the versions to serve, by number."""
        found = {}
        base = self.config.base_path
        if not os.path.isdir(base):
            LOG.error("could not find base path %s of %s", base, self.name)
            with self._lock:
                return dict.fromkeys(self._versions)
        for name in sorted(os.listdir(base)):
            if re.fullmatch(r"\s*[+-]?[0-9]+\s*", name):
                found[int(name)] = os.path.join(base, name)
        policy = self.config.model_version_policy
        choice = policy.WhichOneof("policy_choice") or "latest"
        if choice == "all":
            return found
        if choice == "specific":
            return {number: path for number, path in found.items() if number in policy.specific.versions}
        count = max(policy.latest.num_versions, 1)
        return dict(sorted(found.items())[-count:])

    def _start(self, number, path):
        with self._lock:
            self._states[number] = State.LOADING, None
        try:
            version = self._load(path)
        except Exception as error:
            LOG.exception("version %s of %s failed to load", number, self.name)
            with self._lock:
                self._states[number] = State.END, errors.of(error)
            return
        with self._lock:
            self._versions[number] = version
            self._states[number] = State.AVAILABLE, None
        LOG.info("version %s of %s answers", number, self.name)

    def get(self, number):
        """Returns `(number, version)`, the version already counted as in use: run it in `with version.used()`."""
        with self._lock:
            if number is None:
                number = max(self._versions, default=None)
                wanted = f"Latest({self.name})"
            else:
                wanted = f"Specific({self.name}, {number})"
            if number not in self._versions:
                raise errors.ServingError(errors.NOT_FOUND, f"Servable not found for request: {wanted}")
            self._versions[number].take()
            return number, self._versions[number]

    def states(self):
        with self._lock:
            return dict(self._states)

    def runs(self):
        with self._lock:
            return sum(version.runs for version in self._versions.values())

    def release(self):
        with self._lock:
            versions = list(self._versions.values())
        for version in versions:
            version.release()

    def close(self):
        with self._lock:
            versions = list(self._versions.values())
            self._versions.clear()
        for version in versions:
            version.close()


class Core:
    """All models, and the threads that watch their directories and the configuration.

    Args:
        config: a `ModelServerConfig`, or the path of a file that holds one.
        parameters: `batching.Parameters`, or `None`.
        poll_seconds: float. Seconds between looks at the directories; 0 looks once.
        config_poll_seconds: float. Seconds between reads of the file; 0 reads it once.
        warm_up: bool. As in `Version`.
        check_methods: bool. As in `Version`.
    """

    def __init__(
        self, config, parameters=None, poll_seconds=1.0, config_poll_seconds=0.0, warm_up=True, check_methods=False
    ):
        self._file = config if isinstance(config, str) else None
        self._parameters, self._warm_up, self._check_methods = parameters, warm_up, check_methods
        self.models, self._lock, self._polling = {}, threading.RLock(), threading.Lock()
        self._labels = {}
        self._stop = threading.Event()
        self.requests = {}
        self.update(read_config(self._file) if self._file else config)
        watched = (self.poll, poll_seconds), (self._reread, config_poll_seconds)
        self._threads = [threading.Thread(target=self._watch, args=each, daemon=True) for each in watched]
        for thread in self._threads:
            thread.start()

    def update(self, config):
        """Applies a new configuration: adds and removes models, changes policies and labels."""
        entries = {entry.name: entry for entry in config.model_config_list.config}
        for entry in entries.values():
            if not entry.name or not entry.base_path:
                raise errors.invalid(f"a model needs a name and a base_path: {entry}")
            if entry.model_platform not in ("tensorflow", ""):
                raise errors.invalid(f"unknown model_platform {entry.model_platform!r}")
        with self._lock:
            leaving = [self.models.pop(name) for name in list(self.models) if name not in entries]
            for name, entry in entries.items():
                if name in self.models:
                    self.models[name].config = entry
                else:
                    self.models[name] = Model(entry, self._load)
        self.poll()
        for name, entry in entries.items():
            available = {n for n, (state, _) in self.models[name].states().items() if state == State.AVAILABLE}
            for number in entry.version_labels.values():
                if number not in available:
                    message = f"Request to assign label to {name} version {number}, which is not currently available"
                    raise errors.ServingError(errors.FAILED_PRECONDITION, message)
        with self._lock:
            self._labels = {name: dict(entry.version_labels) for name, entry in entries.items()}
        for model in leaving:
            model.close()

    def _load(self, path):
        return Version(path, self._parameters, self._warm_up, self._check_methods)

    def poll(self):
        with self._polling:
            for model in list(self.models.values()):
                model.poll()

    def _reread(self):
        if self._file:
            self.update(read_config(self._file))

    def _watch(self, act, seconds):
        while seconds and not self._stop.wait(seconds):
            try:
                act()
            except Exception:
                LOG.exception("could not read the directories or the configuration")

    def get(self, spec):
        """Returns `(number, version)` for a `ModelSpec`, the version already counted as in use."""
        if not spec.name:
            raise errors.invalid("ModelSpec has no name specified.")
        with self._lock:
            model, labels = self.models.get(spec.name), self._labels.get(spec.name, {})
        choice = spec.WhichOneof("version_choice")
        number = spec.version.value if choice == "version" else None
        if choice == "version_label":
            if spec.version_label not in labels:
                raise errors.invalid(f"Unrecognized servable version label: {spec.version_label}")
            number = labels[spec.version_label]
        if model is None:
            raise errors.ServingError(errors.NOT_FOUND, f"Servable not found for request: Latest({spec.name})")
        return model.get(number)

    def status(self, spec):
        """Returns a `GetModelStatusResponse`."""
        response = get_model_status_pb2.GetModelStatusResponse()
        with self._lock:
            model = self.models.get(spec.name)
        states = model.states() if model else {}
        # A label is ignored: the answer covers all versions.
        if spec.WhichOneof("version_choice") == "version":
            states = {n: state for n, state in states.items() if n == spec.version.value}
        if not states:
            message = f"Could not find any versions of model {spec.name}"
            raise errors.ServingError(errors.NOT_FOUND, message)
        for number, (state, error) in sorted(states.items(), reverse=True):
            entry = response.model_version_status.add(version=number, state=state)
            entry.status.error_code = error.code if error else 0
            entry.status.error_message = error.message if error else ""
        return response

    def count(self, name, error=None):
        """Counts a request by its outcome."""
        key = name, error.code if error else 0
        with self._lock:
            self.requests[key] = self.requests.get(key, 0) + 1

    def release(self):
        """Fails the requests that would wait forever."""
        for model in list(self.models.values()):
            model.release()

    def close(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for model in self.models.values():
            model.close()


def read_config(path):
    """Reads a `ModelServerConfig` from a file."""
    with open(path, encoding="utf-8") as file:
        return text_format.Parse(file.read(), model_server_config_pb2.ModelServerConfig())


def single(name, base_path):
    """Returns the configuration of a single model."""
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=str(base_path), model_platform="tensorflow")
    return config
