# Lantern: `make run` and `make test` need Python 3.11 or newer, make, and a package index. Nothing else.

PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 8080
MINUTES ?= 10
KILLS ?= 1000
STEPS ?= 120

.DEFAULT_GOAL := help
include kernels.mk

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help run check lint format coverage test setup lock proof bench soak figures kills crashes fuzz arm-figures install uninstall clean image-deps deb \
	image update-bundle image-test release release-keys

help:
	@echo "make run    build the starter models when absent, then serve them (HOST=$(HOST) PORT=$(PORT))"
	@echo "make check  format, lint, types, layers and the fast tests: what a change needs, in two minutes"
	@echo "make test   everything: the linters, units, a real server with a real client, networks, containers, images"
	@echo "make lint, make format   the first half of check; the formatter, and what ruff mends by itself"
	@echo "make coverage   the lines that the tests run, in build/coverage/index.html"
	@echo "make bench  measure this machine"
	@echo "make soak   mixed load for MINUTES=10, and what it did to memory, descriptors and latency"
	@echo "make figures   overload, clients that leave, SIGTERM and the start, measured against what docs/threat-model.md promises"
	@echo "make arm-figures   instructions and memory of a token on Arm processors, counted under an emulator (docs/arm.md)"
	@echo "make fuzz  let libFuzzer look for input that breaks a parser, MINUTES=10 for each of them"
	@echo "make crashes  open every state in which a power cut may leave the files, of STEPS=120 steps of each kind"
	@echo "make kills  kill -9 KILLS=1000 times in the middle of installs, and look at the store each time"
	@echo "make kernels   products of our own for onnxruntime, where a C++ compiler is (docs/kernels.md)"
	@echo "make install, make uninstall   the systemd service below /opt/lantern"
	@echo "make deb    Debian packages for amd64 and arm64 in dist/ (DEB_PYTHON=3.13, the device's Python)"
	@echo "make image  the image for BOARD=raspberry-pi; make update-bundle, its signed update; make image-test boots both"
	@echo "make release   wheel, packages, image, update, inventory, notes, checksums and their signature (ADVISORIES=OSV-EXPORT)"
	@echo "make release-keys   the keys that sign updates and releases, where they are absent"
	@echo "make image-deps   what the next ones need on this Debian machine, as root"
	@echo "make lock   resolve the dependencies again"
	@echo "make proof  install transformers 5 by itself, for the tests that hold our graphs against it"
	@echo "make clean  remove the virtual environment; models stay in LANTERN_HOME"

# Records of what was tried, for the notes of a release; by commit, and apart while files are changed.
TRIED = build/tried/$(shell git rev-parse HEAD 2>/dev/null || echo unknown)$(shell \
	test -z "$$(git status --porcelain 2>/dev/null)" || echo -changed)

run: setup
	@$(BIN)/lantern-quantize starter
	@exec $(BIN)/lantern serve --host $(HOST) --port $(PORT)

# Tests that are none of these need neither models nor root, and each takes a moment. pyproject.toml says what they are.
SLOW := models or netns or browser or clients or containers or images or boots or alone or slow or tools
# One process a core; the tests of a module, and those of images, stay together (tests/scheduling.py).
JOBS ?= auto
PARALLEL := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadscope --no-loadscope-reorder

check: lint
	$(PARALLEL) -m "not ($(SLOW))" --quiet

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-cache

format: setup
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# Two passes, both of which are run: tests with short deadlines get the machine for themselves. With RERUN=1, as CI has it,
# tests that failed run once more, with nothing beside them; one that passes then stays named above, and is a fault to find.
test: setup
	@status=0; rm -f .pytest_cache/v/cache/lastfailed; \
	$(PARALLEL) -m "not alone" --junitxml=$(TRIED)/test.xml || status=$$?; \
	$(BIN)/python -m pytest -m alone --junitxml=$(TRIED)/test-alone.xml || status=$$(($$? > status ? $$? : status)); \
	if [ "$$status" = 1 ] && [ -n "$(RERUN)" ]; then \
	    status=0; echo "Once more, what failed:"; \
	    $(BIN)/python -m pytest --last-failed --last-failed-no-failures=none || status=$$?; \
	fi; \
	exit $$status

coverage: setup
	$(PARALLEL) -m "not alone" --quiet --cov --cov-report=term:skip-covered --cov-report=html:build/coverage

bench: setup
	$(BIN)/lantern-quantize starter
	$(BIN)/lantern bench

soak: setup
	$(BIN)/lantern-quantize starter
	$(BIN)/python -m tests.abuse.soak --minutes $(MINUTES)
	@mkdir -p $(TRIED) && echo "MINUTES=$(MINUTES)" >$(TRIED)/$@.txt

