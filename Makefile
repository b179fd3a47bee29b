# Everything that a person does with this tree. `make` alone lists it.

SHELL := /bin/bash
VENV ?= .venv
DESTDIR ?=
PREFIX ?= /usr
ARGS ?=

PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip --quiet --disable-pip-version-check
C_SOURCES := $(wildcard daemon/packetpath/*.[ch] daemon/packetpath/*.py kernel-module/*.h)
C_WARNINGS := -std=gnu11 -O2 -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build demo test test-kernel test-kernel-debug test-kernel-soak check fuzz lint run install bench bench-quick \
	bench-kernel deb clean

help: ## this list
	@printf 'rtpengine: a media proxy for SIP\n\n'
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r target text; do \
		printf '  make %-18s %s\n' "$$target" "$$text"; done
	@printf '\nOptions go in ARGS, as in: make run ARGS="--foreground --ip=127.0.0.1 --listen-ng=127.0.0.1:2223"\n'

# Debian's packages for a target; says what is missing where it may not install.
apt-%:
	@tools/bootstrap $*

# A stamp for each step, so that a second run finds nothing to do.
$(VENV)/.made:
	@tools/bootstrap build
	@echo 'virtual environment in $(VENV), with' $$(tools/python)
	@$$(tools/python) -m venv $(VENV)
	@touch $@

$(VENV)/.needs: pyproject.toml $(VENV)/.made
	@echo 'installing what the daemon needs'
	@$(PYTHON) tools/requirements | xargs -d '\n' $(PIP) install 'setuptools>=65' wheel
	@touch $@

$(VENV)/.needs-%: pyproject.toml $(VENV)/.needs
	@echo 'installing what make $* needs'
	@$(PYTHON) tools/requirements $* | xargs -d '\n' $(PIP) install
	@touch $@

$(VENV)/.built: setup.py $(C_SOURCES) $(VENV)/.needs
	@echo 'compiling the packet path'
	@rm -f daemon/rtpengine/*.so
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

build: $(VENV)/.built ## the daemon, runnable as .venv/bin/rtpengine

run: build ## start the daemon with ARGS
	@exec $(VENV)/bin/rtpengine $(ARGS)

demo: apt-demo build $(VENV)/.needs-demo ## four calls through the daemon with real speech; ARGS=--keep leaves it up
	@$(PYTHON) tests/demo/demo.py $(ARGS)

test: apt-test build $(VENV)/.needs-test ## every test, with coverage; as root also in namespaces and an emulated machine
	@$(PYTHON) -m pytest --cov --cov-report=term $(ARGS)

test-kernel: apt-test build $(VENV)/.needs-test ## the kernel module in an emulated machine, which fetches Debian's kernels
	@$(PYTHON) -m pytest tests/kernel $(ARGS)

check: build $(VENV)/.needs-test ## the quick tests, under a minute
	@$(PYTHON) -m pytest -q tests/unit tests/packetpath $(ARGS)

test-kernel-debug: apt-test build $(VENV)/.needs-test ## the module's tests in a kernel that looks for bugs, built once
	@PYTHON=$(abspath $(PYTHON)) tests/kernel/debug $(ARGS)

test-kernel-soak: apt-test build $(VENV)/.needs-test ## there, targets changed at random under traffic for ten minutes
	@PYTHON=$(abspath $(PYTHON)) tests/kernel/debug --soak 600 $(ARGS)

fuzz: apt-test build $(VENV)/.needs-test ## bad input at random, a minute per target; ARGS="rtp --seconds=600"
	@$(PYTHON) tests/fuzz/fuzz.py $(ARGS)

lint: apt-lint build $(VENV)/.needs-lint ## ruff, mypy --strict, C warnings as errors
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(CC) $(C_WARNINGS) -Ikernel-module -fsyntax-only $(wildcard daemon/packetpath/*.c bench/*.c)

install: build ## into DESTDIR, as /usr/sbin/rtpengine
	@tools/install-tree $(PYTHON) '$(DESTDIR)' '$(PREFIX)'

deb: apt-deb ## the seven Debian packages, into dist/
	@tools/deb dist

bench: apt-bench build ## against Debian's rtpengine-daemon, as ratios (about 35 minutes)
	@$(MAKE) --no-print-directory -s -C bench
	@$(PYTHON) bench/bench.py $(ARGS)

bench-kernel: apt-test build $(VENV)/.needs-test ## what a packet costs in the kernel module, in instructions (about 5 minutes)
	@$(PYTHON) bench/kernel/bench.py $(ARGS)

bench-quick: apt-bench build ## a smoke test of the benchmark, whose numbers are no measurement
	@$(MAKE) --no-print-directory -s -C bench
	@$(PYTHON) bench/bench.py --quick $(ARGS)

clean: ## remove everything that was built, the virtual environment too
	@$(MAKE) --no-print-directory -s -C bench clean
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf debian/build debian/vendor demo-output bench/results daemon/*.egg-info daemon/rtpengine/*.so daemon/rtpengine/_packetpath.c
	find daemon tests bench tools -name __pycache__ -type d -prune -exec rm -rf {} +
