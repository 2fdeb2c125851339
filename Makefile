# The interface of the harness. `make help` lists targets and variables.
# Each stage's target is the record or run file that the stage writes last.

SHELL := /bin/sh
.SUFFIXES:
.DELETE_ON_ERROR:
# Timed stages never run beside anything else, with -j or without.
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules --no-print-directory

VARIABLES := PROFILE BACKEND PRECISION NETWORK BATCH DEVICE LIMIT DATASET CALIBRATION \
  PLUGIN_LIBRARY COMPUTE_CAPABILITY REMEASURE OFFLINE PYTHON ASSET_MIRROR ASSET_LOCK STRICT_ASSETS \
  SCENARIO LOADGEN_SECONDS BENCH_SYSTEMS BENCH_REPEATS SERIES SEED \
  MATRIX HISTORY NIGHTS ACCEPT NOTE RUNS YES \
  PREDICTIONS A B WINDOWS PASSAGE PASSAGE_FILE QUESTION USE_TENSORRT TENSORRT_ROOT CUBLAS_ROOT \
  BERT_PLUGIN_API
# Taken as text, never expanded: a passage may hold `$(...)`, quotes and newlines. They reach
# Python through the environment and no shell reads them.
$(foreach v,$(VARIABLES),$(eval override $(v) := $$(value $(v))))
export $(VARIABLES)
# The same behaviour whatever the locale says.
export PYTHONUTF8 := 1
# It keeps a venv's Python from starting.
unexport PYTHONHOME

GOALS := $(or $(MAKECMDGOALS),help)
# These are about the CPU, whatever else this machine has.
ifneq ($(filter bench bench-disturbance,$(GOALS)),)
  override BACKEND := ort-cpu
  override PROFILE := $(or $(PROFILE),minilm-sample)
endif
ifneq ($(filter bench-ort-cuda,$(GOALS)),)
  override BACKEND := ort-cuda
endif
# SingleStream asks for one window at a time.
ifneq ($(filter loadgen,$(GOALS)),)
  ifeq ($(SCENARIO),SingleStream)
    override BATCH := $(or $(BATCH),1)
  endif
endif
# These two are about INT8 alone.
ifneq ($(filter scales sensitivity,$(GOALS)),)
  override PRECISION := $(or $(PRECISION),int8)
endif

# onnxruntime-gpu and onnxruntime are one module in two packages: a venv can hold only one.
VENV := $(if $(filter ort-cuda,$(BACKEND)),.venv-cuda,.venv)
REQUIREMENTS := $(if $(filter ort-cuda,$(BACKEND)),requirements-ort-cuda.lock,requirements.lock)
# -E: what the user tells other Pythons, such as where to look first, is not for this one.
PY := $(VENV)/bin/python -E -X utf8

# What the stages' files are called depends on the variables. Python knows the rules, so it
# writes them down as variables (RUN, MODEL, ONNX, ENGINE, ...) for this one make process.
PLANNED := all assets scales sensitivity diagnose bench bench-ort-cuda bench-disturbance loadgen \
  onnx engine infer crosscheck verify report ask $(if $(PREDICTIONS),,evaluate)
ifneq ($(filter $(PLANNED),$(GOALS)),)
  # By this the stages know whose they are.
  export MAKE_PID := $(shell echo $$PPID)
  PLAN := build/plan-$(MAKE_PID).mk
  override RUN :=
  ifndef MAKE_RESTARTS
    $(PLAN): $(VENV)/.ready ; @$(PY) scripts/plan.py || :
    -include $(PLAN)
    # Once there is a plan, make reads all this again with it.
    PLAN_FAILED := 1
  else
    -include $(PLAN)
    $(shell rm -f $(PLAN))
  endif
else
  # A make above this one may have set it.
  unexport MAKE_PID
endif

.DEFAULT_GOAL := help
.PHONY: help doctor openvino tensorrt-rtx plugin bench bench-kernels bench-ort-cuda bench-gpu \
  bench-disturbance simulate-nightly profile-gpu \
  loadgen assets scales sensitivity diagnose onnx engine infer crosscheck evaluate verify bless \
  nightly report compare ask all test test-gpu test-full lint lock sbom clean distclean

help: ## list targets and variables
	@awk -f scripts/help.awk Makefile

## Pipeline: each stage runs what it needs before it

ifdef PLAN_FAILED
# plan.py has said why; make has nothing to add.
$(PLANNED): ; @exit 2
else

