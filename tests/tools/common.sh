# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash
#
# Sourced by the other scripts: how they speak, and how a Debian-family host gets a missing package.

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# can_apt: true where this script may install packages, which is as root on a Debian-family host.
can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# apt_install PACKAGE...: installs without questions; says what apt said only when it fails.
apt_install() {
  local log
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  if apt-get install -qq -y --no-install-recommends "$@" </dev/null >"$log" 2>&1 ||
    { apt-get update -qq </dev/null >"$log" 2>&1 &&
      apt-get install -qq -y --no-install-recommends "$@" </dev/null >>"$log" 2>&1; }; then
    rm -f "$log"
    return 0
  fi
  cat "$log" >&2
  rm -f "$log"
  return 1
}
