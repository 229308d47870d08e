# `make setup` needs Python 3.11+, make and a package registry; everything lands in .venv and .tools.
# `make setup UV=` does the same with plain pip.

PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
BIN := .venv/bin
UV ?= $(BIN)/uv
READY := .venv/.ready
LOCKED := --require-hashes --no-deps --requirement requirements.lock
EDITABLE := --no-deps --no-build-isolation --editable . --editable ./loader-lib
PYTEST := $(BIN)/python -m pytest
TESTS ?= tests
# one more than cores: tests wait a lot, for the disk and for servers; in the slow tier one worker soaks for ten minutes
JOBS ?= $(shell n=$$(nproc); echo $$((n > 3 ? 4 : n + 1)))
SLOW = $(sort $(shell grep -rlE '\bmark\.slow\b' tests --include='test_*.py'))
TORCH := .tools/torch
# frameworks read it once, when they are imported
OFFLINE := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade --no-annotate --custom-compile-command 'make lock'

# As pip does: trust what the system trusts, a company's own CA too.
export UV_SYSTEM_CERTS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup lock tools cluster containerd bench-control bench-plan rare-days starts frameworks torch test-gpu fuzz demo bench check style types imports unit test test-all slow integrations on-torch conformance vllm soak cycles api wire chart fmt clean

help: ## this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/\1	\2/' | expand -t 14

setup: $(READY) ## make .venv: what requirements.lock says, and both distributions in place

