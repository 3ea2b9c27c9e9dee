# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: what the modules for images do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from ._core.errors import ImageNotFound, InvalidSpec, Unready
from ._host.store import default_data_dir
from ._image.checksum import parse_checksum
from ._image.entry import Entry
from ._image.gate import judge, not_encrypted
from ._image.inspect import Allowance, Image, inspect_image
from ._image.library import ImageLibrary, Pruned
from ._image.oci_auth import Access
from ._image.progress import reporting
from ._image.provide import prove
from ._image.qemu_img import PASSPHRASE_LIMIT
from ._image.source import ImageSource, parse_source
from ._image.unpack import compression_of
from ._image.uses import Uses, look_for_uses
from ._image.wish import ImageWish, settled
from ._module import Task

SHOWN_KEYS = (
    *("path", "source", "source_digest", "source_format", "digest", "format"),
    *("decrypted", "dropped_snapshots", "virtual_size", "size", "fetched_at", "in_use_by"),
)

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


def manage_image(task: Task) -> dict[str, Any]:
    """Bring an image to what the task asks for."""
    acts: Mapping[str, Callable[[Task, ImageLibrary], dict[str, Any]]] = {
        "present": _present,
        "absent": _absent,
        "pruned": _pruned,
        "pushed": _pushed,
    }
    state = task.params["state"]
    if state == "pruned":
        _refuse_choice(task.params)
    elif not task.params.get("image"):
        raise InvalidSpec(f"image: state={state} needs one.", option="image")
    if state != "present":
        _refuse_allowance(task.params, state)
    return acts[state](task, _library(task))


def describe_images(task: Task) -> dict[str, Any]:
    """Return the images with the given source, or all; none for a source that none came from."""
    library = _library(task)
    text = task.params.get("image")
    found = _of_source(library, parse_source(text)) if text else library.entries()
    uses = _uses(task, library)
    return {"changed": False, "images": [show_image(entry, uses) for entry in found]}


def show_image(entry: Entry, uses: Uses | None) -> dict[str, Any]:
    """Return what a task result shows of an image."""
    return {
        "path": entry.path,
        "source": entry.source,
        "source_digest": _first_digest(entry),
        "source_format": entry.source_format,
        "digest": entry.digest,
        "format": entry.format,
        "decrypted": entry.decrypted,
        "dropped_snapshots": entry.dropped_snapshots,
        "virtual_size": entry.virtual_size,
        "size": entry.size,
        "fetched_at": entry.fetched_at,
        "in_use_by": uses.of(entry.path) if uses else [],
    }


def read_image_wish(params: Mapping[str, Any]) -> ImageWish:
    """Read a task's options; raise ``InvalidSpec`` for what makes no sense."""
    if params["timeout"] <= 0:
        raise InvalidSpec(
            f"timeout: {params['timeout']} is no time to wait.",
            "Give seconds from 1 on.",
            option="timeout",
        )
    checksum = params.get("checksum")
    return ImageWish(
        source=parse_source(params["image"]),
        checksum=None if checksum is None else parse_checksum(checksum, "checksum"),
        image_format=params.get("image_format"),
        target_format=params.get("target_format"),
        update=params["update"],
        access=Access(
            params.get("username"),
            params.get("password"),
            plain_http=params["plain_http"],
            timeout=float(params["timeout"]),
        ),
        headers=_headers(params.get("headers")),
        allowance=Allowance(
            _passphrase(params.get("passphrase")),
            drop_snapshots=params["internal_snapshots"] == "drop",
        ),
    )


def _present(task: Task, library: ImageLibrary) -> dict[str, Any]:
    wish = read_image_wish(task.params)
    before = {entry.path for entry in library.entries()}
    entry = _named_itself(library, wish)
    if entry is None and task.check_mode:
        entry = library.foresee(wish)
        if entry is None:
            _look_at_file(task, settled(wish))
    elif entry is None:
        with reporting() as progress:
            entry = library.ensure(wish, progress)
    if entry is not None and wish.allowance.passphrase is not None and not entry.decrypted:
        raise not_encrypted(wish.source.shown)  # it was here already
    changed = entry is None or entry.path not in before
    shown = show_image(entry, _uses(task, library)) if entry else _foreseen(library, wish)
    return {"changed": changed, "image": shown, **_diff({} if changed else shown, shown)}