# A failed or inconclusive verdict (1, 3) is reported like a good one; without one nothing is.
# A report that still holds is not made again, but every job has a page of its own to show it on.
all: crosscheck ## assets, onnx, engine, infer, crosscheck, verify, report
	@code=0; $(PY) scripts/verify.py || code=$$?; \
	case $$code in 0|1|3) \
	  if [ -n "$$(find results/report.md results/verify.json $(RUN) -newer results/report.html \
	    -o -newer results/metrics.prom 2>&1)" ]; then $(PY) scripts/report.py || code=2; \
	  elif [ -n "$$GITHUB_STEP_SUMMARY" ]; then $(PY) scripts/step_summary.py; fi;; \
	esac; \
	[ $$code -ne 0 ] || $(PY) scripts/suggest.py; exit $$code

assets: $(MODEL) $(DATA) ## get model, vocabulary and dataset, checked by hash
scales: $(SCALES) ## find the INT8 scales: calibration, or a QAT checkpoint's
onnx: $(ONNX) ## write the ONNX graph from the weights
engine: $(ENGINE) ## build the backend's engine
infer: $(RUN)/run.json ## run the dataset through the engine, timed
crosscheck: $(RUN)/crosscheck.json ## compare the logits with ONNX Runtime FP32

verify: $(RUN)/crosscheck.json ## judge the run against its golden file
	@$(PY) scripts/verify.py

evaluate: $(if $(PREDICTIONS),$(VENV)/.ready,$(RUN)/run.json) ## EM and F1 of the run, or of PREDICTIONS over DATASET
	@$(PY) scripts/evaluate.py

report: $(RUN)/crosscheck.json ## write results/report.html, report.md, metrics.prom
	@$(PY) scripts/report.py

ask: $(ENGINE) ## answer QUESTION about PASSAGE or PASSAGE_FILE, or prompt for them
	@$(PY) scripts/ask.py

## Benches: none is part of `make all`

sensitivity: $(SCALES) $(DATA) ## print F1 with one kind of layer in INT8 at a time
	@$(PY) scripts/sensitivity.py

diagnose: $(ENGINE) $(DATA) ## find where in the network accuracy is lost
	@$(PY) scripts/diagnose.py

bench: $(MODEL) $(DATA) .venv-bench/.ready ## time this project beside other CPU runtimes
	@.venv-bench/bin/python scripts/bench.py

bench-ort-cuda: $(ENGINE) $(DATA) ## time ort-cuda beside the variants that it does not choose
	@$(PY) scripts/bench_ort_cuda.py

bench-disturbance: $(ENGINE) $(DATA) ## time what somebody else's work on the CPU costs
	@$(PY) scripts/bench_disturbance.py

bench-kernels: ## time the GPU kernels beside PyTorch's; PYTHON= names one that has it
	@"$${PYTHON:-python3}" scripts/bench_kernels.py

bench-gpu: ## time backend plugin beside GPU runtimes; PYTHON= names one that has PyTorch
	@"$${PYTHON:-python3}" scripts/bench_gpu.py

profile-gpu: ## show where backend plugin spends its time; PYTHON= as above, and ncu
	@"$${PYTHON:-python3}" scripts/profile_gpu.py

loadgen: $(ENGINE) $(DATA) $(VENV)/.loadgen ## drive the engine with MLPerf's load generator
	@$(PY) scripts/loadgen.py

