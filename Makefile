# The verbs of this project. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PROTO_FLAGS := -Ikeda_scaler/pb=protos keda_scaler/pb/externalscaler.proto keda_scaler/pb/podresources.proto
DOCKER ?= docker
IMAGE ?= keda-scaler
BASE ?= $(shell sed -n 's/^ARG BASE=//p' Dockerfile)
# What is tested is what is installed: the wheel, and not the working tree.
WHEEL := $(CURDIR)/.cache/wheel
# The longest, which wait more than they work; then four workers are done at about the same time.
FIRST = $(wildcard tests/test_benchmark*.py)
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' keda_scaler/__init__.py)
COMPILE := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
# Where it is set, every process that a test starts compiles our code anew.
export PYTHONDONTWRITEBYTECODE :=
export PATH := $(CURDIR)/$(BIN):$(CURDIR)/.cache/tools/bin:$(PATH)

.PHONY: help run demo test verify check fmt fuzz bench audit sbom docs pictures proto lock tools wheel version image e2e gpu clean

help:  ## list the verbs
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

run: $(VENV)/runtime  ## install, and run the scaler with its embedded simulated engine
	@exec $(BIN)/keda-scaler serve --demo

demo: $(VENV)/runtime  ## install, and watch a model scale from 0 to N and back
	@exec $(BIN)/keda-scaler demo

test: check tools  ## install everything, and run all that CI runs
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 tests/core tests/engines tests/gateways
	$(BIN)/coverage combine -q
	$(BIN)/coverage report
	rm -rf $(WHEEL) && $(PIP) install --no-deps --no-build-isolation --no-index --target $(WHEEL) .
	PYTHONPATH=$(WHEEL) $(BIN)/pytest -n 4 --dist loadgroup $(FIRST) tests --ignore tests/core --ignore tests/engines --ignore tests/gateways

verify: $(VENV)/dev  ## put the simulated stack under load, and check what scaling promises; 3.5 minutes
	@$(BIN)/python tests/load/verify.py --record build/verify

check: $(VENV)/dev  ## format, lint, types, layers, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	tools/check-stubs

fmt: $(VENV)/dev  ## format, and mend what can be mended
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

fuzz: $(VENV)/dev  ## give parsers and ports what nobody would write, and the scaler 2,000 random worlds; 15 minutes
	ADVERSARY_WORLDS=2000 $(BIN)/pytest tests/adversary -n 2 --timeout 0
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
	$(BIN)/python benchmarks/hanging.py
	$(BIN)/python benchmarks/flood.py

docs: $(VENV)/dev tools  ## write what is made from code: of docs/, of the chart, manifests/install.yaml
	for each in tools/render-*; do $$each || exit 1; done

pictures: $(VENV)/dev tools  ## take the pictures in docs/images anew, in Chromium and from a demo
	$(BIN)/pytest -q tests/test_page_browser.py -k legible
	install -m 644 .cache/screenshots/list-light.png docs/images/page.png
	tools/picture-demo docs/images/demo.svg

proto: $(VENV)/dev  ## generate keda_scaler/pb
	$(BIN)/python -m grpc_tools.protoc --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. $(PROTO_FLAGS)

lock: $(VENV)/dev  ## pin requirements/, with hashes
	$(COMPILE) pyproject.toml -o requirements/runtime.txt
	$(COMPILE) --extra dev -c requirements/runtime.txt pyproject.toml -o requirements/dev.txt
	$(COMPILE) -c requirements/dev.txt requirements/build.in -o requirements/build.txt

tools: .cache/tools/bin/prometheus .cache/tools/bin/redis-server .cache/tools/bin/helm .cache/tools/bin/chromium  ## fetch what tests use beside Python

.cache/tools/bin/prometheus: tools/fetch-prometheus
	tools/fetch-prometheus $@

.cache/tools/bin/redis-server: tools/fetch-redis
	tools/fetch-redis $@

.cache/tools/bin/chromium: tools/fetch-chromium
	tools/fetch-chromium $@

.cache/tools/bin/helm: tools/fetch-helm | $(VENV)/dev
	tools/fetch-helm $@

wheel: $(VENV)/dev  ## build dist/keda_scaler-VERSION-py3-none-any.whl
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

version:  ## print the version
	@echo $(VERSION)

image:  ## build the image keda-scaler:VERSION; needs docker, or DOCKER=podman
	$(DOCKER) build --build-arg BASE=$(BASE) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$(shell git rev-parse HEAD) --tag $(IMAGE):$(VERSION) .

e2e: $(VENV)/dev  ## scale from 0 to N and back in the cluster of KUBECONFIG; see tests/e2e/README.md
	$(BIN)/pytest -c tests/e2e/pytest.ini tests/e2e

gpu: $(VENV)/dev  ## compare what we read of this node's GPU with nvidia-smi, while it is used
	$(BIN)/pytest -s tests/gpu/real_gpu.py

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
