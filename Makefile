# make setup | train | test | test-fast | lint | docs | clean. The first use makes .venv and installs; JAX=cuda12, cuda13, tpu or cpu overrides what
# is found on the machine. HASHES=1 installs what the tests ran with, for Python 3.11 on a CPU, each file checked by its hash.
# make test-lowest | test-newest test with the lowest and the newest versions that requirements.txt allows (where another library's
# warning is no error), make lock writes
# requirements-hashed.txt anew from requirements.lock, and make audit asks for known weaknesses.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JAX ?= $(shell if command -v nvidia-smi >/dev/null 2>&1; then echo cuda12; \
	elif ls /dev/accel0 /dev/vfio/0 >/dev/null 2>&1; then echo tpu; else echo cpu; fi)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock
CPU_ONLY := $(if $(filter cpu,$(JAX)),JAX_PLATFORMS=cpu)

.PHONY: setup train test test-fast lint docs clean test-lowest test-newest lock audit
.DEFAULT_GOAL := setup

setup: $(VENV)/installed

train: setup
	$(CPU_ONLY) $(BIN)/python main.py --config=configs/digits.py --workdir=runs/digits

test: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(VENV)/installed-dev
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n 2 --dist worksteal -m fast

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(BIN)/python -m mkdocs build --strict

test-lowest test-newest: test-%:
	$(PYTHON) -m venv build/$*
	mkdir -p build && grep -hv '^-r\|^#' requirements.txt requirements-dev.txt \
		$(if $(filter lowest,$*),| sed 's/>=\([^,]*\).*/==\1/') > build/$*.txt
	build/$*/bin/python -m pip install --quiet --upgrade -r build/$*.txt
	JAX_PLATFORMS=cpu build/$*/bin/python -m pytest -n 2 --dist worksteal -W default

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet pip-tools
	sed -n '/^#/p;/^[^#]/q' requirements-hashed.txt > build/hashed.txt
	build/lock/bin/pip-compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --strip-extras -c requirements.lock -o build/compiled.txt requirements-dev.txt
	cat build/hashed.txt build/compiled.txt > requirements-hashed.txt

audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet pip-audit
	build/audit/bin/pip-audit --disable-pip --require-hashes -r requirements-hashed.txt

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python requirements.txt requirements.lock pyproject.toml
	$(if $(HASHES),$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements-hashed.txt,$(PIP) $(if $(filter cpu,$(JAX)),,"jax[$(JAX)]") -r requirements.txt)
	$(PIP) --no-deps -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed requirements-docs.txt
	$(PIP) -r requirements-docs.txt
	@touch $@
