# Targets for people: `make help` lists them. Everything runs in .venv, which the first target that needs it makes.

STUDY ?= fig8-mnist5k
RESULTS ?= results
PORT ?= 5000
PYTHON ?= python3
TEST_PROCESSES ?= 2
export SWEEPS_RESULTS := $(RESULTS)

RUN := .venv/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint requirements.lock

MACHINE = $(if $(JOBS),--jobs $(JOBS)) $(if $(DEVICE),--device $(DEVICE))
SHARE = $(if $(GPUS_PER_TRIAL),--gpus-per-trial $(GPUS_PER_TRIAL))
ADDRESS = $(if $(RAY_ADDRESS),--address $(RAY_ADDRESS))
FILTERS = $(foreach item,$(ONLY),--only '$(item)') $(if $(SEEDS),--seeds $(SEEDS))
BUDGET = $(if $(YES),--yes) $(if $(MAX_HOURS),--max-hours $(MAX_HOURS)) $(if $(MAX_TRIALS),--max-trials $(MAX_TRIALS))
# A file's tests stay in one process, and the files in their order, of which the slow ones are the first.
AT_ONCE = --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
NAMED_FILE = [ -n '$(FILE)' ] || { echo "error: FILE=PATH: name the file" >&2; exit 2; }

# Ray lets every user of the machine into its folder, and change the code of jobs there; nobody else comes through ours.
RAY_FOLDER = /tmp/amp-ray-$$(id -u)
PRIVATE = { mkdir -p -m 700 "$(RAY_FOLDER)" && [ -O "$(RAY_FOLDER)" ] && [ ! -L "$(RAY_FOLDER)" ] && \
  chmod 700 "$(RAY_FOLDER)"; } || { echo "error: $(RAY_FOLDER): is not this user's own folder: RAY_FOLDER=PATH names another" >&2; exit 2; }
# Of Ray's agents, by which jobs are started: where its usual port is taken, by a sweep say, a head would take none.
FREE_PORT = $(RUN) -c 'import socket; probe = socket.create_server(("", 0)); print(probe.getsockname()[1])'
# Jobs are started by the name python; results by a path that does not hang on the folder they are started in.
RAY = SWEEPS_RESULTS='$(abspath $(RESULTS))' RAY_AUTH_MODE=token PATH='$(CURDIR)/.venv/bin':"$$PATH" \
  .venv/bin/ray start --block --disable-usage-stats --object-store-memory=100000000 \
  --temp-dir="$(RAY_FOLDER)/ray" --dashboard-agent-listen-port=$$($(FREE_PORT)) $(if $(IP),--node-ip-address='$(IP)')

# Containers run as whoever may read the secrets, and never as root.
OWNER = SWEEPS_UID=$$(id -u | sed 's/^0$$/1000/')
COMMIT = SWEEPS_COMMIT=$$(git describe --always --abbrev=40 --dirty --exclude '*' 2> /dev/null || echo unknown)
COMPOSE = $(OWNER) $(COMMIT) \
  docker compose --file docker/compose.yaml $(if $(filter cuda,$(TORCH)),--file docker/compose.cuda.yaml)
DOCKER = docker compose version > /dev/null 2>&1 || { \
  echo "error: docker compose: no such command: install Docker Engine and its compose plugin" >&2; exit 2; }

.DEFAULT_GOAL := help
.PHONY: help install studies sweep search freeze final submit jobs cancel dashboard plan probe status trial deliver gc forget report report-all compare theory ui server export import backup restore doctor token ray-head ray-worker cluster-up cluster-down cluster-logs fetch digest test test-browser test-faults test-search-faults test-cluster lint format types golden bench-trainer bench-engine bench-analysis clean

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18
	@echo
	@echo "Variables: STUDY=$(STUDY), a study or your own .py file; RESULTS=$(RESULTS), the folder of all results;"
	@echo "FOLDER, of your own images, each a square of side SIZE where that is given, CHANNELS=1 for grey;"
	@echo "ONLY='method=Amp seed=0', of the declared trials those; SEEDS=N, the first N seeds of each cell;"
	@echo "MAX_HOURS, MAX_TRIALS: refuse to train more; YES=1, do not ask about it;"
	@echo "FILE, of export, import, backup and restore; HOST and NAMES, of server: what it listens at and is called;"
	@echo "WORKERS, containers with trials; TORCH=cuda, with all GPUs of this machine, of the targets cluster-…;"
	@echo "OTHER, a second study, of compare;"
	@echo "TRIAL, of trial and forget; DATA=1, of doctor; DRY_RUN=1, of gc and submit; PHASE=final, of submit; JOB, of cancel;"
	@echo "HEAD=HOST:6379, of ray-worker; CPUS, of ray-head and ray-worker; IP, this machine's address of several, of both;"
	@echo "RAY_FOLDER, of this user alone, for Ray's sockets, logs and code of jobs, of both;"
	@echo "GPUS_PER_TRIAL=0.25, four trials on a GPU; RAY_ADDRESS=HOST:PORT or auto, of a Ray that is up;"
	@echo "of submit, jobs and cancel it is http://HOST:8265, by default on this machine;"
	@echo "JOBS, trials at a time; DEVICE=cuda, on GPUs; PORT=$(PORT), of make ui; PYTHON=$(PYTHON), which makes .venv;"
	@echo "TEST_PROCESSES=$(TEST_PROCESSES), tests at a time, of make test."

