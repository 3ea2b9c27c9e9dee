# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What cloud-init finds on a guest's seed disk: the documents of its NoCloud data source, as bytes.

Documents of our own making are JSON. JSON is YAML, so the host needs no YAML library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .._core.errors import InvalidSpec
from .._core.spec import DEFAULT_USER, CloudInit

USER_DATA = "user-data"
META_DATA = "meta-data"
NETWORK_CONFIG = "network-config"

_HEADERS = (
    "#cloud-config",  # and with it #cloud-config-archive and #cloud-config-jsonp
    "#!",
    "#include",  # and #include-once
    "#cloud-boothook",
    "#part-handler",
    "## template: jinja",
)
_MIME_HEADER = "mime-version:"
_MIME_HEADER_WITHIN = 4096  # characters in which cloud-init looks for it
_INSTANCE_ID = re.compile(r"""(?:^|[{,])[ \t]*["']?instance-id["']?[ \t]*:[ \t]*[^\s#,}]""", re.M)
# JSON allows these raw in a string; YAML takes them for line breaks or refuses them.
_NOT_RAW_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def check_cloud_init(cloud_init: CloudInit) -> None:
    """Raise ``InvalidSpec`` naming the option if the guest could not make use of what it would be given."""
    _check_user_data(cloud_init.user_data)
    _check_meta_data(cloud_init.meta_data)
    for option, document in (
        ("user_data", cloud_init.user_data),
        ("meta_data", cloud_init.meta_data),
        ("network_config", cloud_init.network_config),
    ):
        if document is not None:
            _document(option, document)
    _check_placeable(cloud_init)
    _check_host_key(cloud_init)


@dataclass(frozen=True)
class HostKey:
    """The Ed25519 key pair by which a guest's SSH server is known: the private file's text, and the public line."""

    private: str
    public: str


def seed_files(
    cloud_init: CloudInit,
    name: str,
    instance_id: str,
    generated_key: str | None,
    host_key: HostKey | None = None,
) -> dict[str, bytes]:
    """Return the files of the seed disk of the VM ``name``.

    ``generated_key`` is the public key that the guest gets if the user listed none, ``host_key`` the one that its SSH
    server uses, if it is made beforehand. The wish must have passed :func:`check_cloud_init`.
    """
    keys = cloud_init.ssh_authorized_keys
    if keys is None:
        keys = (generated_key,) if generated_key else ()
    hostname = _own_hostname(cloud_init.user_data) or cloud_init.hostname or hostname_of(name)
    files = {
        USER_DATA: _user_data(cloud_init, hostname, keys, host_key),
        META_DATA: _meta_data(cloud_init, hostname, instance_id, keys),
    }
    if cloud_init.network_config:
        files[NETWORK_CONFIG] = _document("network_config", cloud_init.network_config)
    return files


def hostname_of(name: str) -> str:
    """Return the host name of the guest of the VM ``name``.

    What no host name may have becomes a dash. Dots make a domain name, as in ``web1.example.org``, but not where
    the last part is a number: ``db.1`` and ``db.2`` would both be the host ``db``.
    """
    labels = [label.strip("-") for label in name.replace("_", "-").split(".")]
    labels = [label for label in labels if label]
    return ("-" if labels[-1].isdigit() else ".").join(labels)


def _own_hostname(user_data: str | Mapping[str, Any] | None) -> str | None:
    hostname = user_data.get("hostname") if isinstance(user_data, Mapping) else None
    return hostname if isinstance(hostname, str) else None


def _user_data(
    cloud_init: CloudInit, hostname: str, keys: Iterable[str], host_key: HostKey | None
) -> bytes:
    given = cloud_init.user_data
    if isinstance(given, str):
        return _document("user_data", given)
    config = {**_base_config(cloud_init.user or DEFAULT_USER, hostname), **(given or {})}
    # cloud-init gives keys at the top level to the image's own default user, which our list of users leaves out.
    listed = config.get("ssh_authorized_keys")
    keys = _joined(keys, listed if isinstance(listed, (list, tuple)) else ())
    if keys and _users_are_ours(given):
        config["users"] = [{**config["users"][0], "ssh_authorized_keys": keys}]
    if host_key is not None:
        config["ssh_keys"] = {
            "ed25519_private": host_key.private,
            "ed25519_public": host_key.public,
        }
    return b"#cloud-config\n" + _document("user_data", config)


