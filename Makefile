# Two commands matter: `make run` (a demo on localhost) and `make test` (everything that is promised, proven).

CARGO ?= cargo
# What a build needs beside Rust, a C compiler and make; and what the tests run against.
BUILD_TOOLS = cmake
TEST_TOOLS  = promtool pebble
FUZZ_TOOLS  = g++
BENCH_TOOLS = nginx haproxy caddy wrk h2load ab
CUTOVER_TOOLS = nginx haproxy caddy taskset setpriv
SCALING_TOOLS = taskset setpriv
COUNT_TOOLS = valgrind setpriv
PACKAGE_TOOLS = dpkg-shlibdeps
SYSTEM_TOOLS = systemd-nspawn debootstrap
ENGINE_TOOLS = dockerd docker docker-compose docker-registry iptables unshare ip
SUITE_TOOLS = slowhttptest node npm openssl python3
LINT_TOOLS = python3 shellcheck docker-compose

package_cmake    = cmake
package_promtool = prometheus
package_pebble   = pebble
package_slowhttptest = slowhttptest
package_node     = nodejs
package_npm      = npm
package_openssl  = openssl
package_python3  = python3-venv
package_g++      = g++
package_dpkg-shlibdeps = dpkg-dev
package_systemd-nspawn = systemd-container
package_debootstrap    = debootstrap
package_dockerd  = docker.io
package_docker   = docker.io
package_docker-compose  = docker-compose
package_docker-registry = docker-registry
package_iptables = iptables
package_unshare  = util-linux
package_ip       = iproute2
package_nginx    = nginx-light
package_wrk      = wrk
package_h2load   = nghttp2-client
package_ab       = apache2-utils
package_valgrind = valgrind
package_setpriv  = util-linux
package_taskset  = util-linux
package_haproxy  = haproxy
package_caddy    = caddy
package_shellcheck     = shellcheck
package_docker-compose = docker-compose

# How it is seen that a tool is there, where its name in PATH does not say so: Debian has python3 without venv, and compose
# comes as a plugin, too.
probe_python3        = python3 -c 'import ensurepip, venv'
probe_docker-compose = docker compose version || docker-compose version

