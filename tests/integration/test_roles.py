# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles on this host, as playbooks that check themselves."""

from __future__ import annotations

import json

import pytest
from conftest import LOCALHOST, ROOT, ansible, in_hosts_network

TARGETS = ROOT / "tests" / "integration" / "targets"


@pytest.mark.parametrize("target", sorted(path.name for path in TARGETS.iterdir()))
def test_role(target, tmp_path):
    play = [{"hosts": "localhost", "gather_facts": False, "roles": [target]}]
    playbook = tmp_path / "play.json"
    playbook.write_text(json.dumps(play))
    variables = json.dumps({"output_dir": str(tmp_path)})

    ansible(
        *("ansible-playbook", "-i", str(LOCALHOST), "-e", variables, str(playbook)),
        env={
            "ANSIBLE_ROLES_PATH": str(TARGETS),
            "HOME": str(tmp_path),
            "XDG_DATA_HOME": str(tmp_path / "share"),
        },
        prefix=in_hosts_network(),
    )