def _base_config(user: str, hostname: str) -> dict[str, Any]:
    return {
        "hostname": hostname,
        "disable_root": True,
        "ssh_pwauth": False,
        "users": [
            {
                "name": user,
                "lock_passwd": True,
                "shell": "/bin/bash",
                # A rule, since the group that may use sudo has another name in each distribution.
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
            }
        ],
    }


def _meta_data(
    cloud_init: CloudInit, hostname: str, instance_id: str, keys: Iterable[str]
) -> bytes:
    if isinstance(cloud_init.meta_data, str):
        return _document("meta_data", cloud_init.meta_data)
    document: dict[str, Any] = {"instance-id": instance_id, "local-hostname": hostname}
    keys = _joined(keys)
    if keys and not _users_are_ours(cloud_init.user_data):
        document["public-keys"] = keys  # for the image's default user
    return _document("meta_data", {**document, **(cloud_init.meta_data or {})})


def _users_are_ours(user_data: str | Mapping[str, Any] | None) -> bool:
    return not isinstance(user_data, str) and "users" not in (user_data or {})


def _joined(*lists: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(key for keys in lists for key in keys))


def _document(option: str, content: str | Mapping[str, Any]) -> bytes:
    """Return text as it is, a mapping as JSON that every YAML parser reads the same; both end with a newline."""
    try:
        text = content if isinstance(content, str) else _json(content)
        return (text if text.endswith("\n") else text + "\n").encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise _invalid(
            option,
            f"this cannot be written as a document: {exc}",
            "Use only mappings, lists, texts, finite numbers and booleans.",
        ) from exc


def _json(content: Mapping[str, Any]) -> str:
    # Not ASCII only: JSON writes a character beyond U+FFFF as two escapes, which YAML takes for two characters.
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2, sort_keys=True)
    return _NOT_RAW_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _check_user_data(user_data: str | Mapping[str, Any] | None) -> None:
    if not isinstance(user_data, str):
        return
    start = user_data[:_MIME_HEADER_WITHIN].lower()
    if not start.lstrip().startswith(_HEADERS) and _MIME_HEADER not in start:
        raise _invalid(
            "user_data",
            "cloud-init would ignore this text, since its first line does not say what it is",
            "Begin it with '#cloud-config', '#!/bin/sh' or another header that cloud-init knows, or give a mapping.",
        )


def _check_meta_data(meta_data: str | Mapping[str, Any] | None) -> None:
    if isinstance(meta_data, str):
        known = _INSTANCE_ID.search(meta_data) is not None
    else:
        known = bool((meta_data or {}).get("instance-id", "ours"))
    if not known:
        raise _invalid(
            "meta_data",
            "without an instance-id cloud-init does not accept the seed",
            "Add a line such as 'instance-id: web1-1', or give a mapping, which gets one by itself.",
        )


def _check_host_key(cloud_init: CloudInit) -> None:
    given = cloud_init.user_data
    if not cloud_init.ssh_host_key:
        return
    if isinstance(given, str):
        raise _invalid(
            "ssh_host_key",
            "user_data as text leaves no place for the key.",
            "Give user_data as a mapping, or put ssh_keys into the text yourself.",
        )
    if "ssh_keys" in (given or {}):
        raise _invalid(
            "ssh_host_key",
            "user_data has ssh_keys of its own.",
            "Leave one of the two out.",
        )


def _check_placeable(cloud_init: CloudInit) -> None:
    if not isinstance(cloud_init.meta_data, str):
        return
    help_text = "Put it into your own documents, or give one of them as a mapping."
    if cloud_init.ssh_authorized_keys and not _users_are_ours(cloud_init.user_data):
        raise _invalid(
            "ssh_authorized_keys", "the keys have no place beside your own documents", help_text
        )
    if cloud_init.hostname and isinstance(cloud_init.user_data, str):
        raise _invalid(
            "hostname", "the name has no place beside user_data and meta_data as text", help_text
        )


def _invalid(option: str, what: str, help_text: str) -> InvalidSpec:
    path = f"cloud_init.{option}"
    return InvalidSpec(f"{path}: {what}.", help_text, option=path)
