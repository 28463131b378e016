# Every target makes the virtual environment on first use. PYTHON may name another interpreter (3.11 or newer).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PAGES  := build/pages

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check docs pages release-check format

help: ## show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-13s %s\n", $$1, $$2}'

install: $(STAMP) ## make the environment in .venv (minutes the first time, nothing the second)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "FAME needs Python 3.11 or newer; set PYTHON=python3.11")'
	@echo "Making the environment in $(VENV) and installing (PyTorch, Ray and OpenCV are large: a few minutes) ..."
	$(PYTHON) -m venv $(VENV)
	@# editable_mode: a path, and no import hook, which would lose to a clone called `fame` in the working directory.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--config-settings editable_mode=compat -e ".[dev]"
	@touch $@

demo: install ## write a small video set, then preprocess, pretrain and evaluate it (under 5 minutes on 2 cores)
	$(BIN)/fame demo

test: install ## run the test suite (under 4 minutes on 2 idle cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: install ## run it with the slow tests: kills, clusters, faults by plan (about 15 minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: install ## lint, format, types, the import law, containers; any finding fails
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml docker/compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/shellcheck docker/*.sh .ci/run .ci/release-check

docs: install ## build the documentation into site/index.html; a broken link or reference fails
	@# --quiet would silence the warnings before --strict counts them.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

pages: install ## run the demo and put what it prints and draws into the pages (minutes; after a change of what is shown)
	rm -rf $(PAGES) && mkdir -p $(PAGES)
	cd $(PAGES) && $(CURDIR)/$(BIN)/fame demo > demo.txt 2>&1
	$(BIN)/python -m pytest -q tests/test_docs_commands.py -k followed --update-pages $(CURDIR)/$(PAGES)
	$(BIN)/python docs/images/gallery.py $(PAGES)/demo

release-check: install ## build the distributions and use them in a clean environment (minutes; before a release)
	.ci/release-check

format: install ## apply the formatter and the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
