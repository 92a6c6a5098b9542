# Every target sets up what it needs in .venv, behind a stamp, and costs nothing the second time.
# Nothing needs root or writes outside this folder. To pass options to pip: make PIP_ARGS="..." demo
# (for example the extra index of PyTorch's CPU builds, which are much smaller than the default's).

comma := ,
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP_ARGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --compile $(PIP_ARGS) \
	-c constraints.txt
LOCK := pyproject.toml constraints.txt

# One thread each: the networks are small, and several threads only wait for each other.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

.PHONY: help demo docs test test-deep test-example test-oldest test-newest test-lerobot lint format
.PHONY: bench-smoke mutants wheel clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

demo: $(STAMPS)/core ## fine-tune on Avoid, plainly and with modereg: runs/demo/index.html
	$(BIN)/modereg demo --out runs/demo

# Whole runs and integrations beside the rest, in two processes of about the same length; the closing
# lines of both come last.
PYTEST := $(BIN)/python -m pytest -q --durations=10
BESIDE := tests/integrations tests/recipes tests/commands tests/test_cli.py
test: $(STAMPS)/test ## all tests; ARGS="..." goes to pytest, in one process
ifdef ARGS
	@$(VULKAN) $(PYTEST) $(ARGS)
else
	@$(VULKAN) logs=$$(mktemp -d); trap 'rm -rf "$$logs"' EXIT; failed=0; \
	$(PYTEST) $(BESIDE) >"$$logs/beside" 2>&1 & beside=$$!; \
	$(PYTEST) $(addprefix --ignore=,$(BESIDE)) 2>&1 | tee "$$logs/rest" || failed=1; \
	wait $$beside || failed=1; \
	echo "--- $(BESIDE)"; cat "$$logs/beside"; \
	echo "--- $(BESIDE), then the rest"; tail -qn 1 "$$logs/beside" "$$logs/rest"; \
	exit $$failed
endif

# Properties alone (what hypothesis draws for), so that nothing is trained 10 000 times.
DEEP := tests/functional tests/priors tests/estimators/test_properties.py
test-deep: $(STAMPS)/dev ## properties, 10 000 examples each, some two hours; ARGS="..." goes to pytest
	HYPOTHESIS_PROFILE=deep $(PYTEST) --timeout=7200 -m hypothesis $(or $(ARGS),$(DEEP))

test-example: $(STAMPS)/dev ## docs/examples/own_estimator as a repository of its own, and its tests
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; python=$$PWD/$(BIN)/python; \
	cp -r docs/examples/own_estimator "$$work/repository"; \
	"$$python" -m pip --disable-pip-version-check install --quiet --no-index --no-deps \
		--no-build-isolation --target "$$work/site" "$$work/repository"; \
	cd "$$work/repository"; \
	PYTHONPATH="$$work/site" "$$python" -m pytest -q -p no:cacheprovider

# Not in CI: each set is an environment of its own, of 5 GB, since each has another torch.
test-oldest: .venv-oldest/stamp ## the lower bounds of pyproject.toml, Python 3.11: .venv-oldest, 5 GB
test-newest: .venv-newest/stamp ## the highest known versions, Python 3.13: .venv-newest, 5 GB
test-lerobot: .venv-lerobot/stamp ## the adapter with the real LeRobot, Python 3.12: .venv-lerobot, 5.6 GB
test-oldest test-newest test-lerobot: test-%:
	.venv-$*/bin/python -m pytest -q --durations=10 $(or $(ARGS),$(TESTS_$*))

SITE := docs/_build/html
docs: $(STAMPS)/docs ## docs/_build/html, offline; a warning or a public name without a place is an error
	$(BIN)/python -m sphinx -q -W -n --keep-going -d docs/_build/doctrees docs $(SITE)
	MODEREG_BUILT_DOCS=$(SITE) $(PYTEST) tests/docs/test_reference.py

lint: $(STAMPS)/dev ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=.:integrations $(BIN)/lint-imports --no-cache

format: $(STAMPS)/dev ## ruff's formatter and its safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two at a time; what one prints comes after its name, in one piece.
SMOKE := 'name=$$(basename "$$1" .py); log=runs/bench-smoke/$$name.log; status=0; \
	$(BIN)/python "$$1" --smoke --json "runs/bench-smoke/$$name.json" >"$$log" 2>&1 || status=$$?; \
	printf "%s\n" "--- $$1, $$SECONDS s" "$$(cat "$$log")"; exit $$status'
