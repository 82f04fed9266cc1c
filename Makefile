.PHONY: demo test lint bench clean
PYTHON ?= python3
STAMP := .venv/.installed
BIN := .venv/bin

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	touch $@

demo: $(STAMP)
	BIN=$(BIN) bash scripts_demo.sh

test: $(STAMP)
	$(BIN)/pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench: $(STAMP)
	$(BIN)/python -m bench

clean:
	rm -rf .venv
