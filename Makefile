# persistproc: what can be done with it, each in one word.
#
#   make run CMD="npm run dev"     builds, and runs a command under persistproc
#   make test                      every test that needs nothing but Rust
#   make lint                      formatting and clippy, both clean
#   make clients                   real MCP clients and agents against the binary; installs them below target/ (npm, pip)
#   make torture                   what make test does briefly, for long, and with figures
#   make bench                     speed and memory, as ratios against public tools
#   make fuzz                      HTTP, MCP and the parsers with arbitrary bytes, ten minutes each; needs cargo-fuzz
#   make static                    one binary without dependencies, in target/TARGET/release
#   make install PREFIX=~/.local   the static binary, in PREFIX/bin

PREFIX ?= /usr/local
DESTDIR ?=
# Any target that rustup has; x86_64-unknown-linux-musl makes it a third of the size.
TARGET ?= $(shell rustc -vV | sed -n 's/^host: //p')
STATIC := target/$(TARGET)/release/persistproc
STATIC_FLAGS := RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static"
CMD ?= sh -c 'echo "make run CMD=\"npm run dev\" runs your own command"'

.PHONY: build run test lint clients torture bench fuzz static install clean

build:
	cargo build --locked --release

run: build
	target/release/persistproc run $(CMD)

test:
	cargo test --locked

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

# Pinned in tests/clients/packages.json; the first run fetches them, later ones need no network.
clients: build
	python3 tests/clients/run.py target/release/persistproc

# The flags go by --target only: without it cargo would apply them to build scripts and macros, too. At a fixed address
# (relocation-model=static) a process has no relocations of its own: 40 KB less private memory for every shim.
static:
	$(STATIC_FLAGS) cargo build --locked --release --target $(TARGET)
	@ls -l $(STATIC)

# Servers and shims killed again and again, floods, ten thousand old runs: some minutes, 5 GB of disk meanwhile. As they
# are delivered, one at a time, so that the figures mean something.
torture:
	$(STATIC_FLAGS) cargo test --locked --release --target $(TARGET) --test persistproc -- \
		--ignored --nocapture --test-threads=1 torture::

# Against tools that every system has, in the same run: figures of one machine mean little, ratios more.
bench:
	$(STATIC_FLAGS) cargo bench --locked --target $(TARGET) --bench bench

# Its sanitizers are an unstable flag of the compiler, which this turns on also without a nightly one. What is found goes
# to tests/fuzz/artifacts; the corpus in the repository stays as it is, `make fuzz SECONDS=60` looks shortly.
SECONDS ?= 600
FUZZ := RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz

fuzz:
	for target in http mcp text; do \
	    mkdir -p tests/fuzz/target/corpus/$$target; \
	    $(FUZZ) $$target tests/fuzz/target/corpus/$$target tests/fuzz/corpus/$$target -- \
	        -dict=tests/fuzz/$$target.dict -max_total_time=$(SECONDS) -timeout=60 -max_len=4096 || exit; \
	done

install: static
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(STATIC) $(DESTDIR)$(PREFIX)/bin/persistproc

clean:
	cargo clean
