# make help lists what there is. Everything can be run again; what is done already is skipped.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := build/stamps
APT := python3-dev python3-venv gcc g++ make libopencv-core-dev libopencv-imgproc-dev libopencv-imgcodecs-dev \
       libturbojpeg0-dev graphviz clang-format curl
C_FILES := $(shell find csrc flowunits benchmarks modelbox/_core -name '*.c' -o -name '*.h' -o -name '*.cc' -o -name '*.hpp')
PIP := $(BIN)/pip --disable-pip-version-check -q

.PHONY: help setup demo test lint format bench soak package test-package test-boot docs clean units core compiled c-test python-test

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMPS)/install $(STAMPS)/compiled units ## install what is missing, build everything

# What the packages are built with: Debian's own Python and its packages.
PACKAGE_APT := debhelper dh-python dpkg-dev fakeroot rpm lintian rpmlint python3-setuptools python3-wheel python3-cffi \
       python3-aiohttp python3-lark python3-numpy python3-psutil python3-setproctitle python3-toml

$(STAMPS)/apt: WANTED = $(APT)
$(STAMPS)/package-apt: WANTED = $(PACKAGE_APT)
$(STAMPS)/apt $(STAMPS)/package-apt: Makefile
	@mkdir -p $(STAMPS)
	@missing=""; for name in $(WANTED); do \
	  dpkg-query -W -f='$${db:Status-Status}' $$name 2>/dev/null | grep -qx installed || missing="$$missing $$name"; \
	done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then \
	    echo "installing:$$missing"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >build/apt.log 2>&1 \
	      || { tail -20 build/apt.log; exit 1; }; \
	  else \
	    echo "these Debian packages are missing; as root: apt-get install$$missing"; exit 1; \
	  fi; \
	fi
	@touch $@

$(STAMPS)/venv: $(STAMPS)/apt requirements-dev.txt requirements-models.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Python packages"
	@$(PIP) install -r requirements-dev.txt
	@$(PIP) install --no-deps -r requirements-models.txt
	@touch $@

$(STAMPS)/core: $(STAMPS)/venv $(wildcard csrc/src/*.[ch] csrc/include/modelbox/*.h modelbox/_core/*.[ch] modelbox/_core/build.py)
	@echo "building the C core"
	@$(BIN)/python modelbox/_core/build.py
	@touch $@

# The checkout itself is what runs: a .pth file, and the two commands.
$(STAMPS)/install: $(STAMPS)/core packaging/checkout.py examples/text_detection/prepare.py examples/ocr/prepare.py
	@$(BIN)/python packaging/checkout.py
	@$(BIN)/python examples/ocr/prepare.py
	@touch $@

core: $(STAMPS)/core

# Once. Whoever changes a source runs the .py files until `make compiled`, so nobody waits for this while working.
$(STAMPS)/compiled: | $(STAMPS)/install
	@echo "compiling the daemon's hot modules (about a minute)"
	@$(BIN)/python packaging/compile.py >build/compile.log 2>&1 \
	  || { tail -5 build/compile.log; echo "not compiled: the .py files run instead, slower"; }
	@touch $@

compiled: $(STAMPS)/install ## compile the daemon's hot modules anew, after a change of their sources
	@$(BIN)/python packaging/compile.py
	@touch $(STAMPS)/compiled

units: $(STAMPS)/apt
	@$(MAKE) -s -j2 -C flowunits

demo: setup ## a real photo through a real graph: start, post, show the boxes, stop
	@$(BIN)/python examples/demo.py

test: setup c-test python-test ## all tests

c-test: $(STAMPS)/apt
	@$(MAKE) -s -C csrc test

python-test: setup
	@$(BIN)/python -m pytest $(ARGS)

lint: setup ## formatting, lint, types, and C with all warnings as errors
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@clang-format --dry-run -Werror $(C_FILES)
	@$(MAKE) -s -C csrc lint

format: setup ## format all sources
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@clang-format -i $(C_FILES)

bench: setup compiled ## ratios against baselines that run in the same call
	@command -v wrk >/dev/null || [ "$$(id -u)" != 0 ] || apt-get install -y -qq --no-install-recommends wrk >build/apt.log
	@$(BIN)/python benchmarks/run.py $(ARGS)

soak: setup ## MINUTES of mixed good and bad requests, memory and descriptors watched
	@$(BIN)/python benchmarks/soak.py $(or $(MINUTES),30) $(ARGS)

pythons: setup ## venvs of the Pythons that there are, each with a numpy, for tests of units with an interpreter of their own
	@for version in 3.9 3.10 3.11 3.12 3.13; do \
	  python$$version -c pass 2>/dev/null || continue; \
	  test -x build/pythons/$$version/bin/python || { python$$version -m venv build/pythons/$$version && \
	    build/pythons/$$version/bin/pip install -q $$([ $$version = 3.11 ] && echo "numpy<2" || echo numpy); }; \
	done; ls build/pythons

package: $(STAMPS)/venv $(STAMPS)/package-apt ## source archive, debs, rpms and wheel into dist/, from a clean checkout
	@$(BIN)/python packaging/build.py $(ARGS)

test-package: package ## install the packages into root trees, run, query, remove; needs root, else says so
	@packaging/test/chroot.sh

test-boot: package ## boot a Debian image in qemu and do all that an administrator does (10 minutes); needs root
	@packaging/test/boot.sh

docs: setup ## docs/api.md from the declarations of the routes
	@$(BIN)/python -m modelboxd.api.docs docs/api.md

clean: ## remove what was built (not .venv)
	rm -rf build dist *.egg-info modelbox/_core/*.so
	$(MAKE) -s -C flowunits clean
	$(MAKE) -s -C csrc clean
