#!/bin/sh
# Install what the tests need from Debian, where something is missing. Without root or apt-get it only says so; the
# tests that need it then skip with the reason (and fail where CI is set).
set -eu
missing=""
have() { command -v "$1" >/dev/null 2>&1; }
have redis-server || missing="$missing redis-server"
have strace || missing="$missing strace"
have postgres || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
have qemu-system-x86_64 || missing="$missing qemu-system-x86"
have dbus-daemon || missing="$missing dbus"
have pkg-config || missing="$missing pkg-config"
have xvfb-run || missing="$missing xvfb xauth"
if ! ldconfig -p 2>/dev/null | grep -q libEGL.so.1; then # Qt, which draws nothing here, asks for these all the same
    missing="$missing libegl1 libgl1 libxkbcommon0 libfontconfig1 libdbus-1-3"
fi
pkg-config --exists cairo 2>/dev/null || missing="$missing libcairo2-dev"
pkg-config --exists gobject-introspection-1.0 2>/dev/null || pkg-config --exists girepository-2.0 2>/dev/null \
    || missing="$missing GIREPOSITORY"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! have apt-get; then
    echo "not installed, and not root on Debian: $missing (the tests that need them will skip)" >&2
    exit 0
fi
# Nothing that is installed here shall start as a service: the tests start their own servers.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get update -qq
girepository=libgirepository-2.0-dev # what PyGObject 3.52 and newer build on
apt-cache show "$girepository" >/dev/null 2>&1 || girepository=libgirepository1.0-dev
missing=$(echo "$missing" | sed "s/GIREPOSITORY/$girepository/")
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
