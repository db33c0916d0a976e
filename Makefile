# One command each; what a target needs it installs itself (scripts/setup).

.PHONY: all help build release test vm-test tidy demo bench setup clean

all: build

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: ## Install what building and testing need.
	scripts/setup test

build: ## Build both executables (target/x86_64-unknown-linux-gnu/debug).
	scripts/setup build
	cargo build --locked --package dhow --package dhow-runtime-bin

release: ## Build both executables to be installed.
	scripts/setup build
	cargo build --locked --release --package dhow --package dhow-runtime-bin

tidy: ## Check format, lints, arrows, code map and file headers.
	scripts/setup build
	cargo xtask tidy

test: setup build ## Run all tests, with real clients. Needs root.
	cargo nextest run --locked --workspace

vm-test: build ## Run what only some kernels have (cgroup v2 alone, systemd, AppArmor, SELinux, quotas, loss of power), in qemu.
	scripts/vm-test

demo: setup build ## Show the way from a Dockerfile to a running service. Needs root.
	scripts/demo

bench: release ## Measure beside the peers; writes docs/benchmarks.md. Needs root.
	scripts/setup bench
	cargo xtask bench --write docs/benchmarks.md

clean: ## Remove what was built.
	cargo clean
