#!/usr/bin/env bash
# Runs every test of the project on a Debian machine with nothing but the Rust toolchain: installs
# what it needs (as root, or by sudo), builds, then unit, property, transcript, crash-image and
# differential tests, a short run of each fuzz target, and real clients against the release binary.
#
#   ./tests/run.sh            everything
#   SKIP_FUZZ=1 ./tests/run.sh
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

step "Debian packages"
packages=(curl swaks msmtp isync mutt neomutt offlineimap3 fetchmail getmail6 aerc python3 util-linux bsdutils e2fsprogs g++
  libnet-ssleay-perl libio-socket-ssl-perl libauthen-sasl-perl ca-certificates knot knot-dnsutils
  python3-venv opendkim postfix iproute2 openssl)
command -v npm > /dev/null || packages+=(nodejs npm)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  as_root=(); [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" > /dev/null
fi

step "Format and lints"
cargo fmt --all --check
if cargo clippy --version > /dev/null 2>&1; then
  cargo clippy --workspace --all-targets --all-features --quiet -- -D warnings
fi

step "Tests in the tree"
cargo test --workspace --quiet

step "Release build"
cargo build --release --quiet --features ringmail/simulator

step "Simulation: crashes and disk faults from seeds, planted bugs"
target/release/simulate --seeds 600
target/release/simulate --plant all

step "Real clients, hostile clients, kill -9"
(cd tests/clients && python3 -m unittest -b test_clients test_hostile test_kill test_disk test_verify test_dns \
  test_dkim test_queue test_tlsrpt test_sasl test_imap_clients)

step "A nasty next hop, and mail to and from Postfix and Exim"
(cd tests/clients && RELAY_ROUNDS=${RELAY_ROUNDS:-6} python3 -m unittest -b test_relay test_world test_tls_policies)

if [ -z "${SKIP_FUZZ:-}" ]; then
  step "Fuzz smoke"
  ./tests/fuzz_smoke.sh
fi

step "All tests passed"
