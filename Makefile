# Everything runs from a virtual environment in this checkout; nothing global is touched.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PEERS  := .venv-bench
RECEIVERS := .venv-receivers
# Test files run side by side, each on servers of its own; many of them mostly wait.
JOBS   ?= 3

.DEFAULT_GOAL := help
.PHONY: help run test test-heavy lint format bench faults lock clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock requirements-opa.lock pyproject.toml scripts/bootstrap
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh scripts/bootstrap
	@touch $@

run: $(READY) ## serve authorizations on an embedded Valkey and Rego engine
	@exec $(BIN)/sark serve

test: $(READY) ## unit, integration and fault tests on real servers (at most 5 minutes)
	$(BIN)/python -m pytest -m "not heavy" -n $(JOBS) --dist loadfile

$(RECEIVERS)/.ready: $(READY) tests/receivers/requirements.lock
	@test -x $(RECEIVERS)/bin/python || $(BIN)/python -m venv --without-pip $(RECEIVERS)
	@echo "Installing the receivers of audit events (about a minute and 1.2 GB the first time)"
	@$(BIN)/python -m pip --python $(RECEIVERS)/bin/python --disable-pip-version-check --quiet \
	  install --no-compile --require-hashes -r tests/receivers/requirements.lock
	@touch $@

test-heavy: $(READY) $(RECEIVERS)/.ready ## tests that take long or need system packages (rsyslog, rsyslog-gnutls)
	$(BIN)/python -m pytest -m heavy

lint: $(READY) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(PEERS)/.ready: $(READY) benchmarks/peers/requirements.lock
	@test -x $(PEERS)/bin/python || $(BIN)/python -m venv --without-pip $(PEERS)
	@$(BIN)/python -m pip --python $(PEERS)/bin/python --disable-pip-version-check --quiet \
	  install --require-hashes -r benchmarks/peers/requirements.lock
	@touch $@

bench: $(READY) $(PEERS)/.ready ## measure against the driver and peers; writes benchmarks/results.json
	$(BIN)/python -m benchmarks

faults: $(READY) $(RECEIVERS)/.ready ## the fault tests, then the fault run (FAULT_RUN_SECONDS=45, FAULT_RUN_SEED=)
	$(BIN)/python -m pytest tests/faults tests/heavy/test_audit_fault_run.py

lock: ## resolve the dependencies again into requirements.lock (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --all-extras --group dev \
	  --generate-hashes --no-emit-index-url --no-header pyproject.toml --output-file requirements.lock
	cd tests/receivers && uv pip compile --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header requirements.in --output-file requirements.lock

clean: ## remove the environment, caches and local data
	rm -rf $(VENV) $(PEERS) $(RECEIVERS) .sark build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
