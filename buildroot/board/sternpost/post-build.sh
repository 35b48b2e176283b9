#!/bin/bash
# Buildroot calls this with the target's folder when all packages are in it: who the image says it is.
set -euo pipefail

root="$1"
# shellcheck source-path=SCRIPTDIR source=../../../image/assembly.sh
. "$BR2_EXTERNAL_STERNPOST_PATH/../image/assembly.sh"
write_os_release "$root" buildroot

# Every folder that something is mounted on, for the root is never written.
mkdir -p "$root"/{dev,proc,sys,run,tmp,var}
