# Every target says in one sentence what it lacks. Needs Debian 12 or 13, and root for the lab.

.DELETE_ON_ERROR:
.PHONY: setup test bench compare lint lab lab-up lab-down debian rootfs deb simulate
.PHONY: vagrant-lab vagrant-up vagrant-down vagrant-payload
.DEFAULT_GOAL := setup

GATEWAY := .venv/bin/condor-gateway
BENCH := build/bench
PACKAGES := iproute2 nftables util-linux procps tar
export PIP_DISABLE_PIP_VERSION_CHECK := 1

setup: debian .venv/ready rootfs

# Install what is missing, and only that.
debian:
	@lacking=; \
	for package in $(PACKAGES); do \
	    dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || lacking="$$lacking $$package"; \
	done; \
	$(call find_python); \
	test -n "$$python" || lacking="$$lacking python3 python3-venv"; \
	test -z "$$lacking" || { $(call install,$$lacking); }

.venv/ready: pyproject.toml | debian
	@$(call find_python); \
	test -n "$$python" || { echo "condor-gateway: no Python 3.11 or later with the module venv on this machine" >&2; exit 1; }; \
	test -x .venv/bin/python || "$$python" -m venv .venv
	@.venv/bin/pip install --quiet --editable '.[dev]' || \
	    { echo "condor-gateway: the Python packages of pyproject.toml cannot be had: is a package index reachable?" >&2; exit 1; }
	@touch $@

rootfs: .venv/ready
	@.venv/bin/python -m gateway.lab.rootfs >/dev/null

# The status page is tested in a real browser; its screenshots are kept in build/screenshots.
test: PACKAGES += chromium chromium-driver fonts-inter debootstrap vagrant vagrant-libvirt
test: setup
	.venv/bin/python -m tests.side_by_side

# What the control process costs in a real pool, what the data plane carries beside others, and heartbeats beside a
# saturated relay: some twenty minutes in all, most of them the data plane's. Tables are printed, and the data plane's
# written to build/bench/plane.md; the run before is kept for 'make compare'. PLANE='--quick' takes a short look.
BENCHES := path control plane saturated
PLANE :=

bench: PACKAGES += gcc libc6-dev
bench: setup
	@mkdir -p $(BENCH)
	@for one in $(BENCHES); do \
	    test ! -f $(BENCH)/$$one.json || mv $(BENCH)/$$one.json $(BENCH)/$$one.before.json; \
	    more=; test $$one != plane || more='$(PLANE)'; \
	    .venv/bin/python -m tests.bench.bench_$$one --save $(BENCH)/$$one.json $$more || exit 1; \
	done

# Compare the last run of 'make bench' with the one before it, or with BEFORE=FOLDER.
compare: .venv/ready
	@for one in $(BENCHES); do \
	    .venv/bin/python -m tests.bench.compare \
	        $(if $(BEFORE),$(BEFORE)/$$one.json,$(BENCH)/$$one.before.json) $(BENCH)/$$one.json || exit 1; \
	done

# The Debian package, for RELEASE: bookworm or trixie.
RELEASE := trixie
deb: PACKAGES += dpkg
deb: setup
	@.venv/bin/python -m gateway.debian.build --release $(RELEASE)

# The long run: make simulate HOURS=1000 [SEED=1] [JOBS=2]. It says how far it is, and where to go on when interrupted.
HOURS := 100
SEED := 1
JOBS := 2
simulate: .venv/ready
	@.venv/bin/python -m tests.sim --hours $(HOURS) --jobs $(JOBS) --seed $(SEED)

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

lab: setup
	@$(GATEWAY) lab measure demo

lab-up: setup
	@$(GATEWAY) lab up

lab-down:
	@test -x $(GATEWAY) || { echo "condor-gateway: nothing is set up here, so no lab is up: 'make setup' sets it up" >&2; exit 1; }
	@$(GATEWAY) lab down

# The same on virtual machines, as vagrant/README.md says; LAB_SMALL=1 for three of them instead of seven.
vagrant-lab: .venv/ready
	@.venv/bin/python -m gateway.lab.machines lab

vagrant-up: .venv/ready
	@.venv/bin/python -m gateway.lab.machines up

vagrant-down:
	@test -x .venv/bin/python || { echo "condor-gateway: nothing is set up here, so no machine is up: 'make setup' sets it up" >&2; exit 1; }
	@.venv/bin/python -m gateway.lab.machines down

# For those who run Vagrant by hand: what provisioning brings to the machines, and the key to them.
vagrant-payload: .venv/ready
	@.venv/bin/python -m gateway.lab.machines.payload

# Debian parts python3 from python3-venv, so that the first python3 found may not do.
find_python = python=; for one in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do \
	    "$$one" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { python=$$one; break; }; \
	done

install = \
	    command -v apt-get >/dev/null || { echo "condor-gateway: this needs a Debian machine, or:$(1)" >&2; exit 1; }; \
	    test "$$(id -u)" = 0 || { echo "condor-gateway: these Debian packages are missing and need root to be installed:$(1)" >&2; exit 1; }; \
	    echo "installing$(1)"; \
	    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $(1) >/dev/null; } || \
	    { echo "condor-gateway: these Debian packages cannot be had:$(1)" >&2; exit 1; }
