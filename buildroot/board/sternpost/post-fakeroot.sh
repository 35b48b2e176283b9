#!/bin/bash
# Buildroot calls this, under fakeroot, with the copy of the target that becomes the root: the switch's users, and nothing that
# the device does not need. Programs, units and rules are those of image/debian/files (the Debian-based image has the same) and
# of `files` beside this script; libraries stay as far as something that stays needs them.
set -euo pipefail
shopt -s nullglob
export LC_ALL=C

root="$1"
here="$(cd "$(dirname "$0")" && pwd)"
image="$(cd "$here/../../../image" && pwd)"

# shellcheck source-path=SCRIPTDIR source=../../../image/assembly.sh
. "$image/assembly.sh"

die() {
    echo "post-fakeroot: $*" >&2
    exit 1
}

# Paths in the root that the lists name, one a line; those of the second list need not be there.
wanted_paths() {
    local pattern path
    sed -e 's/#.*//' "$image/debian/files" "$here/files" | awk '{ for (i = 2; i <= NF; i++) print $i }' |
        while read -r pattern; do
            for path in $(cd "$root" && eval "echo ${pattern#/}"); do
                if [ -e "$root/$path" ] || [ -L "$root/$path" ]; then echo "$path"; else echo "$path" >&3; fi
            done
        done
    (cd "$image/overlay" && find . \( -type f -o -type l \) -printf '%P\n')
    # What preset-all enabled.
    (cd "$root" && find etc/systemd -type l)
}

# Folders that hold what the lists choose from; what is elsewhere is judged by prune_rest.
chosen=(usr/bin usr/sbin usr/libexec usr/lib/systemd usr/lib/udev usr/lib/tmpfiles.d usr/lib/sysctl.d usr/lib/modprobe.d
    usr/lib/modules-load.d usr/lib/sysusers.d usr/lib/environment.d usr/lib/kernel usr/lib/repart.d usr/lib/binfmt.d etc/systemd)

prune_chosen() {
    local work folders=() folder
    work="$(mktemp -d)"
    wanted_paths 3>"$work/absent" | sort -u >"$work/wanted"
    for folder in "${chosen[@]}"; do
        [ ! -d "$root/$folder" ] || folders+=("$folder")
    done
    (cd "$root" && find "${folders[@]}" \( -type f -o -type l \) ! -path 'usr/lib/systemd/libsystemd-*') | sort >"$work/found"
    comm -23 "$work/found" "$work/wanted" | (cd "$root" && xargs -d '\n' -r rm -f)
    if [ -s "$work/absent" ]; then
        echo "post-fakeroot: not in this root: $(sort -u "$work/absent" | tr '\n' ' ')"
    fi
    rm -rf "$work"
}

# This kernel has no modules, and units that deal with them would only fail.
prune_modules() {
    rm -rf "$root"/usr/lib/modules "$root"/usr/lib/modprobe.d "$root"/usr/lib/modules-load.d
    find "$root" \( -name 'systemd-modules-load*' -o -name 'kmod-static-nodes.service' -o -name 'modprobe@.service' \
        -o -name 'sternpost-lock-modules.service' -o -name 'lock-modules.conf' -o -name kmod -o -name modprobe \) \
        ! -type d -delete
}

prune_rest() {
    rm -rf "$root"/usr/share/{bash-completion,zsh,dbus-1,polkit-1,locale,doc,man,info,factory,mime,zoneinfo,aclocal,pkgconfig,et,ss,i18n,gdb,xml,user-tmpfiles.d} \
        "$root"/usr/lib/{dbus-1.0,pkgconfig,engines-3,ossl-modules,rpm,e2fsprogs,gconv,locale,cmake,udev/hwdb.d,systemd/catalog,systemd/user,systemd/user-preset,systemd/user-generators,systemd/user-environment-generators} \
        "$root"/etc/{dbus-1,X11,xdg,init.d,profile,profile.d,pam.d,shells,services,protocols,network,e2scrub.conf,udev/udev.conf,udev/iocost.conf,ssl,issue,resolv.conf,mtab,locale.conf,vconsole.conf,nftables} \
        "${root:?}"/{home,srv,root,opt,mnt,media,boot} "${root:?}"/var/* "$root"/THIS_IS_NOT_YOUR_ROOT_FILESYSTEM
    find "$root/usr/lib" "$root/usr/libexec" -name '*.sh' ! -type d -delete
}

# Libraries that nothing left needs, directly or through another. Those that are opened by name stay.
prune_libraries() {
    local file name changed=1
    local -A needed
    while [ "$changed" = 1 ]; do
        changed=0
        needed=()
        # By a program or library, or by a link to it; readelf complains of scripts.
        while read -r name; do needed["$name"]=1; done < <(
            find "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib" -type f \( -perm /111 -o -name '*.so*' \) -print0 |
                { xargs -0 readelf -d 2>/dev/null || true; } | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u
            find "$root/usr/lib" -maxdepth 1 -type l -name '*.so*' -printf '%l\n'
        )
        for file in "$root"/usr/lib/*.so*; do
            name="${file##*/}"
            case "$name" in
            ld-linux*.so* | libnss_files.so* | libnss_dns.so* | libresolv.so* | libgcc_s.so.*) continue ;;
            esac
            if [ -z "${needed[$name]:-}" ]; then
                rm -f "$file"
                changed=1
            fi
        done
    done
}

# Programs look for their libraries where the root has them, not where they were linked: what somebody puts into a folder of that
# name, below /tmp perhaps, must not become a part of what root runs. Only systemd has a folder of its own.
clean_library_paths() {
    local file paths
    command -v patchelf >/dev/null || die "patchelf is missing, which Buildroot should have made"
    while read -r -d '' file; do
        paths="$(patchelf --print-rpath "$file" 2>/dev/null)" || continue
        case "$paths" in
        "" | /usr/lib/systemd) ;;
        *) patchelf --remove-rpath "$file" || die "$file looks for libraries in $paths, and patchelf does not mend it" ;;
        esac
    done < <(find "$root/usr" -type f \( -perm /111 -o -name '*.so*' \) -print0)
}

check_essential() {
    local path
    for path in usr/bin/sternpost usr/lib/systemd/systemd usr/lib/systemd/systemd-journald usr/lib/systemd/systemd-networkd \
        usr/bin/udevadm usr/bin/systemd-repart usr/sbin/mke2fs usr/sbin/nft usr/bin/mount; do
        [ -e "$root/$path" ] || die "$path is missing: a package of the defconfig did not install it"
    done
}

"$image/accounts" "$root"
rm -f "$root"/etc/{passwd-,group-,shadow-,gshadow,gshadow-}
prune_chosen
prune_rest
cp -r --no-dereference "$image/overlay/." "$root/"
prune_modules
prune_libraries
clean_library_paths
check_no_shell "$root"
check_essential
set_modes "$root"
# Folders that lost all that they had.
find "$root" -mindepth 1 -depth -type d -empty ! -path "$root/etc/*" -regextype posix-extended \
    ! -regex "$root/(dev|proc|sys|run|tmp|var)" -delete
