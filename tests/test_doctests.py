"""Runs every docstring example of the package."""

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest

import tfxfer

MODULES = ["tfxfer", *(module.name for module in pkgutil.walk_packages(tfxfer.__path__, "tfxfer."))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_give_what_they_say(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"keras": keras, "np": np, "tx": tfxfer}
    failed, _ = doctest.testmod(importlib.import_module(name), extraglobs=names, optionflags=FLAGS)
    assert not failed, capsys.readouterr().out
