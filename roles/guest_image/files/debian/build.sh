#!/usr/bin/env bash
# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Builds a cloud image of Debian 12 from a Debian mirror:
#
#   build.sh FOLDER/NAME.qcow2 [MIRROR]    writes NAME.qcow2, NAME.vmlinuz, NAME.initrd and NAME.json (what went into it)
#
# Root or, with mmdebstrap's user namespaces, anybody may run it. Needs neither loop devices nor mounts: mmdebstrap fills
# a folder, mke2fs copies that into a file system, mtools writes the other one.
# The disk boots from BIOS (syslinux) and UEFI (systemd-boot):
#
#   | MBR | FAT: boot loaders, kernel, initramfs | ext4, label debian-root: it grows with the disk |

set -Eeuo pipefail
trap 'echo "debian: the build failed in line $LINENO: $BASH_COMMAND" >&2' ERR
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
umask 022

readonly SUITE=bookworm
readonly BOOT_MIB=128 ROOT_MIB=1900
readonly DEFAULT_MIRROR=http://deb.debian.org/debian
readonly KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

readonly PACKAGES="linux-image-cloud-amd64 initramfs-tools zstd systemd-sysv systemd-resolved systemd-boot-efi dbus udev kmod \
libpam-systemd openssh-server cloud-init cloud-guest-utils qemu-guest-agent e2fsprogs sudo python3 iproute2 procps less \
ca-certificates"

main() {
    local image=$1
    mirror=${2:-}
    recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    mkdir -p "$(dirname "$image")"
    folder=$(cd "$(dirname "$image")" && pwd)
    name=$(basename "$image" .qcow2)

    # One build at a time. The lock ends with its holder, so what an earlier build left behind is certainly dead.
    exec 9>"$folder/.debian.lock"
    flock 9
    if [[ -e $folder/$name.qcow2 ]]; then
        return
    fi
    make_work_folder
    find_mirror
    bootstrap
    make_boot_partition
    make_disk
    publish
}

die() {
    echo "debian: $*" >&2
    exit 1
}

# Root builds beside the image. For others, the users of mmdebstrap's namespace have to reach the folder, so it is /tmp.
make_work_folder() {
    if [[ $(id -u) == 0 ]]; then
        mode=root
        rm -rf "$folder"/.debian-build.*
        work=$(mktemp -d "$folder/.debian-build.XXXXXX")
    else
        mode=unshare
        work=$(mktemp -d "${TMPDIR:-/tmp}/debian-build.XXXXXX")
    fi
    trap 'rm -rf --one-file-system "$work"' EXIT
    chmod 755 "$work"
    mkdir -m 1777 "$work/tmp"
    mkdir -m 777 "$work/out"
    cp -r "$recipe" "$work/recipe"
    chmod -R a+rX "$work/recipe"
}

# ---- packages

# The mirror that the host itself uses, if the host is a Debian.
find_mirror() {
    local targets codename
    if [[ -n $mirror ]]; then
        mirror=${mirror%/}
        security=$mirror-security
        return
    fi
    # shellcheck disable=SC2016  # for apt-get
    targets=$(apt-get indextargets --format '$(COMPONENT) $(RELEASE) $(REPO_URI)' 'Created-By: Packages')
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && [[ $ID == debian ]] && echo "$VERSION_CODENAME" || echo "$SUITE")
    mirror=$(sed -n "s,^main $codename \(.*[^/]\)/*$,\1,p" <<<"$targets" | head -n 1)
    security=$(sed -n "s,^main $codename-security \(.*[^/]\)/*$,\1,p" <<<"$targets" | head -n 1)
    mirror=${mirror:-$DEFAULT_MIRROR}
    security=${security:-$DEFAULT_MIRROR-security}
}

