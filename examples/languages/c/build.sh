#!/bin/sh
# Builds greenhouse.wasm (or the file named first, to the file named second) with clang and lld.
set -eu
here=$(dirname "$0")
source=${1:-$here/greenhouse.c}
clang --target=wasm32 -std=c11 -Wall -Wextra -Werror -Oz -nostdlib -mbulk-memory -I"$here" -Wl,--no-entry \
    -Wl,--strip-all -o "${2:-${source%.c}.wasm}" "$source"