def _absent(task: Task, library: ImageLibrary) -> dict[str, Any]:
    found = _of_source(library, parse_source(task.params["image"]))
    for entry in found:
        library.refuse_used(entry)
    uses = _uses(task, library)
    shown = [show_image(entry, uses) for entry in found]
    if not task.check_mode:
        for entry in found:
            library.remove(entry)
    return {"changed": bool(found), "images": shown, **_diff({"images": shown}, {"images": []})}


def _refuse_choice(params: Mapping[str, Any]) -> None:
    """Raise ``InvalidSpec`` for an option that names one image; others may stem from the defaults of all tasks."""
    for option in ("image", "checksum", "image_format", "destination"):
        if params.get(option) is not None:
            raise InvalidSpec(
                f"{option}: state=pruned takes none, since it removes all images that no machine uses.",
                "To remove one image, use state=absent.",
                option=option,
            )


def _refuse_allowance(params: Mapping[str, Any], state: str) -> None:
    """Raise ``InvalidSpec`` for an option that says what is taken out of an image when it is imported."""
    for option, given, why in (
        ("passphrase", params.get("passphrase") is not None, "it decrypts nothing"),
        ("internal_snapshots", params["internal_snapshots"] == "drop", "it drops no snapshots"),
    ):
        if given:
            raise InvalidSpec(
                f"{option}: state={state} takes none, since {why}.",
                "Leave it out, or use state=present.",
                option=option,
            )


def _pruned(task: Task, library: ImageLibrary) -> dict[str, Any]:
    pruned: Pruned = library.prune(dry=task.check_mode)
    shown = [show_image(entry, None) for entry in pruned.entries]
    before = {"images": shown, "left_over": list(pruned.left_over)}
    return {
        "changed": bool(pruned.entries or pruned.left_over),
        **before,
        "freed": pruned.freed,
        **_diff(before, {"images": [], "left_over": []}),
    }


def _pushed(task: Task, library: ImageLibrary) -> dict[str, Any]:
    from ._image.oci import foresee_push, push
    from ._image.oci_reference import parse_reference

    destination = task.params.get("destination")
    if not destination:
        raise InvalidSpec("destination: state=pushed needs one.", option="destination")
    reference = parse_reference(destination, "destination")
    wish = read_image_wish(task.params)
    try:
        image = _image_to_push(library, wish)
    except ImageNotFound as exc:
        if not task.check_mode:
            raise
        return _pushed_later(task, str(reference), exc)
    if task.check_mode:
        pushed = foresee_push(image.path, reference, wish.access, image.format)
    else:
        with reporting() as progress:
            pushed = push(image.path, reference, wish.access, image.format, progress)
    shown = {"reference": pushed.reference, "digest": pushed.digest}
    return {
        "changed": pushed.changed,
        "pushed": shown,
        **_diff({} if pushed.changed else shown, shown),
    }


def _image_to_push(library: ImageLibrary, wish: ImageWish) -> Image:
    """Return the file that is pushed as it is; raise what says that it is not here, or not what the task says."""
    if wish.source.kind != "path":
        entry = library.find(wish)
        if entry is None:
            raise ImageNotFound(
                f"image: {wish.source.shown} is not among the fetched images.",
                "Fetch it first, with state=present.",
                option="image",
            )
        return inspect_image(entry.path, entry.format)
    image = inspect_image(wish.source.text, wish.image_format)
    if wish.target_format not in (None, image.format):
        raise InvalidSpec(
            f"target_format: {image.path} is {image.format}, and files are pushed as they are.",
            "Convert it first, with state=present, and push the path that is returned.",
            option="target_format",
        )
    prove(wish, image.path)
    return image


