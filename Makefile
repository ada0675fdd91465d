# make setup | train | test | test-fast | lint | docs | notebooks | wheel | clean. The first use makes .venv and installs;
# JAX=cuda12, cuda13, tpu or cpu overrides what is found on the machine. HASHES=1 installs what the tests ran with, for
# Python 3.12 on a CPU, each file checked by its hash.
# make test-lowest | test-newest test with the lowest and the newest versions that pyproject.toml allows (where another library's
# warning is no error), make lock writes
# requirements-hashed.txt anew from requirements.lock, and make audit asks for known weaknesses.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JAX ?= $(shell if command -v nvidia-smi >/dev/null 2>&1; then echo cuda12; \
	elif ls /dev/accel0 /dev/vfio/0 >/dev/null 2>&1; then echo tpu; else echo cpu; fi)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock
CPU_ONLY := $(if $(filter cpu,$(JAX)),JAX_PLATFORMS=cpu)

.PHONY: setup train test test-fast lint docs notebooks wheel clean test-lowest test-newest lock audit
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

# Runs the notebooks and writes them, with their figures, as build/notebooks/*.ipynb.
notebooks: $(VENV)/installed-notebooks
	mkdir -p build/notebooks
	for file in notebooks/*.py; do JAX_PLATFORMS=cpu $(BIN)/jupytext --to ipynb --execute \
		--output build/notebooks/$$(basename $$file .py).ipynb $$file || exit 1; done

# Builds the wheel from the committed files and uses it in a fresh environment and an empty folder.
wheel:
	rm -rf build/wheel build/fresh build/source && mkdir -p build/source build/empty
	git archive HEAD | tar -x -C build/source
	$(PYTHON) -m venv --clear build/fresh
	build/fresh/bin/python -m pip wheel --quiet --no-deps -w build/wheel build/source
	build/fresh/bin/python -m pip install --quiet build/wheel/*.whl
	cd build/empty && ../fresh/bin/resnet-jax doctor && ../fresh/bin/resnet-jax train digits --workdir=digits
	cd build/empty && ../fresh/bin/resnet-jax recipes && ../fresh/bin/resnet-jax models
	cd build/empty && ../fresh/bin/resnet-jax estimate --config=resnet50:rsb_a2 --images-per-second=2470 --devices=8
	build/fresh/bin/python -m pip install --quiet "$$(ls build/wheel/*.whl)[all]"
	cd build/empty && ../fresh/bin/resnet-jax train sweeps/shortcuts --mode=list --workdir=shortcuts
	build/fresh/bin/python -c "from PIL import Image; Image.new('L', (8, 8)).save('build/empty/black.png')"
	cd build/empty && ../fresh/bin/resnet-jax predict black.png --weights=digits
	rm -r build/empty

test-lowest test-newest: test-%:
	$(PYTHON) -m venv --clear build/$*
	mkdir -p build && sed -n '/^# Loggers/q; s/^    "\([^">=]*\)>=\([^,;"]*\).*/\1==\2/p' pyproject.toml > build/lowest.txt
	build/$*/bin/python -m pip install --quiet --upgrade -e ".[all,dev]" $(if $(filter lowest,$*),-c build/lowest.txt)
	JAX_PLATFORMS=cpu build/$*/bin/python -m pytest -n 2 --dist worksteal -W default

lock:
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet pip-tools
	sed -n '/^#/p;/^[^#]/q' requirements-hashed.txt > build/hashed.txt
	build/lock/bin/pip-compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --strip-extras -c requirements.lock -o build/compiled.txt \
		--allow-unsafe --extra data --extra lab --extra dev pyproject.toml
	cat build/hashed.txt build/compiled.txt > requirements-hashed.txt

audit:
	$(PYTHON) -m venv --clear build/audit
	build/audit/bin/python -m pip install --quiet pip-audit
	build/audit/bin/pip-audit --disable-pip --require-hashes -r requirements-hashed.txt

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml requirements.lock
	$(if $(HASHES),$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-hashed.txt)
	$(PIP) $(if $(HASHES),--no-deps) $(if $(filter cpu,$(JAX)),,"jax[$(JAX)]") -e ".[all]"
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e ".[all,dev]"
	@touch $@

$(VENV)/installed-notebooks: $(VENV)/installed
	$(PIP) -e ".[all,notebooks]"
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) -e ".[all,docs]"
	@touch $@
