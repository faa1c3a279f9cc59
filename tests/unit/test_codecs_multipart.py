"""Form bodies: what clients send, and what must not be accepted or take long."""

from __future__ import annotations

import time

import pytest
from frame.api import RequestError
from frame.worker.codecs import multipart
from frame.worker.codecs.multipart import split_form

KIND = "multipart/form-data; boundary=b"
DISPOSITION = b'Content-Disposition: form-data; name="x"'


def fields(data, content_type=KIND):
    return [(part.key, bytes(part.data)) for part in split_form(data, content_type)]


@pytest.mark.parametrize(
    "content_type",
    [
        KIND,
        'multipart/form-data; boundary="b"',
        "Multipart/Form-Data; charset=utf-8; Boundary=b",
        "multipart/mixed;boundary=b",
    ],
)
def test_the_boundary_is_found_however_it_is_written(content_type):
    assert fields(b"--b\r\n" + DISPOSITION + b"\r\n\r\n1\r\n--b--", content_type) == [("x", b"1")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"preamble\r\n--b \t\r\n" + DISPOSITION + b"\r\n\r\n1\r\n--b--epilogue", [("x", b"1")]),
        (b"--b\r\n" + DISPOSITION + b"\r\n\r\n\r\n--b--", [("x", b"")]),
        (b"--b\r\n" + DISPOSITION + b"\r\n\r\n--b--", [("x", b"")]),
        (b"--b\r\n" + DISPOSITION + b"\r\nX: y\r\n\r\n\r\n\r\n--b--", [("x", b"\r\n")]),
        (
            b'--b\r\ncontent-disposition: form-data; filename="; name=no"; name=x\r\n\r\n1\r\n--b--',
            [("x", b"1")],
        ),
        (b'--b\r\nContent-Disposition: form-data; name="a\\"b"\r\n\r\n1\r\n--b--', [('a"b', b"1")]),
        (b"--b--", []),
    ],
)
def test_well_formed_bodies_are_split(body, expected):
    assert fields(body) == expected


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"", "multipart/form-data", "needs a boundary"),
        (b"", "multipart/form-data; boundary=" + "b" * 71, "needs a boundary"),
        (b"nothing", KIND, "does not occur"),
        (b"--b\r\n" + DISPOSITION + b"\r\n\r\n1", KIND, "the last boundary is missing"),
        (b"--b\r\n" + DISPOSITION + b"\r\n\r\n1\r\n--bb\r\n--b--", KIND, "not alone on its line"),
        (b"--bx\r\n" + DISPOSITION + b"\r\n\r\n1\r\n--b--", KIND, "not alone on its line"),
        (b"--b\r\nno headers at all\r\n--b--", KIND, "no end of its headers"),
        (b"--b\r\nX: " + b"y" * 9000 + b"\r\n\r\n1\r\n--b--", KIND, "within 8192 bytes"),
        (
            b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--",
            KIND,
            "no Content-Disposition with a name",
        ),
        (b"--b" + (b"\r\n" + DISPOSITION + b"\r\n\r\n1\r\n--b") * 1001 + b"--", KIND, "more than 1000 parts"),
        (b"a=1&" * 1001, "application/x-www-form-urlencoded", "more than 1000 fields"),
    ],
)
def test_malformed_bodies_are_refused(body, content_type, words):
    with pytest.raises(RequestError, match="form body is malformed") as error:
        split_form(body, content_type)
    assert words in error.value.message
    assert error.value.status == 400


def test_fields_of_one_name_stay_apart_and_in_order():
    kind = "application/x-www-form-urlencoded"
    assert fields(b"a=1&b=x+y%20z&a=2&&c", kind) == [("a", b"1"), ("b", b"x y z"), ("a", b"2"), ("c", b"")]


def test_multipart_values_are_views_of_one_buffer():
    parts = split_form(b"--b\r\n" + DISPOSITION + b"\r\n\r\n12\r\n--b--", KIND)
    assert isinstance(parts[0].data, memoryview)


def test_forms_are_told_by_their_content_type():
    assert [
        multipart.is_form(kind)
        for kind in (KIND, "Application/X-WWW-Form-Urlencoded", "application/json", "")
    ] == [
        *(True, True),
        *(False, False),
    ]


@pytest.mark.parametrize("filling", [b"\r\n", b"\r\n--", b"\r\n--a", b"--b"])
def test_a_form_takes_time_in_proportion_to_its_size(filling):
    def seconds(count):
        body = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + filling * count + b"\r\n--b--\r\n"
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            split_form(body, "multipart/form-data; boundary=b")
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(1_600_000) < 2 * 16 * seconds(100_000)
