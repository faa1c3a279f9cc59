"""Which devices this machine has, and which of them a model is loaded on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path

from frame.errors import ConfigError

_DEVICE_FOLDER = Path("/dev")
_ID_PREFIXES = ("GPU-", "MIG-")


def visible_gpus(environ: Mapping[str, str], device_folder: Path = _DEVICE_FOLDER) -> list[str]:
    """Return the indices (or ids) of the GPUs that are there, as CUDA_VISIBLE_DEVICES names them.

    CUDA counts the devices that are there from 0, whatever the numbers in their files' names (a container may
    have just /dev/nvidia3), and ignores CUDA_VISIBLE_DEVICES from its first invalid entry on (CUDA C++
    Programming Guide, CUDA environment variables).
    """
    files = device_folder.glob("nvidia[0-9]*")
    count = sum(path.name.removeprefix("nvidia").isdecimal() for path in files)
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not count:
        return [str(index) for index in range(count)]

    def is_valid(item: str) -> bool:
        return item.startswith(_ID_PREFIXES) or (item.isdecimal() and int(item) < count)

    return list(takewhile(is_valid, (item.strip() for item in chosen.split(","))))


def place(
    wanted: Iterable[str], environ: Mapping[str, str], device_folder: Path = _DEVICE_FOLDER
) -> tuple[tuple[str, ...], ...]:
    """Return the device sets of a model's groups: `*` is every GPU, or the CPU where there is none.

    Raises:
        ConfigError: it names a GPU that this machine does not have.
    """
    gpus = visible_gpus(environ, device_folder)
    sets: list[tuple[str, ...]] = []
    for entry in wanted:
        if entry == "*":
            sets += [(f"gpu{index}",) for index in range(len(gpus))] or [("cpu",)]
            continue
        devices = tuple(entry.split("+"))
        for device in devices:
            if device != "cpu" and int(device.removeprefix("gpu")) >= len(gpus):
                raise ConfigError(
                    f"load_on_devices: {device} is not there; this machine has {len(gpus)} GPUs"
                )
        sets.append(devices)
    return tuple(dict.fromkeys(sets))


def cut_visible(
    devices: tuple[str, ...], environ: Mapping[str, str], device_folder: Path = _DEVICE_FOLDER
) -> tuple[tuple[str, ...], str | None]:
    """Return the devices as a worker that sees only them names them, and its CUDA_VISIBLE_DEVICES.

    A group on the CPU gets an empty list, so that no framework takes memory on a GPU that is not its own.
    """
    gpus = visible_gpus(environ, device_folder)
    if devices == ("cpu",):
        return devices, "" if gpus else None
    own = ",".join(gpus[int(device.removeprefix("gpu"))] for device in devices)
    return tuple(f"gpu{index}" for index in range(len(devices))), own
