"""The reference interpreter on graphs that are small enough to work out by hand: loops, calls without inputs, stream
meta, inputs and outputs of graphs. Each case is a sentence of docs/dataflow.md, which stands above it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reference.interpreter import (
    CONTINUE,
    HOLE,
    Call,
    Err,
    Failed,
    Graph,
    Kind,
    Result,
    SessionFailed,
    Unit,
    run,
)
from tests.unit.reference.units import (
    COLLAPSE,
    EXPAND,
    JOIN,
    LOOP,
    SHOW,
    UPPER,
    bad,
    chain,
    codes,
    each,
    failure,
    normal,
    out,
    rounds,
    stream,
)

# ---- loop --------------------------------------------------------------------------------------------------------------


def loop(*body: Unit, limit: int = 1000, unit: Unit = LOOP) -> Graph:
    """source -> loop -> o, with `body` between the loop and itself."""
    graph = Graph()
    graph.source()
    ends: list[str] = ["loop:again"]
    for number, inner in enumerate(body):
        graph.add(f"b{number}", inner, {"in": ends})
        ends = [f"b{number}:{port}" for port in inner.outputs]
    graph.add("loop", unit, {"in": ["source:out", *ends]}, loop_limit=limit)
    graph.output("o", "loop:done")
    return graph


# "A value that leaves by the port that leads back passes the loop's body and arrives again"
def test_loop_passes_its_body() -> None:
    assert out(loop(normal(lambda text: text + "!")), "2a") == ["0a!!"]


def test_loop_without_a_body() -> None:
    assert out(loop(), "3a", "0b") == ["0a", "0b"]


# "Values leave in the order in which they came, whatever number of rounds each has taken."
def test_loop_keeps_the_order() -> None:
    assert out(loop(normal(str)), "3a", "0b", "1c", "2d") == ["0a", "0b", "0c", "0d"]


# "loop_limit (default 1000) calls for one value are the most, after which an error <unit>.LoopLimit leaves"
def test_loop_limit() -> None:
    assert out(loop(normal(str), limit=3), "2a", "3b") == ["0a", Err("loop.LoopLimit", "", 0)]


# "The body must give one value per position: normal units, conditions with their merging, expand with collapse"
def test_loop_through_expand_and_collapse() -> None:
    letters = Unit("letters", Kind.EXPAND, each(list))
    glue = Unit("glue", Kind.COLLAPSE, lambda call: call.outputs["out"].append("".join(call.inputs["in"]) + "+"))
    assert out(loop(letters, normal(str.upper), glue), "2a", "1b") == ["0A++", "0B+"]


def test_loop_through_a_condition() -> None:
    odd = Unit(
        "odd", Kind.CONDITION, lambda call: call.outputs["x" if int(call.inputs["in"][0][0]) % 2 else "y"].append(call.inputs["in"][0]), outputs=("x", "y")
    )  # fmt: skip
    graph = loop(odd, normal(str))
    graph.add("mark", normal(lambda text: text + "o"), {"in": "b0:x"})
    graph.add("b1", normal(str), {"in": ["mark:out", "b0:y"]})
    assert out(graph, "4a") == ["0aoo"]


# "An unseen error or a hole leaves at once."
# "... other loops" in the body
def test_loop_inside_of_a_loop() -> None:
    graph = Graph()
    graph.source()
    graph.add("outer", LOOP, {"in": ["source:out", "back:out"]})
    graph.add("b", normal(lambda text: f"2{text}"), {"in": "outer:again"})
    graph.add("inner", LOOP, {"in": ["b:out", "i:out"]}, loop_limit=3)
    graph.add("i", normal(lambda text: f"{text}!"), {"in": "inner:again"})
    graph.add("back", normal(lambda text: text[1:]), {"in": "inner:done"})
    graph.output("o", "outer:done")
    assert out(graph, "2a", "0b") == ["0a!!!!", "0b"]


def test_loop_and_an_error_of_its_body() -> None:
    assert codes(out(loop(normal(lambda text: Err("Bad.X") if "x" in text else text)), "2x", "2a")) == ["!Bad.X", "0a"]


def test_loop_and_a_hole_of_its_body() -> None:
    nothing = Unit("nothing", Kind.COLLAPSE, lambda call: None)
    letters = Unit("letters", Kind.EXPAND, each(list))
    assert out(loop(letters, nothing), "0a", "2a") == ["0a", HOLE]


def test_loop_and_an_error_from_before() -> None:
    graph = loop(normal(str))
    graph.add("bad", normal(bad), {"in": "source:out"})
    graph.add("loop", LOOP, {"in": ["bad:out", "b0:out"]})
    assert codes(out(graph, "1a", "b")) == ["0A", "!Bad.B"]


# "A failed call: the error leaves."
def test_loop_failed_call() -> None:
    assert out(loop(normal(str)), "fail", "1a") == [Err("loop.ProcessError", "fail", 0), "0a"]


# "one value on one of two ports"
def test_loop_gives_one_value() -> None:
    assert failure(loop(normal(str)), "0a", "none") == "loop"


# "Which port leads back is read from the graph."
def test_either_port_may_lead_back() -> None:
    graph = Graph()
    graph.source()
    graph.add("loop", Unit("loop", Kind.LOOP, rounds, outputs=("done", "again")), {"in": ["source:out", "loop:again"]})
    graph.output("o", "loop:done")
    assert out(graph, "3a") == ["0a"]
    with pytest.raises(ValueError, match="a loop has two edges in"):
        out(chain(LOOP, UPPER))


# ---- more calls than inputs --------------------------------------------------------------------------------------------


def self_driving(kind: Kind, status: str | None = CONTINUE) -> Unit:
    """For "3" three event calls follow, each with one output."""

    def process(call: Call) -> str | None:
        if call.event is None:
            (text,) = call.inputs["in"]
            call.outputs["out"].append(text)
            for number in range(int(text)):
                call.send_event(number)
        else:
            assert call.inputs["in"] == []
            call.outputs["out"].append(f"e{call.event}")
        return status

    return Unit("self", kind, process)


# "Outputs of such a call belong to the context's stream"; "Events of a context come in the order in which they were
# sent, before more inputs of that context."
def test_events_of_a_stream() -> None:
    assert out(chain(self_driving(Kind.STREAM)), "2", "0", "1") == ["2", "e0", "e1", "0", "1", "e0"]


# "(expand: to its sub-stream)"; "CONTINUE with an event pending keeps a stream or sub-stream open although its input
# has ended; without an event pending it closes."
def test_events_of_an_expand() -> None:
    assert out(chain(self_driving(Kind.EXPAND), COLLAPSE), "2", "0") == ["2+e0+e1", "0"]


def test_only_continue_keeps_a_sub_stream_open() -> None:
    assert out(chain(self_driving(Kind.EXPAND, None), COLLAPSE), "2") == ["2"]


# "for others it does nothing"
def test_events_of_a_normal_unit() -> None:
    assert out(chain(self_driving(Kind.NORMAL)), "2") == ["2"]


# "create_external_data() opens a session, send(list) calls process with external() filled"; "Such a unit may send
# events too."
def test_a_source_that_is_a_unit() -> None:
    def process(call: Call) -> str:
        if call.event is not None:
            call.outputs["out"].append("event")
        for text in call.external:
            call.outputs["out"] += [text, text]
            call.send_event("e")
        return CONTINUE

    graph = Graph()
    graph.source("source", unit=Unit("from_outside", Kind.STREAM, process))
    graph.output("o", "source:out")
    assert out(graph, ["a", "b"], ["c"]) == ["a", "a", "b", "b", "event", "event", "c", "c", "event"]


# ---- stream meta -------------------------------------------------------------------------------------------------------


def setter(**meta: str) -> Unit:
    def begin(call: Call) -> None:
        call.set_output_meta("out", meta)
        call.set_output_meta("out", {"late": "1"})

    return stream(str, begin=begin)


def metas(result: Result, node: str) -> dict[str, Any]:
    return result.streams[node, "out"].meta


# "an output stream has the union of the metas of the input streams and what the unit set; where a key is in several,
# what the unit set wins, then the first port"; "the first call per port"
def test_stream_meta() -> None:
    graph = chain(setter(k="1", one="1"), UPPER)
    graph.add("other", setter(k="2", two="2"), {"in": "source:out"})
    graph.add("j", JOIN, {"a": "n1:out", "b": "other:out"})
    graph.add("over", setter(k="3"), {"in": "j:out"})
    result = run(graph, {"source": ["a"]})
    assert metas(result, "n1") == {"k": "1", "one": "1"}
    assert metas(result, "j") == {"k": "1", "one": "1", "two": "2"}
    assert metas(result, "over") == {"k": "3", "one": "1", "two": "2"}


# "before the first output"
def test_stream_meta_comes_too_late() -> None:
    def late(call: Call) -> None:
        if call.inputs["in"] == ["y"]:
            call.set_output_meta("out", {"k": "1"})
        call.outputs["out"] += call.inputs["in"]

    unit = Unit("late", Kind.STREAM, late)
    assert metas(run(chain(unit), {"source": ["y", "x"]}), "n0") == {"k": "1"}
    assert metas(run(chain(unit), {"source": ["x", "y"]}), "n0") == {}


# "A normal unit sets it in the first call with a value of the stream"
@pytest.mark.parametrize(("values", "meta"), [(["y", "x"], {"k": "1"}), (["x", "y"], {})])
def test_stream_meta_of_a_normal_unit(values: list[str], meta: dict[str, str]) -> None:
    def first(call: Call) -> None:
        if call.inputs["in"] == ["y"]:
            call.set_output_meta("out", {"k": "1"})
        call.outputs["out"] += call.inputs["in"]

    assert metas(run(chain(Unit("first", Kind.NORMAL, first), UPPER), {"source": values}), "n1") == meta


# "What a failed call, or `data_pre`, has set counts too."
@pytest.mark.parametrize("kind", [Kind.NORMAL, Kind.STREAM])
def test_stream_meta_of_a_failed_call(kind: Kind) -> None:
    def fail(call: Call) -> None:
        call.set_output_meta("out", {"k": "1"})
        raise Failed("no")

    assert metas(run(chain(Unit("fail", kind, fail)), {"source": ["x", "y"]}), "n0") == {"k": "1"}


# "Sub-streams have the meta of the stream around them."
def test_meta_of_sub_streams() -> None:
    result = run(chain(setter(k="1"), EXPAND, UPPER, COLLAPSE), {"source": ["xy", "z"]})
    assert [sub.meta for sub in result.streams["n2", "out"].items] == [{"k": "1"}, {"k": "1"}]
    assert metas(result, "n3") == {"k": "1"}


def test_a_unit_reads_the_meta_of_its_inputs() -> None:
    def read(call: Call) -> None:
        call.outputs["out"].append(call.metas["in"]["k"])

    assert out(chain(setter(k="1"), EXPAND, Unit("read", Kind.NORMAL, read), COLLAPSE), "xy") == ["1+1"]


# ---- inputs and outputs of a graph ----------------------------------------------------------------------------------------


def two_inputs(*, match_in: bool = True, match_out: bool = True) -> Graph:
    graph = Graph()
    graph.input("a", match=match_in)
    graph.input("b", match=match_in)
    graph.add("n", stream(lambda text: None if text == "drop" else text), {"in": "a:input"})
    graph.output("p", "n:out", match=match_out)
    graph.output("q", "b:input", match=match_out)
    return graph


# "all of them belong to one session, their streams are one stream"
def test_inputs_are_one_stream() -> None:
    graph = two_inputs()
    graph.add("j", JOIN, {"a": "a:input", "b": "b:input"})
    graph.output("r", "j:out")
    assert run(graph, {"a": ["x", "y"], "b": ["1", "2"]}).outputs["r"] == ["x1", "y2"]


# "With input_type=match values are let in in equal numbers on all of them, and it is a failure to end one of them early"
def test_matched_inputs_of_different_length() -> None:
    with pytest.raises(SessionFailed):
        run(two_inputs(match_out=False), {"a": ["x", "y"], "b": ["1"]})
    with pytest.raises(SessionFailed):
        run(two_inputs(match_out=False), {"a": ["x"]})


# "with unmatch each goes on its own"
def test_unmatched_inputs() -> None:
    graph = two_inputs(match_in=False, match_out=False)
    assert run(graph, {"a": ["x", "y"], "b": ["1"]}).outputs == {"p": ["x", "y"], "q": ["1"]}


# "with output_type=match joined by position like the ports of one node"
def test_matched_outputs() -> None:
    assert run(two_inputs(), {"a": ["x"], "b": ["1"]}).outputs == {"p": ["x"], "q": ["1"]}
    with pytest.raises(SessionFailed):
        run(two_inputs(), {"a": ["x", "drop"], "b": ["1", "2"]})


def test_matched_outputs_and_a_hole() -> None:
    graph = chain(EXPAND, COLLAPSE)
    graph.output("p", "source:out")
    assert run(graph, {"source": ["xy", "-", "z"]}).outputs == {"o": ["X+Y", HOLE, "Z"], "p": ["xy", HOLE, "z"]}
    graph.output("p", "source:out", match=False)
    assert run(graph, {"source": ["xy", "-", "z"]}).outputs == {"o": ["X+Y", HOLE, "Z"], "p": ["xy", "-", "z"]}


# "so they must stand at one level"
def test_matched_outputs_stand_at_one_level() -> None:
    graph = chain(EXPAND)
    graph.output("p", "source:out")
    with pytest.raises(ValueError, match="different levels"):
        run(graph, {"source": []})


# "with unmatch each on its own"
def test_unmatched_outputs() -> None:
    graph = two_inputs(match_out=False)
    assert run(graph, {"a": ["x", "drop"], "b": ["1", "2"]}).outputs == {"p": ["x"], "q": ["1", "2"]}


# "Data of sessions that other sources opened" has nothing to do with this one
def test_a_session_of_another_source() -> None:
    graph = two_inputs()
    graph.source("other")
    graph.add("s", SHOW, {"in": "other:out"})
    result = run(graph, {"other": ["x"]})
    assert result.outputs == {}
    assert result.seen == {"s": [["x"]]}
    assert run(graph, {"a": ["x"], "b": ["1"]}).seen == {}


def test_what_a_unit_inside_an_expand_was_given() -> None:
    graph = chain(EXPAND, COLLAPSE)
    graph.add("s", SHOW, {"in": "n0:out"})
    assert [codes(items) for items in run(graph, {"source": ["xy", "", "zb"]}).seen["s"]] == [
        ["X", "Y"],
        ["Z", "!Bad.B"],
    ]
