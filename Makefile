# Two commands matter: `make demo` shows what shunt does, `make test` proves it.

HOST := $(shell rustc -vV | sed -n 's/^host: //p')
# One static binary: the C library is linked in. The target is named so that the flag does not
# reach build scripts and procedural macros, which cannot be static.
STATIC := RUSTFLAGS="-C target-feature=+crt-static"
RELEASE := --locked --release --target $(HOST)
BINARY := target/$(HOST)/release/shunt
CONTROLPLANE := target/controlplane
BENCHES := target/$(HOST)/release

# The test of takeovers; its figures stand in docs/migration.md.
TAKEOVER = SHUNT_BIN=$(abspath $(BINARY)) $(if $(filter --write-docs,$(BENCH)),SHUNT_WRITE_DOCS=1) \
	cargo test --locked -p shunt-kind-tests --test control_plane -- --nocapture --test-threads 1

.PHONY: help build image demo test check fmt lint deny package unit controlplane runtime bench takeovers clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## Build the static release binary
	$(STATIC) cargo build $(RELEASE) -p shunt
	@ls -l $(BINARY) | awk '{ printf "%s: %.1f MB\n", $$NF, $$5 / 1e6 }'

image: build ## Build the container image with buildah, and print its size
	buildah bud --isolation chroot -f manifests/Containerfile -t shunt $(dir $(BINARY))
	buildah images shunt
	@sed -n '/capabilities:/,/add:/p' manifests/base/daemonset.yaml

demo: build ## Build, then show the main job in network namespaces of its own
	@$(BINARY) demo

test: ## Install what is needed, run every check and test, see that nothing is left behind
	kind-tests/install-tools.sh
	kind-tests/leftovers.sh record
	$(MAKE) check
	$(MAKE) build
	$(MAKE) unit
	kind-tests/leftovers.sh compare

check: fmt lint deny package ## Formatting, lints, licences and dependencies, the package of ipvs-rs

fmt:
	cargo fmt --all --check

lint:
	RUSTFLAGS="-D warnings" cargo clippy --locked --workspace --all-targets --target-dir target/lint

deny:
	kind-tests/cargo-deny.sh check bans licenses sources

package: # What crates.io would get, built from nothing but itself
	cargo package --quiet --locked --allow-dirty -p ipvs-rs

unit: controlplane runtime ## The tests alone; they need root, nft, and the control plane
	SHUNT_BIN=$(abspath $(BINARY)) cargo test --locked --workspace --no-fail-fast -- --skip kube_proxy_
	@# What the image comes to: its size and its capabilities.
	SHUNT_BIN=$(abspath $(BINARY)) cargo test -q --locked -p shunt-kind-tests --test control_plane the_image_is -- --nocapture
	@# These wait for kube-proxy most of the time: more of them than there are cores.
	cargo test --locked -p shunt-kind-tests --test scenarios --test storm -- kube_proxy_ --test-threads 6
	cd kind-tests/controlplane && CGO_ENABLED=0 go test -trimpath ./...
	cd kind-tests/runtime && CGO_ENABLED=0 go vet ./...

controlplane: ## Build the real API server, the controllers, kube-proxy and flanneld (minutes, once)
	kind-tests/controlplane/build.sh $(CONTROLPLANE)
	kind-tests/flannel/build.sh $(CONTROLPLANE)

runtime: ## Build a real containerd, and what asks it for pods (minutes, once)
	kind-tests/runtime/build.sh

bench: build controlplane ## shunt beside kube-proxy and other layouts (BENCH='--quick' for less); prints ratios
	$(STATIC) cargo build $(RELEASE) -p shunt-kind-tests --bins
	$(BENCHES)/bench --shunt $(BINARY) $(BENCH)
	$(BENCHES)/traffic --shunt $(BINARY) $(filter --quick --write-docs,$(BENCH)) $(TRAFFIC)
	$(BENCHES)/policy --shunt $(BINARY) $(filter --quick --write-docs,$(BENCH)) $(POLICY)
	$(BENCHES)/ipvs --shunt $(BINARY) $(filter --quick --write-docs,$(BENCH)) $(IPVS)
	$(BENCHES)/overlay --shunt $(BINARY) $(filter --quick --write-docs,$(BENCH)) $(OVERLAY)
	$(MAKE) takeovers

takeovers: build controlplane ## From kube-proxy in each mode to shunt with 5,000 Services, 2,000 connections a second
	SHUNT_TAKEOVER_SERVICES=$${SHUNT_TAKEOVER_SERVICES:-$(if $(filter --quick,$(BENCH)),500,5000)} \
	SHUNT_TAKEOVER_RATE=$${SHUNT_TAKEOVER_RATE:-2000} $(TAKEOVER) takeover::from_

clean: ## Remove everything that was built
	cargo clean
