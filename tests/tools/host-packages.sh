#!/usr/bin/env bash
# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# host-packages.sh SET...: sees to it that the host has the programs of each SET. What is there already is taken as it
# is, wherever it came from; the rest comes from apt-get (as root on a Debian-family host) or is named.
set -euo pipefail
. "$(dirname "$0")/common.sh"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# set, Debian package, the program or file that proves it is there
TABLE='
run    qemu-system-x86  qemu-system-x86_64
run    qemu-utils       qemu-img
run    openssh-client   ssh
test   ovmf             /usr/share/OVMF/OVMF_CODE_4M.fd
test   swtpm            swtpm
test   genisoimage      genisoimage
test   xorriso          xorriso
test   iproute2         ip
test   procps           ps
test   socat            socat
test   dnsmasq-base     dnsmasq
test   nftables         nft
test   busybox-static   busybox
test   systemd          systemd-analyze
test   docker-registry  docker-registry
test   openssl          openssl
test   zstd             zstd
test   xz-utils         xz

guest  syslinux         syslinux
guest  syslinux-common  /usr/lib/syslinux/mbr/mbr.bin
guest  mtools           mcopy
guest  dosfstools       mkfs.vfat
guest  fdisk            sfdisk
guest  e2fsprogs        mkfs.ext4
guest  kmod             depmod
guest  cpio             cpio
guest  mmdebstrap       mmdebstrap
guest  debian-archive-keyring /usr/share/keyrings/debian-archive-keyring.gpg
make   make             make
lint   shellcheck       shellcheck
ci     openssh-server   sshd
'

present() { case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null ;; esac; }

packages=() proofs=()
while read -r set package proof; do
  case " $* " in *" $set "*) ;; *) continue ;; esac
  present "$proof" && continue
  packages+=("$package")
  proofs+=("$proof")
done <<<"$(grep . <<<"$TABLE")"
[ ${#packages[@]} -gt 0 ] || exit 0

# Some packages bring a service that would listen at once, and again after each start of the host. The tests start what
# they need by themselves. policy-rc.d is how Debian lets a host say that packages start nothing.
POLICY=/usr/sbin/policy-rc.d
SERVICES='docker-registry'

without_services() {
  local service status=0
  if [ ! -e "$POLICY" ]; then
    trap 'rm -f "$POLICY"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
  fi
  "$@" || status=$?
  for service in $SERVICES; do
    case " ${packages[*]} " in
      *" $service "*) systemctl disable --quiet "$service" 2>/dev/null || update-rc.d "$service" disable || true ;;
    esac
  done
  return "$status"
}

if can_apt; then
  say "Installing with apt-get, for $*: ${packages[*]}"
  without_services apt_install "${packages[@]}" || die "apt-get could not install the packages (its output is above)"
  exit 0
fi
say "error: this host lacks: ${proofs[*]}"
if command -v apt-get >/dev/null; then
  say "Install them, then try again: sudo apt-get install --no-install-recommends ${packages[*]}"
else
  say "Install them, then try again. Debian's packages are called: ${packages[*]}"
fi
exit 1
