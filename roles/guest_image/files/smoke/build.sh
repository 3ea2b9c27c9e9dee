#!/usr/bin/env bash
# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Builds the smoke-test guest from the packages of a Debian-family host:
#
#   build.sh FOLDER/NAME.qcow2    writes NAME.qcow2, NAME.vmlinuz, NAME.initrd and NAME.json (what went into it)
#
# Needs neither root nor loop devices, mounts or chroots: debugfs and mtools write into the file systems.
# The disk boots from BIOS (syslinux) and UEFI (systemd-boot):
#
#   | MBR | FAT: boot loaders, kernel, initramfs | ext4, label smoke-root |

set -Eeuo pipefail
trap 'echo "smoke: the build failed in line $LINENO: $BASH_COMMAND" >&2' ERR
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
umask 022

readonly BOOT_MIB=32 ROOT_MIB=128
readonly KERNELS="linux-image-cloud-amd64 linux-image-virtual linux-image-amd64"  # the first that the host's apt knows
readonly PROGRAMS="dash dropbear-bin qemu-guest-agent"
readonly CMDLINE="console=tty0 console=ttyS0 quiet loglevel=4 mitigations=off random.trust_cpu=on cryptomgr.notests \
no_timer_check net.ifnames=0"

# Spelt out, so that the host's mke2fs.conf has no say.
readonly ROOT_FEATURES=none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,\
dir_nlink,extra_isize

# The same input gives the same image: no clock, no chance.
readonly EPOCH=1700000000
readonly ROOT_UUID=5a0ce000-0000-4000-8000-000000000001 BOOT_ID=5A0CE001 DISK_ID=0x5a0ce002
export SOURCE_DATE_EPOCH=$EPOCH E2FSPROGS_FAKE_TIME=$EPOCH TZ=UTC

# Loaded by the initramfs to reach the root file system, tried in turn, and by the guest afterwards.
readonly DISK_MODULES="ext4 virtio_pci virtio_mmio virtio_blk"
readonly OTHER_DISK_MODULES="virtio_scsi sd_mod nvme ahci ata_piix"
readonly GUEST_MODULES="virtio_rng virtio_net isofs vfat nls_ascii nls_cp437 virtio_scsi sd_mod ata_piix sr_mod button evdev virtio_console \
virtio_balloon virtiofs"

main() {
    local image=$1
    recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    mkdir -p "$(dirname "$image")"
    folder=$(cd "$(dirname "$image")" && pwd)
    name=$(basename "$image" .qcow2)

    # One build at a time. The lock ends with its holder, so what an earlier build left behind is certainly dead.
    exec 9>"$folder/.smoke.lock"
    flock 9
    rm -rf "$folder"/.smoke-build.*
    if [[ -e $folder/$name.qcow2 ]]; then
        return
    fi
    work=$(mktemp -d "$folder/.smoke-build.XXXXXX")
    trap 'rm -rf "$work"' EXIT

    fetch_packages
    unpack_packages
    make_root_tree
    make_initramfs
    make_boot_partition
    make_root_partition
    make_disk
    publish
}

die() {
    echo "smoke: $*" >&2
    exit 1
}

# ---- packages

# Runs apt on the host's package lists, or on our own after refresh_lists.
lists=()
apt() {
    local program=$1
    shift
    "$program" -q -o APT::Sandbox::User=root "${lists[@]}" "$@"
}

