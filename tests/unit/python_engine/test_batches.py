"""Several requests in one call: the prefixes a handler sees, and how its one output is given out."""

from __future__ import annotations

import json

import pytest
from frame.api import RequestError, Response, ResponseStream

HEAD = "from djl_python import Input, Output\n"


def handler(body: str) -> str:
    lines = "\n".join("    " + line for line in body.splitlines())
    return f"{HEAD}def handle(inputs):\n    if inputs.is_empty():\n        return None\n{lines}\n"


ECHO = handler(
    "output = Output()\n"
    "for i, item in enumerate(inputs.get_batches()):\n"
    "    output.add(item.get_as_string().upper(), batch_index=i)\n"
    "return output"
)


def test_each_request_gets_its_own_entry(load, ask, body_of):
    answers = load(ECHO).predict([ask("a"), ask("b"), ask("c")])
    assert [body_of(answer) for answer in answers] == [b"A", b"B", b"C"]
    assert [answer.parts[0].key for answer in answers] == ["data"] * 3


def test_entries_may_come_in_any_order_and_padded(load, ask, body_of):
    model = load(handler("return Output().add('second', 'batch_001.out').add('first', 'batch_0.out')"))
    answers = model.predict([ask(), ask()])
    assert [body_of(answer) for answer in answers] == [b"first", b"second"]
    assert answers[0].parts[0].key == "out"


def test_a_batch_carries_prefixed_keys_and_its_size(load, ask, json_of):
    model = load(
        handler(
            "seen = {k: v for k, v in inputs.get_properties().items() if k.startswith('batch_')}\n"
            "seen['type'] = inputs.get_property('Content-Type')\n"
            "seen['keys'] = inputs.get_content().get_keys()\n"
            "seen['is_batch'] = inputs.is_batch()\n"
            "seen['size'] = inputs.get_batch_size()\n"
            "return Output().add(seen, batch_index=0).add('x', batch_index=1)"
        )
    )
    requests = [ask("a", headers={"Content-Type": "text/plain"}), ask(image=b"i", mask=b"m")]
    seen = json_of(model.predict(requests)[0])
    assert seen["batch_size"] == "2"
    assert seen["batch_000.Content-Type"] == "text/plain"
    assert seen["batch_000.requestId"] == requests[0].id
    assert seen["keys"] == ["batch_000.data", "batch_001.image", "batch_001.mask"]
    assert (seen["type"], seen["is_batch"], seen["size"]) == (None, True, 2)


def test_items_of_a_batch_have_their_own_properties_and_content(load, ask, json_of):
    model = load(
        handler(
            "output = Output()\n"
            "for i, item in enumerate(inputs.get_batches()):\n"
            "    seen = [item.get_property('CONTENT-type'), item.get_content().get_keys(), item.is_batch()]\n"
            "    output.add(seen, batch_index=i)\n"
            "return output"
        )
    )
    answers = model.predict([ask(headers={"content-type": "a/b"}), ask(k=b"1")])
    assert [json_of(answer) for answer in answers] == [["a/b", ["data"], False], [None, ["k"], False]]


def test_a_batch_of_one_is_not_prefixed(load, ask, json_of):
    model = load(handler("return Output().add([inputs.is_batch(), inputs.get_content().get_keys(), "
                         "len(inputs.get_batches())])"))  # fmt: skip
    assert json_of(model.predict([ask()])[0]) == [False, ["data"], 1]


def test_a_client_cannot_pretend_to_be_a_batch(load, ask, json_of):
    model = load(
        handler("return Output().add([inputs.is_batch(), inputs.get_property('model_dir') == '/etc'])")
    )
    request = ask(headers={"Batch_Size": "900", "MODEL_DIR": "/etc"})
    assert json_of(model.predict([request])[0]) == [False, False]


def test_a_thousand_requests_keep_their_order(load, ask, body_of):
    answers = load(ECHO).predict([ask(f"r{i}") for i in range(1200)])
    assert [body_of(answer) for answer in answers] == [b"R%d" % i for i in range(1200)]


@pytest.mark.parametrize(
    ("adds", "message"),
    [
        (".add('a', batch_index=0)", "Batch output size mismatch, expected: 2, actual: 1"),
        ("", "Batch output size mismatch, expected: 2, actual: 0"),
        (".add('a').add('b')", "Unexpected batch output key: None"),
        (".add('a', 'batch_0.x').add('b', 'batch_7.x')", "Unexpected batch output key: batch_7.x"),
        (".add('a', 'batch_0.x').add('b', 'batch_0.x')", "Unexpected batch output key: batch_0.x"),
        (".add('a', 'batch_0.x').add('b', 'batch_1')", "Unexpected batch output key: batch_1"),
    ],
)
def test_a_wrong_answer_to_a_batch_is_400_for_all(load, ask, adds, message):
    answers = load(handler(f"return Output(){adds}")).predict([ask(), ask()])
    assert [(answer.status, answer.message) for answer in answers] == [(400, message)] * 2


