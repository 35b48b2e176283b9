#!/bin/bash
# Buildroot calls this with the folder of images when the root is a squashfs: hash tree, kernel arguments, unified kernel image,
# ESP, disk. The partitions and the arguments that both builders share are image/genimage.cfg and image/cmdline.
# There is no initramfs: the kernel sets up dm-verity itself, from dm-mod.create (Documentation/admin-guide/device-mapper/dm-init.rst).
set -euo pipefail
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1767225600}" LC_ALL=C TZ=UTC PATH="$HOST_DIR/bin:$HOST_DIR/sbin:$PATH:/usr/sbin:/sbin"

binaries="$1"
repository="$(cd "$BR2_EXTERNAL_STERNPOST_PATH/.." && pwd)"
image="$repository/image"
work="$binaries/work"
output="$binaries/sternpost"
# Small flash and slow networks: what a release may take.
compressed_mib_max=16

# shellcheck source-path=SCRIPTDIR source=../../../image/assembly.sh
. "$image/assembly.sh"

die() {
    echo "post-image: $*" >&2
    exit 1
}

# A value of Buildroot's configuration, without quotes.
configured() { sed -n "s/^$1=\"\(.*\)\"\$/\1/p" "$BR2_CONFIG"; }

# The loader and the stub: of the package systemd, or of the folder that the configuration names.
find_efi() {
    local file
    efi="$(configured BR2_PACKAGE_STERNPOST_EFI_FOLDER)"
    if [ -n "$efi" ]; then
        loader="$efi/systemd-bootx64.efi"
        stub="$efi/linuxx64.efi.stub"
    else
        loader="$binaries/efi-part/EFI/BOOT/bootx64.efi"
        stub="$TARGET_DIR/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
    fi
    for file in "$loader" "$stub"; do
        [ -f "$file" ] || die "$file is missing: enable BR2_PACKAGE_SYSTEMD_BOOT or name the folder in BR2_PACKAGE_STERNPOST_EFI_FOLDER"
    done
}

write_cmdline() {
    local device
    device="PARTUUID=$(system_partition_uuid)"
    # The tree begins one block behind the data: between them is verity's superblock, for tools.
    printf '%s root=/dev/dm-0 rootfstype=squashfs ro rootwait init=/usr/lib/systemd/systemd dm-mod.waitfor=%s dm-mod.create="root,,0,ro,0 %d verity 1 %s %s %d %d %d %d sha256 %s %s 1 panic_on_corruption"\n' \
        "$(cat "$image/cmdline")" "$device" $((blocks * verity_block_octets / 512)) "$device" "$device" \
        "$verity_block_octets" "$verity_block_octets" "$blocks" $((blocks + 1)) "$root_hash" "$salt" >"$work/cmdline"
}

write_sizes() {
    local kernel total
    kernel="$(stat -c %s "$work/vmlinuz")"
    total=$((squashfs_octets + kernel))
    printf '%-40s %11s octets\n' "root (squashfs, zstd)" "$squashfs_octets" "kernel" "$kernel" "together" "$total" \
        "hash tree" "$(hash_tree_octets)" >"$output/sizes.txt"
    [ $total -le $((compressed_mib_max << 20)) ] || die "root and kernel take $total octets, more than $compressed_mib_max MiB"
}

rm -rf "$work" "$output"
mkdir -p "$work" "$output"
find_efi
cp "$binaries/rootfs.squashfs" "$work/system.img"
cp "$binaries/bzImage" "$work/vmlinuz"
add_hash_tree
write_cmdline
make_uki "$stub" "osrel:$TARGET_DIR/usr/lib/os-release" "linux:$work/vmlinuz"
make_esp "$loader"
make_disk "$output"
cp "$work/vmlinuz" "$work/cmdline" "$work/sternpost.efi" "$output/"
# Some loaders want one: an archive without a file.
cpio --quiet -o -H newc </dev/null >"$output/initrd"
write_sizes
(cd "$output" && sha256sum -- * >SHA256SUMS)
rm -rf "$work"