refresh_lists() {
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
    lists=(-o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache")
    apt apt-get update >"$work/apt.log" 2>&1 || die "apt-get update failed: $(tail -n 3 "$work/apt.log")"
}

fetch_packages() {
    mkdir "$work/packages"
    download && return
    # No package lists, or lists so old that the mirror no longer has what they name.
    refresh_lists
    download || die "cannot fetch the packages: $(tail -n 3 "$work/apt.log")"
}

download() {
    local kernel packages
    kernel=$(kernel_packages) || return
    # shellcheck disable=SC2086  # lists of words
    packages=$(with_libraries busybox-static systemd-boot-efi $PROGRAMS) || return
    # shellcheck disable=SC2086  # lists of words
    (cd "$work/packages" && apt apt-get download $kernel $packages) >"$work/apt.log" 2>&1
}

# Print the packages that a meta package of the kernel stands for.
kernel_packages() {
    local meta image
    for meta in $KERNELS; do
        image=$(depends "$meta" | grep -m 1 '^linux-image-[0-9]') || continue
        echo "$image"
        depends "$image" | grep '^linux-modules-[0-9]' || true
        return
    done
    echo "none of $KERNELS is known to apt" >"$work/apt.log"
    return 1
}

depends() {
    apt apt-cache --important depends "$@" 2>/dev/null | sed -n 's/^ .*Depends: \([^<]*\)$/\1/p'
}

# Print packages and all libraries that they depend on.
with_libraries() {
    local all found
    all=$(printf '%s\n' "$@" | sort -u)
    while :; do
        # shellcheck disable=SC2086  # a list of words
        found=$({ echo "$all"; depends $all | grep -E '^(lib|zlib)'; } | sort -u)
        [[ $found != "$all" ]] || break
        all=$found
    done
    echo "$all"
}

# One tree, whether the release has merged /usr yet or not.
unpack_packages() {
    local package folder
    packages=$work/unpacked
    for folder in bin sbin lib lib64; do
        mkdir -p "$packages/usr/$folder"
        ln -s "usr/$folder" "$packages/$folder"
    done
    for package in "$work"/packages/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x --no-same-owner --keep-directory-symlink -C "$packages"
    done
    kernel_version=$(basename "$packages"/usr/lib/modules/*)
    depmod -b "$packages" "$kernel_version"
}

# ---- the guest's files

make_root_tree() {
    local applet mode file path
    root=$work/root
    mkdir -p "$root"/{bin,sbin,dev,proc,sys,run,tmp,mnt,home,root,usr/bin,usr/sbin,lib64,var/lib/smoke,lib/smoke/modules}
    mkdir -p "$root"/etc/{acpi/PWRF,dropbear}
    chmod 1777 "$root/tmp"
    chmod 700 "$root/root" "$root/etc/dropbear"

    cp "$packages/bin/busybox" "$root/bin/busybox"
    for applet in $("$root/bin/busybox" --list); do
        [[ -e $root/bin/$applet ]] || ln -s busybox "$root/bin/$applet"
    done
    ln -s ../bin/busybox "$root/sbin/init"
    # The one program that has to become root. With that bit on all of busybox, id would say root to everyone.
    rm "$root/bin/su"
    install -m 4755 "$packages/bin/busybox" "$root/bin/su"

    grep -E '^[0-7]{4} ' "$recipe/manifest" | while read -r mode file path; do
        rm -f "$root/$path"
        install -m "$mode" "$recipe/$file" "$root/$path"
    done
    echo root:x:0:0:root:/root:/bin/sh >"$root/etc/passwd"
    echo root::19000:::::: >"$root/etc/shadow"
    echo root:x:0: >"$root/etc/group"
    echo /bin/sh >"$root/etc/shells"
    chmod 600 "$root/etc/shadow"

    # busybox as the shell would run its own su and poweroff, not the files of these names.
    rm "$root/bin/sh"
    add_program bin/sh bin/dash
    add_program usr/sbin/dropbear
    add_program usr/bin/dropbearkey
    add_program usr/bin/dropbearconvert
    add_program usr/sbin/qemu-ga
    # shellcheck disable=SC2086  # a list of words
    add_modules "$root/lib/smoke/modules" $GUEST_MODULES
}

# Copies a program and the libraries that the loader says it needs: add_program PATH [PATH IN THE PACKAGES]
add_program() {
    local program=$packages/${2:-$1} loader=/lib64/ld-linux-x86-64.so.2 library
    local search=$packages/usr/lib/x86_64-linux-gnu:$packages/usr/lib
    cp "$program" "$root/$1"
    cp -L "$packages$loader" "$root$loader"
    "$packages$loader" --library-path "$search" --list "$program" >"$work/libraries"
    if grep 'not found' "$work/libraries" >&2; then
        die "$1 lacks a library"
    fi
    sed -n 's/.* => \(.*\) (0x.*/\1/p' "$work/libraries" | while read -r library; do
        cp -L "$library" "$root/lib/${library##*/}"
    done
}

# Copies modules and those that they need, numbered in the order of loading: add_modules FOLDER MODULE...
add_modules() {
    local target=$1 module path number=10
    shift
    mkdir -p "$target"
    for module in "$@"; do
        # What is built into the kernel, or not there, has no file.
        modprobe -d "$packages" -S "$kernel_version" --show-depends "$module" 2>/dev/null || true
    done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' | while read -r path; do
        module=$(basename "$path")
        plain "$path" >"$target/$number-${module%%.*}.ko"
        number=$((number + 1))
    done
}

# Print a file that may be compressed.
plain() {
    case $1 in
    *.xz) "$packages/bin/busybox" xzcat <"$1" ;;
    *.zst) zstd -dcq <"$1" ;;
    *) cat "$1" ;;
    esac
}

# ---- kernel and initramfs

make_initramfs() {
    local tree=$work/initramfs applet
    mkdir -p "$tree"/{bin,proc,sys,dev,new,modules}
    cp "$packages/bin/busybox" "$tree/bin/"
    for applet in sh mount insmod findfs switch_root usleep; do
        ln -s busybox "$tree/bin/$applet"
    done
    install -m 755 "$recipe/initramfs-init" "$tree/init"
    # shellcheck disable=SC2086  # lists of words
    {
        add_modules "$tree/modules/virtio" $DISK_MODULES
        add_modules "$tree/modules/other" $OTHER_DISK_MODULES
    }
    find "$tree" -exec touch -h -d "@$EPOCH" {} +
    (cd "$tree" && find . | sort | cpio -o -H newc -R 0:0 --reproducible --quiet) | gzip -9n >"$work/$name.initrd"
    cp "$packages/boot/vmlinuz-$kernel_version" "$work/$name.vmlinuz"
}

