"""The graph of a workflow: what is needed, in which order, and what is refused."""

from __future__ import annotations

import pytest
from frame.policy.workflow import MAX_STEPS, Call, Many, Ref, WorkflowError, read_graph

MODELS, FUNCTIONS = frozenset({"a", "b"}), frozenset({"pre", "post"})


def read(section: object):
    return read_graph(section, MODELS, FUNCTIONS)


def test_names_calls_and_lists_are_read():
    graph = read({"x": ["pre", "in"], "y": ["functionsApply", ["a", "id"], "x"], "out": ["post", "y", "in"]})
    assert graph.steps["x"] == Call("pre", "function", (Ref("in"),))
    assert graph.steps["y"] == Many((Call("a", "model", (Ref("x"),)), Ref("x")))
    assert graph.final == Call("post", "function", (Ref("y"), Ref("in")))
    assert {call.target for call in graph.calls()} == {"pre", "a", "post"}


def test_what_is_applied_to_a_call_is_computed_once():
    graph = read({"out": ["ensemble", ["functionsApply", ["a", "b"], ["pre", "in"]]]})
    (hidden,) = graph.steps.keys() - {"out"}
    assert graph.steps[hidden] == Call("pre", "function", (Ref("in"),))
    assert [call.target for call in graph.calls()].count("pre") == 1


def test_the_answer_may_be_a_name_or_the_request():
    assert read({"x": ["a", "in"], "y": "x", "out": ["id", "y"]}).final == Call("a", "model", (Ref("in"),))
    assert read({"out": "in"}).final == Ref("in")


def test_steps_that_are_not_needed_are_named():
    graph = read({"x": ["a", "in"], "z": ["b", "x"], "out": "in"})
    assert graph.unused == ("x", "z")
    assert list(graph.calls()) == []


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        (None, 'an entry "out"'),
        ({}, 'an entry "out"'),
        ({"x": "in"}, 'no entry "out"'),
        ({"in": "out", "out": "in"}, "workflow.in: this is the request"),
        ({"out": 3}, "workflow.out: expected a name, or"),
        ({"out": []}, "workflow.out: expected a name, or"),
        ({"out": [["a"], "in"]}, "workflow.out: expected a name, or"),
        ({"out": "y"}, "workflow.out: y is no step; there are in, out"),
        ({"out": ["c", "in"]}, "c is no model or function; there are a, b, ensemble"),
        ({"out": ["a"]}, "the model a takes one argument, not 0"),
        ({"out": ["a", "in", "in"]}, "the model a takes one argument, not 2"),
        ({"out": ["id", "in", "in"]}, "id takes one argument, not 2"),
        ({"out": ["ensemble", "in", "in"]}, "ensemble takes one argument"),
        ({"out": "out"}, "workflow.out: it needs itself"),
        ({"x": ["a", "y"], "y": ["pre", "x"], "out": "in"}, "workflow.y: it needs itself, by way of x"),
        ({"x": ["functionsApply", ["a"], ["pre", "x"]], "out": ["post", "x"]}, "it needs itself"),
        ({"out": ["functionsApply", ["a"], "in"]}, "workflow.out: it is a list"),
        ({"out": ["a", ["functionsApply", ["b"], "in"]]}, "the model a takes one value, not a list"),
        ({"x": ["functionsApply", ["b"], "in"], "out": ["a", "x"]}, "takes one value, not a list"),
        ({"out": ["functionsApply", "a", "in"]}, 'expected ["functionsApply", ["one", "other"], argument]'),
        ({"out": ["functionsApply", [["a"]], "in"]}, "expected names of models and functions"),
        ({"out": ["adapter", "one", "in"]}, "adapters are not supported"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(section, problem):
    with pytest.raises(WorkflowError) as refused:
        read(section)
    assert problem in str(refused.value)


def test_long_and_deep_workflows_are_refused_and_the_longest_is_read():
    chain = {
        f"s{number}": ["a", f"s{number - 1}" if number else "in"] for number in range(MAX_STEPS // 2 - 1)
    }
    graph = read(chain | {"out": ["b", f"s{len(chain) - 1}"]})
    assert len(list(graph.calls())) == len(chain) + 1
    with pytest.raises(WorkflowError, match="more than"):
        read(chain | {"more": ["a", "in"], "out": ["b", f"s{len(chain) - 1}"]})
    deep: object = "in"
    for _ in range(30):
        deep = ["a", deep]
    with pytest.raises(WorkflowError, match="inside one another"):
        read({"out": deep})
    loop: list[object] = ["a"]
    loop.append(loop)
    with pytest.raises(WorkflowError, match="inside one another"):
        read({"out": loop})