def _pushed_later(task: Task, reference: str, missing: ImageNotFound) -> dict[str, Any]:
    """Return what is known of the push of an image that an earlier task would bring."""
    task.would_fail(missing)
    shown = {"reference": reference, "digest": None}
    return {"changed": True, "pushed": shown, **_diff({}, shown)}


def _diff(before: Any, after: Any) -> dict[str, Any]:
    return {"diff": {"before": before, "after": after}}


def _library(task: Task) -> ImageLibrary:
    data_dir = task.params.get("data_dir") or default_data_dir()
    if not os.path.isabs(data_dir) or "\0" in data_dir:
        raise InvalidSpec(
            f"data_dir: {data_dir!r} is not an absolute path.",
            "Give a path that begins with a slash or with ~.",
            option="data_dir",
        )
    return ImageLibrary(data_dir, task.warnings)


def _uses(task: Task, library: ImageLibrary) -> Uses:
    uses = look_for_uses(library.data_dir)
    task.warnings += uses.unreadable
    return uses


def _named_itself(library: ImageLibrary, wish: ImageWish) -> Entry | None:
    """Return the image whose own file is named, so that it is not fetched from itself, unless to be converted."""
    entry = _kept_already(library, wish.source)
    if entry is None or wish.target_format not in (None, entry.format):
        return None
    prove(wish, entry.path)
    return entry


def _look_at_file(task: Task, wish: ImageWish) -> None:
    """Raise what would hinder that a file of this host is taken in, and warn if it is not there."""
    path, shown = wish.source.local_path, wish.source.shown
    if path is not None:
        try:
            if compression_of(path, shown=shown) is None:
                judge(path, wish.image_format, shown=shown, allowance=wish.allowance)
        except Unready as exc:
            task.would_fail(exc)


def _kept_already(library: ImageLibrary, source: ImageSource) -> Entry | None:
    """Return the image whose own file is named."""
    return next((entry for entry in library.entries() if entry.path == source.local_path), None)


def _of_source(library: ImageLibrary, source: ImageSource) -> list[Entry]:
    """Return all images that came from a source, or the one whose own file is named."""
    kept = _kept_already(library, source)
    if kept is not None:
        return [kept]
    key = settled(ImageWish(source)).source.key
    return [entry for entry in library.entries() if entry.source_key == key]


def _foreseen(library: ImageLibrary, wish: ImageWish) -> dict[str, Any]:
    """Return what is known of an image before it is fetched.

    Its path is never null, since a playbook gives it to the module ``vm``, which could not do without an image.
    """
    wish = settled(wish)
    shown = dict.fromkeys(SHOWN_KEYS)
    return {
        **shown,
        "path": library.foreseen_path(wish),
        "source": wish.source.shown,
        "source_digest": str(wish.digest) if wish.digest else None,
        "in_use_by": [],
    }


def _first_digest(entry: Entry) -> str:
    algorithm = next(iter(sorted(entry.source_digests)))
    return f"{algorithm}:{entry.source_digests[algorithm]}"


def _passphrase(found: str | None) -> str | None:
    if found is None:
        return None
    try:
        length = len(found.encode())
    except UnicodeEncodeError:
        length = 0
    if not 0 < length <= PASSPHRASE_LIMIT or "\0" in found:
        raise InvalidSpec(
            f"passphrase: it is empty, longer than {PASSPHRASE_LIMIT} bytes, or holds what is no text.",
            "Leave it out for an image that is not encrypted.",
            option="passphrase",
        )
    return found


def _headers(found: Mapping[str, Any] | None) -> dict[str, str]:
    headers = {str(name): str(value) for name, value in (found or {}).items()}
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            # The value may be a secret.
            raise InvalidSpec(
                f"headers: {name!r} is no name of a header, or its value holds what a header cannot.",
                option="headers",
            )
    return headers