bench-smoke: $(STAMPS)/bench $(STAMPS)/mutation ## every benchmark with a tiny budget
	@mkdir -p runs/bench-smoke; $(VULKAN) \
	printf '%s\n' benchmarks/*.py | xargs -P 2 -I {} bash -c $(SMOKE) smoke {}

mutants: $(STAMPS)/mutation ## changes of the equations that no test notices: half an hour
	$(BIN)/python benchmarks/mutants.py --json benchmarks/results/mutants.json

wheel: $(STAMPS)/dev ## dist/modereg-*.whl
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

clean: ## remove what was built here; runs/ stays
	rm -rf $(VENV) .venv-* .vulkan dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis

# --- set-up -----------------------------------------------------------------------------------

VULKAN := if [ -f .vulkan/env.sh ]; then source .vulkan/env.sh; fi;

# The versions in constraints.txt were tested with Python 3.11.
$(STAMPS)/venv:
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		found=; chosen=; \
		for python in python3.11 python3.12 python3.13 python3; do \
			$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
			found=$$python; \
			if $$python -c 'import ensurepip, venv' 2>/dev/null; then chosen=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "modereg needs Python 3.11 or newer, and none is on the PATH: install one." >&2; \
			exit 1; \
		elif [ -z "$$chosen" ]; then \
			echo "$$found cannot make virtual environments: install its venv module" \
				"(on Debian and Ubuntu: apt install python3-venv)." >&2; \
			exit 1; \
		fi; \
		$$chosen -m venv --clear $(VENV); \
	fi
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/core: $(STAMPS)/venv $(LOCK)
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation -e ".[all]"
	@touch $@

$(STAMPS)/dev: $(STAMPS)/core
	$(PIP) --no-build-isolation -e ".[dev]"
	@touch $@

$(STAMPS)/maniskill: $(STAMPS)/core
	$(PIP) --no-build-isolation -e ".[maniskill]"
	@touch $@

$(STAMPS)/mujoco: $(STAMPS)/core
	$(PIP) --no-build-isolation -e ".[kitchen]"
	@touch $@

$(STAMPS)/vla: $(STAMPS)/core
	$(PIP) --no-build-isolation -e ".[vla]"
	@touch $@

# ManiSkill needs a Vulkan device: where there is none, a software driver is unpacked in .vulkan.
.vulkan/env.sh: | $(STAMPS)/maniskill
	$(BIN)/python -m modereg_integrations.maniskill.vulkan --prefix .vulkan

$(STAMPS)/test: $(STAMPS)/dev $(STAMPS)/vla $(STAMPS)/maniskill $(STAMPS)/mujoco .vulkan/env.sh
	@touch $@

# The reference is read off the modules, ManiSkill's among them.
$(STAMPS)/docs: $(STAMPS)/dev $(STAMPS)/maniskill
	$(PIP) --no-build-isolation -e ".[docs]"
	@touch $@

$(STAMPS)/bench: $(STAMPS)/vla $(STAMPS)/maniskill $(STAMPS)/mujoco .vulkan/env.sh
	$(PIP) --no-build-isolation -e ".[bench]"
	@touch $@

$(STAMPS)/mutation: $(STAMPS)/dev
	$(PIP) --no-build-isolation -e ".[mutation]"
	@touch $@

# Sets of dependencies: their Python (or make SET_PYTHON=...), extras, and what is tested. ManiSkill
# fixes versions of its own, so its tests are not among them.
SET_PYTHON ?=
PYTHON_oldest := 3.11
PYTHON_newest := 3.13
PYTHON_lerobot := 3.12
EXTRAS_oldest := all,dev,mujoco,vla
EXTRAS_newest := all,dev,mujoco,vla
EXTRAS_lerobot := all,dev,lerobot
BOUNDS := tests $(addprefix --ignore=,$(BESIDE)) --ignore=tests/integrations/lerobot --ignore=tests/benchmarks
TESTS_oldest := $(BOUNDS)
TESTS_newest := $(BOUNDS)
TESTS_lerobot := tests/integrations/lerobot
.venv-%/stamp: constraints-%.txt pyproject.toml
	@wanted=$(PYTHON_$*); if ! [ -x .venv-$*/bin/python ]; then \
		for python in $(SET_PYTHON) python$$wanted "$$(pyenv prefix $$wanted 2>/dev/null)/bin/python" \
				none; do \
			if $$python -c 'import sys, venv; sys.exit(sys.version_info < ($(subst .,$(comma),$(PYTHON_$*))))' \
				2>/dev/null; then break; fi; \
		done; \
		if [ "$$python" = none ]; then \
			echo "this set was tested with Python $$wanted, and none is on the PATH: install one," \
				"or name another: make SET_PYTHON=... test-$*" >&2; \
			exit 1; \
		fi; \
		$$python -m venv .venv-$*; \
	fi
	.venv-$*/bin/python -m pip --disable-pip-version-check install --quiet --compile $(PIP_ARGS) \
		-c constraints-$*.txt -e ".[$(EXTRAS_$*)]"
	@touch $@
