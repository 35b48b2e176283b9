# shellcheck shell=bash disable=SC2154
# image/assembly.sh — how a disk is put together of a root and a kernel, the same for both builders (image/build and
# buildroot/board/sternpost/): sourced, not run. Who sources it sets
#   work                the folder of what is being made
#   SOURCE_DATE_EPOCH   the time of every file
# and has a function `die`. No root, loop devices or mounts; the same input gives the same octets.

assembly_folder=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
verity_block_octets=4096

# The version of the switch.
switch_version() { sed -n 's/^version = "\(.*\)"/\1/p' "$assembly_folder/../Cargo.toml" | head -n 1; }

# Who the root says it is: ROOT, and whose packages it is made of.
write_os_release() {
    local root=$1 version
    version=$(switch_version)
    rm -f "$root/etc/os-release"
    cat >"$root/usr/lib/os-release" <<END
NAME=Sternpost
ID=sternpost
ID_LIKE=$2
PRETTY_NAME="Sternpost $version"
VERSION_ID=$version
IMAGE_ID=sternpost
IMAGE_VERSION=$version
END
    ln -s ../usr/lib/os-release "$root/etc/os-release"
}

# Nobody is to log in at ROOT.
check_no_shell() {
    local name
    for name in sh bash dash ash busybox login agetty getty sulogin su sudo; do
        [ -z "$(find "$1" -name "$name" -print -quit)" ] || die "the root has a $name, and nobody is to log in"
    done
}

# The same modes from any checkout and umask below ROOT; mount and umount are for root alone here.
set_modes() {
    find "$1" -type f -perm /6000 -exec chmod a-s {} +
    find "$1" -type d -exec chmod 755 {} +
    find "$1" -type f -perm /111 -exec chmod 755 {} +
    find "$1" -type f ! -perm /111 -exec chmod 644 {} +
    [ ! -e "$1/etc/shadow" ] || chmod 600 "$1/etc/shadow"
}

# Lays the hash tree behind the squashfs in $work/system.img. Sets squashfs_octets, blocks, salt and root_hash.
add_hash_tree() {
    local image=$work/system.img uuid
    squashfs_octets=$(stat -c %s "$image")
    blocks=$(((squashfs_octets + verity_block_octets - 1) / verity_block_octets))
    truncate -s $((blocks * verity_block_octets)) "$image"
    # Salt and UUID follow from the content: the same content, the same tree.
    salt=$(sha256sum <"$image" | cut -c 1-64)
    uuid=${salt:0:8}-${salt:8:4}-4${salt:13:3}-8${salt:17:3}-${salt:20:12}
    veritysetup format "$image" "$image" --hash-offset=$((blocks * verity_block_octets)) --data-blocks="$blocks" \
        --hash=sha256 --data-block-size=$verity_block_octets --hash-block-size=$verity_block_octets \
        --salt="$salt" --uuid="$uuid" >"$work/verity.txt"
    root_hash=$(sed -n 's/^Root hash:[[:space:]]*//p' "$work/verity.txt")
    [ -n "$root_hash" ] || die "veritysetup names no root hash; see $work/verity.txt"
}

# Octets of the hash tree.
hash_tree_octets() { echo $(($(stat -c %s "$work/system.img") - blocks * verity_block_octets)); }

# PARTUUID of slot A.
system_partition_uuid() {
    local uuid
    uuid=$(sed -n '/partition system-a/,/}/ s/.*partition-uuid = "\(.*\)"/\1/p' "$assembly_folder/genimage.cfg")
    [ -n "$uuid" ] || die "image/genimage.cfg names no partition-uuid of system-a"
    echo "$uuid"
}

# The unified kernel image $work/sternpost.efi: the stub STUB with $work/cmdline and each SECTION:FILE behind its own sections.
make_uki() {
    local stub=$1 address size place section arguments=()
    shift
    address=0
    while read -r size place; do
        [ $((16#$size + 16#$place)) -le $address ] || address=$((16#$size + 16#$place))
    done < <(objdump -h "$stub" | awk 'NF == 7 && $1 ~ /^[0-9]+$/ { print $3, $4 }')
    [ $address -gt 0 ] || die "$stub has no sections"
    # Without its line's end, which the stub would pass on.
    tr -d '\n' <"$work/cmdline" >"$work/cmdline.section"
    for section in cmdline:"$work/cmdline.section" "$@"; do
        address=$(((address + 4095) / 4096 * 4096))
        arguments+=(--add-section ".${section%%:*}=${section#*:}" --change-section-vma ".${section%%:*}=$address")
        address=$((address + $(stat -c %s "${section#*:}")))
    done
    objcopy "${arguments[@]}" "$stub" "$work/sternpost.efi"
    stamp_uki "$work/sternpost.efi"
}

# objcopy writes the time of day into the header and covers it with a checksum. The PE header's place stands at octet 60; the
# time is 8 octets behind it, the checksum 88. No firmware looks at the checksum of an image like this: it becomes 0, "none".
stamp_uki() {
    local place
    place=$(od -An -t u4 -j 60 -N 4 "$1")
    printf '%08x' "$SOURCE_DATE_EPOCH" | sed 's/\(..\)\(..\)\(..\)\(..\)/\\x\4\\x\3\\x\2\\x\1/' | xargs -0 printf '%b' |
        dd of="$1" bs=1 seek=$((place + 8)) conv=notrunc status=none
    dd if=/dev/zero of="$1" bs=1 count=4 seek=$((place + 88)) conv=notrunc status=none
}

# The ESP $work/esp.vfat: systemd-boot, which is LOADER, and the UKI of slot A.
make_esp() {
    local esp=$work/esp.vfat
    printf 'timeout 0\nconsole-mode keep\neditor no\n' >"$work/loader.conf"
    cp "$1" "$work/loader.efi"
    touch -d "@$SOURCE_DATE_EPOCH" "$work"/{loader.conf,loader.efi,sternpost.efi}
    truncate -s 128M "$esp"
    mformat -i "$esp" -F -N 5742d65f -v STERNPOST-E ::
    mmd -i "$esp" ::EFI ::EFI/BOOT ::EFI/Linux ::EFI/systemd ::loader
    mcopy -m -i "$esp" "$work/loader.efi" ::EFI/BOOT/BOOTX64.EFI
    mcopy -m -i "$esp" "$work/loader.efi" ::EFI/systemd/systemd-bootx64.efi
    mcopy -m -i "$esp" "$work/sternpost.efi" ::EFI/Linux/sternpost-a.efi
    mcopy -m -i "$esp" "$work/loader.conf" ::loader/loader.conf
}

# The disk sternpost.img in FOLDER.
make_disk() {
    mkdir -p "$work/genimage/root"
    genimage --loglevel 1 --config "$assembly_folder/genimage.cfg" --rootpath "$work/genimage/root" \
        --tmppath "$work/genimage/tmp" --inputpath "$work" --outputpath "$1"
}
