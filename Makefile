# Two commands for a fresh machine: `make demo` and `make test`. Both install into .venv first.
.PHONY: demo test lint bench clean
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
XAI := $(BIN)/raytrain-xai
DEMO := runs/demo
BIRDS := configs/guidance/scenes_birds.yaml --set storage=$(DEMO)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	touch $@

demo: $(STAMP)
	rm -rf $(DEMO)
	test -f datasets/scenes-birds/manifest.json || $(XAI) data prepare scenes-birds datasets/scenes-birds
	$(XAI) train $(BIRDS) --set name=unguided --set guidance.weight=0
	$(XAI) train $(BIRDS) --set name=guided-all-boxes
	$(XAI) train $(BIRDS) --set name=guided-10-percent --set guidance.annotated_fraction=0.1
	$(XAI) report $(DEMO)/unguided $(DEMO)/guided-all-boxes $(DEMO)/guided-10-percent --out $(DEMO)/report.html

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench: $(STAMP)
	$(BIN)/python -m bench

clean:
	rm -rf .venv
