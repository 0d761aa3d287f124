#!/bin/sh
# Byte-compile a directory and make it alike whenever it is built: no times in .pyc files, one time on all files.
#
# unchecked-hash: the sources are root's and never change, so Python need not look at them at every start.
set -eu
directory=$1
/tools/venv/bin/python -m compileall -q -j 2 --invalidation-mode unchecked-hash "$directory"
chmod -R u=rwX,go=rX "$directory"
find "$directory" -exec touch --no-dereference --date=@1754697600 {} +
