# Two commands: `make repro` and `make test`. Both create .venv first; set PYTHON to choose another interpreter.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: repro install test nightly check bench audit clean-venv

repro: .venv/installed
	isoflop check
	dvc repro --keep-going
	isoflop summary

install: .venv/installed

test: .venv/installed
	python -m pytest -n 2 --dist worksteal

# Every case, and every command as a process of its own.
nightly: .venv/installed
	ISOFLOP_TESTS_REAL=1 python -m pytest -n 2 --dist worksteal -m ''

check: .venv/installed
	ruff check .
	ruff format --check .
	mypy
	lint-imports

bench: .venv/installed
	python -m benchmarks.scaling_fit
	python -m benchmarks.training_loop

# An SBOM (CycloneDX) of the environment, and its known vulnerabilities (queries a service on the network).
audit: .venv/installed
	python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[audit]'
	cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.json .venv
	pip-audit --progress-spinner off --skip-editable

# The stamp is written last, so that an interrupted installation is repeated.
.venv/installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), isoflop needs Python 3.11 or later (make PYTHON=python3.12 ...)" >&2; exit 1; }
	@echo "installing into .venv: takes minutes, prints nothing"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $@

clean-venv:
	rm -rf .venv
