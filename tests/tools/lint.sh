#!/usr/bin/env bash
# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Runs every linter, one line each, and shows what a linter said where it found something. Run it by "make lint".
#
# The functions are called by their names, which shellcheck cannot see:
# shellcheck disable=SC2317
set -euo pipefail
cd "$(dirname "$0")/../.."

TREE=.venv/collections/ansible_collections/cloudnebula/hypervisor
OUTPUT=$(mktemp)
trap 'rm -f "$OUTPUT"' EXIT
failed=0

check() {
  local name=$1 start=$SECONDS
  shift
  if "$@" </dev/null >"$OUTPUT" 2>&1; then
    printf '%-20s ok (%d s)\n' "$name" $((SECONDS - start))
  else
    printf '%-20s FAILED\n' "$name"
    cat "$OUTPUT"
    failed=1
  fi
}

# Through the link, so that a module is known by one name only: ansible_collections.cloudnebula.hypervisor...
types() (
  cd .venv/collections &&
    mypy --config-file ../../pyproject.toml --cache-dir ../mypy-cache \
      ansible_collections/cloudnebula/hypervisor/plugins/module_utils
)

docs() (
  cd "$TREE" &&
    antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs self .
)

check "ruff check" ruff check --cache-dir .venv/ruff-cache .
check "ruff format" ruff format --cache-dir .venv/ruff-cache --check .
check "mypy" types
check "yamllint" yamllint --strict .
check "antsibull-changelog" antsibull-changelog lint
check "antsibull-docs" docs
check "ansible-lint" ansible-lint --profile production --offline -q
exit "$failed"
