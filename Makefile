# make demo and make test need nothing but Python 3.11 to 3.13; see `make help`.

# The interpreter that .venv is made with; by default the first suitable one that is found.
PYTHON ?=
# More for pytest or the benchmark: make test ARGS="tests/test_secrets.py -k jwt"; make bench ARGS="--bases nf4"
ARGS ?=
# Each test process holds torch and transformers, some 600 MB; four are enough for any machine.
WORKERS ?= --numprocesses=auto --maxprocesses=4 --dist=worksteal

# Models that make bench is run on; 3.2B needs 20 GB of disk, 8B 50.
SIZES ?= 0.5B

export PYTHON
.DEFAULT_GOAL := help
.PHONY: help demo test bench branches parts lint format types docs browser venv clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: venv ## Train a small model and an adapter, merge, verify (2 min, no network, no GPU)
	@.venv/bin/mergeline demo

test: venv ## Run the tests
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false .venv/bin/python -m pytest -q $(WORKERS) $(ARGS)

bench: venv ## Time merges against PEFT and cp: make bench SIZES="0.5B 3.2B 8B"
	@.venv/bin/python benchmarks/merge.py --sizes $(SIZES) --json outputs/bench.json $(ARGS)

branches: venv ## Time one pass for eight adapters against cp: make branches SIZES=3.2B (60 GB)
	@.venv/bin/python benchmarks/branches.py --size $(firstword $(SIZES)) --json outputs/branches.json $(ARGS)

parts: venv ## Time the parts of a streamed merge, and the kernels on one core
	@.venv/bin/python benchmarks/parts.py --size $(firstword $(SIZES))

lint: venv ## Check style: ruff's rules and its formatting
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

format: venv ## Apply ruff's formatting and its safe fixes
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

types: venv ## Check the types of pipeline/ strictly
	@.venv/bin/mypy

docs: venv ## Write what is generated: docs/steps.md and the JSON Schema of recipes
	@.venv/bin/python -m pipeline.report.steps_page docs/steps.md
	@.venv/bin/mergeline schema > recipes/recipe.schema.json

browser: ## Install Chromium, where it may; the tests of pages need it and are skipped without
	@.ci/browser

venv: ## Make .venv, or bring it up to date
	@.ci/venv

clean: ## Remove .venv, caches and builds; outputs/ stays
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
