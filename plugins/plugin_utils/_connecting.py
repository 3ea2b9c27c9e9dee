# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: connections of Ansible's to hypervisor hosts, made of the variables of these hosts.

They are made in the main thread of the main process, as the loaders of plugins want it, and connect to nothing yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible import constants, context
from ansible.errors import AnsibleError
from ansible.module_utils.common.collections import ImmutableDict
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import become_loader, connection_loader

from ._asking import Question
from ._hosts import ssh_path

_SSH = ("ssh", "ansible.builtin.ssh", "ansible.legacy.ssh")
_HERE = ("local", "ansible.builtin.local", "ansible.legacy.local")
_FIND_PYTHON = (
    "PATH=$PATH:/usr/local/bin:/usr/bin:/usr/libexec; "
    "exec $(command -v python3 || command -v platform-python || echo python3) -IS"
)

Template = Callable[[Any], Any]


@dataclass(frozen=True)
class Line:
    """A connection to a hypervisor host, and how its guests are reached: ``jump`` is ``None`` if not by SSH.

    ``told`` is what tells the host and the account from others. There is no password in it.
    """

    connection: Any
    told: str
    python: str
    jump: str | None
    here: bool

    def question(self, program: str) -> Question:
        """Return what to run so that the host's Python runs a program."""
        command = f"/bin/sh -c {shlex.quote(self.python + ' -')}"
        become = self.connection.become
        if become is not None:
            command = become.build_become_command(command, self.connection._shell)
        return Question(self.connection, command, program.encode())


def make_line(name: str, variables: Mapping[str, Any], template: Template) -> Line:
    """Return the connection to a host. ``template`` fills in the values of variables that are needed."""
    with _no_command_line():
        kind = str(template(variables.get("ansible_connection") or constants.DEFAULT_TRANSPORT))
        kind = "ssh" if kind == "smart" else kind
        play = PlayContext()
        play.remote_addr = name
        connection = connection_loader.get(kind, play, os.devnull)
        if connection is None:
            raise AnsibleError(f"there is no connection plugin {kind}.")
        if not connection.has_pipelining:
            raise AnsibleError(f"the connection plugin {kind} cannot hand a program its input.")
        known = _options("connection", connection, variables, template)
        connection.set_options(var_options=known)
        if kind in _SSH and not connection.get_option("control_path"):
            connection.set_option("control_path", _control_path(known))
        become, account = _become(variables, template)
        connection.set_become_plugin(become)
        jump = _jump(connection, name) if kind in _SSH else None
    told = f"{kind} {_told(known)} {account} {jump}"
    return Line(connection, told, _python(variables, template), jump, kind in _HERE)


@contextlib.contextmanager
def _no_command_line() -> Iterator[None]:
    """Keep options such as ``--user`` and ``--become`` from connections to hypervisors: they are meant for the guests."""
    saved = context.CLIARGS
    context.CLIARGS = ImmutableDict()
    try:
        yield
    finally:
        context.CLIARGS = saved


def _options(
    kind: str, plugin: Any, variables: Mapping[str, Any], template: Template
) -> dict[str, Any]:
    names = constants.config.get_plugin_vars(kind, plugin._load_name)
    return {name: template(variables[name]) for name in names if name in variables}


def _become(variables: Mapping[str, Any], template: Template) -> tuple[Any, str]:
    """Return the plugin that changes the account, if there is one, and what it was told."""
    if not boolean(template(variables.get("ansible_become", constants.DEFAULT_BECOME))):
        return None, ""
    method = template(variables.get("ansible_become_method") or constants.DEFAULT_BECOME_METHOD)
    plugin = become_loader.get(str(method))
    if plugin is None:
        raise AnsibleError(f"there is no become plugin {method}.")
    known = _options("become", plugin, variables, template)
    plugin.set_options(var_options=known)
    return plugin, f"{method} {_told(known)}"


def _python(variables: Mapping[str, Any], template: Template) -> str:
    given = str(template(variables.get("ansible_python_interpreter") or "auto"))
    return _FIND_PYTHON if given.startswith("auto") else f"exec {given} -IS"


def _control_path(known: Mapping[str, Any]) -> str:
    """Return where the shared connection lies, so that jumps go through it."""
    return "%(directory)s/hv" + hashlib.sha256(_told(known).encode()).hexdigest()[:10]


def _told(known: Mapping[str, Any]) -> str:
    """Return variables as one text, without passwords."""
    return repr(sorted((name, str(value)) for name, value in known.items() if "pass" not in name))


def _jump(connection: Any, name: str) -> str:
    """Return the command with which SSH gets to an address and port behind the host, with all that its own connection has."""
    get = connection.get_option
    given = [*shlex.split(get("ssh_args") or ""), *shlex.split(get("ssh_common_args") or "")]
    given += shlex.split(get("ssh_extra_args") or "")
    options = []
    if get("host_key_checking") is False:
        options.append("StrictHostKeyChecking=no")
    if get("port") is not None:
        options.append(f"Port={get('port')}")
    if get("private_key_file"):
        options.append(f"IdentityFile={ssh_path(os.path.expanduser(get('private_key_file')))}")
    if get("remote_user"):
        options.append(f'User="{get("remote_user")}"')
    options.append(f"ConnectTimeout={get('timeout')}")
    said = " ".join(given).lower()
    if "controlpersist" in said and "controlpath" not in said:
        folder = os.path.expanduser(get("control_path_dir"))
        options.append(f'ControlPath="{get("control_path") % {"directory": folder}}"')
    words = [get("ssh_executable"), *given]
    words += [word for option in options for word in ("-o", option)]
    host = get("host") or name
    fixed = " ".join(shlex.quote(word) for word in words).replace("%", "%%")
    return f"{fixed} -W %h:%p {shlex.quote(host)}"
