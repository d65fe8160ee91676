# Stele: `make run` starts a server on this machine, `make test` runs everything.
#
# Missing system packages are installed with apt (as root, or through sudo) and named when that happens; on other
# systems the target says what to install. Rust itself comes from rustup or your distribution and is never installed here.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO       ?= cargo
# Data directory, drives and addresses of `make run`.
DATA        ?= stele-data
DRIVES      ?= 6
S3          ?= 127.0.0.1:9000
ADMIN       ?= 127.0.0.1:9001
# Options of `make bench-cluster`.
BENCH       ?=
# Options of `make suite`, such as --only '^lock/' (tests/suite/run.py --help).
SUITE       ?=
# What the property tests of `make test` draw their cases from: always the same, so that what fails is what was changed. Those of
# `make soak` are new each time.
PROPTEST_SEED ?= 20261123
# Minutes that each timed test of `make soak` runs; those that count (100 kills, 100,000 objects, 16 GiB) take what they take.
SOAK_MINUTES ?= 10

# s3s declares Rust 1.96 and compiles with 1.95: the flag is for older compilers only.
RUSTC_MINOR := $(shell rustc --version 2>/dev/null | sed -nE 's/^rustc 1\.([0-9]+).*/\1/p')
IGNORE_RUST := $(shell [ "$(or $(RUSTC_MINOR),999)" -lt 96 ] && echo --ignore-rust-version)

# RocksDB's bindings need libclang; the C++ and C parts need a compiler.
PACKAGES    := build-essential libclang-dev
# What the client tests talk to the server with, and xmllint, which checks reports.
CLIENT_PACKAGES := s3cmd rclone restic s4cmd python3-venv libxml2-utils
CLIENT_VENV := $(HOME)/.cache/stele-clients
TEST_PATH   := $(CLIENT_VENV)/bin:$(PATH)

# The server that the tests start, and the one that they upgrade it to.
UNDER_TEST  := $(abspath $(or $(CARGO_TARGET_DIR),target))/debug/stele-under-test
NEXT        := $(dir $(UNDER_TEST))stele-next

.PHONY: help deps clients build run under-test test suite docs soak bench bench-cluster check fmt

help:
	@echo 'make run      build and start a server (DATA=$(DATA) DRIVES=$(DRIVES) S3=$(S3) ADMIN=$(ADMIN))'
	@echo 'make test     all tests, client programs included'
	@echo 'make suite    the S3 conformance suite against a fresh server (SUITE=$(SUITE))'
	@echo 'make docs     docs/S3.md, from the code'
	@echo 'make check    formatting and lints'
	@echo 'make soak     the long-running tests (SOAK_MINUTES=$(SOAK_MINUTES))'
	@echo 'make bench    the benchmarks'
	@echo 'make bench-cluster  a cluster against one process (BENCH=$(BENCH))'

# $(call apt_install,packages): installs those that are missing; fails only if they can't be installed.
define apt_install
	if ! command -v dpkg-query >/dev/null 2>&1; then \
	  echo 'not a Debian system: make sure that you have the equivalents of: $(1)'; exit 0; \
	fi; \
	missing=; \
	for package in $(1); do \
	  dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ]; then as_root=; \
	elif command -v sudo >/dev/null 2>&1; then as_root=sudo; \
	else echo "missing packages:$$missing (install them as root)" >&2; exit 1; fi; \
	echo "installing with apt:$$missing"; \
	$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing >/dev/null 2>&1 || \
	{ $$as_root apt-get update >/dev/null && \
	  $$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing; }
endef

deps:
	@command -v $(CARGO) >/dev/null 2>&1 || { echo 'cargo is missing: install Rust (1.95 or newer)' >&2; exit 1; }
	@$(call apt_install,$(PACKAGES))

# The client programs. Those that can't be had are left out; their tests then say that they were skipped (with CI=true they fail).
clients:
	@($(call apt_install,$(CLIENT_PACKAGES))) || echo 'some client programs could not be installed: their tests will be skipped' >&2
	@if ! PATH='$(TEST_PATH)' command -v aws >/dev/null 2>&1 || ! PATH='$(TEST_PATH)' python3 -c 'import boto3, minio' >/dev/null 2>&1; then \
	  echo 'installing awscli, boto3 and minio into $(CLIENT_VENV)'; \
	  { python3 -m venv '$(CLIENT_VENV)' && '$(CLIENT_VENV)/bin/pip' install --quiet awscli boto3 minio; } || \
	    echo 'awscli, boto3 and minio could not be installed: their tests will be skipped' >&2; \
	fi

build: deps
	$(CARGO) build $(IGNORE_RUST) --bin stele

run: build
	@target=$${CARGO_TARGET_DIR:-target}; \
	exec "$$target/debug/stele" serve --data '$(DATA)' --drives '$(DRIVES)' --s3 '$(S3)' --admin '$(ADMIN)'

# The server under test is built first and set aside: the tests' own build of the workspace has switches compiled in that take
# safety steps away, and replaces it. install(1) unlinks an older one, which may still be running. The next release is our own
# packages compiled once more, over the same libraries: hence --workspace.
under-test: build
	@install -m 755 '$(dir $(UNDER_TEST))stele' '$(UNDER_TEST)'
	$(CARGO) build $(IGNORE_RUST) --workspace --bin stele-next --features tests/next-release

test: deps clients under-test
	PROPTEST_RNG_SEED='$(PROPTEST_SEED)' PATH='$(TEST_PATH)' STELE_BIN='$(UNDER_TEST)' STELE_NEXT_BIN='$(NEXT)' $(CARGO) test $(IGNORE_RUST) --workspace --no-fail-fast
	PROPTEST_RNG_SEED='$(PROPTEST_SEED)' $(CARGO) test $(IGNORE_RUST) -p codec --lib --features next-release

suite: deps clients build
	@target=$${CARGO_TARGET_DIR:-target}; \
	PATH='$(TEST_PATH)' python3 tests/suite/run.py --server "$$target/debug/stele" $(SUITE)

docs: deps
	STELE_WRITE_DOCS=1 $(CARGO) test $(IGNORE_RUST) -p gateway --lib s3::support

soak: deps under-test
	STELE_SOAK_MINUTES='$(SOAK_MINUTES)' STELE_BIN='$(UNDER_TEST)' STELE_NEXT_BIN='$(NEXT)' $(CARGO) test $(IGNORE_RUST) --workspace -- --ignored --nocapture --test-threads 1

bench: deps
	$(CARGO) bench $(IGNORE_RUST) -p benches

# A release build of its own; BENCH are options of stele-cluster-bench, such as --commits.
bench-cluster: deps
	$(CARGO) build $(IGNORE_RUST) --release --bin stele --bin stele-cluster-bench
	@target=$${CARGO_TARGET_DIR:-target}; \
	"$$target/release/stele-cluster-bench" "$$target/release/stele" $(BENCH)

check: deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(IGNORE_RUST) --workspace --all-targets -- -D warnings
	$(CARGO) clippy $(IGNORE_RUST) --workspace --bin stele-next --features tests/next-release -- -D warnings

fmt:
	$(CARGO) fmt --all
