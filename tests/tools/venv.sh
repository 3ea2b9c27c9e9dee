#!/usr/bin/env bash
# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# venv.sh GROUP...: makes .venv and installs requirements/GROUP.txt for each GROUP, unless that is done already.
# A copy of each installed requirements file stays in .venv, so that only a changed file costs time again.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/tools/common.sh

VENV=.venv
COLLECTIONS=$VENV/collections/ansible_collections/cloudnebula

# The scripts in a virtual environment hold its path: one that was moved or lost its Python is made anew.
venv_works() {
  [ "$(cat "$VENV/.made-in" 2>/dev/null)" = "$PWD" ] && "$VENV/bin/python" -c '' 2>/dev/null
}

make_venv() {
  local python
  python=$(tests/tools/python.sh)
  say "Making .venv with $("$python" -V 2>&1) ($python)"
  rm -rf "$VENV"
  "$python" -m venv "$VENV"
  "$VENV/bin/python" -m pip install -q --disable-pip-version-check uv 2>/dev/null ||
    say "uv is not to be had here: using pip, which is slower"
  printf '%s\n' "$PWD" >"$VENV/.made-in"
}

install_files() {
  local file arguments=()
  for file in "$@"; do arguments+=(-r "$file"); done
  if [ -x "$VENV/bin/uv" ] && "$VENV/bin/uv" pip install -q --python "$VENV/bin/python" "${arguments[@]}" 2>/dev/null; then
    return 0
  fi
  "$VENV/bin/python" -m pip install -q --disable-pip-version-check "${arguments[@]}"
}

venv_works || make_venv
# Ansible finds the collection by this path; the link makes every edit live.
mkdir -p "$COLLECTIONS"
[ "$COLLECTIONS/hypervisor" -ef . ] || ln -sfn ../../../.. "$COLLECTIONS/hypervisor"

groups=() files=()
for group in "$@"; do
  cmp -s "requirements/$group.txt" "$VENV/.installed-$group" && continue
  groups+=("$group")
  files+=("requirements/$group.txt")
done
[ ${#groups[@]} -gt 0 ] || exit 0
say "Installing into .venv: ${files[*]}"
install_files "${files[@]}" || die "could not install the Python packages (pip's output is above)"
for group in "${groups[@]}"; do cp "requirements/$group.txt" "$VENV/.installed-$group"; done