sweep: .venv/installed ## train what STUDY still lacks, then show its table and draw its figures
	@$(RUN) -m sweeps run '$(STUDY)' $(MACHINE) $(SHARE) $(ADDRESS) $(FILTERS) $(BUDGET); code=$$?; \
	[ $$code -le 1 ] || exit $$code; \
	$(RUN) -m analysis report '$(STUDY)' && $(RUN) -m sweeps publish '$(STUDY)' && exit $$code

sweep-%: ## sweep-NAME is sweep STUDY=NAME
	@$(MAKE) --no-print-directory sweep STUDY='$*'

search: .venv/installed ## try settings of STUDY, a tuning, on validation images until its budget is spent, then show them
	@$(RUN) -m sweeps search '$(STUDY)' $(MACHINE) $(SHARE) $(ADDRESS) $(BUDGET); code=$$?; \
	[ $$code -le 1 ] || exit $$code; \
	$(RUN) -m analysis report '$(STUDY)' && $(RUN) -m sweeps publish '$(STUDY)' && exit $$code

freeze: .venv/installed ## write what the searches of STUDY have chosen into a file, before the test set is read
	@$(RUN) -m sweeps freeze '$(STUDY)'

final: .venv/installed ## train what was frozen of STUDY on all training images, and show what the test set says
	@$(RUN) -m sweeps final '$(STUDY)' $(MACHINE) $(SHARE) $(ADDRESS) $(FILTERS) $(BUDGET); code=$$?; \
	[ $$code -le 1 ] || exit $$code; \
	$(RUN) -m analysis report '$(STUDY)' && $(RUN) -m sweeps publish '$(STUDY)' && exit $$code

submit: .venv/installed-cluster ## send STUDY, with the code, to the Ray at RAY_ADDRESS, and follow it; DRY_RUN=1 lists what is sent
	@$(RUN) -m sweeps submit '$(STUDY)' $(MACHINE) $(SHARE) $(ADDRESS) $(FILTERS) $(BUDGET) $(if $(PHASE),--phase $(PHASE)) \
	  $(if $(DRY_RUN),--dry-run)

jobs: .venv/installed-cluster ## list the jobs that make submit has sent there
	@$(RUN) -m sweeps jobs $(ADDRESS)

cancel: .venv/installed-cluster ## end JOB, or the one of STUDY; what was trained is kept
	@$(RUN) -m sweeps cancel $(if $(filter file,$(origin STUDY)),,'$(STUDY)') $(if $(JOB),--job $(JOB)) $(ADDRESS)

dashboard: .venv/installed-dashboard ## browse searches in optuna-dashboard on 127.0.0.1, port 8080, or PORT
	@$(RUN) -m sweeps dashboard $(if $(filter file,$(origin PORT)),,--port $(PORT))

studies: .venv/installed ## list the built-in studies
	@$(RUN) -m sweeps list

plan: .venv/installed ## show the cells of STUDY, how much of it is finished, and what the rest will take
	@$(RUN) -m sweeps plan '$(STUDY)' $(MACHINE) $(SHARE) $(FILTERS)

probe: .venv/installed ## measure the probes that STUDY declares of its finished trials; sweep does it as well
	@$(RUN) -m sweeps probe '$(STUDY)' $(MACHINE) $(ADDRESS)

status: .venv/installed ## show how far STUDY is, and why trials failed
	@$(RUN) -m sweeps status '$(STUDY)' $(FILTERS)

