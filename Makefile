# Every target makes its own environment first. `make` alone lists them.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
NMM := $(BIN)/nmm
DEMO := outputs/demo
STUDY := outputs/study
INSTALLED := $(VENV)/.installed-$(shell cat pyproject.toml | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help install demo study interventions test test-fast test-slurm lint bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

install: $(INSTALLED)  ## make .venv and install NMM into it

$(INSTALLED): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: $(INSTALLED)  ## shards -> sweep -> laws -> report, about 10 minutes on two cores
	$(NMM) shards data=world out=$(DEMO)/shards
	$(NMM) sweep plan sweep=demo out=$(DEMO)/runs data.path=$(DEMO)/shards
	$(NMM) sweep launch $(DEMO)/runs
	$(NMM) fit $(DEMO)/runs --out $(DEMO)/fits.json
	$(NMM) report $(DEMO)/runs --fits $(DEMO)/fits.json --out $(DEMO)/report

study: $(INSTALLED)  ## the same with more sizes, tokens and seeds: hours; goes on where it was stopped
	$(NMM) shards data=world out=$(STUDY)/shards train_tokens=17000000
	$(NMM) sweep plan sweep=study out=$(STUDY)/runs data.path=$(STUDY)/shards
	$(NMM) sweep launch $(STUDY)/runs
	$(NMM) fit $(STUDY)/runs --out $(STUDY)/fits.json
	$(NMM) report $(STUDY)/runs --fits $(STUDY)/fits.json --out $(STUDY)/report

interventions: $(INSTALLED)  ## what five recipes are worth: five studies, hours; goes on where it was stopped
	@for method in filter soup pieces bridge guide; do \
		$(NMM) intervention $$method out=outputs/interventions/$$method || exit $$?; \
	done

test: $(INSTALLED)  ## every test
	$(BIN)/python -m pytest

test-fast: $(INSTALLED)  ## unit tests only, about a minute
	$(BIN)/python -m pytest tests/unit

test-slurm: $(INSTALLED)  ## sweeps on a private SLURM cluster on this machine (Debian's packages)
	@.ci/tools slurmctld slurmd slurm-client
	NMM_REQUIRE_TOOLS=1 $(BIN)/python -m pytest -m slurm

lint: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)  ## what the README claims, measured here
	@.ci/tools slurmctld slurmd slurm-client
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## remove outputs (not .venv)
	rm -rf outputs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
