#!/usr/bin/env bash
# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# run.sh COMMAND...: runs the command with the tools of .venv and with the settings that the runs of this project need,
# whatever the caller's own Ansible and Python settings are. .venv must be there (any make target makes it).
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/../.." && pwd)

# File system tools lie in sbin, which is not on everybody's PATH.
export PATH=$ROOT/.venv/bin:$PATH:/usr/sbin:/sbin
case ${LC_ALL:-} in *UTF-8 | *utf8) ;; *) export LC_ALL=C.UTF-8 ;; esac
unset PYTHONHOME ANSIBLE_INVENTORY ANSIBLE_STDOUT_CALLBACK ANSIBLE_COLLECTIONS_PATHS
export VIRTUAL_ENV=$ROOT/.venv
export PYTHONPATH=$ROOT/.venv/collections
export PYTHONNOUSERSITE=1
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
export ANSIBLE_CONFIG=$ROOT/tests/ansible.cfg
export ANSIBLE_COLLECTIONS_PATH=$ROOT/.venv/collections
exec "$@"
