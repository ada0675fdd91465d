# make setup | train | test | lint | clean. The first use makes .venv and installs; JAX=cuda12, cuda13, tpu or cpu overrides what
# is found on the machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JAX ?= $(shell if command -v nvidia-smi >/dev/null 2>&1; then echo cuda12; \
	elif ls /dev/accel0 /dev/vfio/0 >/dev/null 2>&1; then echo tpu; else echo cpu; fi)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock
CPU_ONLY := $(if $(filter cpu,$(JAX)),JAX_PLATFORMS=cpu)

.PHONY: setup train test lint clean
.DEFAULT_GOAL := setup

setup: $(VENV)/installed

train: setup
	$(CPU_ONLY) $(BIN)/python main.py --config=configs/digits.py --workdir=runs/digits

test: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python requirements.txt requirements.lock pyproject.toml
	$(PIP) $(if $(filter cpu,$(JAX)),,"jax[$(JAX)]") -r requirements.txt
	$(PIP) --no-deps -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	@touch $@
