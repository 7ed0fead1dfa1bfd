#!/bin/sh
# Install the Debian packages that are listed in the given files and not there yet.
#
#   tools/install-deps.sh [LIST...]     (default: tools/packages.txt)
#
# Says what it does; does and says nothing when everything is there.
set -eu
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- packages.txt

packages=$(sed -e 's/#.*//' -e 's/[[:space:]].*//' "$@" | grep -v '^$')

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	echo "install-deps: no apt here; these Debian packages, or your system's like, are needed:" $packages >&2
	exit 0
fi

missing=
for p in $packages; do
	dpkg-query -W -f='${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "install-deps: as root, run: apt-get install$missing" >&2
		exit 1
	fi
	as_root=sudo
fi
export DEBIAN_FRONTEND=noninteractive
echo "install-deps: installing$missing" >&2
install() { $as_root apt-get install -y -q --no-install-recommends $missing >&2; }
# Package lists may be absent (a fresh image) or old (a version that has gone): refresh and try again.
if ! ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1; then
	$as_root apt-get update -q >&2
	install
else
	install || { $as_root apt-get update -q >&2 && install; }
fi
