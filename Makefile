# relscale: everything runs from one virtual environment in the checkout.
PYTHON ?= python3
OUT ?= study
STUDY_FLAGS ?=
COVERAGE_FLAGS ?=
ACCELERATOR_FLAGS ?=
BIN := .venv/bin
# What tests spend is compilation: XLA's lower levels compile up to a third faster. Notebooks also train, tests hardly.
QUICK := --xla_backend_optimization_level
# Notebooks share two processes, and the chapters on meshes play eight devices with one processor.
EIGHT := --xla_force_host_platform_device_count=8

.PHONY: install study test long coverage accelerator slopes figures parity lint docs lab export readme data-sums clean

install: .venv/installed

.venv/installed: settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "relscale needs Python 3.11 or newer, and $(PYTHON) is %d.%d: call make PYTHON=python3.12" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	test -e README.md || echo relscale > README.md
	$(BIN)/python -m pip install --quiet --editable '.[all,docs,dev]'
	touch $@

study: install ## the main job: plan, train, evaluate, fit, report
	$(BIN)/relscale study --out $(OUT) $(STUDY_FLAGS)

test: install ## every notebook, then pytest
	XLA_FLAGS="$(QUICK)=1 $(EIGHT)" $(BIN)/nbdev_test --n_workers 2 --timing
	XLA_FLAGS=$(QUICK)=0 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations 25 tests

long: install ## the tests that `make test` leaves out: kills of whole studies, clocks, a full disk, Ray's hosts
	$(BIN)/python -m pytest -q --long -m long tests

coverage: install ## every world and every interval, into data/coverage; a run that was stopped goes on
	$(BIN)/python data/coverage/make.py $(COVERAGE_FLAGS)

accelerator: install ## on one GPU or TPU, in eight minutes: numbers, training step beside PyTorch, attention, scoring, resuming
	$(BIN)/python benchmarks/accelerator.py $(ACCELERATOR_FLAGS)

slopes: install ## every slope of every suite, fitted anew into data/slopes
	$(BIN)/python data/slopes/make.py

figures: install ## the paper's figures from tables that ship, in figures/
	$(BIN)/relscale figures

parity: install ## logits against transformers; first: .venv/bin/python -m pip install torch
	@$(BIN)/python -c 'import torch' || (echo "make parity needs PyTorch: $(BIN)/python -m pip install torch" >&2; exit 1)
	$(BIN)/python -m pip install --quiet --editable '.[parity]'
	XLA_FLAGS=$(QUICK)=0 $(BIN)/python -m pytest -q -n 2 --dist loadfile tests/parity

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

export: install ## notebooks to modules
	$(BIN)/nbdev_export

readme: install ## nbs/index.ipynb to README.md
	$(BIN)/python docs/readme.py

data-sums: install ## data/SHA256SUMS, after a shipped table was made anew
	$(BIN)/python docs/data_sums.py

docs: install ## the site, in _site/
	$(BIN)/python docs/build.py

lab: install
	$(BIN)/jupyter lab nbs

clean:
	rm -rf _proc _site build dist .jax_cache
