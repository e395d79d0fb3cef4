# Everything here works from a fresh clone: each target first sees to it that .venv is there and up to date.

PYTHON ?= python3
UV ?= uv
PY := .venv/bin/python
# A Python that the user named, rather than the default, replaces a .venv of another version.
CHOSEN := $(if $(filter command environment,$(firstword $(origin PYTHON))),--chosen)
CHECKED := mnistdist tests tools benchmarks $(wildcard book/*.ipynb) $(wildcard book/*.py)

.DEFAULT_GOAL := help
.PHONY: help install book test lab record bench experiments lint lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## make .venv with the locked packages and this project (PYTHON=python3.12 to choose a Python)
	@command -v $(PYTHON) > /dev/null || { echo "No $(PYTHON) here: install Python 3.10 to 3.13, or name yours: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) tools/install.py $(CHOSEN)

book: install ## execute the chapters for real (only what changed) and render them to _build/html
	@$(PY) -m tools.book

test: install ## run all tests, and every notebook of the book against its stored outputs
	$(PY) -m pytest --nbval

lab: install ## open the book in JupyterLab
	$(PY) -m jupyterlab book

record: install ## run all notebooks afresh and store their outputs (NB=book/quickstart.ipynb for one)
	@$(PY) -m tools.record $(NB)

bench: install ## measure start-up, updates a second and seconds to 97%, as ratios taken in one run
	$(PY) -m benchmarks.startup
	$(PY) -m benchmarks.throughput

experiments: install ## measure anew what the chapter "Async or sync" reports (about half an hour, alone on the machine)
	$(PY) -m tools.experiments

lint: install ## check style and formatting
	$(PY) -m ruff check $(CHECKED)
	$(PY) -m ruff format --check $(CHECKED)

lock: ## resolve requirements.lock anew from pyproject.toml (needs uv)
	@command -v $(UV) > /dev/null || { echo "make lock needs uv: pip install uv, or make lock UV=/path/to/uv"; exit 1; }
	$(UV) pip compile --quiet --universal --python-version 3.10 --extra book --extra test --no-annotate \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" pyproject.toml \
		-o requirements.lock

clean: ## remove the built book and the caches (.venv stays)
	rm -rf _build build dist .pytest_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -prune -exec rm -rf {} +
