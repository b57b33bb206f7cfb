"""The command line: the flags of tensorflow_model_server that matter here, under the same names."""

import argparse
import logging
import os
import pathlib
import signal
import sys
import threading
import time

# `python examples/contract_server` puts the directory itself on the path, where the package is not found.
if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from contract_server import batching, core, monitoring, rest, rpc
from contract_server.core import State

LOG = logging.getLogger("contract_server")


def boolean(text):
    """Parses the value of a boolean flag."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")
    return text.lower() in ("true", "1")


def arguments(given=None):
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python examples/contract_server", description=__doc__)
    flag = {"type": boolean, "nargs": "?", "const": True}
    parser.add_argument("--port", type=int, default=8500, help="gRPC port")
    parser.add_argument("--rest_api_port", type=int, default=0, help="HTTP port; 0 for none")
    parser.add_argument("--model_name", default="default")
    parser.add_argument("--model_base_path", default="")
    parser.add_argument("--model_config_file", default="")
    parser.add_argument("--model_config_file_poll_wait_seconds", type=float, default=0, help="0: read once")
    parser.add_argument("--file_system_poll_wait_seconds", type=float, default=1, help="fractions are allowed here")
    parser.add_argument("--enable_batching", default=False, **flag)
    parser.add_argument("--batching_parameters_file", default="")
    parser.add_argument("--monitoring_config_file", default="")
    parser.add_argument("--enable_model_warmup", default=True, **flag)
    parser.add_argument(
        "--rest_api_num_threads", type=int, default=4 * (os.cpu_count() or 1), help="concurrent requests"
    )
    parser.add_argument(
        "--grpc_max_threads", type=int, default=64, help="concurrent requests; TF Serving's default is four per core"
    )
    parser.add_argument("--enable_signature_method_name_check", default=False, **flag)
    what = "what requests without rows get with batching: no answer ever (hang), as from TF Serving, or an answer"
    parser.add_argument("--empty_requests", choices=("hang", "answer"), default="hang", help=what)
    found = parser.parse_args(given)
    if not found.model_base_path and not found.model_config_file:
        parser.error("--model_base_path or --model_config_file is needed")
    if found.batching_parameters_file and not found.enable_batching:
        parser.error("--batching_parameters_file without --enable_batching")
    return found


def start(given=None):
    """Starts the server that the flags describe; returns a function that stops it.

    Like the stock server, it answers once every model has a version, and stops if a model fails to load.
    """
    found = arguments(given)
    parameters = None
    if found.enable_batching:
        file = found.batching_parameters_file
        parameters = batching.read(file) if file else batching.Parameters()
        parameters.hangs_on_empty = found.empty_requests == "hang"
    metrics = monitoring.read(found.monitoring_config_file) if found.monitoring_config_file else None
    config = found.model_config_file or core.single(found.model_name, found.model_base_path)
    served = core.Core(
        config,
        parameters,
        poll_seconds=found.file_system_poll_wait_seconds,
        config_poll_seconds=found.model_config_file_poll_wait_seconds,
        warm_up=found.enable_model_warmup,
        check_methods=found.enable_signature_method_name_check,
    )
    try:
        wait_until_available(served)
        calls = rpc.start(served, found.port, found.grpc_max_threads)
        threads = found.rest_api_num_threads
        web = rest.start(served, found.rest_api_port, metrics, threads) if found.rest_api_port else None
    except BaseException:
        served.close()
        raise
    LOG.info(
        "a test server, not TF Serving, answers at %s (gRPC) and %s (HTTP)", found.port, found.rest_api_port or None
    )

    def stop():
        if web:
            web.shutdown()
            web.server_close()
        served.release()
        calls.stop(grace=5).wait()
        served.close()

    stop.core = served
    return stop


def wait_until_available(served):
    """Returns once every model has a version that answers; raises if all versions of a model failed to load."""
    while True:
        waiting = []
        for model in served.models.values():
            states = model.states()
            if not any(state == State.AVAILABLE for state, _ in states.values()):
                failed = [error for _, error in states.values() if error]
                if failed:
                    raise failed[0]
                waiting.append(model.name)
        if not waiting:
            return
        LOG.warning("no version of %s yet", ", ".join(waiting))
        time.sleep(1)


def main():
    """Serves until a signal stops it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    stop = start()
    ended.wait()
    stop()


if __name__ == "__main__":
    main()
