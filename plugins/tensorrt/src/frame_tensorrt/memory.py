"""Memory and a stream of one GPU, by CUDA's runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
from cuda.bindings import runtime as cuda


class DeviceMemory:
    """A buffer for each tensor, which grows and is used again, and the stream that they are used on."""

    def __init__(self, device: int) -> None:
        self._buffers: dict[str, tuple[int, int]] = {}
        check(cuda.cudaSetDevice(device))
        self.stream: int = int(check(cuda.cudaStreamCreate()))

    def reserve(self, name: str, size_bytes: int) -> int:
        """Return the address of a buffer of at least that many bytes.

        Raises:
            MemoryError: the GPU has no room.
        """
        address, capacity = self._buffers.get(name, (0, -1))
        if size_bytes <= capacity:
            return address
        if capacity >= 0:
            del self._buffers[name]
            check(cuda.cudaFree(address))
        size = max(size_bytes, 1)  # an empty tensor has an address, too
        address = int(check(cuda.cudaMalloc(size)))
        self._buffers[name] = address, size
        return address

    def upload(self, name: str, array: Any) -> int:
        """Copy a C-contiguous array to the GPU; return its address there."""
        address = self.reserve(name, array.nbytes)
        kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        check(cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self.stream))
        return address

    def download(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        """Wait for what runs on the stream; return a copy of a buffer as an array."""
        array = np.empty(shape, dtype)
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        check(
            cuda.cudaMemcpyAsync(array.ctypes.data, self._buffers[name][0], array.nbytes, kind, self.stream)
        )
        check(cuda.cudaStreamSynchronize(self.stream))
        return array

    def close(self) -> None:
        """Give everything back. Idempotent."""
        stream, self.stream = self.stream, 0
        if not stream:
            return
        check(cuda.cudaStreamSynchronize(stream))
        for address, _ in self._buffers.values():
            check(cuda.cudaFree(address))
        self._buffers.clear()
        check(cuda.cudaStreamDestroy(stream))


def check(result: tuple[Any, ...]) -> Any:
    """Return what a call of CUDA's runtime returned after its status.

    Raises:
        MemoryError: the GPU has no room.
        RuntimeError: any other error.
    """
    status, *values = result
    if status == cuda.cudaError_t.cudaErrorMemoryAllocation:
        raise MemoryError("CUDA out of memory")
    if status != cuda.cudaError_t.cudaSuccess:
        raise RuntimeError(f"CUDA: {status!s}")
    return values[0] if values else None
