# Two commands are enough: `make demo` and `make test`. Each builds what it needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
READY  := pyproject.toml constraints.txt

.PHONY: demo test check guards bench soak matrix docs format constraints clean

demo: $(VENV)/.demo
	$(BIN)/everfresh demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sphinx-build -W -q -b html docs site

# every rule of freshness taken out of a copy, and the tests that must notice (ONLY=id for one)
guards: $(VENV)/.test
	$(BIN)/python scripts/guards.py $(if $(ONLY),--only $(ONLY))

soak: $(VENV)/.test
	EVERFRESH_SOAK=1 $(BIN)/python -m pytest -m soak --timeout=0

bench: $(VENV)/.bench
	$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY))

docs: $(VENV)/.check
	$(BIN)/sphinx-build -W -b html docs site

# the tests on every Python that is installed, with both supported versions of SQLAlchemy
matrix:
	$(PYTHON) scripts/matrix.py

format: $(VENV)/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints: $(VENV)/.check $(VENV)/.bench
	$(BIN)/python scripts/constraints.py > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) .venvs site .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo $(VENV)/.test $(VENV)/.check $(VENV)/.bench: $(VENV)/.%: $(READY) | $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[$*]'
	touch $@
