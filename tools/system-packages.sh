#!/bin/sh
# Installs the Debian packages that tests and benchmarks use as real peers; without the rights to, names them.
set -u
missing=""
want() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"; }
want mosquitto mosquitto
want mosquitto_pub mosquitto-clients
want coap-client-notls libcoap3-bin
want cc gcc
want setpriv util-linux
want clang clang
want wasm-ld lld
want node nodejs
want npm npm
emulator=""
command -v qemu-system-arm >/dev/null 2>&1 || emulator="$emulator qemu-system-arm"
[ -f /usr/share/firmware-microbit-micropython/firmware.hex ] || emulator="$emulator firmware-microbit-micropython"
[ -z "$missing$emulator" ] && exit 0
if [ "$(id -u)" = 0 ]; then as=""; elif sudo -n true 2>/dev/null; then as="sudo"; else as="none"; fi
if [ "$as" != none ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing system packages:$missing$emulator"
    # A package starts its service in a fresh machine; the tests start their own on free ports.
    install() { [ $# = "$least" ] || $as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null; }
    # QEMU recommends a screen, sound and firmware for PCs.
    $as apt-get update -qq && least=0 install $missing && least=1 install --no-install-recommends $emulator && exit 0
fi
echo "These system packages are missing; the tests that need them are skipped:$missing$emulator"
echo "  sudo apt install$missing$emulator"