# ---- disk

make_boot_partition() {
    boot=$work/boot.img
    local fat="-i $boot"
    truncate -s "${BOOT_MIB}M" "$boot"
    mkfs.vfat --invariant -i "$BOOT_ID" -n SMOKEBOOT "$boot" >/dev/null
    syslinux --install "$boot"

    printf '%s\n' 'SERIAL 0 115200' 'DEFAULT smoke' 'PROMPT 0' 'LABEL smoke' \
        ' LINUX /vmlinuz' ' INITRD /initrd' " APPEND $CMDLINE" >"$work/syslinux.cfg"
    printf '%s\n' 'default smoke' 'timeout 0' >"$work/loader.conf"
    printf '%s\n' 'title smoke' 'linux /vmlinuz' 'initrd /initrd' "options $CMDLINE" >"$work/smoke.conf"

    # shellcheck disable=SC2086  # $fat is two words
    {
        mmd $fat ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries
        mcopy $fat "$packages/usr/lib/systemd/boot/efi/systemd-bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
        mcopy $fat "$work/loader.conf" ::/loader/
        mcopy $fat "$work/smoke.conf" ::/loader/entries/
        mcopy $fat "$work/syslinux.cfg" ::/
        mcopy $fat "$work/$name.vmlinuz" ::/vmlinuz
        mcopy $fat "$work/$name.initrd" ::/initrd
    }
}

# debugfs makes every file root's, whoever builds, and with the time of E2FSPROGS_FAKE_TIME.
make_root_partition() {
    root_image=$work/root.img
    truncate -s "${ROOT_MIB}M" "$root_image"
    mke2fs -q -t ext4 -O "$ROOT_FEATURES" -L smoke-root -U "$ROOT_UUID" -b 4096 -I 256 -N 4096 -J size=4 -m 0 \
        -E "root_owner=0:0,hash_seed=$ROOT_UUID,lazy_itable_init=0" "$root_image"
    debugfs_commands >"$work/debugfs.commands"
    debugfs -w -f "$work/debugfs.commands" "$root_image" >"$work/debugfs.log" 2>"$work/debugfs.errors"
    if grep -v '^debugfs [0-9]' "$work/debugfs.errors" >&2 || ! e2fsck -fn "$root_image" >"$work/e2fsck.log" 2>&1; then
        die "cannot fill the root file system: $(cat "$work/e2fsck.log" 2>/dev/null)"
    fi
}

# Print the commands that copy the root tree. write knows no folders, hence cd; set_inode_field wants the type as well.
debugfs_commands() {
    local type mode path target
    (cd "$root" && find . -mindepth 1 -printf '%y %m %P %l\n' | sort -k 3,3) | while read -r type mode path target; do
        echo "cd /$(dirname "$path")"
        set -- "$(basename "$path")"
        case $type in
        d) printf '%s\n' "mkdir $1" "set_inode_field $1 mode 04$(printf %04o "0$mode")" ;;
        l) echo "symlink $1 $target" ;;
        f) printf '%s\n' "write $root/$path $1" "set_inode_field $1 mode 010$(printf %04o "0$mode")" ;;
        esac
    done
}

make_disk() {
    local disk=$work/disk.raw
    truncate -s "$((1 + BOOT_MIB + ROOT_MIB))M" "$disk"
    sfdisk -q "$disk" <<TABLE
label: dos
label-id: $DISK_ID
start=1MiB, size=${BOOT_MIB}MiB, type=ef, bootable
start=$((1 + BOOT_MIB))MiB, type=83
TABLE
    dd if=/usr/lib/syslinux/mbr/mbr.bin of="$disk" bs=440 count=1 conv=notrunc status=none
    dd if="$boot" of="$disk" bs=1M seek=1 conv=notrunc,sparse status=none
    dd if="$root_image" of="$disk" bs=1M seek="$((1 + BOOT_MIB))" conv=notrunc,sparse status=none
    qemu-img convert -c -O qcow2 "$disk" "$work/$name.qcow2"
}

# The image comes last: where it is, all of it is.
publish() {
    local kind
    describe >"$work/$name.json"
    for kind in vmlinuz initrd json qcow2; do
        chmod 0444 "$work/$name.$kind"
        sync "$work/$name.$kind"
        mv -f "$work/$name.$kind" "$folder/$name.$kind"
    done
}

describe() {
    local package separator=''
    echo '{'
    echo "  \"image\": \"$name.qcow2\","
    echo "  \"sha256\": \"$(sha256sum "$work/$name.qcow2" | cut -d ' ' -f 1)\","
    echo "  \"kernel\": \"$kernel_version\","
    echo "  \"cmdline\": \"$CMDLINE\","
    echo '  "packages": {'
    for package in "$work"/packages/*.deb; do
        # shellcheck disable=SC2016  # for dpkg-deb
        printf '%s    %s' "$separator" "$(dpkg-deb -W --showformat '"${Package}": "${Version}"' "$package")"
        separator=$',\n'
    done
    printf '\n  }\n}\n'
}

main "$@"
