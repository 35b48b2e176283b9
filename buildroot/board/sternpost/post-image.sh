#!/bin/bash
# Buildroot calls this with the folder of images when the root is a squashfs: hash tree, kernel arguments, unified kernel image,
# ESP, disk. The partitions and the arguments that both builders share are image/genimage.cfg and image/cmdline.
# There is no initramfs: the kernel sets up dm-verity itself, from dm-mod.create (Documentation/admin-guide/device-mapper/dm-init.rst).
set -euo pipefail
export LC_ALL=C TZ=UTC PATH="$HOST_DIR/bin:$HOST_DIR/sbin:$PATH:/usr/sbin:/sbin"

binaries="$1"
repository="$(cd "$BR2_EXTERNAL_STERNPOST_PATH/.." && pwd)"
image="$repository/image"
work="$binaries/work"
output="$binaries/sternpost"
verity_block_octets=4096
# Small flash and slow networks: what a release may take.
compressed_mib_max=16

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

# The squashfs and behind it the hash tree. Salt and UUID follow from the content: the same content, the same tree.
make_system() {
    local system="$work/system.img" uuid
    squashfs_octets="$(stat -c %s "$binaries/rootfs.squashfs")"
    blocks=$(((squashfs_octets + verity_block_octets - 1) / verity_block_octets))
    cp "$binaries/rootfs.squashfs" "$system"
    truncate -s $((blocks * verity_block_octets)) "$system"
    salt="$(sha256sum <"$system" | cut -c 1-64)"
    uuid="${salt:0:8}-${salt:8:4}-4${salt:13:3}-8${salt:17:3}-${salt:20:12}"
    veritysetup format "$system" "$system" --hash-offset=$((blocks * verity_block_octets)) --data-blocks="$blocks" \
        --hash=sha256 --data-block-size="$verity_block_octets" --hash-block-size="$verity_block_octets" \
        --salt="$salt" --uuid="$uuid" >"$work/verity.txt"
    root_hash="$(sed -n 's/^Root hash:[[:space:]]*//p' "$work/verity.txt")"
    [ -n "$root_hash" ] || die "veritysetup names no root hash; see $work/verity.txt"
}

write_cmdline() {
    local uuid device
    uuid="$(sed -n '/partition system-a/,/}/ s/.*partition-uuid = "\(.*\)"/\1/p' "$image/genimage.cfg")"
    [ -n "$uuid" ] || die "image/genimage.cfg names no partition-uuid of system-a"
    device="PARTUUID=$uuid"
    # The tree begins one block behind the data: between them is verity's superblock, for tools.
    printf '%s root=/dev/dm-0 rootfstype=squashfs ro rootwait init=/usr/lib/systemd/systemd dm-mod.waitfor=%s dm-mod.create="root,,0,ro,0 %d verity 1 %s %s %d %d %d %d sha256 %s %s 1 panic_on_corruption"\n' \
        "$(cat "$image/cmdline")" "$device" $((blocks * verity_block_octets / 512)) "$device" "$device" \
        "$verity_block_octets" "$verity_block_octets" "$blocks" $((blocks + 1)) "$root_hash" "$salt" >"$work/cmdline"
}

# systemd's stub with os-release, arguments and kernel as sections behind its own.
make_uki() {
    local address section file arguments=()
    cp "$TARGET_DIR/usr/lib/os-release" "$work/osrel"
    cp "$binaries/bzImage" "$work/vmlinuz"
    # Without its line's end, which the stub would pass on.
    tr -d '\n' <"$work/cmdline" >"$work/cmdline.section"
    local size start
    address=0
    while read -r size start; do
        if [ $((16#$size + 16#$start)) -gt "$address" ]; then address=$((16#$size + 16#$start)); fi
    done < <(objdump -h "$stub" | awk 'NF == 7 && $1 ~ /^[0-9]+$/ { print $3, $4 }')
    [ "$address" -gt 0 ] || die "$stub has no sections"
    for section in osrel:osrel cmdline:cmdline.section linux:vmlinuz; do
        file="$work/${section#*:}"
        address=$(((address + 4095) / 4096 * 4096))
        arguments+=(--add-section ".${section%:*}=$file" --change-section-vma ".${section%:*}=$address")
        address=$((address + $(stat -c %s "$file")))
    done
    objcopy "${arguments[@]}" "$stub" "$work/sternpost.efi"
}

make_esp() {
    local esp="$work/esp.vfat"
    printf 'timeout 0\nconsole-mode keep\neditor no\n' >"$work/loader.conf"
    cp "$loader" "$work/loader.efi"
    touch -d "@${SOURCE_DATE_EPOCH:-1767225600}" "$work"/{loader.conf,loader.efi,sternpost.efi}
    truncate -s 128M "$esp"
    mformat -i "$esp" -F -N 5742d65f -v STERNPOST-E ::
    mmd -i "$esp" ::EFI ::EFI/BOOT ::EFI/Linux ::EFI/systemd ::loader
    mcopy -m -i "$esp" "$work/loader.efi" ::EFI/BOOT/BOOTX64.EFI
    mcopy -m -i "$esp" "$work/loader.efi" ::EFI/systemd/systemd-bootx64.efi
    mcopy -m -i "$esp" "$work/sternpost.efi" ::EFI/Linux/sternpost-a.efi
    mcopy -m -i "$esp" "$work/loader.conf" ::loader/loader.conf
}

make_disk() {
    mkdir -p "$work/genimage/root"
    genimage --loglevel 1 --config "$image/genimage.cfg" --rootpath "$work/genimage/root" --tmppath "$work/genimage/tmp" \
        --inputpath "$work" --outputpath "$output"
}

write_sizes() {
    local kernel total
    kernel="$(stat -c %s "$work/vmlinuz")"
    total=$((squashfs_octets + kernel))
    printf '%-40s %11s octets\n' "root (squashfs, zstd)" "$squashfs_octets" "kernel" "$kernel" "together" "$total" \
        "hash tree" $(($(stat -c %s "$work/system.img") - blocks * verity_block_octets)) >"$output/sizes.txt"
    [ $total -le $((compressed_mib_max << 20)) ] || die "root and kernel take $total octets, more than $compressed_mib_max MiB"
}

rm -rf "$work" "$output"
mkdir -p "$work" "$output"
find_efi
make_system
write_cmdline
make_uki
make_esp
make_disk
cp "$work/vmlinuz" "$work/cmdline" "$work/sternpost.efi" "$output/"
# Some loaders want one: an archive without a file.
cpio --quiet -o -H newc </dev/null >"$output/initrd"
write_sizes
(cd "$output" && sha256sum -- * >SHA256SUMS)
rm -rf "$work"
