"""The blocks of the pages in docs are run with a small encoder; names, links and pictures in them are right."""

import importlib.util
import os
import re
import sys

import doc_pages
import pytest

import tfxfer as tx
from tfxfer.backbones import _presets


PROGRAMS = [page for page in doc_pages.PAGES if doc_pages.blocks(page) and page not in doc_pages.REAL]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """The folders of the checkpoints that the pages name."""
    return doc_pages.presets(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def plain_graphs():
    """Has TensorFlow run graphs as they were traced: rewriting them takes longer than what the small encoder computes."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.mark.slow
@pytest.mark.usefixtures("plain_graphs")
@pytest.mark.parametrize("page", PROGRAMS)
def test_the_blocks_of_a_page_run(page, checkpoints, tmp_path, monkeypatch):
    # A folder of that name in the working directory comes before the preset.
    (tmp_path / "all_minilm_l6_v2").symlink_to(checkpoints[6 if page in doc_pages.DEEP else 1])
    (tmp_path / "examples").symlink_to(doc_pages.ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_presets, "_download", lambda name, _: checkpoints[name.removeprefix("hf://")])
    ran = doc_pages.run(page, doc_pages.Names(__name__="page"))
    assert ran or doc_pages.notes(page)
