# The two commands of the README, and what a release needs. Everything is installed into .venv,
# with the versions that constraints.txt pins. `make digits BACKEND=torch` chooses another backend.

PYTHON ?= python3
BACKEND ?= jax
WORKERS ?= 2
VENV := .venv
# A second environment, with the lower bounds of pyproject.toml.
VENV_MINIMUM := .venv-minimum
# Not compiled: imports compile what they use, a small part of the packages, and keep it.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --no-compile --constraint constraints.txt
BACKEND_TESTS := test-torch test-jax test-tensorflow

.PHONY: digits test test-all lint lower-bounds docs docs-serve $(BACKEND_TESTS)

digits: $(VENV)/.installed-digits-$(BACKEND)
	KERAS_BACKEND=$(BACKEND) $(VENV)/bin/python training/train.py classification_digits

test: lint $(BACKEND_TESTS)

# Before a release: also the campaigns, and every model through PyTorch's compiler.
test-all: lint lower-bounds docs
	for backend in torch jax tensorflow; do \
		KERAS_BACKEND=$$backend $(VENV)/bin/python -m pytest --all || exit 1; \
	done
	for backend in torch jax tensorflow; do \
		KERAS_BACKEND=$$backend $(VENV)/bin/python docs/execute.py --check || exit 1; \
	done
	KERAS_BACKEND=torch $(VENV)/bin/python -m tests.campaigns.hostile_files
	KERAS_BACKEND=torch $(VENV)/bin/python -m tests.campaigns.downloads
	$(VENV)/bin/python -m tests.campaigns.kills
	$(VENV)/bin/python -m tests.campaigns.distribution
	for campaign in interruptions surroundings memory half_precision export_formats; do \
		for backend in torch jax tensorflow; do \
			KERAS_BACKEND=$$backend $(VENV)/bin/python -m tests.campaigns.$$campaign || exit 1; \
		done; \
	done

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff check --quiet --select ANN001,ANN002,ANN003 keras_spm \
		--config "lint.flake8-annotations.ignore-fully-untyped=true"
	$(VENV)/bin/ruff format --check .
	KERAS_BACKEND=jax $(VENV)/bin/python zoo/table.py --check
	$(VENV)/bin/python training/compare.py --check
	KERAS_BACKEND=torch $(VENV)/bin/python -m tests.campaigns.export_formats --check

$(BACKEND_TESTS): test-%: $(VENV)/.installed-test
	KERAS_BACKEND=$* $(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --dist worksteal \
		--durations 20

# One backend after the other: each has all cores.
test-jax: test-torch
test-tensorflow: test-jax

# The site, in build/site. Guides are pages of their committed notebooks.
docs: $(VENV)/.installed-test
	NO_MKDOCS_2_WARNING=1 KERAS_BACKEND=torch \
		$(VENV)/bin/python -m mkdocs build --strict --config-file docs/mkdocs.yml

docs-serve: $(VENV)/.installed-test
	KERAS_BACKEND=torch $(VENV)/bin/python -m mkdocs serve --config-file docs/mkdocs.yml

lower-bounds: $(VENV_MINIMUM)/.installed
	KERAS_BACKEND=jax $(VENV_MINIMUM)/bin/python -c "import keras_spm.cli"

$(VENV)/.installed-digits-$(BACKEND): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable ".[$(BACKEND),data,plot]"
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable ".[test]"
	touch $@

$(VENV_MINIMUM)/.installed: pyproject.toml tests/lower_bounds.py
	$(PYTHON) -m venv $(VENV_MINIMUM)
	$(PYTHON) tests/lower_bounds.py > $(VENV_MINIMUM)/constraints.txt
	$(VENV_MINIMUM)/bin/python -m pip install --quiet --no-compile ".[coco,data,jax,plot]" \
		--constraint $(VENV_MINIMUM)/constraints.txt
	touch $@
