# Everything here works from a fresh clone: each target first sees to it that .venv is there and up to date.

PYTHON ?= python3
UV ?= uv
PY := .venv/bin/python
# A Python that the user named, rather than the default, replaces a .venv of another version.
CHOSEN := $(if $(filter command environment,$(firstword $(origin PYTHON))),--chosen)
CHECKED := conftest.py mnistdist tests book

# Where figures go that are not part of the book (those of the book are in book/experiments).
RESULTS ?= _build/results
MINUTES ?= 60
# Files of tests or notebooks that run at the same time: one more than the cores of a small machine, as many tests wait.
AT_ONCE ?= 3
# Notebooks that compare times, or what comes of them: nothing else runs beside these.
MEASURING := $(patsubst %,book/%.ipynb,async_or_sync asynchronous backup_workers in_graph where_a_step_goes)

.DEFAULT_GOAL := help
.PHONY: help install book test browser mutants portable machines zoo lab record bench bench-peers experiments faults soak lint lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## make .venv with the locked packages and this project (PYTHON=python3.12 to choose a Python)
	@command -v $(PYTHON) > /dev/null || { echo "No $(PYTHON) here: install Python 3.10 to 3.13, or name yours: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) book/_ext/install.py $(CHOSEN)

book: install ## execute the chapters for real (only what changed) and render them to _build/html
	@$(PY) -m book._ext.build

test: install ## run all tests, and every notebook against its stored outputs (AT_ONCE=3 files at a time)
	$(PY) -m pytest --nbval tests $(filter-out $(MEASURING),$(wildcard book/*.ipynb)) -n $(AT_ONCE) --dist loadfile \
		--no-loadscope-reorder; \
		first=$$?; $(PY) -m pytest --nbval $(MEASURING) && exit $$first

browser: install ## open the quickstart in JupyterLab, in Debian's chromium, run all cells and read what is shown
	@$(PY) -m pip install --quiet --editable '.[browser]'
	$(PY) -m pytest tests/book/test_jupyterlab.py -rs

mutants: install ## give every check of the book wrong data and code, and see that it notices (NB=book/quickstart.ipynb for one)
	@$(PY) -m book._ext.mutants $(NB)

portable: install ## all notebooks without oneDNN, on one core, beside work, on host ports, in another locale; other Pythons
	.ci/portable $(VARIANTS)

machines: install ## the whole programs, in both modes, and clusters on three machines, made of namespaces (10 minutes)
	MACHINES=all $(PY) -m pytest tests/book/test_programs.py tests/book/test_machines.py tests/cluster/test_hosts.py -rs

zoo: install ## train the whole catalogue of models and optimizers in every design (about 20 minutes)
	ZOO=all $(PY) -m pytest tests/training/test_zoo.py -q

lab: install ## open the book in JupyterLab
	$(PY) -m jupyterlab book

record: install ## run all notebooks afresh and store their outputs (NB=book/quickstart.ipynb for one; ACCEPT=1 for what changed)
	@$(PY) -m book._ext.record $(NB)

bench: install ## measure start-up, updates a second and seconds to 97%, as ratios taken in one run (under 10 minutes)
	$(PY) -m book.experiments.startup --json $(RESULTS)/startup.json
	$(PY) -m book.experiments.throughput --json $(RESULTS)/throughput.json

bench-peers: install ## the same beside TensorFlow 2's strategies, and PyTorch if it is there (under 25 minutes)
	$(PY) -m book.experiments.peers --json $(RESULTS)/peers.json

experiments: install ## measure anew what the pages report of repeats (about an hour, alone on the machine)
	$(PY) -m book.experiments.async_or_sync
	$(PY) -m book.experiments.claims
	$(PY) -m book.experiments.claims_page

faults: install ## end, pause and restart every task in every way, and kill the client 20 times (under 30 minutes)
	$(PY) -m tests.faults.matrix --json $(RESULTS)/faults.json

soak: install ## start, train and stop, with faults and kills at random, for MINUTES=60
	$(PY) -m tests.faults.soak --minutes $(MINUTES) --json $(RESULTS)/soak.json

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
