#!/bin/sh
# The daemon's environment: exactly what the lock names, every file checked against its digest, byte-compiled.
set -eu
. /build/network.sh

python3 -m venv --without-pip /tools/venv
/build/pip/bin/pip --python /tools/venv/bin/python install \
    --quiet --no-input --no-cache-dir --no-compile --no-deps --only-binary :all: \
    --require-hashes --requirement /build/toolserver.txt

# The daemon's own code is a layer of its own, beside the packages.
echo /tools/daemon >"$(/tools/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/daemon.pth"

# Debugging symbols are a third of it.
find /tools/venv/lib -type f -name '*.so' -exec strip --strip-debug {} +
# Headers, sources and tests of packages: nothing imports them at run time.
find /tools/venv/lib -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.c' -o -name '*.h' \) -delete
find /tools/venv/lib -type d -name tests -prune -exec rm -rf {} +
rm -f /tools/venv/bin/[Aa]ctivate*

sh /build/compile.sh /tools/venv/lib
