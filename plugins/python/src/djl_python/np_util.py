"""Arrays to and from bytes: DJL's `tensor/ndlist` format and npz. numpy is imported on first use."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any


def from_nd_list(encoded: bytes | bytearray | memoryview) -> list[Any]:
    """Return the arrays of a `tensor/ndlist` blob, in order; an npz blob is accepted as well.

    Raises:
        RequestError: 400, the blob is malformed.
    """
    if bytes(encoded[:2]) == b"PK":
        return from_npz(encoded)
    from frame.worker.codecs import ndlist

    return [array for _, array in ndlist.loads(encoded)]


def to_nd_list(arrays: Any) -> bytearray:
    """Return an array, or a list or tuple of them, as a `tensor/ndlist` blob without names."""
    from frame.worker.codecs import ndlist

    return bytearray(ndlist.dumps([(None, array) for array in _as_list(arrays)]))


def from_npz(encoded: bytes | bytearray | memoryview) -> list[Any]:
    """Return the arrays of an npz blob in its order. Pickled objects inside are refused."""
    import numpy as np

    with np.load(io.BytesIO(encoded), allow_pickle=False) as archive:
        return [archive[name] for name in archive.files]


def to_npz(arrays: Any) -> bytes:
    """Return an array, or a list or tuple of them, as an npz blob with the names `arr_0`, `arr_1` and so on."""
    import numpy as np

    memory = io.BytesIO()
    np.savez(memory, *_as_list(arrays))
    return memory.getvalue()


def _as_list(arrays: Any) -> Sequence[Any]:
    """Return numpy arrays from an array-like, or from a list or tuple of them."""
    import numpy as np

    return [np.asarray(array) for array in (arrays if isinstance(arrays, (list, tuple)) else [arrays])]
