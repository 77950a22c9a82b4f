# The developer's commands. `make demo` and `make test` set themselves up on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
# Processes of the suite. Each may start a Ray and a few GiB of workers, so not more than six.
AT_ONCE ?= $(shell n=$$(($(CORES) + 1)); echo $$((n > 6 ? 6 : n)))

.PHONY: demo site dist quick test test-cluster check lint format bench fixtures clean

demo: $(VENV)/.run-ready
	$(BIN)/python -m jobs.demo

# What a change most often breaks, while you work on it.
quick: $(VENV)/.dev-ready
	$(BIN)/pytest -q -n $(CORES) --dist load -m 'not slow' tests/planning tests/numerics tests/methods tests/formats tests/cli/test_help.py

# One more than there are cores, a file each: much of the suite waits for processes to start, be killed
# or time out.
test: $(VENV)/.dev-ready
	$(BIN)/pytest -n $(AT_ONCE) --dist loadfile --no-loadscope-reorder

# A cluster's dashboard, which takes jobs, and what Ray exports need packages that slow every start of a
# local Ray, so they come last and apart.
test-cluster: $(VENV)/.dev-ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,metrics]'
	$(BIN)/pytest tests/runners/test_ray_metrics.py tests/jobs/test_ray_jobs.py tests/jobs/test_operators_day.py

check: lint test

lint: $(VENV)/.dev-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev-ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev-ready
	$(BIN)/python -m jobs.benchmarks.speed

fixtures: $(VENV)/.dev-ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,fixtures]'
	$(BIN)/python -m jobs.fixtures.train --out tests/fixtures/zoo

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run-ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev-ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.run-ready

# The pages of docs as a web site, in build/site. A link that leads nowhere fails it.
site: $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt mkdocs-material 'mkdocstrings[python]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file deploy/site/mkdocs.yml

# Wheel and source distribution of the last commit, with the repository's address in them.
dist: $(VENV)/bin/python
	@test -n "$(HOME_URL)" || { echo 'say where the repository is: make dist HOME_URL=https://...' >&2; exit 2; }
	$(BIN)/pip install --quiet --constraint constraints.txt build twine
	$(BIN)/python deploy/release/dist.py $(HOME_URL) --out dist

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
