# The verbs of this project. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PROTO_FLAGS := -Ikeda_scaler/pb=protos keda_scaler/pb/externalscaler.proto keda_scaler/pb/podresources.proto
COMPILE := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
export PATH := $(CURDIR)/$(BIN):$(CURDIR)/.cache/tools/bin:$(PATH)

.PHONY: help run demo test check fmt fuzz bench audit sbom docs proto lock tools clean

help:  ## list the verbs
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

run: $(VENV)/runtime  ## install, and run the scaler with its embedded simulated engine
	@exec $(BIN)/keda-scaler serve --demo

demo: $(VENV)/runtime  ## install, and watch a model scale from 0 to N and back
	@exec $(BIN)/keda-scaler demo

test: check tools  ## install everything, and run all that CI runs
	$(BIN)/coverage run -m pytest tests/core tests/engines tests/gateways
	$(BIN)/coverage report
	$(BIN)/pytest -n 2 --dist loadgroup --ignore tests/core --ignore tests/engines --ignore tests/gateways

check: $(VENV)/dev  ## format, lint, types, layers, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	tools/check-stubs

fmt: $(VENV)/dev  ## format, and mend what can be mended
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

fuzz: $(VENV)/dev  ## give the parsers and the ports what nobody would write, for about five minutes
	$(BIN)/pytest tests/fuzz -n 2 --hypothesis-profile fuzz --timeout 0

audit: $(VENV)/dev  ## ask for known vulnerabilities of everything in requirements/; needs the network
	$(BIN)/pip-audit --strict --require-hashes --disable-pip -r requirements/dev.txt -r requirements/build.txt

sbom: $(VENV)/dev  ## write build/sbom.json: what is installed, as CycloneDX
	tools/sbom build/sbom.json

bench: $(VENV)/dev tools  ## everything that docs/performance.md tells, beside bare servers in the same run; 15 minutes
	$(BIN)/python benchmarks/parsing.py
	$(BIN)/python benchmarks/unary.py
	$(BIN)/python benchmarks/waking.py
	$(BIN)/python benchmarks/upstream.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/streams.py
	$(BIN)/python benchmarks/fleet.py
	$(BIN)/python benchmarks/flood.py

docs: $(VENV)/dev  ## write docs/engines.md, docs/gateways.md and the tables of docs/faults.md
	tools/render-engines
	tools/render-gateways
	tools/render-faults

proto: $(VENV)/dev  ## generate keda_scaler/pb
	$(BIN)/python -m grpc_tools.protoc --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. $(PROTO_FLAGS)

lock: $(VENV)/dev  ## pin requirements/, with hashes
	$(COMPILE) pyproject.toml -o requirements/runtime.txt
	$(COMPILE) --extra dev -c requirements/runtime.txt pyproject.toml -o requirements/dev.txt
	$(COMPILE) -c requirements/dev.txt requirements/build.in -o requirements/build.txt

tools: .cache/tools/bin/prometheus .cache/tools/bin/redis-server  ## fetch what tests use beside Python

.cache/tools/bin/prometheus: tools/fetch-prometheus
	tools/fetch-prometheus $@

.cache/tools/bin/redis-server: tools/fetch-redis
	tools/fetch-redis $@

$(VENV)/runtime: requirements/runtime.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements/build.txt -r requirements/runtime.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements/build.txt -r requirements/dev.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/runtime

clean:  ## remove what the verbs above made
	rm -rf $(VENV) .cache build dist .coverage
