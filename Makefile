# The two commands of the README. Everything is installed into .venv, with the versions
# that constraints.txt pins. `make digits BACKEND=torch` chooses another backend.

PYTHON ?= python3
BACKEND ?= jax
VENV := .venv
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --constraint constraints.txt

.PHONY: digits test

digits: $(VENV)/.installed-digits-$(BACKEND)
	KERAS_BACKEND=$(BACKEND) $(VENV)/bin/python training/train.py classification_digits

test: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	KERAS_BACKEND=torch $(VENV)/bin/python zoo/table.py --check
	KERAS_BACKEND=torch $(VENV)/bin/python -m pytest
	KERAS_BACKEND=jax $(VENV)/bin/python -m pytest
	KERAS_BACKEND=tensorflow $(VENV)/bin/python -m pytest

$(VENV)/.installed-digits-$(BACKEND): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable ".[$(BACKEND),data,plot]"
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable ".[test]"
	touch $@
