# make demo: find the faces in a photo.  make test: run every test.  Both make their own environment, in .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml CMakeLists.txt $(wildcard core/* bindings/*)

.PHONY: demo test lint clean

demo: $(VENV)/installed
	$(VENV)/bin/dupnet detect examples/astronaut.jpg examples/grace_hopper.jpg --draw demo
	@echo "The photos with boxes are in the folder demo."

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -q

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# An editable installation: Python files are read from src/, the C core is rebuilt when a source of it changed.
$(VENV)/installed: $(SOURCES)
	$(PYTHON) -c 'import sys; sys.exit("dupnet needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -e .
	touch $@

# torch first and by itself, so that an exact version can be chosen: make test TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) install -q $(TORCH)
	$(PIP) install -q -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build demo
