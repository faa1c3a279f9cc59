# Everything a newcomer or CI needs: `make demo` and `make test` set up what is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_ADDRESS ?= 127.0.0.1:8080
PROJECTS := pyproject.toml core/pyproject.toml $(wildcard plugins/*/pyproject.toml)

.PHONY: setup store demo test check bench docs clean

setup: $(READY)

# torch comes first and alone: any other package that needs it would bring the build for CUDA.
$(READY): constraints.txt $(PROJECTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt pip
	$(BIN)/python -m pip install -q -c constraints.txt setuptools wheel hatchling editables
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation --group dev \
		-e "core[uvicorn,tls,s3,hub,otel]" -e plugins/python -e "plugins/onnx[cpu]" -e "plugins/torchscript[torch]" -e "plugins/tf[cpu]" \
		-e plugins/deepspeed -e plugins/tensorrt
	touch $(READY)

store: setup
	$(BIN)/python examples/build_store.py

demo: store
	$(BIN)/python examples/curl.py --url http://$(DEMO_ADDRESS)
	$(BIN)/frame serve examples/model_store \
		--host $(firstword $(subst :, ,$(DEMO_ADDRESS))) --port $(lastword $(subst :, ,$(DEMO_ADDRESS)))

test: setup
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy core/src plugins/python/src plugins/onnx/src plugins/torchscript/src plugins/tf/src \
		plugins/deepspeed/src plugins/tensorrt/src
	$(BIN)/lint-imports

bench: store
	for name in deciding data_plane models adaptive burst large_bodies continuous_batching tensor_parallel; do \
		$(BIN)/python benchmarks/$$name.py || exit 1; \
	done

docs: setup
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) examples/model_store examples/.cache site