# What a package is made of, and with: `make deb PROFILE=dev` is made in a minute, and is for tests.
PROFILE     ?= release
CARGO_DEB   = 3.8.0
TARGET      = $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
BUILT       = $(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

.PHONY: bench-pieces deb test-system suites soak fuzz run build test bench bench-cutover bench-scaling instructions instructions-store lint doc clean help

help:
	@echo "make run    build, and start a demo on https://localhost:8443/"
	@echo "make build  build target/release/mana-proxy"
	@echo "make test   install what the tests need, and run them all"
	@echo "make fuzz   coverage-guided fuzzing of what reads peers' bytes, FUZZ_SECONDS=20 each"
	@echo "make deb    build the Debian package, into target/debian/"
	@echo "make test-system  the installed package on a real systemd, and deploys on a real Docker Engine; as root"
	@echo "make suites run the test suites that others wrote"
	@echo "make soak   ten minutes of load, abuse and switches"
	@echo "make bench  measure beside nginx, haproxy and others; BENCH_OPTIONS=\"--quick\" for a look"
	@echo "make bench-cutover  cutovers under load, beside nginx, haproxy and caddy"
	@echo "make bench-scaling  what a request costs with more workers, connections, sites"
	@echo "make instructions  whether a request takes more instructions than stored; instructions-store REASON=... stores"
	@echo "make bench-pieces  what the pure pieces of a request's way cost, one by one"
	@echo "make lint   what CI checks beside the tests: format, clippy, docs, workflows, shell scripts"

# $(call install,TOOLS): installs the packages of those tools that are missing; says what to do where it cannot.
define install
	@missing=""; \
	$(foreach tool,$(1),{ $(or $(probe_$(tool)),command -v $(tool)); } >/dev/null 2>&1 || missing="$$missing $(package_$(tool))";) \
	if [ -n "$$missing" ]; then \
	  echo "installing:$$missing"; \
	  as_root=""; [ "$$(id -u)" = 0 ] || as_root="sudo"; \
	  if ! command -v apt-get >/dev/null 2>&1; then \
	    echo "this needs:$$missing. Install them with your package manager, then try again." >&2; exit 1; \
	  fi; \
	  if [ -n "$$as_root" ] && ! command -v sudo >/dev/null 2>&1; then \
	    echo "this needs:$$missing. As root: apt-get install$$missing" >&2; exit 1; \
	  fi; \
	  DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y -qq --no-install-recommends $$missing >/dev/null \
	    || { $$as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y -qq --no-install-recommends $$missing >/dev/null; } \
	    || { echo "cannot install:$$missing. As root: apt-get update && apt-get install$$missing" >&2; exit 1; }; \
	fi
endef

# The demo does not need to be fast, and an unoptimised build is ready in a third of the time.
run:
	$(call install,$(BUILD_TOOLS))
	$(CARGO) build --locked
	./target/debug/mana-proxy demo

build:
	$(call install,$(BUILD_TOOLS))
	$(CARGO) build --release --locked

test:
	$(call install,$(BUILD_TOOLS) $(TEST_TOOLS))
	$(CARGO) test --workspace --locked --no-fail-fast

# Six targets, FUZZ_SECONDS (20) each, and a minute or two to build them.
fuzz:
	$(call install,$(BUILD_TOOLS) $(FUZZ_TOOLS))
	tests/fuzz/run.sh

# The binary prints its own manual pages and completions, so that they cannot be of another version.
deb:
	$(call install,$(BUILD_TOOLS) $(PACKAGE_TOOLS))
	@$(CARGO) deb --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deb@$(CARGO_DEB)
	$(CARGO) build --locked --profile $(PROFILE) -p mana-proxy
	rm -rf $(BUILT)/package && mkdir -p $(BUILT)/package/man $(BUILT)/package/completions
	$(BUILT)/mana-proxy man-pages $(BUILT)/package/man
	$(BUILT)/mana-proxy completions bash >$(BUILT)/package/completions/mana-proxy
	$(BUILT)/mana-proxy completions zsh >$(BUILT)/package/completions/_mana-proxy
	$(BUILT)/mana-proxy completions fish >$(BUILT)/package/completions/mana-proxy.fish
	$(CARGO) deb --locked --no-build --profile $(PROFILE) -p mana-proxy $(DEB_OPTIONS)

# Built as whoever calls, run as root.
AS_ROOT = $(shell [ "$$(id -u)" = 0 ] || echo "--config target.'cfg(all())'.runner='sudo -E'")

# Restarts, upgrades and crashes of the installed package on a real systemd in a container, and deploys on a real Docker
# Engine, under load. The packages are made from what `make test` has built: it is about units and handovers, and an
# optimised build takes minutes.
test-system: PACKAGES = $(abspath $(BUILT))/package-test
test-system: PROFILE = dev
test-system:
	@[ "$$(id -u)" = 0 ] || sudo -n true || { echo "make test-system boots a container, and that needs root, or sudo" >&2; exit 1; }
	$(call install,$(BUILD_TOOLS) $(SYSTEM_TOOLS) $(ENGINE_TOOLS))
	rm -rf $(PACKAGES) && mkdir -p $(PACKAGES)
	$(MAKE) deb PROFILE=$(PROFILE) DEB_OPTIONS="--fast --strip --output $(PACKAGES)/mana-proxy.deb"
	$(MAKE) deb PROFILE=$(PROFILE) DEB_OPTIONS="--fast --strip --output $(PACKAGES)/mana-proxy-next.deb --deb-version 9999.0.0-1"
	MANA_PROXY_PACKAGES=$(PACKAGES) $(CARGO) $(AS_ROOT) test --locked -p mana-proxy --test system -- --ignored --nocapture --test-threads=1
	$(CARGO) $(AS_ROOT) test --locked -p mana-proxy --test deploy -- --ignored --nocapture --test-threads=2

# What others wrote to test servers: sslyze, Autobahn, slowhttptest. Whatever is not to be had is skipped.
suites: build
	$(call install,$(SUITE_TOOLS))
	tests/suites/run.sh target/release/mana-proxy

# Ten minutes of everything at once, then ten thousand tunnels. SOAK_SECONDS=60 for a shorter look.
soak:
	$(call install,$(BUILD_TOOLS))
	$(CARGO) test --locked --release -p mana-proxy --test e2e -- --ignored --nocapture --test-threads=1 soak:: tunnels::

# About twenty minutes. benches/README.md says what else BENCH_OPTIONS can be.
bench: build
	$(call install,$(BENCH_TOOLS))
	$(CARGO) bench --locked -p mana-proxy --bench side_by_side -- $(BENCH_OPTIONS)

bench-cutover: build
	$(call install,$(CUTOVER_TOOLS))
	$(CARGO) bench --locked -p mana-proxy --bench cutover

bench-scaling: build
	$(call install,$(SCALING_TOOLS))
	$(CARGO) bench --locked -p mana-proxy --bench scaling

# Of a build that is like a release and ready sooner. Some minutes to build, one to count.
COUNT = $(CARGO) bench --locked --profile guard -p mana-proxy --bench instructions --

instructions:
	$(call install,$(BUILD_TOOLS) $(COUNT_TOOLS))
	$(COUNT)

# REASON="what has made them change": kept beside the figures.
instructions-store: export REASON := $(REASON)
instructions-store:
	$(call install,$(BUILD_TOOLS) $(COUNT_TOOLS))
	$(COUNT) --store "$$REASON"

bench-pieces:
	$(call install,$(BUILD_TOOLS))
	$(CARGO) bench --locked -p mana-proxy --bench pieces

lint:
	$(call install,$(BUILD_TOOLS) $(LINT_TOOLS))
	tests/shipped/run.sh
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked

clean:
	$(CARGO) clean
	rm -rf run