# The hooks run in the namespace in which the tree's files are root's. They leave their work in $work/out, and the tree is
# thrown away: there is nothing for mmdebstrap to clean up.
bootstrap() {
    truncate -s "${ROOT_MIB}M" "$work/out/root.img"
    chmod 666 "$work/out/root.img"
    # shellcheck disable=SC2086  # a list of words
    TMPDIR=$work/tmp mmdebstrap --quiet --mode="$mode" --variant=minbase --architectures=amd64 --format=null --skip=cleanup \
        --keyring="$KEYRING" --include="$(tr ' ' ',' <<<$PACKAGES)" --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt="$work/recipe/dpkg.cfg" --dpkgopt=force-unsafe-io \
        --extract-hook="bash $work/recipe/hook before \"\$1\"" \
        --customize-hook="bash $work/recipe/hook after \"\$1\" $work/out" \
        "$SUITE" /dev/null - <<SOURCES >"$work/bootstrap.log" 2>&1 || die "cannot bootstrap from $mirror: $(tail -n 5 "$work/bootstrap.log")"
deb $mirror $SUITE main
deb $mirror $SUITE-updates main
deb $security $SUITE-security main
SOURCES
}

# ---- disk

make_boot_partition() {
    boot=$work/boot.img
    local fat="-i $boot" cmdline
    cmdline=$(<"$recipe/cmdline")
    truncate -s "${BOOT_MIB}M" "$boot"
    mkfs.vfat -n DEBIAN-BOOT "$boot" >/dev/null
    syslinux --install "$boot"

    printf '%s\n' 'SERIAL 0 115200' 'DEFAULT debian' 'PROMPT 0' 'LABEL debian' \
        ' LINUX /vmlinuz' ' INITRD /initrd' " APPEND $cmdline" >"$work/syslinux.cfg"
    printf '%s\n' 'default debian' 'timeout 0' >"$work/loader.conf"
    printf '%s\n' 'title Debian' 'linux /vmlinuz' 'initrd /initrd' "options $cmdline" >"$work/debian.conf"

    # shellcheck disable=SC2086  # $fat is two words
    {
        mmd $fat ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries
        mcopy $fat "$work/out/bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
        mcopy $fat "$work/loader.conf" ::/loader/
        mcopy $fat "$work/debian.conf" ::/loader/entries/
        mcopy $fat "$work/syslinux.cfg" ::/
        mcopy $fat "$work/out/vmlinuz" ::/vmlinuz
        mcopy $fat "$work/out/initrd" ::/initrd
    }
}

make_disk() {
    local disk=$work/disk.raw
    truncate -s "$((2 + BOOT_MIB + ROOT_MIB))M" "$disk"
    sfdisk -q "$disk" <<TABLE
label: dos
start=1MiB, size=${BOOT_MIB}MiB, type=ef, bootable
start=$((1 + BOOT_MIB))MiB, size=${ROOT_MIB}MiB, type=83
TABLE
    dd if=/usr/lib/syslinux/mbr/mbr.bin of="$disk" bs=440 count=1 conv=notrunc status=none
    dd if="$boot" of="$disk" bs=1M seek=1 conv=notrunc,sparse status=none
    dd if="$work/out/root.img" of="$disk" bs=1M seek="$((1 + BOOT_MIB))" conv=notrunc,sparse status=none
    qemu-img convert -c -O qcow2 -o compression_type=zstd "$disk" "$work/$name.qcow2"
}

# The image comes last: where it is, all of it is.
publish() {
    local kind
    cp "$work/out/vmlinuz" "$work/$name.vmlinuz"
    cp "$work/out/initrd" "$work/$name.initrd"
    describe >"$work/$name.json"
    for kind in vmlinuz initrd json qcow2; do
        # First into the folder, which may lie on another file system, under a name that nobody looks for.
        cp --sparse=always "$work/$name.$kind" "$folder/.$name.$kind.part"
        chmod 0444 "$folder/.$name.$kind.part"
        sync "$folder/.$name.$kind.part"
        mv -f "$folder/.$name.$kind.part" "$folder/$name.$kind"
    done
}

describe() {
    echo '{'
    echo "  \"image\": \"$name.qcow2\","
    echo "  \"sha256\": \"$(sha256sum "$work/$name.qcow2" | cut -d ' ' -f 1)\","
    echo "  \"kernel\": \"$(<"$work/out/kernel")\","
    echo "  \"cmdline\": \"$(<"$recipe/cmdline")\","
    echo '  "packages": {'
    sed '$!s/$/,/; s/^/    /' "$work/out/packages"
    printf '  }\n}\n'
}

main "$@"
