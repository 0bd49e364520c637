# A Makefile's part: `make bundle IMAGE=registry.lan/nginx:1` converts, tests and pushes an image;
# `make smoke` stops before the push. Say `include PATH/ci/example.mk`.

HYPERBUILD_CI := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
REPORTS ?= build/smoke

.PHONY: smoke bundle
smoke: PUSH := none
smoke bundle:
	IMAGE='$(IMAGE)' PROFILE='$(PROFILE)' SMOKE="$(SMOKE)" PUSH='$(PUSH)' REPORTS='$(REPORTS)' \
	  $(HYPERBUILD_CI)/bundle.sh