PROFILE_FILE := $(if $(PROFILE),configs/profiles/$(PROFILE).yaml)
BACKENDS := scripts/harness/engine.py \
  $(wildcard scripts/harness/backends/*.py scripts/harness/trt/*.py)
# What a measurement is made by: a change of the report must not time everything again.
MEASURED_BY := scripts/infer.py $(REQUIREMENTS) $(BACKENDS) $(addprefix scripts/harness/, \
  answers.py batches.py host.py inputs.py lock.py measure.py provenance.py run.py scoring.py \
  spread.py squad.py windows.py) $(wildcard scripts/harness/watch/*.py)

ifneq ($(RUN),)
FETCHED_BY := configs/assets.yaml $(PROFILE_FILE) scripts/fetch_assets.py
$(MODEL): $(FETCHED_BY)
	@FETCH=model $(PY) scripts/fetch_assets.py

ifneq ($(DATA),)
$(DATA): $(FETCHED_BY)
	@FETCH=dataset $(PY) scripts/fetch_assets.py
endif

WRITES_GRAPHS := $(addprefix scripts/harness/, \
  adapter.py calibrate.py graph.py model.py qat.py scales.py torch_checkpoint.py weights.py)

ifneq ($(CALIBRATED_ON),)
$(CALIBRATED_ON): $(FETCHED_BY)
	@FETCH=calibration $(PY) scripts/fetch_assets.py
endif

ifneq ($(SCALES),)
$(SCALES): $(MODEL) $(CALIBRATED_ON) $(PROFILE_FILE) scripts/calibrate.py $(WRITES_GRAPHS) \
    $(addprefix scripts/harness/,batches.py squad.py windows.py)
	@$(PY) scripts/calibrate.py
endif

$(ONNX): $(MODEL) $(SCALES) scripts/export_onnx.py $(WRITES_GRAPHS)
	@$(PY) scripts/export_onnx.py

$(ENGINE): $(ONNX) scripts/build_engine.py $(REQUIREMENTS) $(BACKENDS)
	@$(PY) scripts/build_engine.py

.PHONY: again
$(RUN)/run.json: $(ENGINE) $(MODEL) $(DATA) $(PROFILE_FILE) $(MEASURED_BY) $(if $(REMEASURE),again)
	@$(PY) scripts/infer.py

$(RUN)/crosscheck.json: $(RUN)/run.json scripts/crosscheck.py scripts/harness/crosscheck.py
	@$(PY) scripts/crosscheck.py
endif

endif # PLAN_FAILED

## Tools

doctor: $(VENV)/.ready ## show devices, runtimes, and what runs by default
	@$(PY) scripts/doctor.py

openvino: $(VENV)/.ready ## install the optional backend openvino
	@sh scripts/make_venv.sh $(VENV) $(VENV)/.openvino requirements.lock requirements-openvino.lock

tensorrt-rtx: $(VENV)/.ready ## install the optional backend tensorrt-rtx
	@sh scripts/make_venv.sh $(VENV) $(VENV)/.tensorrt-rtx requirements.lock \
	  requirements-tensorrt-rtx.lock

plugin: $(VENV)/.ready ## build the plugin library (USE_TENSORRT=true on NVIDIA); needs nvcc
	@$(PY) scripts/build_plugin.py

compare: $(VENV)/.ready ## show two runs side by side: A=results/... B=results/...
	@$(PY) scripts/compare.py

## Promises and nights

# Both run the stages above in makes of their own, once for each cell or run.
bless: $(VENV)/.ready ## measure RUNS times and write the golden file, once you agree
	@$(PY) scripts/bless.py

nightly: $(VENV)/.ready ## run and judge all cells of MATRIX; ACCEPT=cell NOTE=why: a new level
	@code=0; $(PY) scripts/nightly.py || code=$$?; \
	case $$code in 0|1|3) $(PY) scripts/report.py || code=2;; esac; exit $$code

simulate-nightly: $(VENV)/.ready ## how many losses the nights find, how few alarms are false
	@$(PY) scripts/simulate_nightly.py

## Development

test: lint ## ruff, mypy and the tests, in minutes
	@$(PY) -m pytest -q -m "not full and not gpu" tests

test-gpu: $(VENV)/.ready-dev ## kernels and plugins on this machine's NVIDIA GPU
	@$(PY) -m pytest -q -m gpu tests

test-full: lint .venv-full/.ready .venv-supply/.ready ## all tests, slow and large ones included
	@.venv-full/bin/python -m pytest -q -m "not gpu" tests

lint: $(VENV)/.ready-dev ## ruff and mypy --strict
	@$(PY) -m ruff check scripts tests
	@$(PY) -m ruff format --check scripts tests
	@$(PY) -m mypy

lock: .venv-supply/.ready ## resolve requirements*.txt anew into requirements*.lock
	@.venv-supply/bin/python scripts/lock_requirements.py

sbom: .venv-supply/.ready ## list what requirements.lock installs: results/sbom.cdx.json, CycloneDX
	@.venv-supply/bin/cyclonedx-py requirements --output-reproducible \
	  --output-format JSON --output-file results/sbom.cdx.json requirements.lock

clean: ## remove built files and runs; keep downloads, the venv and the nights
	@rm -rf build/bless build/records build/scales build/onnx build/engine build/reference \
	  build/timing-cache build/plugin build/test-plugin build/plan-*.mk
	@find results -mindepth 1 -maxdepth 1 ! -name published ! -name nightly ! -name .gitignore \
	  -exec rm -rf {} +

distclean: clean ## remove downloads and the venv as well
	@rm -rf build .venv .venv-cuda .venv-full .venv-bench .venv-supply \
	  .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.loadgen: $(VENV)/.ready requirements-loadgen.lock
	@sh scripts/make_venv.sh $(VENV) $@ $(REQUIREMENTS) requirements-loadgen.lock

$(VENV)/.ready: $(REQUIREMENTS) scripts/make_venv.py
	@sh scripts/make_venv.sh $(VENV) $@ $(REQUIREMENTS)

TESTED_WITH := requirements-dev.lock \
  $(if $(filter .venv,$(VENV)),requirements-openvino.lock requirements-tensorrt-rtx.lock \
  requirements-loadgen.lock)
$(VENV)/.ready-dev: $(VENV)/.ready $(TESTED_WITH)
	@sh scripts/make_venv.sh $(VENV) $@ $(REQUIREMENTS) $(TESTED_WITH)

.venv-bench/.ready: requirements-bench.txt
	@sh scripts/make_venv.sh .venv-bench $@ requirements-bench.txt

# torch and transformers stay out of the venv that `make all` runs in.
.venv-full/.ready: $(VENV)/.ready-dev requirements-full.lock requirements-torch.txt
	@sh scripts/make_venv.sh .venv-full $@ requirements.lock $(TESTED_WITH) requirements-full.lock \
	  requirements-torch.txt

.venv-supply/.ready: requirements-supply.lock
	@sh scripts/make_venv.sh .venv-supply $@ requirements-supply.lock

## Variables (make TARGET NAME=value)
# PROFILE       what is reproduced: a name in configs/profiles; default: see `make doctor`
# BACKEND       what runs it; default: see `make doctor`
# PRECISION     fp32, fp16, bf16, int8 or fp8; default: the backend's natural one
# NETWORK       onnx or plugin: what an engine of TensorRT or ixRT is made of; default: its own
# BATCH         windows a batch, or auto: by tokens, several at once; default: the profile's
# DEVICE        index of the device; default: 0
# LIMIT         only the first N questions: for a look, never comparable with a golden file
# DATASET       a SQuAD v1.1 file, .json or .json.gz, instead of the profile's
# CALIBRATION   a SQuAD v1.1 file to find INT8 scales on, instead of the profile's
# PLUGIN_LIBRARY      for NETWORK=plugin: a libixrt_plugin.so; default: ixRT's, or `make plugin`'s
# COMPUTE_CAPABILITY  for tensorrt-rtx: build for this kind of GPU, such as 8.9, without having one
# REMEASURE     1: time again, even if nothing has changed
# OFFLINE       1: use nothing but files that are here
# ASSET_MIRROR  a folder or URL that holds the assets' files
# ASSET_LOCK    lock file of assets without a published hash; default: configs/assets.lock.json
# STRICT_ASSETS 1: refuse an asset whose size and sha256 configs/assets.yaml does not name
# PYTHON        interpreter (3.10 to 3.12) to make the venv from, the first time
# BENCH_SYSTEMS for bench: some of its systems; BENCH_REPEATS: passes of each, at least 5
# SERIES, SEED  for simulate-nightly: how many series a point, and the first random number
# MATRIX, HISTORY   for nightly: its cells, and where its nights are kept; default:
#               configs/nightly.yaml, results/nightly/history.jsonl
# NIGHTS        for nightly: as many in a row; PROFILE, BACKEND, PRECISION: such cells only
# ACCEPT, NOTE  for nightly: run this cell and take its level and answers as good, and why
# RUNS, YES     for bless: how many runs, at least 5; 1: write without asking
# SCENARIO      for loadgen: Offline (the default) or SingleStream
# LOADGEN_SECONDS     for loadgen: how long performance mode lasts at least; default: 60
# PREDICTIONS   for evaluate: a predictions file
# A, B          for compare: two folders under results
# WINDOWS       for diagnose: so many of the worst windows, as many by chance; default: 32
# PASSAGE, PASSAGE_FILE, QUESTION  for ask
# USE_TENSORRT, TENSORRT_ROOT, CUBLAS_ROOT, BERT_PLUGIN_API  for plugin: CMake's options