def test_an_error_output_answers_every_request(load, ask, json_of):
    answers = load(handler("return Output().error('too large', code=413)")).predict([ask(), ask(), ask()])
    assert [answer.status for answer in answers] == [413] * 3
    assert {json_of(answer)["error"] for answer in answers} == {"too large"}


def test_headers_and_status_are_shared_by_the_batch(load, ask):
    model = load(
        handler("return Output(202).add_property('X-A', 'b').add('1', batch_index=0).add('2', batch_index=1)")
    )
    answers = model.predict([ask(), ask()])
    assert [(answer.status, dict(answer.properties)) for answer in answers] == [(202, {"X-A": "b"})] * 2


@pytest.mark.parametrize(
    ("result", "status"), [("return None", 204), ("return 5", 424), ("raise MemoryError", 507)]
)
def test_what_is_no_output_answers_every_request(load, ask, result, status):
    answers = load(handler(result)).predict([ask(), ask()])
    assert [answer.status for answer in answers] == [status] * 2


def test_one_stream_cannot_answer_a_batch(load, ask):
    answers = load(handler("return Output().add_stream_content(iter('ab'))")).predict([ask(), ask()])
    assert [answer.status for answer in answers] == [424, 424]
    assert "list with one Output per request" in json.loads(answers[0].body)["error"]


def test_a_list_gives_each_request_its_own_answer(load, ask, body_of, read_stream):
    model = load(
        handler(
            "answers = [Output(201).add('whole'), Output().add_stream_content(iter('ab'), None), None,\n"
            "           ValueError('bad item'), 7]\n"
            "return answers[:inputs.get_batch_size()]"
        )
    )
    whole, stream, nothing, failed, wrong = model.predict([ask() for _ in range(5)])
    assert (whole.status, body_of(whole)) == (201, b"whole")
    assert isinstance(stream, ResponseStream)
    assert read_stream(stream) == [b"a", b"b"]
    assert nothing == Response(status=204, message="No content")
    assert isinstance(failed, RequestError)
    assert json.loads(failed.body)["error"] == "bad item"
    assert "Invalid output type" in json.loads(wrong.body)["error"]


def test_a_list_of_one_answers_a_batch_of_one(load, ask, body_of):
    assert body_of(load(handler("return [Output().add('x')]")).predict([ask()])[0]) == b"x"


def test_a_list_of_the_wrong_length_is_400_for_all(load, ask):
    answers = load(handler("return [Output()]")).predict([ask(), ask()])
    assert {(answer.status, answer.message) for answer in answers} == {
        (400, "Batch output size mismatch, expected: 2, actual: 1")
    }


def test_finalizers_of_a_batch_run_once_after_its_last_answer(load, ask, body_of, read_stream):
    source = "log = []\n" + handler(
        "output = Output().finalize(log.append, 1)\n"
        "for i in range(inputs.get_batch_size()):\n"
        "    output.add(str(i), batch_index=i)\n"
        "return output"
    )
    model = load(source + "def state(inputs):\n    return Output().add(str(log))\n")
    first, second = model.predict([ask(), ask()])
    assert read_stream(second) == [b"1"]
    assert body_of(model.predict([ask(headers={"handler": "state"})])[0]) == b"[]"
    assert read_stream(first) == [b"0"]
    assert body_of(model.predict([ask(headers={"handler": "state"})])[0]) == b"[1]"


def test_requests_for_different_functions_run_in_their_own_calls(load, ask, body_of):
    source = ECHO + "def size(inputs):\n    n = inputs.get_batch_size()\n"
    source += "    return [Output().add(str(n)) for _ in range(n)]\n"
    to_size = {"handler": "size"}
    answers = load(source).predict([ask("a"), ask(headers=to_size), ask("b"), ask(headers=to_size)])
    assert [body_of(answer) for answer in answers] == [b"A", b"2", b"B", b"2"]


@pytest.mark.parametrize("name", ["absent", "_hidden", "Input", "os"])
def test_only_public_functions_can_be_asked_for(load, ask, name):
    source = "import os\n" + ECHO + "def _hidden(inputs):\n    return Output()\n"
    [answer] = load(source).predict([ask(headers={"handler": name})])
    assert answer.status == 400
    assert f"handler={name}" in answer.message


def test_reset_runs_before_every_request_and_each_alone(load, ask, body_of):
    source = "state = []\ndef forget():\n    state.clear()\n" + handler(
        "state.append(inputs.get_as_string())\nreturn Output().add(''.join(state))"
    )
    answers = load(source, reset="forget").predict([ask("a"), ask("b")])
    assert [body_of(answer) for answer in answers] == [b"a", b"b"]