figures: setup
	$(BIN)/lantern-quantize starter
	$(BIN)/python -m tests.abuse.figures
	@mkdir -p $(TRIED) && touch $(TRIED)/$@.txt

arm-figures: setup
	$(BIN)/python -m tests.arm.figures

kills: setup
	KILLS=$(KILLS) $(BIN)/python -m pytest tests/bundle/test_kills.py --junitxml=$(TRIED)/$@.xml

fuzz: setup
	$(BIN)/python -m pip install --quiet atheris==3.0.0
	for target in $$($(BIN)/python -m tests.fuzz.targets); do \
	    $(BIN)/python -m tests.fuzz $$target --seconds $$((60 * $(MINUTES))) --corpus $(VENV)/fuzz || exit 1; done
	@mkdir -p $(TRIED) && echo "MINUTES=$(MINUTES)" >$(TRIED)/$@.txt

crashes: setup
	LANTERN_CRASH_STEPS=$(STEPS) $(BIN)/python -m pytest -s tests/crashes --junitxml=$(TRIED)/$@.xml

install: kernels
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
	LANTERN_IMAGE_TESTS=1 $(BIN)/python -m pytest $(sort $(wildcard tests/images/test_*.py)) tests/images/boots -x -s \
		--junitxml=$(TRIED)/$@.xml

# A list of known holes is given to it, since no build asks anybody on the network.
release: setup
	$(IMAGES) release $(if $(ADVISORIES),--advisories $(ADVISORIES))

release-keys: setup
	$(IMAGES) keys

# Kernels that were built once are built again when their sources change.
setup: $(STAMP) $(if $(wildcard $(KERNEL_LIBRARY)),$(KERNEL_LIBRARY).sha256)

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
		{ echo "The installed torch needs CUDA's libraries; see docs/models.md, Torch without CUDA"; exit 1; }
	@$(MAKE) --no-print-directory --silent kernels || echo "The kernels could not be built: the stock operators serve"
	@touch $@

# The environment with transformers 5, against which some tests hold our graphs: outside the clone, one for each lock.
PROOF_LOCK := tests/quantize/proof/requirements.lock
PROOF := $(or $(LANTERN_TEST_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lantern-tests)/proof-$(shell \
	sha256sum $(PROOF_LOCK) | cut -c1-16)
PROOF_PIP := $(PROOF)/bin/python -m pip --disable-pip-version-check --quiet

proof: $(PROOF)/complete

$(PROOF)/complete:
	@echo "Installing into $(PROOF) (once, a few minutes)"
	@mkdir -p $(dir $(PROOF)) && rm -rf $(PROOF) && $(PYTHON) -m venv $(PROOF)
	@sed -n '/^torch==/,/[^\\]$$/p' $(PROOF_LOCK) > $(PROOF)/torch.lock
	@$(PROOF_PIP) download --no-deps --dest $(PROOF)/wheels "$$(grep -o '^torch==[0-9.]*' $(PROOF_LOCK))"
	@$(PROOF_PIP) install --require-hashes --no-deps --no-index --find-links $(PROOF)/wheels -r $(PROOF)/torch.lock
	@rm -r $(PROOF)/wheels
	@$(PROOF_PIP) install --require-hashes --no-deps -r $(PROOF_LOCK)
	@$(PROOF)/bin/python -c 'import torch, transformers' && touch $@

# One lock for the device, one for the workstation, one for the proofs. The locks name no index, and torch in its CPU
# build: its CUDA packages are left out, and the hash of the build that this machine's pip prefers is added to the others.
CUDA := cuda-bindings cuda-pathfinder cuda-toolkit triton nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
COMPILE := $(BIN)/uv pip compile pyproject.toml --generate-hashes --no-emit-index-url --no-header --no-annotate \
	--universal --python-version 3.11 --quiet

lock: setup
	$(COMPILE) --output-file appliance/requirements.lock
	$(COMPILE) --extra quantize --extra dev $(foreach name,$(CUDA),--no-emit-package $(name)) \
		--output-file quantize/requirements.lock
	$(subst pyproject.toml,$(PROOF_LOCK:.lock=.in),$(COMPILE)) $(foreach name,$(CUDA),--no-emit-package $(name)) \
		--output-file $(PROOF_LOCK)
	@folder=$$(mktemp -d) && $(BIN)/python -m pip download --quiet --no-deps --dest $$folder \
		"$$(grep -o '^torch==[0-9.]*' quantize/requirements.lock)" && \
		hash=$$(sha256sum $$folder/torch-* | cut -d' ' -f1) && rm -r $$folder && \
		for lock in quantize/requirements.lock $(PROOF_LOCK); do grep -q $$hash $$lock || \
		sed -i "s/^\(torch==[0-9.]*\) .*/&\n    --hash=sha256:$$hash \\\\/" $$lock; done

clean:
	rm -rf $(VENV)