trial: .venv/installed ## train TRIAL of STUDY in the foreground to watch it fail; nothing of it is kept
	@[ -n '$(TRIAL)' ] || { echo "error: TRIAL=ID: name the trial, as make status prints it" >&2; exit 2; }
	@$(RUN) -m sweeps trial '$(TRIAL)' --study '$(STUDY)' $(if $(DEVICE),--device $(DEVICE))

deliver: .venv/installed ## write into MLflow what it lacks of STUDY; without STUDY, of all studies
	@$(RUN) -m sweeps deliver $(if $(filter file,$(origin STUDY)),,'$(STUDY)')

gc: .venv/installed ## remove weights that no study needs any more; DRY_RUN=1 says what that would free
	@$(RUN) -m sweeps gc $(if $(DRY_RUN),--dry-run) $(if $(filter %.py,$(STUDY)),'$(STUDY)')

forget: .venv/installed ## remove TRIAL from the ledger, its files and its MLflow run, to train it anew
	@[ -n '$(TRIAL)' ] || { echo "error: TRIAL=ID: name the trial" >&2; exit 2; }
	@$(RUN) -m sweeps forget '$(TRIAL)'

report: .venv/installed ## show the table of STUDY again and draw its figures
	@$(RUN) -m analysis report '$(STUDY)'
	@$(RUN) -m sweeps publish '$(STUDY)'

report-all: .venv/installed ## the same for all studies that have trials here, and an index of the reports
	@$(RUN) -m analysis report-all

compare: .venv/installed ## show which settings and numbers differ between STUDY and OTHER
	@[ -n '$(OTHER)' ] || { echo "error: OTHER=NAME: name the study to compare $(STUDY) with" >&2; exit 2; }
	@$(RUN) -m analysis compare '$(STUDY)' '$(OTHER)'

theory: .venv/installed ## draw the paper's Figures 1, 3 and 4, which need no training
	@$(RUN) -m analysis theory

fetch: .venv/installed ## bring the data of STUDY here: downloads what is to be downloaded
	@$(RUN) -m sweeps fetch '$(STUDY)' $(FILTERS)

digest: .venv/installed ## read your own images in FOLDER and print the line that declares them
	@[ -n '$(FOLDER)' ] || { echo "error: FOLDER=PATH: name the folder of your images" >&2; exit 2; }
	@$(RUN) -m sweeps digest '$(FOLDER)' $(if $(SIZE),--size $(SIZE)) $(if $(CHANNELS),--channels $(CHANNELS))

ui: .venv/installed ## browse all results in MLflow on 127.0.0.1, port PORT
	@$(RUN) -m sweeps ui --port $(PORT)

server: .venv/installed-server ## run MLflow behind passwords, for clients on other machines where HOST and NAMES say so
	@$(RUN) -m sweeps server --port $(PORT) $(if $(HOST),--host '$(HOST)') $(foreach name,$(NAMES),--name '$(name)')

export: .venv/installed ## write all that is known of STUDY into FILE, for another ledger
	@$(NAMED_FILE)
	@$(RUN) -m sweeps export '$(STUDY)' '$(FILE)'

import: .venv/installed ## take over the study that make export has written into FILE, without loss or double
	@$(NAMED_FILE)
	@$(RUN) -m sweeps import '$(FILE)'

backup: .venv/installed ## write the folder RESULTS, but the data, into FILE, while sweeps run
	@$(NAMED_FILE)
	@$(RUN) -m sweeps backup '$(FILE)'

restore: .venv/installed ## put what make backup wrote into FILE into the empty folder RESULTS
	@$(NAMED_FILE)
	@$(RUN) -m sweeps restore '$(FILE)'

doctor: .venv/installed ## look whether this machine is ready and nothing on it lies open; DATA=1 also verifies data sets
	@$(RUN) -m sweeps doctor $(if $(DATA),--data)

token: .venv/installed ## make the token by which the machines of a Ray cluster know each other
	@$(RUN) -m sweeps token

ray-head: .venv/installed-cluster ## start Ray's head here, until Ctrl-C: drivers of jobs run on it, with CPUS=N so many trials too
	@$(RUN) -m sweeps token > /dev/null
	@$(PRIVATE)
	@$(RUN) -m sweeps.servers.ray_node || exit 2
	@echo "To train: make submit, in another terminal. On other machines: make ray-worker HEAD=IP:6379, with the node"
	@echo "IP that follows. Ctrl-C ends this head alone; ray stop, as Ray says below, would end sweeps as well."
	@$(RAY) --head --dashboard-host=127.0.0.1 --num-cpus=$(or $(CPUS),0) $(if $(CPUS),,--num-gpus=0)

