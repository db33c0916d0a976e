# One command each; what a target needs it installs from the distribution.

.PHONY: all build test tidy demo bench clean

all: build

build:
	cargo build --locked --workspace --bins

tidy:
	cargo xtask tidy

test: build
	cargo nextest run --locked --workspace

clean:
	cargo clean
