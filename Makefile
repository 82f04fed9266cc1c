# Two commands for a fresh machine: `make demo` and `make test`. Both install into .venv first.
.PHONY: demo test test-cluster lint bench audit sbom clean
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
INVENTORY := .venv-inventory
XAI := $(BIN)/raytrain-xai
DEMO := runs/demo
BIRDS := configs/guidance/scenes_birds.yaml --set storage=$(DEMO)
MULTI := configs/guidance/scenes_multi_bcosified.yaml --set storage=$(DEMO)
CONCEPTS := configs/concepts/scenes_multi.yaml --set storage=$(DEMO)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	touch $@

# Apart: what it brings along makes jsonschema, and with it every process of Ray, start .9 s later.
$(INVENTORY)/.installed:
	test -x $(INVENTORY)/bin/python || $(PYTHON) -m venv $(INVENTORY)
	$(INVENTORY)/bin/pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=7'
	touch $@

demo: $(STAMP)
	rm -rf $(DEMO)
	test -f datasets/scenes-birds/manifest.json || $(XAI) data prepare scenes-birds datasets/scenes-birds
	$(XAI) train $(BIRDS) --set name=unguided --set guidance.weight=0
	$(XAI) train $(BIRDS) --set name=guided-all-boxes
	$(XAI) train $(BIRDS) --set name=guided-10-percent --set guidance.annotated_fraction=0.1
	test -f datasets/scenes-multi/manifest.json || $(XAI) data prepare scenes-multi datasets/scenes-multi
	$(XAI) train $(MULTI) --set name=bcos --set epochs=3
	$(XAI) train $(CONCEPTS) --set name=concepts --set network=$(DEMO)/bcos --set features.store=$(DEMO)/features --set epochs=8
	$(XAI) catalogue $(DEMO)/concepts
	$(XAI) report $(DEMO)/unguided $(DEMO)/guided-all-boxes $(DEMO)/guided-10-percent --concepts $(DEMO)/concepts --out $(DEMO)/report.html
	@echo 'now look at single predictions: $(XAI) serve $(DEMO)/concepts'

test: $(STAMP) $(INVENTORY)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup

test-cluster: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m cluster tests/runners

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench: $(STAMP)
	$(BIN)/python -m bench

audit: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[audit]'
	$(BIN)/python -m release.audit

sbom: $(STAMP) $(INVENTORY)/.installed
	mkdir -p dist
	$(INVENTORY)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON --output-file dist/sbom.json $(BIN)/python

clean:
	rm -rf .venv $(INVENTORY)