ray-worker: .venv/installed-cluster ## let this machine train for the head at HEAD, until Ctrl-C; it needs the head's token
	@[ -n '$(HEAD)' ] || { echo "error: HEAD=HOST:6379: name the machine of make ray-head" >&2; exit 2; }
	@[ -n "$$RAY_AUTH_TOKEN" ] || [ -s "$${RAY_AUTH_TOKEN_PATH:-$$HOME/.ray/auth_token}" ] || { \
	  echo "error: no token here: copy the head's, as make token says there" >&2; exit 2; }
	@$(RUN) -m sweeps.servers.ray_node '$(HEAD)' || exit 2
	@$(PRIVATE)
	@$(RAY) --address='$(HEAD)' $(if $(CPUS),--num-cpus=$(CPUS))

cluster-up: ## start Ray with WORKERS workers, MLflow and PostgreSQL in containers on this machine; TORCH=cuda, with its GPUs
	@$(DOCKER)
	@$(OWNER) docker/secrets.sh
	@$(COMPOSE) up --detach --build --wait $(if $(WORKERS),--scale worker=$(WORKERS))

cluster-down: ## stop them; what they have stored stays
	@$(DOCKER)
	@$(COMPOSE) down

cluster-logs: ## show what they print, until Ctrl-C
	@$(DOCKER)
	@$(COMPOSE) logs --follow --tail 100

test: .venv/installed-test ## pass the tests, but for those of the four targets that follow
	@$(RUN) -m pytest $(AT_ONCE) -m 'not faults and not browser and not cluster'

test-browser: .venv/installed-browser ## look at MLflow's pages and a report's in headless Chromium, which CHROMIUM may name
	@$(RUN) -m pytest -m browser tests/browser

test-faults: .venv/installed-test ## kill drivers, workers, nodes and servers, fill the disk: the numbers must stay the same
	@$(RUN) -m pytest -m faults tests/faults --ignore tests/faults/test_search.py

test-search-faults: .venv/installed-test ## the same for searches: every setting once, and the very same ones
	@$(RUN) -m pytest -m faults tests/faults/test_search.py

test-cluster: .venv/installed-test .venv/installed-dashboard ## submit to Ray's head and workers, lose a node, the head, MLflow; try all that listens
	@$(RUN) -m pytest -m cluster tests/cluster

lint: .venv/installed-test ## check style and formatting
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

format: .venv/installed-test ## mend style and formatting
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

types: .venv/installed-browser ## check types
	@$(RUN) -m mypy

golden: .venv/installed-test ## write the golden files of studies and report anew, for a diff to show what changed
	@$(RUN) -m search_spaces.golden tests/golden
	@$(RUN) -m tests.golden_report

bench-trainer: .venv/installed ## print what loading, an AMP step and a whole trial cost, as ratios, in three minutes
	@$(RUN) -m benchmarks.trainer

bench-engine: .venv/installed-test ## print what Ray, ledger, plans and MLflow cost beside the training, as ratios, in eight minutes
	@$(RUN) -m benchmarks.engine

bench-analysis: .venv/installed-test ## print what reading runs, histories and making a report take, as ratios, in eight minutes
	@$(RUN) -m benchmarks.analysis

install: .venv/installed ## make .venv with the pinned packages; the other targets do this by themselves

clean: ## remove .venv and caches; results stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './results/*' -prune -exec rm -rf {} +

.venv/bin/python:
	@command -v $(PYTHON) > /dev/null || { echo "error: PYTHON=$(PYTHON): no such command" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13: name one, make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "error: $(PYTHON) cannot make .venv: install its venv module (Debian: apt-get install python3-venv)" >&2; \
	  exit 2; }

.venv/installed: pyproject.toml requirements.lock | .venv/bin/python
	@echo "Installing the pinned packages into .venv: minutes, once"
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable .
	@touch $@

.venv/installed-test: .venv/installed
	@$(PIP) --no-build-isolation --editable '.[test]'
	@touch $@

.venv/installed-browser: .venv/installed-test
	@$(PIP) --no-build-isolation --editable '.[browser]'
	@touch $@

.venv/installed-server: .venv/installed
	@$(PIP) --no-build-isolation --editable '.[server]'
	@touch $@

.venv/installed-cluster: .venv/installed
	@$(PIP) --no-build-isolation --editable '.[cluster]'
	@touch $@

.venv/installed-dashboard: .venv/installed
	@$(PIP) --no-build-isolation --editable '.[dashboard]'
	@touch $@
