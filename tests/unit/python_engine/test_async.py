"""Asynchronous handlers: overlapping calls, chunks in DJL's encoding, streams that end with their reader."""

from __future__ import annotations

import json
import threading

import pytest
from djl_python.binary_map import decode_map, encode_map
from frame.api import RequestError, ResponseStream

HEAD = (
    "import asyncio\nfrom djl_python import Input, Output\n"
    "from djl_python.async_utils import create_non_stream_output, create_stream_chunk_output, "
    "handle_streaming_response\n"
)


def handler(body: str) -> str:
    lines = "\n".join("    " + line for line in body.splitlines())
    return f"{HEAD}async def handle(inputs):\n    if inputs.is_empty():\n        return None\n{lines}\n"


def streaming(body: str) -> str:
    lines = "\n".join("    " + line for line in body.splitlines())
    return f"{HEAD}async def handle(inputs):\n    if inputs.is_empty():\n        return\n{lines}\n"


def test_an_async_handler_is_recognized_and_takes_several_calls(load, ask, body_of):
    model = load(handler("return Output().add(inputs.get_as_string())"), slots=4)
    assert model.concurrency == 4
    assert body_of(model.predict([ask("a")])[0]) == b"a"


def test_a_plain_handler_can_run_in_async_mode(load, ask, body_of):
    source = HEAD + "def handle(inputs):\n    return Output().add('plain')\n"
    assert body_of(load(source, async_mode=True).predict([ask()])[0]) == b"plain"


def test_requests_of_a_batch_overlap_and_are_not_prefixed(load, ask, json_of):
    source = "import asyncio\nboth = asyncio.Event()\nseen = []\n" + handler(
        "seen.append(inputs.get_as_string())\n"
        "if len(seen) == 2:\n    both.set()\n"
        "await asyncio.wait_for(both.wait(), 10)\n"
        "return Output().add([inputs.get_as_string(), inputs.is_batch()])"
    )
    answers = load(source).predict([ask("a"), ask("b")])
    assert [json_of(answer) for answer in answers] == [["a", False], ["b", False]]


def test_calls_from_several_threads_overlap(load, ask, body_of):
    source = "import asyncio\nboth = asyncio.Event()\nseen = []\n" + handler(
        "seen.append(1)\nif len(seen) == 2:\n    both.set()\n"
        "await asyncio.wait_for(both.wait(), 10)\nreturn Output().add('done')"
    )
    model = load(source, slots=2)
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(body_of(model.predict([ask()])[0]))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert found == [b"done", b"done"]


def test_whole_answers_are_decoded(load, ask, json_of):
    model = load(handler("return create_non_stream_output({'a': 1}, {'X-A': 'b'})"))
    [answer] = model.predict([ask()])
    assert json_of(answer) == {"a": 1}
    assert dict(answer.properties) == {"Content-Type": "application/json", "X-A": "b"}


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [("'', error='bad', code=400", 400, "bad"), ("'', error='bad'", 424, "bad"), ("'', code=503", 503, "")],
)
def test_an_error_before_any_output_sets_the_status(load, ask, json_of, arguments, status, error):
    [answer] = load(handler(f"return create_non_stream_output({arguments})")).predict([ask()])
    assert answer.status == status
    assert json_of(answer) == {"error": error, "code": status}


def test_plain_outputs_of_an_async_handler_are_left_as_they_are(load, ask, body_of):
    [answer] = load(handler("return Output(201).add(b'\\x00\\x01')")).predict([ask()])
    assert (answer.status, body_of(answer)) == (201, b"\x00\x01")


CHUNKS = handler(
    "async def chunks():\n"
    "    yield create_stream_chunk_output({'n': 1}, False)\n"
    "    yield create_stream_chunk_output('two', False)\n"
    "    yield create_stream_chunk_output('', True)\n"
    "return chunks()"
)


def test_chunks_are_decoded_and_sent_one_by_one(load, ask, read_stream):
    [answer] = load(CHUNKS).predict([ask()])
    assert isinstance(answer, ResponseStream)
    assert answer.head.properties == {"Content-Type": "application/jsonlines"}
    assert read_stream(answer) == [b'{"n": 1}\n', b"two\n", b"\n"]


def test_an_async_generator_function_is_a_handler(load, ask, read_stream):
    source = streaming("for word in ('a', 'b'):\n    yield Output().add(word)")
    assert read_stream(load(source).predict([ask()])[0]) == [b"a", b"b"]


def test_streams_of_a_batch_advance_side_by_side(load, ask):
    source = "import asyncio\nboth = asyncio.Event()\nseen = []\n" + streaming(
        "yield create_stream_chunk_output('first', False)\n"
        "seen.append(1)\nif len(seen) == 2:\n    both.set()\n"
        "await asyncio.wait_for(both.wait(), 10)\n"
        "yield create_stream_chunk_output('second', True)"
    )
    one, two = load(source).predict([ask(), ask()])
    chunks = [
        list(map(bytes, stream.chunks)) for stream in (one, two)
    ]  # the first is read to its end, then the second
    assert chunks == [[b"first\n", b"second\n"]] * 2
    one.close()
    two.close()


