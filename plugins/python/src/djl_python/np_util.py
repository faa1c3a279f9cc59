"""Arrays to and from bytes: DJL's `tensor/ndlist` format and npz. numpy is imported on first use.

Arrays that are read belong to the caller: they are aligned and can be changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def from_nd_list(encoded: bytes | bytearray | memoryview) -> list[Any]:
    """Return the arrays of a `tensor/ndlist` blob, in order; an npz blob is accepted as well.

    Raises:
        RequestError: 400, the blob is malformed.
    """
    if bytes(encoded[:2]) == b"PK":
        return from_npz(encoded)
    import numpy as np
    from frame.worker.codecs import ndlist

    return [np.array(array) for _, array in ndlist.loads(encoded)]


def to_nd_list(arrays: Any) -> bytearray:
    """Return an array, or a list or tuple of them, as a `tensor/ndlist` blob without names."""
    from frame.worker.codecs import ndlist

    return bytearray(ndlist.dumps([(None, array) for array in _as_arrays(arrays)]))


def from_npz(encoded: bytes | bytearray | memoryview) -> list[Any]:
    """Return the arrays of an npz blob in its order.

    Raises:
        RequestError: 400, the blob is malformed, too large, or holds pickled objects.
    """
    import numpy as np
    from frame.worker.codecs import npz

    return [np.array(array) for _, array in npz.loads(encoded)]


def to_npz(arrays: Any) -> bytes:
    """Return an array, or a list or tuple of them, as an npz blob with numpy's names, `arr_0` and on."""
    from frame.worker.codecs import npz

    return npz.dumps([(f"arr_{index}", array) for index, array in enumerate(_as_arrays(arrays))])


def _as_arrays(arrays: Any) -> Sequence[Any]:
    """Return numpy arrays from one array, or from a list or tuple of them."""
    import numpy as np

    return [np.asarray(array) for array in (arrays if isinstance(arrays, (list, tuple)) else [arrays])]
