"""What a handler may return or raise for one request, and what the client gets for it."""

from __future__ import annotations

import json

import pytest
from frame.api import RequestError, Response, ResponseStream

HEAD = "from djl_python import Input, Output\n"


def handler(body: str) -> str:
    """Return a model.py whose `handle` runs `body` for every call but the first."""
    lines = "\n".join("    " + line for line in body.splitlines())
    return f"{HEAD}def handle(inputs):\n    if inputs.is_empty():\n        return None\n{lines}\n"


def test_an_output_is_sent_as_it_is(load, ask):
    model = load(
        handler('return Output(201, "Made").add_property("X-A", 1).add("text").add(b"more", key="k")')
    )
    [answer] = model.predict([ask()])
    assert isinstance(answer, Response)
    assert (answer.status, answer.message, dict(answer.properties)) == (201, "Made", {"X-A": "1"})
    assert [(part.key, bytes(part.data)) for part in answer.parts] == [("", b"text"), ("k", b"more")]


def test_none_is_204_without_content(load, ask):
    [answer] = load(handler("return None")).predict([ask()])
    assert answer == Response(status=204, message="No content")


@pytest.mark.parametrize("value", ["'text'", "{'a': 1}", "3", "b'x'", "Input()"])
def test_another_type_is_424_naming_it(load, ask, value):
    [answer] = load(handler(f"return {value}")).predict([ask()])
    assert isinstance(answer, RequestError)
    body = json.loads(answer.body)
    assert (answer.status, body["code"], body["message"]) == (424, 424, "invoke handler failure")
    assert body["error"].startswith("Invalid output type: <class")
    assert answer.properties["content-type"] == "application/json"


def test_an_exception_is_424_with_its_text_and_no_traceback(load, ask):
    [answer] = load(handler("raise KeyError('colour')")).predict([ask()])
    assert answer.status == 424
    assert json.loads(answer.body) == {"code": 424, "message": "invoke handler failure", "error": "'colour'"}
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize(
    "raising",
    [
        "raise MemoryError('no more')",
        "class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('no more')",
        "raise RuntimeError('CUDA error: out of memory')",
        "raise ValueError('No available memory for the cache blocks')",
    ],
)
def test_out_of_memory_is_507_with_an_empty_body(load, ask, raising):
    [answer] = load(handler(raising)).predict([ask()])
    assert (answer.status, answer.body) == (507, b"")
    assert "memory" in answer.message or answer.message == "no more"


def test_an_error_of_the_contract_passes_through_unchanged(load, ask):
    source = "from frame.api import RequestError\n" + handler(
        "raise RequestError(422, 'colour: expected a name')"
    )
    [answer] = load(source).predict([ask()])
    assert (answer.status, answer.message) == (422, "colour: expected a name")


def test_output_error_replaces_what_was_added(load, ask, json_of):
    [answer] = load(handler('return Output().add("half").error("bad colour", 400, "bad input")')).predict(
        [ask()]
    )
    assert answer.status == 400
    assert json_of(answer) == {"code": 400, "message": "bad input", "error": "bad colour"}


def test_a_handler_goes_on_after_an_exception(load, ask, body_of):
    model = load(handler("text = inputs.get_as_string()\nassert text != 'bad'\nreturn Output().add(text)"))
    assert [answer.status for answer in model.predict([ask("bad")])] == [424]
    assert body_of(model.predict([ask("good")])[0]) == b"good"


def test_values_that_are_no_text_become_json(load, ask, json_of, body_of):
    model = load(handler("return Output().add({'é': [1, 2.5, None]})"))
    [answer] = model.predict([ask()])
    assert json_of(answer) == {"é": [1, 2.5, None]}
    assert "é".encode() in body_of(answer)


def test_nan_is_refused_in_json(load, ask):
    [answer] = load(handler("return Output().add_as_json([float('nan')])")).predict([ask()])
    assert answer.status == 424
    assert "JSON" in json.loads(answer.body)["error"]


def test_a_stream_is_sent_item_by_item(load, ask, read_stream):
    model = load(
        handler("return Output().add_property('X-A', 'b').add_stream_content(str(i) for i in range(3))")
    )
    [answer] = model.predict([ask()])
    assert isinstance(answer, ResponseStream)
    assert answer.head.properties == {"X-A": "b"}
    assert read_stream(answer) == [b'{"outputs": "0"}\n', b'{"outputs": "1"}\n', b'{"outputs": "2"}\n']


