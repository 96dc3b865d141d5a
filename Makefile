# On a fresh machine: `make demo`, `make test`, `make docs`. Each makes what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Errors only: no progress, no notice of a newer pip, no warning about root, which is about other environments.
INSTALL := PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_WARN_SCRIPT_LOCATION=1 \
	$(BIN)/python -W ignore -m pip install -qq --no-input -e

.PHONY: demo test check docs clean

demo: $(VENV)/.train
	@rm -rf demo
	$(BIN)/bestiary demo --out demo

test: $(VENV)/.all
	scripts/check
	scripts/test --run-slow -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.all
	scripts/check

# Warnings are errors, and nothing outside is asked for. The pages open from the disk.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/docs
	@echo "The documentation is in build/docs/index.html."

$(VENV)/.train: pyproject.toml
	@echo "Installing bestiary with what the main job needs into $(VENV) (about 1 GB)."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[train]'
	@touch $@

$(VENV)/.docs: pyproject.toml
	@echo "Installing what the documentation is built with into $(VENV) (about 1 GB from nothing)."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[docs]'
	@touch $@

$(VENV)/.all: pyproject.toml
	@echo "Installing bestiary with everything, torch and the tools of the tests among it, into $(VENV) (several GB)."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[all,dev,docs]'
	@touch $@

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache
