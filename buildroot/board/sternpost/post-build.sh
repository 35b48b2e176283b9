#!/bin/bash
# Buildroot calls this with the target's folder when all packages are in it: who the image says it is.
set -euo pipefail

root="$1"
repository="$(cd "$BR2_EXTERNAL_STERNPOST_PATH/.." && pwd)"

version="$(sed -n 's/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml" | head -n 1)"
rm -f "$root/etc/os-release"
cat >"$root/usr/lib/os-release" <<END
NAME=Sternpost
ID=sternpost
ID_LIKE=buildroot
PRETTY_NAME="Sternpost $version"
VERSION_ID=$version
IMAGE_ID=sternpost
IMAGE_VERSION=$version
END
ln -s ../usr/lib/os-release "$root/etc/os-release"

# Every folder that something is mounted on, for the root is never written.
mkdir -p "$root"/{dev,proc,sys,run,tmp,var}
