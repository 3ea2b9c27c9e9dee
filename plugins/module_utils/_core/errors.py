# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All that can go wrong in a way the user can act on: one family, one page.

An error's class says what failed; its message names the thing; ``help`` says what to do; ``details`` hold the
evidence. ``code`` is stable: playbooks may test it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class VmError(Exception):
    """Base of the family."""

    code = "vm_manager.error"
    default_help = ""

    def __init__(self, message: str, help_text: str | None = None, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.help = self.default_help if help_text is None else help_text
        self.details = {key: value for key, value in details.items() if value is not None}
        self.result: Mapping[str, Any] = {}  # what the task had done when it failed

    def as_dict(self) -> Mapping[str, Any]:
        """Return what a task result shows of this error."""
        return {"code": self.code, "help": self.help, "details": self.details}


class InvalidSpec(VmError):
    """An option has a value that no virtual machine could have."""

    code = "vm_manager.spec.invalid"
    default_help = "Correct the option that the message names."


class InvalidName(InvalidSpec):
    """The name cannot be that of a virtual machine."""

    code = "vm_manager.spec.invalid_name"
    default_help = "A name has 1 to 63 characters: letters, digits, underscore, dot and dash, beginning with a letter or digit."


class InvalidVcpus(InvalidSpec):
    """The number of virtual CPUs makes no sense."""

    code = "vm_manager.create.invalid_vcpus"
    default_help = "Give a number of virtual CPUs that is in this range."


class InvalidMemory(InvalidSpec):
    """The amount of memory makes no sense."""

    code = "vm_manager.create.invalid_memory"
    default_help = (
        "Give a positive number of MiB, such as 1024, or a size with a unit, such as 2GiB."
    )


class CannotChange(InvalidSpec):
    """The option can be set only when the virtual machine is created."""

    code = "vm_manager.spec.cannot_change"
    default_help = (
        "Leave the option as it was, or remove the VM with state=absent and create it again."
    )


class Unsupported(VmError):
    """The backend cannot do what was asked."""

    code = "vm_manager.backend.unsupported"
    default_help = "Use a backend that can, or leave the option out."


class Unready(VmError):
    """Something that must be on the host first is missing; an earlier task may bring it."""

    code = "vm_manager.host.unready"


class BackendNotAvailable(Unready):
    """This host cannot run the backend."""

    code = "vm_manager.backend.not_available"
    default_help = "Install it with the role cloudnebula.hypervisor.hypervisor_host, or choose another backend."


class FileMissing(Unready):
    """A file or folder of the host that an option names does not exist or cannot be read."""

    code = "vm_manager.host.file_missing"
    default_help = "Check the path, and that this user may read it and enter its folders."


class FirmwareMissing(Unready):
    """This host has no firmware of the kind that was asked for."""

    code = "vm_manager.host.firmware_missing"
    default_help = (
        "Install it: Debian's package is ovmf, that of Fedora and Red Hat edk2-ovmf; the role "
        "cloudnebula.hypervisor.hypervisor_host does so with hypervisor_host_features: [uefi]."
    )


class NoSystemd(Unready):
    """Nothing on this host would start the virtual machine at boot."""

    code = "vm_manager.host.no_systemd"
    default_help = "Leave autostart out, or use a host that runs systemd."


class NoImage(InvalidSpec):
    """A new virtual machine needs an image and none was given."""

    code = "vm_manager.create.no_image"
    default_help = (
        "Set image to the path of a disk image, or correct the name if the VM should exist already."
    )


class ImageNotFound(Unready):
    """The image does not exist or cannot be read."""

    code = "vm_manager.create.image_not_found"
    default_help = "Check the path, and that this user may read the file and enter its folders."


class ImageRefused(VmError):
    """The file is no image, or not one that is safe to run. ``mendable`` tells whether the same file passes with other options."""

    code = "vm_manager.image.refused"
    default_help = "Use a standalone disk image; convert it with 'qemu-img convert' if it depends on other files."

    def __init__(
        self,
        message: str,
        help_text: str | None = None,
        *,
        mendable: bool = False,
        **details: object,
    ) -> None:
        super().__init__(message, help_text, **details)
        self.mendable = mendable


class FormatDetectionFailed(VmError):
    """The image cannot be read as what it is said to be."""

    code = "vm_manager.image.format_detection_failed"
    default_help = (
        "Check that the file is a disk image, and that image_format (if given) is its real format."
    )


class OverlayFailed(VmError):
    """qemu-img could not make or grow the disk."""

    code = "vm_manager.image.overlay_creation_failed"
    default_help = "Check that the base image is readable and that the disk has room."


class UnpackFailed(VmError):
    """A compressed image could not be unpacked."""

    code = "vm_manager.image.unpack_failed"
    default_help = "Fetch it again; if it comes so from its source, it is damaged there."


class ConversionFailed(VmError):
    """qemu-img could not convert the image."""

    code = "vm_manager.image.conversion_failed"
    default_help = "qemu-img's own words are in the message; look for room on the host's disk."


class SeedFailed(VmError):
    """The cloud-init seed could not be written."""

    code = "vm_manager.cloudinit.iso_failed"
    default_help = "Install Python's pycdlib, or one of xorriso, genisoimage or mkisofs."


class KeygenFailed(VmError):
    """The key pair could not be made."""

    code = "vm_manager.ssh.keygen_failed"
    default_help = "Install ssh-keygen (OpenSSH client), or give your own keys in cloud_init.ssh_authorized_keys."


class SshFailed(VmError):
    """The guest's SSH server did not answer."""

    code = "vm_manager.ssh.failed"
    default_help = (
        "Look at the console log; check that the image runs an SSH server, or raise wait_timeout."
    )


class SpawnFailed(VmError):
    """QEMU ended before its monitor answered."""

    code = "vm_manager.qemu.spawn_failed"
    default_help = (
        "Its last words are in the message; the whole command is in error.details.command."
    )


class QmpConnectFailed(VmError):
    """The QMP socket does not answer as a QEMU monitor."""

    code = "vm_manager.qemu.qmp_connect_failed"
    default_help = (
        "Another client may hold the monitor, or QEMU hangs; look at qemu.log in the VM's folder."
    )


class QmpCommandFailed(VmError):
    """QEMU refused a command, or the conversation broke off."""

    code = "vm_manager.qemu.qmp_command_failed"


class PortUnavailable(Unready):
    """A host port that is to lead into the guest cannot be had."""

    code = "vm_manager.network.port_unavailable"
    default_help = (
        "End the program that listens there, or choose another ssh_port_range for a new VM."
    )


class NetworkFailed(VmError):
    """A network card could not be plugged in."""

    code = "vm_manager.network.failed"
    default_help = "Look at the host's interfaces with 'ip link'."


class BridgeMissing(Unready):
    """The bridge that a network names does not exist."""

    code = "vm_manager.network.no_bridge"
    default_help = "Make it, for example with the role cloudnebula.hypervisor.hypervisor_host, or correct the name."


class LinkMissing(Unready):
    """The link that a VNIC is to be made over does not exist."""

    code = "vm_manager.network.no_link"
    default_help = "'dladm show-link' lists the links; correct the name, or make an etherstub with 'dladm create-etherstub'."


class PoolMissing(Unready):
    """The ZFS pool or dataset for images and disks does not exist."""

    code = "vm_manager.storage.no_pool"
    default_help = (
        "Make it, for example with the role cloudnebula.hypervisor.hypervisor_host, or name another one in "
        "propolis.pool; 'zfs list' shows what there is."
    )


class NoGuestAddress(VmError):
    """The guest has no address that the host knows."""

    code = "vm_manager.network.ip_discovery_timeout"
    default_help = "Check that the VM runs and has a network."


class InvalidState(VmError):
    """The act is not possible in the state that the virtual machine is in."""

    code = "vm_manager.vm.invalid_state"


class StopFailed(VmError):
    """The virtual machine still runs after all ways to stop it."""

    code = "vm_manager.vm.stop_failed"
    default_help = "The process may hang in the kernel; look at the host's kernel log."


class Busy(VmError):
    """Another task works on the same virtual machine."""

    code = "vm_manager.vm.busy"
    default_help = "Wait until it has ended and run the task again."


class FleetRefused(VmError):
    """Some of several virtual machines cannot be brought to what the task asks for. None was touched."""

    code = "vm_manager.fleet.refused"
    default_help = "The result has the error of each VM under its name in errors."


class FleetFailed(VmError):
    """Some of several virtual machines could not be brought to what the task asks for."""

    code = "vm_manager.fleet.failed"
    default_help = "The result has the error of each VM under its name in errors."


class ChangeFailed(VmError):
    """The running virtual machine did not take a change."""

    code = "vm_manager.vm.change_failed"
    default_help = "The change is recorded; state=restarted makes it."


class BadRecord(VmError):
    """What an earlier run left on the host cannot be read."""

    code = "vm_manager.vm.bad_record"
    default_help = "Restore the file, or move the VM's folder away if its disk is no longer needed."


class CommandFailed(VmError):
    """A program that was run did not succeed."""

    code = "vm_manager.host.command_failed"


class ProgramMissing(Unready):
    """A program that is needed is not installed."""

    code = "vm_manager.host.program_missing"
    default_help = "Install it; the role cloudnebula.hypervisor.hypervisor_host does so."


class HttpFailed(VmError):
    """A request over HTTP got no answer, or only a part of it."""

    code = "vm_manager.http.failed"
    default_help = "Check the address, the network and, if one is used, the proxy."


class PropolisUnreachable(VmError):
    """The server of the virtual machine does not answer."""

    code = "vm_manager.propolis.unreachable"
    default_help = "Look at propolis.log in the VM's folder and at the state of its service."


class PropolisRefused(VmError):
    """The server of the virtual machine refused a request, or could not fulfil it."""

    code = "vm_manager.propolis.refused"
    default_help = "Its own words are in the message and in error.details."


class PropolisFailed(VmError):
    """The instance did not reach the state that was asked for."""

    code = "vm_manager.propolis.failed"
    default_help = "The end of the server's log is in error.details.log."


class PropolisProtocol(VmError):
    """What answers is not a propolis-server of a version that is understood."""

    code = "vm_manager.propolis.protocol"
    default_help = (
        "Check that nothing else listens at the address, and the option propolis.api_version."
    )


class VnicFailed(VmError):
    """A virtual network card of the host is not as the machine needs it."""

    code = "vm_manager.illumos.vnic_failed"
    default_help = "Look at the host's links with 'dladm show-vnic' and 'dladm show-linkprop'."


class VolumeFailed(VmError):
    """A ZFS volume is not what the machine or its image needs."""

    code = "vm_manager.illumos.volume_failed"
    default_help = "'zfs list -t all' shows what is there."


class ServiceFailed(VmError):
    """The SMF service of the machine's server did not reach its state."""

    code = "vm_manager.illumos.service_failed"
    default_help = "'svcs -xv' says what is wrong; the end of its logs is in error.details."


class ZoneFailed(VmError):
    """The zone of the machine's server is not as it is needed."""

    code = "vm_manager.illumos.zone_failed"
    default_help = "'zoneadm list -cv' shows the zones and their states."


class OciReferenceInvalid(InvalidSpec):
    """What begins with oci:// is no reference to an artifact in a registry."""

    code = "vm_manager.image.oci_reference_invalid"
    default_help = (
        "Write oci://registry[:port]/repository[:tag][@sha256:...], with the registry's full name."
    )


class OciNotFound(Unready):
    """The registry has no such artifact, or does not show it to this user."""

    code = "vm_manager.image.oci_not_found"
    default_help = (
        "Check the repository and the tag; some registries hide from strangers what is not public."
    )


class OciAuthFailed(VmError):
    """The registry wants other credentials, or none could be had for it."""

    code = "vm_manager.image.oci_auth_failed"
    default_help = (
        "Give username and password, or log in with podman or docker as the user of the task."
    )


class OciAmbiguous(VmError):
    """It is not clear which part of an artifact is the disk image."""

    code = "vm_manager.image.oci_ambiguous"


class OciRefused(VmError):
    """What the registry sent is not what was asked for, or is no manifest."""

    code = "vm_manager.image.oci_refused"
    default_help = "Check the reference; if the artifact was pushed by other tools, push it anew."


class OciFailed(VmError):
    """The registry could not fulfil a request."""

    code = "vm_manager.image.oci_failed"
    default_help = (
        "The registry's own words are in the message; try again later, or ask its operator."
    )


class ImageFetchFailed(VmError):
    """The image could not be fetched from where the task says."""

    code = "vm_manager.image.fetch_failed"
    default_help = "Check the URL and the network, and run the task again."


class ChecksumMismatch(VmError):
    """The bytes of the image are not those that the checksum stands for."""

    code = "vm_manager.image.checksum_mismatch"
    default_help = "Do not use this file. Check that checksum and image belong together; the publisher may have replaced the image."


class ChecksumUnknown(VmError):
    """The list of checksums cannot be used."""

    code = "vm_manager.image.checksum_unknown"
    default_help = "Check the URL of the list, or give the digest itself."


class ImageInUse(VmError):
    """The disks of virtual machines rest on the image."""

    code = "vm_manager.image.in_use"
    default_help = "Remove these VMs first."


class Defect(VmError):
    """An error that nobody expected."""

    code = "vm_manager.internal"
    default_help = "This is a defect: please report it."


class HostError(VmError):
    """The operating system refused."""

    code = "vm_manager.io"
    default_help = "Check the path, its permissions and the free space."
