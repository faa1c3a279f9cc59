"""Images: what serving.properties declares, and the pixels that reach the model."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from frame.api import RequestError, Signature, TensorSpec
from frame.worker.codecs import images
from frame.worker.codecs.images import decode_image, image_input
from PIL import Image

FREE = Signature((TensorSpec("x", "float32", (-1, 3, -1, -1)),), ())


def signature(*shape, dtype="float32"):
    return Signature((TensorSpec("x", dtype, shape),), ())


def picture(array, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def pixels(properties, model=FREE, data=None):
    return decode_image(picture(PIXELS) if data is None else data, image_input(properties, model))


def test_no_key_declares_no_image():
    assert image_input({"intra_op_num_threads": "1", "width": " "}, FREE) is None


def test_pixels_become_planes_from_0_to_1():
    array = pixels({"scale": str(1 / 255)})
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    np.testing.assert_allclose(array, PIXELS.transpose(2, 0, 1) / 255, rtol=1e-6)


def test_mean_and_std_are_taken_for_each_channel():
    array = pixels({"mean": "0.1,0.2,0.3", "std": "0.5, 0.25, 1"})
    expected = (PIXELS / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 1]
    np.testing.assert_allclose(array, expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


def test_layout_color_and_integer_pixels_follow_the_signature():
    assert pixels({"resize": "false"}, signature(-1, 4, 6, 3, dtype="uint8")).tolist() == PIXELS.tolist()
    assert (
        pixels({"color": "bgr"}, signature(-1, 4, 6, 3, dtype="uint8")).tolist()
        == PIXELS[:, :, ::-1].tolist()
    )
    gray = pixels({"flag": "GRAYSCALE"}, signature(-1, 1, 4, 6, dtype="uint8"))
    assert gray.shape == (1, 4, 6)
    assert np.array_equal(gray[0], np.asarray(Image.fromarray(PIXELS).convert("L")))


def test_size_comes_from_the_signature_unless_it_is_given():
    assert pixels({"scale": "1"}, signature(-1, 3, 8, 10)).shape == (3, 8, 10)
    assert pixels({"width": "5", "height": "7"}).shape == (3, 7, 5)
    assert pixels({"layout": "NHWC", "width": "5"}, Signature((TensorSpec("x", "", None),), ())).shape == (
        4,
        5,
        3,
    )


def test_center_crop_cuts_the_middle_of_the_models_proportions():
    array = pixels({"centerCrop": "true", "width": "4", "height": "4", "scale": "1"})
    assert array.tolist() == PIXELS[:, 1:5].transpose(2, 0, 1).astype(float).tolist()


def test_center_crop_after_scaling_the_shorter_side_is_what_torchvision_does():
    array = pixels({"centerCrop": "true", "resize": "8", "width": "6", "height": "6", "scale": "1"})
    scaled = Image.fromarray(PIXELS).resize((12, 8), Image.Resampling.BILINEAR).crop((3, 1, 9, 7))
    assert np.array_equal(array, np.asarray(scaled).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"resize": "false", "width": "5", "height": "4"}, "the image has 6 x 4 pixels; expected 5 x 4"),
        ({"resize": "false", "centerCrop": "true", "width": "7", "height": "4"}, "expected at least 7 x 4"),
    ],
)
def test_an_image_of_the_wrong_size_is_refused_where_none_is_scaled(properties, words):
    with pytest.raises(RequestError, match=words):
        pixels(properties)


@pytest.mark.parametrize(
    ("properties", "model", "words"),
    [
        ({"width": "wide"}, FREE, "width: 'wide' is not a number of pixels"),
        ({"height": "0"}, FREE, "height: '0'"),
        ({"resize": "maybe"}, FREE, "resize: 'maybe'"),
        ({"color": "cmyk"}, FREE, "color: 'cmyk' is not one of rgb, color, bgr, gray, grayscale"),
        ({"layout": "chw"}, FREE, "layout: 'chw'"),
        ({"centerCrop": "yes"}, FREE, "centerCrop: 'yes'"),
        ({"mean": "1,2"}, FREE, "mean: '1,2' is not one number, or 3 with commas"),
        ({"std": "0"}, FREE, "std: '0'"),
        ({"scale": "nan"}, FREE, "scale: 'nan' is not a number"),
        ({"width": "5"}, signature(-1, 4), "does not have just one input of rank 4: x \\[-1, 4\\]"),
    ],
)
def test_a_malformed_declaration_is_refused_with_its_key(properties, model, words):
    with pytest.raises(ValueError, match=words):
        image_input(properties, model)


def png_claiming(width, height):
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_000, 10_000), (100_000, 100_000)])
def test_a_bomb_is_refused_before_it_is_unpacked(size):
    with pytest.raises(RequestError) as error:
        pixels({"scale": "1"}, data=png_claiming(*size))
    assert error.value.status == 400


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"%PDF-1.4", picture(PIXELS)[:45], picture(PIXELS, "TIFF")])
def test_bytes_that_are_no_image_are_refused(data):
    with pytest.raises(RequestError, match="supported format: BMP, GIF, JPEG, PNG, WEBP"):
        pixels({"scale": "1"}, data=data)


def test_images_are_told_by_their_first_bytes():
    for kind in images.FORMATS:
        assert images.looks_like_image(memoryview(picture(PIXELS, kind)))
    assert not images.looks_like_image(b'{"inputs": []}')
