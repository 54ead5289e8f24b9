# Needs Python ≥ 3.11 and nothing else:  make demo
#
# PYTHON    the interpreter to make .venv with          make demo PYTHON=python3.12
# PIP_ARGS  passed on to pip, for another package index
# PROCESSES of make test                                make test PROCESSES=8
# BENCH_ARGS  to run a part of the benchmarks           make bench BENCH_ARGS="-k 1080p"

PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt $(PIP_ARGS)
CLIP := examples/juggler
# Test files go to this many processes at a time, which is how many cores there are for CI.
PROCESSES ?= 2
BENCH_ARGS ?=
BENCH = $(BIN)/python -m pytest bench -q --timeout=1200 --benchmark-quiet $(BENCH_ARGS)
SAVED ?= .benchmarks/latest.json

.DELETE_ON_ERROR:
.PHONY: demo test test-triton36 test-wheel check bench bench-compare docs clean

demo: .venv/installed
	$(BIN)/rtlit enhance-video --overwrite $(CLIP).mp4
	@echo "The result is $(CURDIR)/$(CLIP).enhanced.mp4"

test: .venv/installed-dev
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile

# Kernels with the oldest Triton they are for, beside the newest one in .venv; `make test` has the newest.
test-triton36: .venv/installed-dev .triton36/installed
	PYTHONPATH=.triton36 $(BIN)/python -m pytest tests/kernels

# The wheel in a new virtual environment, with nothing but what it requires.
test-wheel: .venv/installed-dev
	RTLIT_TEST_INSTALL=1 PIP_ARGS='$(PIP_ARGS)' $(BIN)/python -m pytest tests/test_wheel.py --durations 3

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/installed-dev
	@mkdir -p .benchmarks
	$(BENCH) --benchmark-json=.benchmarks/running.json
	@mv .benchmarks/running.json $(SAVED)
	@$(BIN)/python bench/table.py $(SAVED)

# Against the run that make bench left, or another: make bench-compare SAVED=FILE
bench-compare: .venv/installed-dev
	@test -s $(SAVED) || { echo "$(SAVED) isn't there to compare with; make bench writes it"; exit 1; }
	$(BENCH) --benchmark-json=.benchmarks/running.json
	@mv .benchmarks/running.json .benchmarks/compared.json
	@$(BIN)/python bench/table.py .benchmarks/compared.json --against $(SAVED)

# The site in site/, to be read without a server. Material warns of its successor at every start.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open $(CURDIR)/site/index.html"

clean:
	rm -rf site .venv .triton36 build dist .pytest_cache .mypy_cache .ruff_cache .benchmarks $(CLIP).enhanced.mp4
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps let a second run start at once; they are stale when what to install changes.
.venv/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing rtlit into .venv; the first time this fetches PyTorch and takes minutes"
	$(PIP_INSTALL) -e .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing rtlit and what its tests need into .venv; the first time this fetches PyTorch and takes minutes"
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ .venv/installed

.venv/installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[docs]'
	@touch $@ .venv/installed

.triton36/installed: | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS) --no-deps --upgrade --target .triton36 triton==3.6.0
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) isn't there; install Python 3.11 or newer, or name it: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "rtlit needs Python 3.11 or newer and $(PYTHON) is `$(PYTHON) -V 2>&1`; name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) can't make virtual environments; install its venv module (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv
