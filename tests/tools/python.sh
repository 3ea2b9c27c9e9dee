#!/usr/bin/env bash
# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Prints the path of a Python that can make a virtual environment. On PATH, "python3.13" may be a stub that does
# not start, and Debian's python3 may lack ensurepip: each candidate is tried by running it.
set -euo pipefail
. "$(dirname "$0")/common.sh"

CHECK='import sys, venv, ensurepip; sys.version_info >= (3, 10) or sys.exit(1); print(sys.executable)'

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 /usr/bin/python3}; do
    "$candidate" -c "$CHECK" 2>/dev/null </dev/null && return 0
  done
  return 1
}

find_python && exit 0
[ -z "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not a Python >= 3.10 with the venv and ensurepip modules"
if can_apt; then
  say "Installing python3 and python3-venv with apt-get: no Python >= 3.10 with venv was found"
  apt_install python3 python3-venv || die "apt-get could not install python3 and python3-venv (its output is above)"
  find_python && exit 0
  die "this system's own Python is older than 3.10: install a newer one, then run: make PYTHON=/path/to/python3"
fi
say "error: no Python >= 3.10 with the venv and ensurepip modules was found. Install one, for example:"
if command -v apt-get >/dev/null; then
  say "  sudo apt-get install python3 python3-venv"
elif command -v dnf >/dev/null; then
  say "  sudo dnf install python3"
fi
say "or name one: make PYTHON=/path/to/python3"
exit 1
