# What people and CI both call. Needs Python >= 3.11 and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
# two test workers on two cores: more threads in each would only be in the way
test test-all models: export OMP_NUM_THREADS = 1

.PHONY: install check test test-all models settings demo bench clean

install: .venv/installed

# torch first and exactly: a looser request may fetch a CUDA build of gigabytes on a machine without a GPU.
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("ia3 needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "torch==2.13.0"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

check: install
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest -n 2 --dist worksteal

test-all: install
	$(BIN)/pytest -n 2 --dist worksteal -m "slow or parity"

# docs/models.md: every model type of transformers, built tiny and put through the library; minutes.
models: install
	$(BIN)/python -W ignore -m tests.every_model.page $(ARGS)

# From where the settings are declared: their table in docs/train.md, and the names that editors know.
settings: install
	$(BIN)/python -m tests.training.derived_settings

demo: install
	$(BIN)/ia3 demo

# All bases take most of an hour; make bench ARGS="--base gemma-3-270m --quick" takes minutes.
bench: install
	$(BIN)/python -m benchmarks.training $(ARGS)

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
