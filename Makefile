# The two commands of the README. Everything is installed into .venv, with the versions
# that constraints.txt pins. `make digits BACKEND=torch` chooses another backend,
# `make --jobs=3 test` tests all backends at once.

PYTHON ?= python3
BACKEND ?= jax
VENV := .venv
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --constraint constraints.txt
BACKEND_TESTS := test-jax test-torch test-tensorflow

.PHONY: digits test lint $(BACKEND_TESTS)

digits: $(VENV)/.installed-digits-$(BACKEND)
	KERAS_BACKEND=$(BACKEND) $(VENV)/bin/python training/train.py classification_digits

test: lint $(BACKEND_TESTS)

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	KERAS_BACKEND=torch $(VENV)/bin/python zoo/table.py --check
	$(VENV)/bin/python training/compare.py --check

$(BACKEND_TESTS): test-%: $(VENV)/.installed-test
	KERAS_BACKEND=$* $(VENV)/bin/python -m pytest

$(VENV)/.installed-digits-$(BACKEND): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable ".[$(BACKEND),data,plot]"
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable ".[test]"
	touch $@
