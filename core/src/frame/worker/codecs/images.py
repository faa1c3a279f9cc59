"""Image bodies to tensors, where serving.properties declares how (`width`, `height`, `mean` and so on)."""

from __future__ import annotations

import importlib.util
import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from frame.contract.requests import Buffer, RequestError
from frame.contract.signatures import Signature, TensorSpec
from frame.worker.codecs.fitting import Array

KEYS = ("width", "height", "resize", "centerCrop", "color", "flag", "layout", "scale", "mean", "std")
"""The keys of serving.properties that declare an image input; any one of them does."""
MAX_PIXELS = 50_000_000
"""Of a decoded image, whatever its file's size: 150 MB as RGB."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
_MAGIC = (b"BM", b"GIF8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
_RANK = 4  # rows, and height, width, channels in either order
_MODES = {"rgb": "RGB", "bgr": "RGB", "gray": "L"}
_COLORS = {"rgb": "rgb", "color": "rgb", "bgr": "bgr", "gray": "gray", "grayscale": "gray"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInput:
    """How an image becomes the input `spec` of a model; made by `image_input`.

    Attributes:
        width, height: pixels the model takes; None keeps the image's own.
        short_side: pixels the shorter side is scaled to before the middle is cut out; None: as large as fits.
        scales: whether images of another size are scaled at all.
        crops: cut the middle out; otherwise the image is stretched.
        color: `rgb`, `bgr` or `gray`.
        layout: `nchw` or `nhwc`.
        scale: each pixel of 0 to 255 is multiplied by it first; then mean is subtracted and std divides.
        mean, std: one number for each channel, or one for all.
    """

    spec: TensorSpec
    width: int | None
    height: int | None
    short_side: int | None
    scales: bool
    crops: bool
    color: str
    layout: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def looks_like_image(data: Buffer) -> bool:
    """Tell by its first bytes whether a body is an image of a supported format."""
    return bytes(data[:12]).startswith(_MAGIC)


# --- declaration ----------------------------------------------------------------------------------


def image_input(properties: Mapping[str, str], signature: Signature) -> ImageInput | None:
    """Return the declared image input, or None when none of `KEYS` is among the model's properties.

    Sizes, layout and colours that are not given come from the signature. Defaults for a float input: pixels
    scaled to 0 to 1; for an integer input: pixels as they are.

    Raises:
        ValueError: a value is malformed, or the model has no input of rank 4; names the key.
    """
    given = {key: properties[key].strip() for key in KEYS if properties.get(key, "").strip()}
    if not given:
        return None
    if importlib.util.find_spec("PIL") is None:
        message = f"{next(iter(given))}: images need Pillow in the model's environment: pip install pillow"
        raise ValueError(message)
    spec = _image_spec(signature)
    layout = _choice(given, "layout", {"nchw": "nchw", "nhwc": "nhwc"}) or _layout_of(spec.shape)
    channels, height, width = _dimensions(spec.shape, layout)
    color = _choice(given, "color", _COLORS) or _choice(given, "flag", _COLORS)
    color = color or ("gray" if channels == 1 else "rgb")
    resize = given.get("resize", "true").lower()
    is_float = not spec.dtype or np.dtype(spec.dtype).kind == "f"
    count = 1 if color == "gray" else 3
    return ImageInput(
        spec=spec,
        width=_size(given, "width", width),
        height=_size(given, "height", height),
        short_side=None if resize in ("true", "false") else _size({"resize": resize}, "resize", None),
        scales=resize != "false",
        crops=_choice(given, "centerCrop", {"true": "true", "false": ""}) == "true",
        color=color,
        layout=layout,
        scale=_numbers(given, "scale", 1 / 255 if is_float else 1.0, 1)[0],
        mean=_numbers(given, "mean", 0.0, count),
        std=_numbers(given, "std", 1.0, count),
    )


def _image_spec(signature: Signature) -> TensorSpec:
    found = [spec for spec in signature.inputs if spec.shape is None or len(spec.shape) == _RANK]
    if len(found) != 1 or len(signature.inputs) != 1:
        names = ", ".join(f"{spec.name} {list(spec.shape or ())}" for spec in signature.inputs)
        message = f"an image is declared, but the model does not have just one input of rank {_RANK}: {names}"
        raise ValueError(message)
    return found[0]


def _layout_of(shape: tuple[int, ...] | None) -> str:
    is_last = shape is not None and shape[-1] in (1, 3) and shape[1] not in (1, 3)
    return "nhwc" if is_last else "nchw"


def _dimensions(shape: tuple[int, ...] | None, layout: str) -> tuple[int | None, int | None, int | None]:
    """Return channels, height and width as the signature fixes them, None where it does not."""
    if shape is None:
        return None, None, None
    order = (1, 2, 3) if layout == "nchw" else (3, 1, 2)
    channels, height, width = (shape[axis] if shape[axis] > 0 else None for axis in order)
    return channels, height, width


def _choice(given: Mapping[str, str], key: str, choices: Mapping[str, str]) -> str | None:
    value = given.get(key)
    if value is None:
        return None
    if value.lower() not in choices:
        message = f"{key}: {value!r} is not one of {', '.join(choices)}"
        raise ValueError(message)
    return choices[value.lower()]


def _size(given: Mapping[str, str], key: str, default: int | None) -> int | None:
    value = given.get(key)
    if value is None:
        return default
    if not value.isdecimal() or not 0 < int(value) <= 2**14:
        message = f"{key}: {value!r} is not a number of pixels from 1 to {2**14}"
        raise ValueError(message)
    return int(value)


def _numbers(given: Mapping[str, str], key: str, default: float, count: int) -> tuple[float, ...]:
    if key not in given:
        return (default,)
    try:
        numbers = tuple(float(word) for word in given[key].strip("[]").split(","))
    except ValueError:
        numbers = ()
    is_usable = all(math.isfinite(number) for number in numbers) and (key == "mean" or 0.0 not in numbers)
    if len(numbers) not in {1, count} or not is_usable:
        words = "a number" if count == 1 else f"one number, or {count} with commas between them"
        message = f"{key}: {given[key]!r} is not {words}"
        raise ValueError(message)
    return numbers


# --- decoding -------------------------------------------------------------------------------------


def decode_image(data: Buffer, image: ImageInput) -> Array:
    """Return one row without batch axis: `[channels, height, width]`, or channels last, in the input's dtype.

    Raises:
        RequestError: 400, the bytes are no supported image, or too large.
    """
    pixels = np.asarray(_sized(_open(data, image.color), image))
    if image.color == "gray":
        pixels = pixels[:, :, None]
    elif image.color == "bgr":
        pixels = pixels[:, :, ::-1]
    dtype = np.dtype(image.spec.dtype or "float32")
    if (image.scale, image.mean, image.std) == (1.0, (0.0,), (1.0,)):
        array = pixels.astype(dtype)
    else:
        mean, std = np.array(image.mean, dtype=np.float32), np.array(image.std, dtype=np.float32)
        array = ((pixels.astype(np.float32) * np.float32(image.scale) - mean) / std).astype(dtype)
    return np.ascontiguousarray(array.transpose(2, 0, 1) if image.layout == "nchw" else array)


def _open(data: Buffer, color: str) -> Any:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is stricter
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise RequestError(400, f"the image has {_words(picture.size)} pixels; {MAX_PIXELS} are the most")
        return picture.convert(_MODES[color])
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        raise RequestError(400, f"the body is no image of a supported format: {', '.join(FORMATS)}") from None


def _sized(picture: Any, image: ImageInput) -> Any:
    """Return the picture in the model's size."""
    from PIL import Image

    target = (image.width or picture.width, image.height or picture.height)
    if image.crops:
        return _cropped(picture, image, target)
    if picture.size == target:
        return picture
    if not image.scales:
        raise RequestError(400, f"the image has {_words(picture.size)} pixels; expected {_words(target)}")
    return picture.resize(target, Image.Resampling.BILINEAR)


def _cropped(picture: Any, image: ImageInput, target: tuple[int, int]) -> Any:
    """Cut the middle out: after scaling the shorter side, else the largest region of the target's form."""
    from PIL import Image

    if image.scales and image.short_side:
        factor = image.short_side / min(picture.size)
        scaled = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(scaled, Image.Resampling.BILINEAR)
    width, height = target
    if image.scales and not image.short_side:
        factor = min(picture.width / width, picture.height / height)
        width, height = max(1, round(width * factor)), max(1, round(height * factor))
    if width > picture.width or height > picture.height:
        have, need = _words(picture.size), _words(target)
        raise RequestError(400, f"the image has {have} pixels; expected at least {need}")
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    cut = picture.crop((left, top, left + width, top + height))
    return cut if cut.size == target else cut.resize(target, Image.Resampling.BILINEAR)


def _words(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
