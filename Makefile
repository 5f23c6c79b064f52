# Needs only Python >= 3.10 and make. Everything is installed into .venv; nothing else is touched.
#   make demo        generate shapes, train, measure AP, export, reload the export, draw   (< 5 minutes on 2 cores)
#   make test        the tests on TensorFlow, the operators without native ones, the model on JAX  (< 25 minutes)
#   make test-slow   the long ones: overfits real images
#   make lint        ruff
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
RUN := TF_CPP_MIN_LOG_LEVEL=3
# Two stamps: the demo needs no test tools and no JAX.
BASE := .venv/.base-installed
DEV := .venv/.dev-installed

.PHONY: demo test test-slow lint clean
.DELETE_ON_ERROR:

demo: $(BASE)
	$(RUN) $(BIN)/keras-maskrcnn demo

test: $(DEV)
	$(RUN) KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"
	$(RUN) KERAS_BACKEND=tensorflow KERAS_MASKRCNN_NATIVE=0 $(BIN)/python -m pytest -q -m "not slow" tests/test_ops_convolution.py tests/test_ops_roi_align.py
	$(RUN) KERAS_BACKEND=jax $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not tensorflow"

test-slow: $(DEV)
	$(RUN) $(BIN)/python -m pytest -q -m slow

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(BASE): setup.py pyproject.toml $(wildcard keras_maskrcnn/backend/native/*.cc keras_maskrcnn/backend/native/*.inc keras_maskrcnn/backend/native/*.h)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else \
	    "Python 3.10 or newer is needed. Received %s. Name another: make PYTHON=python3.12" % sys.version)'
	@echo "installing into .venv (a minute or two, once)"
	@$(PYTHON) -m venv .venv
	@$(PIP) -e .
	@touch $@

$(DEV): $(BASE)
	@echo "installing the test tools"
	@$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
