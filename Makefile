# make demo: find the faces in a photo.  make test: the test suite.  make test-slow: other processors, sanitizers, fuzzers (CONTRIBUTING.md).
# All make their own environment, in .venv.  make fuzz: search for inputs that break the core, as long as FUZZ_SECONDS says.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
FUZZ_SECONDS ?= 60
FUZZERS := model image
SOURCES := pyproject.toml CMakeLists.txt $(wildcard core/* bindings/*)

.PHONY: demo test test-slow lint fuzz $(FUZZERS:%=fuzz-%) clean

demo: $(VENV)/installed
	$(VENV)/bin/dupnet detect examples/astronaut.jpg examples/grace_hopper.jpg --draw demo
	@echo "The photos with boxes are in the folder demo."

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -q -n auto --maxprocesses 8

test-slow: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -q -s -m slow

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

fuzz: $(FUZZERS:%=fuzz-%)

# What a search keeps stays in build/; the corpus in fuzz/corpus is small and only read. The core's loops compare much and have
# no magic values, so in the image fuzzer comparisons are not traced: four times as many executions.
$(FUZZERS:%=fuzz-%): fuzz-%: build/fuzz/%
	mkdir -p build/fuzz/corpus/$* build/fuzz/found
	MODEL=fuzz/corpus/model/small build/fuzz/$* -max_total_time=$(FUZZ_SECONDS) -max_len=$(MAX_LEN_$*) -timeout=20 -print_final_stats=1 \
	    -artifact_prefix=build/fuzz/found/ build/fuzz/corpus/$* fuzz/corpus/$*

build/fuzz/%: fuzz/%.c $(wildcard core/*)
	mkdir -p build/fuzz
	clang -std=c99 -O2 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all $(NO_TRACE_$*) \
	    -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Icore core/*.c $< -o $@ -lm

NO_TRACE_image := -fno-sanitize-coverage=trace-cmp
MAX_LEN_model := 2048
MAX_LEN_image := 128
.PRECIOUS: build/fuzz/%

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
