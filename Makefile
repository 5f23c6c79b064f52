# Needs only Python >= 3.10 and make. Everything is installed into .venv; nothing else is touched.
#   make demo        generate shapes, train, measure AP, export, reload the export, draw   (< 5 minutes on 2 cores)
#   make test        the tests on TensorFlow, torchvision's twin and the model on JAX; on PyTorch where it is installed
#   make test-torch  installs PyTorch and torchvision (5.5 GB with CUDA's libraries), runs the tests on it
#   make test-slow   the long ones: overfits real images, serves with clients
#   make coverage    make test, and the lines that it never runs
#   make lint        ruff
PYTHON ?= python3
BIN := .venv/bin
# Without --no-compile pip compiles all 12,000 modules: half a minute on one core. The few that are imported are compiled
# when they first are.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile
RUN := TF_CPP_MIN_LOG_LEVEL=3
# What one process compiled, the next one reads: tests start dozens that import TensorFlow.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/python -m pytest -q
# Workers take whole files, the long ones first (tests/conftest.py). Two on TensorFlow and one process on JAX, at the same
# time, keep two cores busy to the end: some tests wait for processes that they started.
SHARED := -n 2 --dist loadfile --no-loadscope-reorder
# A process that also imports the other framework starts seconds later.
ONE_FRAMEWORK := $(CURDIR)/tests/one_framework
# On JAX the whole models that are compared with torchvision's numbers run with XLA's defaults, as users compile them.
# The rest compiles for longer than it runs: most of the time goes without LLVM's optimiser and without MLIR.
TWINS := tests/test_torchvision_v1.py
# Processes of one run compile the same steps: what one compiled, the next one reads.
JAX := KERAS_BACKEND=jax PYTHONPATH=$(ONE_FRAMEWORK) JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.jax_cache
QUICK_XLA := --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false
QUICK_ON_JAX := "not slow and not slow_on_jax and not tensorflow"
JAX_OUTPUT := .jax_tests.log
# PyTorch shares the operators' tests, the twin and the weights with the others; in eager mode one process is enough.
TORCH_TESTS := $(addprefix tests/test_,backend_torch.py three_backends.py torchvision_v1.py \
    ops_roi_align.py ops_nms.py runtime.py midway.py torch_commands.py)
TORCH_RUN := $(RUN) KERAS_BACKEND=torch PYTHONPATH=$(ONE_FRAMEWORK) $(PYTEST)
# Three stamps: the demo needs no test tools and no JAX, and PyTorch is 5.5 GB, 91 CPU seconds and minutes to install.
SOURCES := setup.py pyproject.toml $(wildcard keras_maskrcnn/backend/native/*.cc keras_maskrcnn/backend/native/*.inc \
    keras_maskrcnn/backend/native/*.h keras_maskrcnn/geometry/native/*.[ch])
BASE := .venv/.base-installed
DEV := .venv/.dev-installed
TORCH := .venv/.torch-installed

.PHONY: demo test test-tensorflow test-jax test-jax-beside test-torch test-slow coverage lint clean
.DELETE_ON_ERROR:

demo: $(BASE)
	$(RUN) $(BIN)/keras-maskrcnn demo

# Both frameworks at the same time. What JAX prints comes last, in one piece.
test: $(DEV)
	@$(MAKE) --no-print-directory --jobs=2 --keep-going test-tensorflow test-jax-beside; status=$$?; \
	    cat $(JAX_OUTPUT); exit $$status

test-tensorflow: $(DEV)
	$(RUN) KERAS_BACKEND=tensorflow PYTHONPATH=$(ONE_FRAMEWORK) $(PYTEST) $(SHARED) -m "not slow"
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then $(TORCH_RUN) -m "not slow" $(TORCH_TESTS); \
	    else echo "PyTorch is not installed, its tests are left out: make test-torch installs it and runs them"; fi

test-jax: $(DEV)
	$(RUN) $(JAX) $(PYTEST) -m $(QUICK_ON_JAX) $(TWINS)
	$(RUN) $(JAX) XLA_FLAGS="$(QUICK_XLA)" $(PYTEST) -m $(QUICK_ON_JAX) $(TWINS:%=--ignore=%)

test-jax-beside:
	@$(MAKE) --no-print-directory test-jax >$(JAX_OUTPUT) 2>&1

test-torch: $(TORCH)
	$(TORCH_RUN) $(TORCH_TESTS) tests/test_torchvision_v2.py

test-slow: $(DEV)
	$(RUN) $(PYTEST) -m slow
	$(RUN) $(JAX) $(PYTEST) -m "slow_on_jax and not tensorflow"

# Processes that tests start are measured as well (pyproject.toml), wherever they run.
coverage: export COVERAGE_FILE := $(CURDIR)/.coverage
coverage: export COVERAGE_RCFILE := $(CURDIR)/pyproject.toml
coverage: $(DEV)
	@$(PIP) 'coverage>=7.10'
	@$(BIN)/coverage erase
	@$(MAKE) --no-print-directory test PYTEST="$(CURDIR)/$(BIN)/python -m coverage run -m pytest -q"; status=$$?; \
	    $(BIN)/coverage combine --quiet; $(BIN)/coverage report --skip-covered --show-missing; exit $$status

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

define NEW_VENV
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else \
	    "Python 3.10 or newer is needed. Received %s. Name another: make PYTHON=python3.12" % sys.version)'
	@echo "installing into .venv (a minute or two, once)"
	@$(PYTHON) -m venv .venv
endef

$(BASE): $(SOURCES)
	$(NEW_VENV)
	@$(PIP) -e .
	@touch $@

# The package together with the test tools: its native code is built once, and twice only where the demo came first.
$(DEV): $(SOURCES) $(if $(filter demo,$(MAKECMDGOALS)),$(BASE))
	$(NEW_VENV)
	@$(PIP) -e '.[dev]'
	@touch $(BASE) $@

$(TORCH): $(DEV)
	@echo "installing PyTorch and torchvision"
	@$(PIP) -e '.[torch]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .jax_cache $(JAX_OUTPUT) .coverage*