@pytest.mark.parametrize(
    ("formatter", "expected"), [("None", [b"a", b"b"]), ("lambda item: item.upper()", [b"A", b"B"])]
)
def test_a_stream_uses_the_formatter_it_is_given(load, ask, read_stream, formatter, expected):
    model = load(handler(f"return Output().add_stream_content(iter(['a', b'b'.decode()]), {formatter})"))
    assert read_stream(model.predict([ask()])[0]) == expected


def test_a_stream_produces_nothing_before_it_is_asked(load, ask):
    source = "made = []\n" + handler(
        "def items():\n    made.append(1)\n    yield 'a'\nreturn Output().add_stream_content(items())"
    )
    source += "def count(inputs):\n    return Output().add(str(len(made)))\n"
    model = load(source)
    [stream] = model.predict([ask()])
    [before] = model.predict([ask(headers={"handler": "count"})])
    assert next(stream.chunks) == b'{"outputs": "a"}\n'
    [after] = model.predict([ask(headers={"handler": "count"})])
    assert (bytes(before.parts[0].data), bytes(after.parts[0].data)) == (b"0", b"1")


def test_an_exception_in_a_stream_is_raised_as_the_handlers_failure(load, ask):
    model = load(handler("def items():\n    yield 'a'\n    raise ValueError('half way')\n"
                         "return Output().add_stream_content(items(), None)"))  # fmt: skip
    [stream] = model.predict([ask()])
    assert next(stream.chunks) == b"a"
    with pytest.raises(RequestError) as caught:
        next(stream.chunks)
    assert caught.value.status == 424
    assert json.loads(caught.value.body)["error"] == "half way"


def test_closing_a_stream_ends_its_generator(load, ask, body_of):
    source = "ended = []\n" + handler(
        "def items():\n    try:\n        yield 'a'\n        yield 'b'\n"
        "    finally:\n        ended.append('yes')\n"
        "return Output().add_stream_content(items(), None)"
    )
    source += "def state(inputs):\n    return Output().add(','.join(ended))\n"
    model = load(source)
    [stream] = model.predict([ask()])
    next(stream.chunks)
    stream.close()
    assert body_of(model.predict([ask(headers={"handler": "state"})])[0]) == b"yes"


FINALIZING = (
    "log = []\n"
    + handler(
        "output = Output().add('x', key='k').add('body', key='data')\n"
        "return output.finalize(log.append, 1).finalize(log.append, 2)"
    )
    + "def state(inputs):\n    return Output().add(str(log))\n"
)


def test_finalizers_run_after_the_answer_was_sent(load, ask, body_of, read_stream):
    model = load(FINALIZING)
    [answer] = model.predict([ask()])
    state = ask(headers={"handler": "state"})
    assert body_of(model.predict([state])[0]) == b"[]"
    assert read_stream(answer) == [b"body"]
    assert body_of(model.predict([state])[0]) == b"[1, 2]"


def test_a_finalizer_that_fails_keeps_no_other_from_running(load, ask, body_of, read_stream):
    source = FINALIZING.replace("finalize(log.append, 1)", "finalize(log.index, 'absent')")
    model = load(source)
    read_stream(model.predict([ask()])[0])
    assert body_of(model.predict([ask(headers={"handler": "state"})])[0]) == b"[2]"


@pytest.mark.parametrize("value", ["None", "Output()", "[]", "''", "False", "{}", "['text', 'text']"])
def test_what_a_rank_returns_that_answers_nobody_may_be_anything(load, ask, value):
    assert load(handler(f"return {value}"), rank=1).predict([ask(), ask()]) is None


def test_streams_and_failures_of_a_rank_that_answers_nobody_are_told(load, ask):
    source = "return [None, Output().add_stream_content(iter(['a']), None), ValueError('bad')]"
    none, stream, failed = load(handler(source), rank=1).predict([ask(), ask(), ask()])
    assert isinstance(none, Response)
    assert isinstance(stream, ResponseStream)
    assert isinstance(failed, RequestError)
    [failed] = load(handler("raise ValueError('bad')"), rank=1).predict([ask()])
    assert isinstance(failed, RequestError)
