# `make` or `make help` lists what can be asked for.

ARGS   ?=
VENV   := .venv
BIN    := $(VENV)/bin
# A Python to build .venv from; empty: the newest suitable one on PATH.
PYTHON ?=

# A stamp is newer than pyproject.toml once its dependencies are installed, and is written last,
# so an interrupted install leaves none and starts again.
INSTALLED     := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help run test test-slow bench clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

run: $(INSTALLED) ## start Secateur (ARGS="..." for its arguments); the first run installs it into .venv
	@exec $(BIN)/python main.py $(ARGS)

test: $(INSTALLED_DEV) ## style, types, import contracts and the quick tests
	@QT_QPA_PLATFORM=$${QT_QPA_PLATFORM:-offscreen} $(BIN)/python -m gui.system
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: $(INSTALLED_DEV) ## the slow tests
	@QT_QPA_PLATFORM=$${QT_QPA_PLATFORM:-offscreen} $(BIN)/python -m gui.system
	$(BIN)/python -m pytest -m slow $(ARGS)

bench: $(INSTALLED_DEV) ## measure Secateur itself (ARGS=--reduced for a quick look)
	$(BIN)/python tests/bench/run.py $(ARGS)

clean: ## remove caches and builds
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .grimp_cache .hypothesis
	find main.py gui engine resources packaging tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove .venv as well
	rm -rf $(VENV)

$(INSTALLED): pyproject.toml
	@$(create_venv)
	@echo "Installing Secateur (several GB the first time)…"
	@$(PIP) install --editable .
	@touch $@

$(INSTALLED_DEV): pyproject.toml
	@$(create_venv)
	@echo "Installing Secateur and its development tools (several GB the first time)…"
	@$(PIP) install --editable '.[dev]'
	@touch $(INSTALLED) $@

# Creates .venv, or completes one whose creation was interrupted, from a Python that can.
define create_venv
set -e; \
if $(BIN)/python -m pip --version >/dev/null 2>&1; then exit 0; fi; \
old=''; bare=''; chosen=''; \
for candidate in $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3); do \
    command -v "$$candidate" >/dev/null 2>&1 || continue; \
    if ! "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
        old="$$candidate"; \
    elif ! "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then \
        bare="$${bare:-$$candidate}"; \
    else \
        chosen="$$candidate"; break; \
    fi; \
done; \
if [ -z "$$chosen" ] && [ -n "$$bare" ]; then \
    version=$$("$$bare" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
    echo "Secateur: $$bare lacks the venv module; on Debian and Ubuntu: sudo apt-get install python$$version-venv" >&2; exit 1; \
fi; \
if [ -z "$$chosen" ]; then \
    echo "Secateur needs Python 3.11 or later, and there is none on PATH$${old:+ ($$old is older)}; install one, or name it: make run PYTHON=/path/to/python3" >&2; exit 1; \
fi; \
"$$chosen" -m venv --clear $(VENV)
endef
