"""The reference interpreter on graphs that are small enough to work out by hand: streams, what a unit sees, normal and
stream units. Each case is a sentence of docs/dataflow.md, which stands above it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reference.interpreter import (
    HOLE,
    Call,
    Err,
    Failed,
    Graph,
    JobStopped,
    Kind,
    Stopped,
    Unit,
    run,
)
from tests.unit.reference.units import (
    BRANCH,
    CATCH,
    COLLAPSE,
    EXPAND,
    JOIN,
    UPPER,
    bad,
    chain,
    codes,
    fails,
    failure,
    framed,
    normal,
    out,
    stream,
)

# ---- streams and levels ------------------------------------------------------------------------------------------


# "It enters at a source as a stream: positions 0, 1, 2, ... and an end."
def test_positions_keep_their_order() -> None:
    assert out(chain(UPPER, UPPER), "a", "b", "c") == ["A", "B", "C"]


def test_a_stream_may_be_empty() -> None:
    assert out(chain(UPPER)) == []


# "position i of one port meets position i of the others"
def test_ports_are_joined_by_position() -> None:
    graph = chain(UPPER)
    graph.add("j", JOIN, {"a": "source:out", "b": "n0:out"})
    graph.output("p", "j:out")
    assert run(graph, {"source": ["a", "b"]}).outputs["p"] == ["aA", "bB"]


def test_a_path_through_expand_and_collapse_meets_the_direct_one() -> None:
    graph = chain(EXPAND, COLLAPSE)
    graph.add("j", JOIN, {"a": "source:out", "b": "n1:out"})
    graph.output("p", "j:out")
    assert run(graph, {"source": ["xy", "", "z"]}).outputs["p"] == ["xyX+Y", HOLE, "zZ"]


# "Ports of one node must stand at one and the same level"
def test_different_levels_are_refused() -> None:
    graph = chain(EXPAND)
    graph.add("j", JOIN, {"a": "source:out", "b": "n0:out"})
    with pytest.raises(ValueError, match="'j': its ports stand at different levels"):
        run(graph, {"source": []})


# "If, at run time, one port of a stream ends while another still has values, the session fails"
def test_a_port_that_ends_before_another_fails_the_session() -> None:
    graph = chain(stream(lambda text: None if text == "drop" else text))
    graph.add("j", JOIN, {"a": "source:out", "b": "n0:out"})
    graph.output("p", "j:out")
    assert run(graph, {"source": ["a", "b"]}).outputs["p"] == ["aa", "bb"]
    assert failure(graph, "a", "drop") == "j"


# ---- which values a unit sees -------------------------------------------------------------------------------------


def joined_with_branch(unit: Unit) -> Graph:
    """Port a: the source through `unit`; port b: only x of a condition (a hole elsewhere)."""
    graph = chain(unit, BRANCH)
    graph.exits.clear()
    graph.add("mx", stream(str), {"in": "n1:x"})
    graph.add("my", stream(str), {"in": "n1:x"})
    graph.add("j", JOIN, {"a": "mx:out", "b": "my:out"})
    graph.add("end", normal(str), {"in": ["j:out", "n1:y"]})
    graph.output("o", "end:out")
    return graph


# "a hole on any port: the position is a hole on every output"
def test_holes_pass() -> None:
    assert run(joined_with_branch(normal(str)), {"source": ["x1", "y1"]}).streams["j", "out"].items == ["x1x1", HOLE]


# "otherwise an error that the unit does not see, on any port: the error of the first such port goes to every output"
def test_the_error_of_the_first_port_goes_on() -> None:
    graph = Graph()
    graph.source()
    graph.add("p", normal(lambda text: Err("P.E") if "p" in text else text), {"in": "source:out"})
    graph.add("q", normal(lambda text: Err("Q.E") if "q" in text else text), {"in": "source:out"})
    graph.add("j", JOIN, {"a": "p:out", "b": "q:out"})
    graph.output("o", "j:out")
    assert codes(out(graph, "p", "q", "pq", "z")) == ["!P.E", "!Q.E", "!P.E", "zz"]


def test_an_error_goes_to_every_output() -> None:
    def two(call: Call) -> None:
        call.outputs["l"] += call.inputs["in"]
        call.outputs["r"] += call.inputs["in"]

    graph = chain(normal(bad))
    graph.add("two", Unit("two", Kind.NORMAL, two, outputs=("l", "r")), {"in": "n0:out"})
    graph.output("l", "two:l")
    graph.output("r", "two:r")
    result = run(graph, {"source": ["a", "b"]})
    assert codes(result.outputs["l"]) == codes(result.outputs["r"]) == ["A", "!Bad.B"]


# "A unit sees errors when it is exception_visible and the error's depth is at least the depth of the node's inputs"
def test_errors_pass_units_that_do_not_see_them() -> None:
    assert codes(out(chain(normal(bad), UPPER, CATCH), "a", "b")) == ["A", "caught Bad.B"]


# "an error born inside an expand or a branch can be caught there"
def test_an_error_is_caught_inside_an_expand() -> None:
    assert out(chain(EXPAND, CATCH, COLLAPSE), "abc") == ["A+caught Bad.B+C"]


# "or outside after collapse or merging"
def test_an_error_is_caught_behind_the_collapse() -> None:
    assert out(chain(EXPAND, COLLAPSE, CATCH), "abc", "x") == ["caught Bad.B", "X"]


def test_an_error_is_caught_behind_the_merging() -> None:
    assert out(chain(BRANCH, CATCH), "x", "b", "y") == ["x", "caught Bad.B", "y"]


# "one from outside is not seen inside"
def test_an_error_from_outside_is_not_seen_inside_an_expand() -> None:
    outside = chain(normal(bad), EXPAND, CATCH, COLLAPSE)
    assert codes(out(outside, "xy", "b")) == ["X+Y", "!Bad.B"]


def test_an_error_from_outside_is_not_seen_in_a_branch() -> None:
    graph = chain(normal(bad), BRANCH)
    graph.exits.clear()
    graph.add("in", CATCH, {"in": "n1:x"})
    graph.add("end", normal(str), {"in": ["in:out", "n1:y"]})
    graph.output("o", "end:out")
    assert codes(out(graph, "x", "b")) == ["X", "!Bad.B"]


# "An error is born with the depth of the output on which it first appears, and keeps it."
def test_the_depth_of_an_error() -> None:
    assert out(chain(normal(bad)), "b")[0].depth == 0
    assert out(chain(EXPAND, COLLAPSE), "b")[0].depth == 1
    assert out(chain(BRANCH, UPPER), "b")[0].depth == 1
    fail_inside = normal(fails, "failing")
    assert out(chain(EXPAND, normal(str.lower), fail_inside, COLLAPSE), "xfx") == [Err("failing.ProcessError", "f", 1)]


def test_an_error_keeps_its_depth_when_a_unit_hands_it_on() -> None:
    def same(call: Call) -> None:
        call.outputs["out"] += call.inputs["in"]

    keep = Unit("keep", Kind.NORMAL, same, sees_errors=True)
    fresh = normal(lambda text: Err("New.E") if "." in text else text, sees_errors=True)
    assert out(chain(EXPAND, COLLAPSE, keep), "b")[0].depth == 1
    assert out(chain(EXPAND, COLLAPSE, fresh), "b")[0].depth == 0


# "A unit without outputs fails its session instead."
def test_a_failed_call_without_outputs_fails_the_session() -> None:
    def refuse(call: Call) -> None:
        if "bad" in call.inputs["in"]:
            raise Failed("no")

    graph = chain(UPPER)
    graph.add("end", Unit("end", Kind.NORMAL, refuse, outputs=()), {"in": "source:out"})
    assert out(graph, "a") == ["A"]
    assert failure(graph, "a", "bad") == "end"


# "What breaks a rule of its kind (a wrong number of outputs, a result of a wrong type) fails the session"
def test_a_wrong_result_fails_the_session() -> None:
    assert failure(chain(normal(lambda text: 7)), "a") == "n0"
    assert failure(chain(Unit("u", Kind.NORMAL, lambda call: 7)), "a") == "n0"


# "STOP and SHUTDOWN stop the job."
def test_stop() -> None:
    def stop(text: str) -> None:
        raise Stopped(text)

    with pytest.raises(JobStopped):
        out(chain(normal(stop)), "a")


# ---- normal --------------------------------------------------------------------------------------------------------


# "on every port as many as came in, in the same order"
@pytest.mark.parametrize("given", [None, ["a", "b"]])
def test_normal_gives_as_many_as_came_in(given: Any) -> None:
    assert failure(chain(normal(lambda text: given)), "a") == "n0"


# "a failed call: an error per input"
def test_normal_failed_call() -> None:
    assert out(chain(normal(fails)), "a", "f", "b") == ["A", Err("work.ProcessError", "f", 0), "B"]


# ---- stream --------------------------------------------------------------------------------------------------------


# "any number per port; each port counts its own positions"
def test_stream_gives_any_number() -> None:
    def split(call: Call) -> None:
        (text,) = call.inputs["in"]
        call.outputs["l" if text < "c" else "r"] += [text, text]

    graph = Graph()
    graph.source()
    graph.add("s", Unit("s", Kind.STREAM, split, outputs=("l", "r")), {"in": "source:out"})
    graph.output("l", "s:l", match=False)
    graph.output("r", "s:r", match=False)
    assert run(graph, {"source": ["a", "d", "b"]}).outputs == {"l": ["a", "a", "b", "b"], "r": ["d", "d"]}


def test_stream_failed_call() -> None:
    assert codes(out(chain(stream(fails)), "a", "f", "b")) == ["A", "!str.ProcessError", "B"]


# "data_pre is called before the first value of a stream, data_post after its end"
def test_stream_is_framed() -> None:
    assert out(chain(framed()), "a", "b") == ["<", "a", "b", "2>"]


# "neither for a stream without any value that the unit sees"
def test_a_stream_without_values_is_not_framed() -> None:
    assert out(chain(framed())) == []
    assert codes(out(chain(normal(bad), framed()), "b", "b")) == ["!Bad.B", "!Bad.B"]
    assert out(chain(normal(bad), framed(sees_errors=True)), "b") == ["<", "Bad.B", "1>"]


# "If data_pre fails, one error <unit>.DataPreError comes out and the rest of the stream is skipped; errors and holes
# among the inputs still pass."
def test_data_pre_fails() -> None:
    def refuse(call: Call) -> None:
        raise Failed("no")

    unit = stream(str, begin=refuse)
    assert codes(out(chain(normal(bad), unit), "b", "x", "y", "b", "z")) == ["!Bad.B", "!str.DataPreError", "!Bad.B"]


# "Holes and unseen errors pass in their place between the outputs."
def test_stream_passes_errors_in_place() -> None:
    twice = stream(lambda text: [text, text])
    assert codes(out(chain(normal(bad), twice), "a", "b", "c")) == ["A", "A", "!Bad.B", "C", "C"]


def test_stream_passes_holes_in_place() -> None:
    graph = chain(BRANCH)
    graph.exits.clear()
    graph.add("s", stream(lambda text: [text, text]), {"in": "n0:x"})
    graph.output("o", "s:out")
    graph.output("p", "n0:y", match=False)
    assert out(graph, "x1", "y1", "x2") == ["x1", "x1", HOLE, "x2", "x2"]
