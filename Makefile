# Lantern: `make run` and `make test` need Python 3.11 or newer, make, and a package index. Nothing else.

PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 8080
MINUTES ?= 10
KILLS ?= 1000

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help run test setup lock bench soak figures kills install uninstall clean image-deps deb \
	image update-bundle image-test

help:
	@echo "make run    build the starter models when absent, then serve them (HOST=$(HOST) PORT=$(PORT))"
	@echo "make test   lint, types, layers, units, a real server with a real client"
	@echo "make bench  measure this machine"
	@echo "make soak   mixed load for MINUTES=10, and what it did to memory, descriptors and latency"
	@echo "make figures   overload, clients that leave, SIGTERM and the start, measured against what SECURITY.md promises"
	@echo "make kills  kill -9 KILLS=1000 times in the middle of installs, and look at the store each time"
	@echo "make install, make uninstall   the systemd service below /opt/lantern"
	@echo "make deb    Debian packages for amd64 and arm64 in dist/ (DEB_PYTHON=3.13, the device's Python)"
	@echo "make image  the image for BOARD=raspberry-pi; make update-bundle, its signed update; make image-test boots both"
	@echo "make image-deps   what the next ones need on this Debian machine, as root"
	@echo "make lock   resolve the dependencies again"
	@echo "make clean  remove the virtual environment; models stay in LANTERN_HOME"

run: setup
	@$(BIN)/lantern-quantize starter
	@exec $(BIN)/lantern serve --host $(HOST) --port $(PORT)

test: setup
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/lantern-quantize starter
	$(BIN)/lantern bench

soak: setup
	$(BIN)/lantern-quantize starter
	$(BIN)/python -m tests.abuse.soak --minutes $(MINUTES)

figures: setup
	$(BIN)/lantern-quantize starter
	$(BIN)/python -m tests.abuse.figures

kills: setup
	KILLS=$(KILLS) $(BIN)/python -m pytest tests/bundle/test_kills.py

install:
	PYTHON=$(PYTHON) systemd/install.sh

uninstall:
	systemd/uninstall.sh

# images/README.md tells what these make and need.
DEB_PYTHON ?= 3.13
BOARD ?= raspberry-pi
IMAGES := $(BIN)/python -m images

image-deps:
	images/deps.sh

deb: setup
	$(IMAGES) deb --architecture amd64 --python $(DEB_PYTHON)
	$(IMAGES) deb --architecture arm64 --python $(DEB_PYTHON)

image: setup
	$(IMAGES) image --board $(BOARD)

update-bundle: setup
	$(IMAGES) update-bundle

image-test: setup
	LANTERN_IMAGE_TESTS=1 $(BIN)/python -m pytest $(sort $(wildcard tests/images/test_*.py)) tests/images/boots -x -s

setup: $(STAMP)

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCK := quantize/requirements.lock

# torch comes first and by itself: asked by version, pip prefers the small CPU build where its index offers one; asked by
# hash, it would take the one whose hash the index tells beforehand. Its hash is checked all the same.
$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Lantern needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "Installing into $(VENV) (once, a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@sed -n '/^torch==/,/[^\\]$$/p' $(LOCK) > $(VENV)/torch.lock
	@$(PIP) download --no-deps --dest $(VENV)/wheels "$$(grep -o '^torch==[0-9.]*' $(LOCK))"
	@$(PIP) install --require-hashes --no-deps --no-index --find-links $(VENV)/wheels -r $(VENV)/torch.lock
	@rm -r $(VENV)/wheels
	@$(PIP) install --require-hashes --no-deps -r $(LOCK)
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import torch' 2>/dev/null || \
		{ echo "The installed torch needs CUDA's libraries; see 'A small torch' in the README"; exit 1; }
	@touch $@

# One lock for the device, one for the workstation. The locks name no index, and torch in its CPU build: its CUDA
# packages are left out, and the hash of the build that this machine's pip prefers is added to the others.
CUDA := cuda-bindings cuda-pathfinder cuda-toolkit triton nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
COMPILE := $(BIN)/uv pip compile pyproject.toml --generate-hashes --no-emit-index-url --no-header --no-annotate \
	--universal --python-version 3.11 --quiet

lock: setup
	$(COMPILE) --output-file appliance/requirements.lock
	$(COMPILE) --extra quantize --extra dev $(foreach name,$(CUDA),--no-emit-package $(name)) \
		--output-file quantize/requirements.lock
	@folder=$$(mktemp -d) && $(BIN)/python -m pip download --quiet --no-deps --dest $$folder \
		"$$(grep -o '^torch==[0-9.]*' quantize/requirements.lock)" && \
		hash=$$(sha256sum $$folder/torch-* | cut -d' ' -f1) && rm -r $$folder && \
		grep -q $$hash quantize/requirements.lock || \
		sed -i "s/^\(torch==[0-9.]*\) .*/&\n    --hash=sha256:$$hash \\\\/" quantize/requirements.lock

clean:
	rm -rf $(VENV)
