# What a person does with this checkout. Needs Debian 12, Python 3.11, and root or sudo.
# No KVM here: tests and demo run the same on every machine.

PYTHON ?= python3
VENV := .venv/bin
IMAGE_CACHE := $(or $(HYPERBUILD_TEST_CACHE),$(HOME)/.cache/hyperbuild-tests)

# Tests at a time: most wait for a VM or a program, so two cores carry two well.
JOBS ?= 2
FUZZ_SECONDS ?= 60
RUNS ?= 10000000
FUZZ_TARGETS := tar hostile merge stream erofs ext4 read-erofs read-ext4 archive image rootfs \
  reference documents bundle packages channel

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo lint test docs man fuzz fuzz-channel bench clean

demo test bench: export HYPERBUILD_ACCEL = tcg

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## install the Debian packages and the Python environment that the others need
	@$(PYTHON) tests/support/setup.py

demo: setup ## make an nginx image, serve it, convert it, boot it, fetch its page
	@$(VENV)/python -m tests.demo

lint: setup ## check style, types and the direction of imports
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy
	$(VENV)/lint-imports

test: setup lint ## run all tests, virtual machines included
	$(VENV)/pytest --numprocesses $(JOBS) --dist loadfile

docs: setup ## build the site into build/docs, warnings being errors
	$(VENV)/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet docs build/docs
	@echo "The site is build/docs/index.html."

man: setup ## write the manual pages anew, after a change of the command line
	@$(VENV)/python -m docs.tools.manpages

fuzz: setup ## fuzz all that strangers' bytes reach, FUZZ_SECONDS (60) for each target
	$(VENV)/pip install --quiet -e '.[fuzz]'
	for target in $(FUZZ_TARGETS); do \
	  $(VENV)/python -m tests.fuzz.run $$target build/fuzz/$$target \
	    -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=1024 -max_len=65536 || exit 1; \
	done
	$(MAKE) -C initramfs/src OUT=$(CURDIR)/build/fuzz-hyperstart FUZZ_SECONDS=$(FUZZ_SECONDS) fuzz

fuzz-channel: setup ## fuzz both ends of the guest's channel: RUNS (10000000) executions, or an hour
	$(VENV)/pip install --quiet -e '.[fuzz]'
	$(MAKE) -C initramfs/src OUT=$(CURDIR)/build/fuzz-hyperstart FUZZ_LIMIT='-runs=$(RUNS) -max_total_time=3600' fuzz
	$(VENV)/python -m tests.fuzz.run channel build/fuzz/channel -runs=$(RUNS) \
	  -max_total_time=3600 -max_len=4096

bench: setup ## measure convert, boot, density, transfer, exec and fleets, against the usual tools; prints tables
	$(VENV)/python -m benchmarks.convert
	$(VENV)/python -m benchmarks.boot
	$(VENV)/python -m benchmarks.density
	$(VENV)/python -m benchmarks.transfer
	$(VENV)/python -m benchmarks.exec
	$(VENV)/python -m benchmarks.verity
	$(VENV)/python -m benchmarks.fleet
	$(VENV)/python -m benchmarks.outputs

clean: ## remove what the others made in this checkout (the image cache stays)
	rm -rf .venv .demo build dist *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Images stay in $(IMAGE_CACHE); remove it to have them made again."