def test_a_stream_of_one_last_chunk_is_a_whole_answer(load, ask, body_of):
    source = streaming("yield create_stream_chunk_output('all', True)")
    assert body_of(load(source).predict([ask()])[0]) == b"all\n"


def test_an_error_chunk_first_sets_the_status_and_later_ends_the_stream(load, ask, json_of, read_stream):
    first = streaming("yield create_stream_chunk_output('', True, 'no', 400)")
    [answer] = load(first).predict([ask()])
    assert (answer.status, json_of(answer)) == (400, {"error": "no", "code": 400})
    later = streaming(
        "yield create_stream_chunk_output('a', False)\nyield create_stream_chunk_output('', True, 'no', 400)"
    )
    chunks = read_stream(load(later).predict([ask()])[0])
    assert chunks[0] == b"a\n"
    assert json.loads(chunks[1]) == {"error": "no", "code": 400}


def test_exceptions_before_and_in_a_stream_are_the_handlers_failure(load, ask):
    [answer] = load(streaming("raise ValueError('at once')\nyield 1")).predict([ask()])
    assert isinstance(answer, RequestError)
    assert json.loads(answer.body)["error"] == "at once"
    source = streaming("yield create_stream_chunk_output('a', False)\nraise ValueError('half way')")
    [stream] = load(source).predict([ask()])
    assert bytes(next(stream.chunks)) == b"a\n"
    with pytest.raises(RequestError, match="half way"):
        next(stream.chunks)
    stream.close()


def test_an_empty_stream_is_204(load, ask):
    [answer] = load(streaming("if False:\n    yield 1")).predict([ask()])
    assert answer.status == 204


def test_closing_a_stream_ends_the_generator(load, ask, body_of):
    source = "ended = []\n" + handler(
        "async def chunks():\n    try:\n        while True:\n"
        "            yield create_stream_chunk_output('x', False)\n"
        "    finally:\n        ended.append('yes')\n"
        "return chunks()"
    )
    source += "async def state(inputs):\n    return Output().add(','.join(ended))\n"
    model = load(source)
    [stream] = model.predict([ask()])
    next(stream.chunks)
    stream.close()
    stream.close()
    assert body_of(model.predict([ask(headers={"handler": "state"})])[0]) == b"yes"


def test_closing_the_model_ends_what_runs(load, ask, tmp_path):
    source = handler(
        "async def chunks():\n    try:\n        while True:\n"
        "            yield create_stream_chunk_output('x', False)\n"
        f"    finally:\n        open({str(tmp_path / 'ended')!r}, 'w').close()\n"
        "return chunks()"
    )
    model = load(source)
    model.predict([ask()])
    model.close()
    model.close()
    assert (tmp_path / "ended").exists()


def test_the_first_call_may_fail_the_load(load):
    with pytest.raises(RequestError, match="Failed to initialize model: ValueError: no weights"):
        load(HEAD + "async def handle(inputs):\n    raise ValueError('no weights')\n")


def test_a_formatter_turns_a_text_iterator_into_chunks(load, ask, read_stream):
    source = handler(
        "async def texts():\n    for text in ('a', 'b', 'c'):\n        yield text\n"
        "def formatted(text, history=(), **kwargs):\n"
        "    history = [*history, text]\n    return ''.join(history), text == 'c', history\n"
        "return handle_streaming_response(texts(), formatted, accumulate_chunks=True)"
    )
    assert read_stream(load(source).predict([ask()])[0]) == [b"a\n", b"ab\n", b"abc\n"]


def test_a_formatter_that_fails_ends_the_stream_with_an_error(load, ask, read_stream):
    source = handler(
        "async def texts():\n    yield 'a'\n    yield 'b'\n"
        "def formatted(text):\n    assert text == 'a', 'bad text'\n    return text, False\n"
        "return handle_streaming_response(texts(), formatted)"
    )
    chunks = read_stream(load(source).predict([ask()])[0])
    assert chunks[0] == b"a\n"
    assert json.loads(chunks[1]) == {"error": "bad text", "code": 424}


def test_binary_maps_come_back_and_other_bytes_are_none():
    values = {"data": "é\n", "last": True, "code": 7}
    encoded = encode_map(values)
    assert decode_map(encoded) == {"data": "é\n", "last": "True", "code": "7"}
    for wrong in (
        b"",
        b"\0",
        b"text",
        encoded[:-1],
        encoded + b"x",
        b"\0\1\xff\xff\xff\xff",
        b"\0\1\0\0\0\1\xff\0\0\0\0",
    ):
        assert decode_map(wrong) is None
