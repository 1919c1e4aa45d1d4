#!/usr/bin/env bash
# Runs every test of the project, installing what they need.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --all --check
cargo test --workspace