$(READY): requirements.lock pyproject.toml loader-lib/pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer on PATH: install one, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
ifeq ($(UV),)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(LOCKED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(EDITABLE)
else
	test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip install --quiet --python $(BIN)/python $(LOCKED)
	$(UV) pip install --quiet --python $(BIN)/python $(EDITABLE)
endif
	@touch $@

lock: ## write requirements.lock anew from both pyproject.toml (no registry is named in it)
	test -x $(BIN)/uv || { test -x $(BIN)/python || $(PYTHON) -m venv .venv; $(BIN)/python -m pip install --quiet uv; }
	$(COMPILE) --no-emit-package prestage --no-emit-package prestage-loader \
	  --group dev --group demo --extra bench --extra daemonset --extra numpy pyproject.toml loader-lib/pyproject.toml --output-file requirements.lock
	$(COMPILE) --no-emit-package prestage --no-emit-package prestage-loader \
	  --constraint requirements.lock --group torch --output-file requirements-torch.lock
	$(COMPILE) --no-emit-package prestage --constraint requirements.lock --extra daemonset pyproject.toml --output-file requirements-image.lock
	$(COMPILE) .ci/locks/transformers4.in --output-file requirements-transformers4.lock
	$(COMPILE) --overrides .ci/locks/vllm-overrides.txt --excludes .ci/locks/vllm-excludes.txt .ci/locks/vllm.in --output-file requirements-vllm.lock

tools: ## real servers for the tests, each optional: says what is there and what is not, and why
	@.ci/tools

cluster: ## a real Kubernetes for the tests, in one binary: taken where it was built before, else 7 minutes once
	@.ci/tools cluster

containerd: ## containerd 1.7 and 2 for the tests of images: four minutes once
	@.ci/tools containerd

demo: setup ## a real model from a local origin: cold against warm, report.html
	$(BIN)/python -m prestage.bench.demo

bench: setup ## what it is worth: make bench ARGS="start REF --root DIR", ARGS="fetch URL"; without ARGS: what there is
	$(BIN)/prestage bench $(or $(ARGS),--help)

check: style types imports unit ## style, types, import rules, unit and contract tests, docs snippets (-k: go on after a failure)

style: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

unit: setup
	.ci/again .pytest_cache/unit $(PYTEST) -n $(JOBS) --dist worksteal --durations=15 -m "not slow" tests/unit $(wildcard tests/contract)

test: setup tools ## all but the slow tier, on real servers where they can be had
	.ci/again .pytest_cache/test $(PYTEST) -n $(JOBS) --dist worksteal --durations=15 -m "not slow" $(TESTS)

test-all: setup tools cluster torch ## the slow tier, and beside it the loader on a real torch and the integrations
	.ci/beside '$(MAKE) --no-print-directory on-torch integrations' '$(MAKE) --no-print-directory slow'

slow: setup tools cluster ## the slow tier alone; which tests follow each other is written in tests/lanes.py
	.ci/again .pytest_cache/slow $(PYTEST) -n $(JOBS) --dist loadgroup --no-loadscope-reorder --durations=25 --timeout=600 -m slow $(SLOW)

on-torch: torch ## the loader's tests that need torch
	.ci/again .pytest_cache/torch $(TORCH)/bin/python -m pytest tests/contract/loader tests/unit/loader -k torch

fuzz: setup ## a million damaged safetensors headers (a minute or two)
	PRESTAGE_FUZZ=1000000 $(PYTEST) tests/unit/loader/test_bad_days.py -k damaged_headers

test-gpu: setup ## the loader on a real GPU, with torch where `make torch` made it; says "not run" where there is none
	@$(if $(wildcard $(TORCH)/.ready),$(TORCH),.venv)/bin/python -m pytest -rP -m "" tests/gpu

.PHONY: large-layer
large-layer: setup ## one layer of 5 GB: pulled, staged through the socket and in place, held against each other (root; FOLDER=… with 20 GB free; minutes)
	PYTHONPATH=tests $(BIN)/python -m layers.large $(FOLDER)

.PHONY: volumes
volumes: setup ## what a publish costs, and a thousand volumes that come and go and leave nothing (root; two minutes)
	PYTHONPATH=cacher:daemonset:tests $(BIN)/python -m nodes.publishes

cycles: setup ## 100,000 small artifacts staged and evicted, each another one (CYCLES=10000: a tenth); any growth fails it; prints a table
	PYTHONPATH=cacher:tests $(BIN)/python -m agents.cycles

soak: setup ## the agent under four clients and faults for two hours (SOAK_S=600: ten minutes); growth from the second quarter to the last fails it; prints a table
	PYTHONPATH=cacher:tests $(BIN)/python -m agents.soak

bench-control: setup ## the control plane with 500 fake nodes and 2,000 pods (root; ARGS="--nodes 50 --pods 200"); prints the table of `prestage bench control`
	PYTHONPATH=cacher:daemonset:bench:loader-lib:tests $(BIN)/python -m cluster.fleet $(ARGS)

bench-plan: setup ## the planner on 5,000 simulated nodes and rates of your own (RATES=file; days; ARGS='--nodes 450 --origin 54G --tick 60 --hours 12' is 10 minutes); prints a table
	$(BIN)/prestage bench plan --rates $(RATES) --nodes 5000 --gpus 8 --budget 2000000000000 --link 3000000000 --origin 600000000000 \
	  --tick 300 --seeds 1 --announced 0.5 --schedulers steered --policies "LRU,cron only,prestage" $(ARGS)

RARE := $(addprefix tests/cluster/story/,rare_days.py patience.py revoked.py replicas.py test_rough_days.py)
rare-days: setup ## faults on an installed chart that take minutes: a full disk, a reboot with an empty one, a Node deleted, the kubelet's two minutes, access that ends, a leader killed (root)
	PRESTAGE_API_AWAY_S=60 $(PYTEST) -s $(RARE) $(ARGS)

starts: setup ## a pod's start with image and model staged, with the model alone, with nothing, on a real kubelet (root; PRESTAGE_PNG=FILE draws it)
	$(PYTEST) -s tests/cluster/story/starts.py

frameworks: setup torch .tools/vllm/.ready ## unmodified transformers and vLLM in pods on a real kubelet, by the Hugging Face layout, as uid 1000; and the examples that need them (root)
	$(PYTEST) -s tests/cluster/story/frameworks.py tests/cluster/story/example_servers.py $(ARGS)

torch: setup $(TORCH)/.ready ## a venv of its own with torch (4.6 GB) that sees .venv too: for the loader's torch tests

$(TORCH)/.ready: requirements-torch.lock
	test -x $(TORCH)/bin/python || $(BIN)/python -m venv $(TORCH)
	$(BIN)/uv pip install --quiet --python $(TORCH)/bin/python --require-hashes --no-deps --requirement requirements-torch.lock
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" > $$($(TORCH)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/prestage.pth
	@touch $@

.PHONY: integrations conformance vllm
integrations: conformance vllm .tools/transformers4/.ready ## the loader in serving code: transformers 5 and 4, accelerate, diffusers, vLLM, safetensors' own tests
	$(OFFLINE) .ci/again .pytest_cache/transformers $(TORCH)/bin/python -m pytest -m "not slow" tests/contract/integrations
	$(OFFLINE) .ci/again .pytest_cache/transformers4 .tools/transformers4/bin/python -m pytest -m "not slow" tests/contract/integrations

conformance: torch .tools/safetensors/.ready ## safetensors' own test-suite on the loader's functions
	$(OFFLINE) .ci/again .pytest_cache/conformance $(TORCH)/bin/python -m pytest tests/contract/integrations/test_safetensors_own_suite.py

vllm: setup .tools/vllm/.ready ## load format "prestage" in a real vLLM on the CPU (an environment of its own, 5 GB)
	$(OFFLINE) .ci/again .pytest_cache/vllm .tools/vllm/bin/python -m pytest tests/integration/engines

.tools/transformers4/.ready: requirements-transformers4.lock loader-lib/pyproject.toml $(TORCH)/.ready
	.ci/environment transformers4 $(TORCH) .venv
	@touch $@

.tools/vllm/.ready: requirements-vllm.lock loader-lib/pyproject.toml $(READY)
	.ci/environment vllm .venv
	@touch $@

.tools/safetensors/.ready: requirements-torch.lock $(READY)
	.ci/source safetensors
	@touch $@

wire: setup ## make the messages of CSI and of the kubelet's plugin registration anew from daemonset/prestage/wire/*.proto
	$(BIN)/python -m grpc_tools.protoc -Idaemonset --python_out=daemonset --pyi_out=daemonset $(patsubst daemonset/%,%,$(wildcard daemonset/prestage/wire/*.proto))

api: setup ## write the CRDs and docs/kubernetes-api.md anew from the types in daemonset/prestage/api
	$(BIN)/python -m prestage.api crds > daemonset/chart-crds/templates/crds.yaml
	$(BIN)/python -m prestage.api docs > docs/kubernetes-api.md

chart: setup ## write the rights, webhooks and policies of the chart anew from the code
	$(BIN)/python .ci/chart.py

fmt: setup ## format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## everything that was made here, .venv and .tools included
	rm -rf .venv .tools .demo build dist loader-lib/dist report.html .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
