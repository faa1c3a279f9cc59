"""Which devices the groups of several ranks get, and how many groups that makes."""

from __future__ import annotations

from collections.abc import Sequence

from frame.config.settings import ModelConfig
from frame.errors import ConfigError

CPU = ("cpu",)


def count_accelerators(devices: Sequence[tuple[str, ...]]) -> int:
    """Return how many accelerators there are in these sets."""
    return len({name for names in devices if names != CPU for name in names})


def device_sets(devices: Sequence[tuple[str, ...]], ranks: int) -> tuple[tuple[str, ...], ...]:
    """Return the devices of each group: as they were given, or single ones put together in their order.

    Ranks on the CPU share it; a group of one rank is on the devices that it was given.

    Raises:
        ConfigError: a set that was given has too many or too few, or single ones are left over.
    """
    accelerators = [names for names in devices if names != CPU]
    if ranks == 1 or not accelerators:
        return tuple(devices)
    if len(accelerators) < len(devices):
        raise ConfigError(
            f"load_on_devices: a group of {ranks} ranks is on the CPU or on accelerators; name one kind only"
        )
    if all(len(names) == ranks for names in accelerators):
        return tuple(devices)
    if any(len(names) > 1 for names in accelerators):
        given = ";".join("+".join(names) for names in accelerators)
        raise ConfigError(
            f"load_on_devices: {given}: a group of {ranks} ranks needs {ranks} devices in each set"
        )
    single = [name for (name,) in accelerators]
    if len(single) % ranks:
        raise ConfigError(
            f"load_on_devices: {len(single)} accelerators cannot be divided into groups of {ranks} ranks; "
            f"name {ranks} or a multiple, for example {'+'.join(single[:ranks])}"
        )
    return tuple(tuple(single[start : start + ranks]) for start in range(0, len(single), ranks))


def group_counts(config: ModelConfig, kind: str, groups: int) -> tuple[int, int]:
    """Return the fewest and the most groups of an engine that fills its devices: their number, unless set.

    Args:
        kind: of the devices; on `cpu` as many are allowed as are asked for, and one is the default.
        groups: that the devices make.

    Raises:
        ConfigError: more are asked for than there are devices for.
    """
    low = _asked(config, f"{kind}.minWorkers") or _asked(config, "minWorkers")
    high = _asked(config, f"{kind}.maxWorkers") or _asked(config, "maxWorkers")
    for name, count in filter(None, (low, high)):
        if kind != "cpu" and count > groups:
            raise ConfigError(
                f"{name} ({config.sources[name]}): {count} groups are asked for, the devices make {groups}; "
                f"set at most {groups}, a smaller option.tensor_parallel_degree, or more load_on_devices"
            )
    most = high[1] if high else max(groups, low[1] if low else 0)
    return min(low[1] if low else most, most), most


def _asked(config: ModelConfig, name: str) -> tuple[str, int] | None:
    """Return a key's name and value when somebody set it."""
    if "." in name:
        value = config.per_device.get(name)
    else:
        is_set = config.sources[name].kind != "default"
        value = getattr(config, name) if is_set else None
    return None if value is None else (name, value)
