#!/bin/sh
# The base image out of Debian's packages, for machines that reach a Debian mirror and no container registry.
#
#   images/base/make.sh TAG
#
# It holds what debian:trixie-slim holds: the essential packages, apt, and no documentation but the licences.
# Needs root, `mmdebstrap` and a running engine. The mirror is the one that this machine's apt uses for Debian
# itself, else mmdebstrap's own choice. Nothing of apt's caches goes into the image.
set -eu

tag=${1:?usage: images/base/make.sh TAG}
suite=trixie
# All files get at most this time, so that two runs over the same packages give the same tree: its release day.
export SOURCE_DATE_EPOCH=1754697600

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# First index of this kind that apt reads here, as the base of its address; empty when there is none.
mirror() {
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 2>/dev/null |
        sed -n "s/^Debian|$1|\(https\{0,1\}:.*\)$/\1/p" | head -n 1
}

main=$(mirror Debian)
security=$(mirror Debian-Security)
if [ -n "$main" ]; then
    {
        echo "deb $main $suite main"
        echo "deb $main $suite-updates main"
        if [ -n "$security" ]; then echo "deb $security $suite-security main"; fi
    } >"$work/sources.list"
    set -- "$work/sources.list"
else
    set --
fi

mmdebstrap --quiet --variant=minbase \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/lintian/*' \
    --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/cache/debconf/*-old "$1"/var/log/* "$1"/var/lib/dpkg/*-old' \
    "$suite" "$work/base.tar" "$@"

docker import --change 'CMD ["bash"]' "$work/base.tar" "$tag"
