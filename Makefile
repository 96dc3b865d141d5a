# Two commands on a fresh machine: `make demo` and `make test`. Each makes what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Errors only: no progress, no notice of a newer pip, no warning about root, which is about other environments.
INSTALL := PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_WARN_SCRIPT_LOCATION=1 \
	$(BIN)/python -W ignore -m pip install -qq --no-input -e

.PHONY: demo test check clean

demo: $(VENV)/.train
	rm -rf demo
	$(BIN)/bestiary demo --out demo

test: $(VENV)/.all
	scripts/check
	scripts/test --run-slow -n 2 --dist loadfile

check: $(VENV)/.all
	scripts/check

$(VENV)/.train: pyproject.toml
	@echo "Installing bestiary with what the main job needs into $(VENV) (about 1 GB)."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[train]'
	touch $@

$(VENV)/.all: pyproject.toml
	@echo "Installing bestiary with everything, torch and the tools of the tests among it, into $(VENV) (several GB)."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[all,dev]'
	touch $@

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache
