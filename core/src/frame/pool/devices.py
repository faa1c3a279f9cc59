"""Which devices this machine has, and which of them a model is loaded on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from frame.errors import ConfigError


def visible_gpus(environ: Mapping[str, str], device_folder: Path = Path("/dev")) -> list[str]:
    """Return the indices (or ids) of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    present = sorted(
        path.name.removeprefix("nvidia")
        for path in device_folder.glob("nvidia[0-9]*")
        if path.name.removeprefix("nvidia").isdecimal()
    )
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not present:
        return present
    return [item.strip() for item in chosen.split(",") if item.strip() not in {"", "-1"}]


def place(wanted: Iterable[str], environ: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """Return the device sets of a model's groups: `*` is every GPU, or the CPU where there is none.

    Raises:
        ConfigError: it names a GPU that this machine does not have.
    """
    gpus = visible_gpus(environ)
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


def cut_visible(devices: tuple[str, ...], environ: Mapping[str, str]) -> tuple[tuple[str, ...], str | None]:
    """Return the devices as a worker that sees only them names them, and its CUDA_VISIBLE_DEVICES.

    A group on the CPU gets an empty list, so that no framework takes memory on a GPU that is not its own.
    """
    if devices == ("cpu",):
        return devices, "" if visible_gpus(environ) else None
    gpus = visible_gpus(environ)
    own = ",".join(gpus[int(device.removeprefix("gpu"))] for device in devices)
    return tuple(f"gpu{index}" for index in range(len(devices))), own
