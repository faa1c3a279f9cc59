"""Where the whole model is put before it is cut: on the accelerator if it fits there, else in main memory."""

from __future__ import annotations

from pathlib import Path

_HEADROOM = 1.3
"""Memory for what a model computes with, and for the pieces it is cut into, as a multiple of its weights."""
_PATTERNS = ("*.safetensors", "pytorch_model*.bin", "*.gguf")


def weights_bytes(folder: Path) -> int:
    """Return the size of a model's weights files, of the first kind that is there: the one loaded."""
    for pattern in _PATTERNS:
        sizes = [path.stat().st_size for path in folder.glob(pattern)]
        if sizes:
            return sum(sizes)
    return 0


def fits_whole(weights: int, free: int) -> bool:
    """Tell whether a whole model of so many bytes can run in so many free ones."""
    return weights * _HEADROOM <= free


def loads_on_device(*, degree: int, is_on_gpu: bool, is_half: bool, weights: int, free: int) -> bool:
    """Tell whether a rank loads the whole model on its own device, rather than in main memory.

    Args:
        degree: ranks of the group.
        is_half: whether its weights become float16, in which main memory's processor cannot compute.
        weights: bytes of the whole model.
        free: bytes that are free on the device.
    """
    return degree == 1 or not is_on_gpu or is_half or fits_whole(weights, free)
