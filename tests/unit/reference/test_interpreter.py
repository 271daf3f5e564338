"""The reference interpreter on graphs that are small enough to work out by hand; each case is a sentence of
docs/dataflow.md, which stands above it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.reference.interpreter import (
    CONTINUE,
    HOLE,
    Call,
    Err,
    Failed,
    Graph,
    JobStopped,
    Kind,
    Result,
    SessionFailed,
    Stopped,
    Unit,
    run,
)

# ---- units -----------------------------------------------------------------------------------------------------


def each(function: Callable[[str], Any]) -> Callable[[Call], None]:
    """Value by value: what `function` gives, a list of it, or None for nothing."""

    def process(call: Call) -> None:
        for value in next(iter(call.inputs.values())):
            given = function(value.code if isinstance(value, Err) else value)
            for result in given if isinstance(given, list) else [] if given is None else [given]:
                call.outputs["out"].append(result)

    return process


def bad(text: str) -> Any:
    """Refuses values that begin with b."""
    return Err("Bad.B", text) if text.startswith("b") else text.upper()


def fails(text: str) -> str:
    """Fails the call for values that begin with f."""
    if text.startswith("f"):
        raise Failed(text)
    return text.upper()


def normal(function: Callable[[str], Any], name: str = "work", **more: Any) -> Unit:
    return Unit(name, Kind.NORMAL, each(function), **more)


def stream(function: Callable[[str], Any], name: str = "str", **more: Any) -> Unit:
    return Unit(name, Kind.STREAM, each(function), **more)


UPPER = normal(str.upper, "upper")
SHOW = Unit("show", Kind.STREAM, lambda call: None, outputs=(), sees_errors=True)
CATCH = normal(lambda text: f"caught {text}" if "." in text else text, "catch", sees_errors=True)


def join_texts(call: Call) -> None:
    call.outputs["out"].append("".join(values[0] for values in call.inputs.values()))


JOIN = Unit("join", Kind.NORMAL, join_texts, ("a", "b"))


def by_letter(call: Call) -> None:
    """To the port of the value's first letter; b refuses, f fails, n gives nothing, m two."""
    (text,) = call.inputs["in"]
    if text.startswith("f"):
        raise Failed(text)
    for _ in range({"n": 0, "m": 2}.get(text[0], 1)):
        port = text[0] if text[0] in call.outputs else "x"
        call.outputs[port].append(Err("Bad.B") if text.startswith("b") else text)


BRANCH = Unit("branch", Kind.CONDITION, by_letter, outputs=("x", "y"))
EXPAND = Unit("expand", Kind.EXPAND, each(lambda text: [bad(letter) for letter in fails(text).lower()]))


def fold(call: Call) -> None:
    values = [value.code if isinstance(value, Err) else value for value in call.inputs["in"]]
    if "F" in values:
        raise Failed("F")
    if values != ["NONE"] and values != ["-"]:
        call.outputs["out"].append("+".join(values))


COLLAPSE = Unit("collapse", Kind.COLLAPSE, fold)


def rounds(call: Call) -> None:
    """Goes round as many times as the value's number says: "2a" -> "1a" -> "0a"."""
    (text,) = call.inputs["in"]
    if text[0] == "f":
        raise Failed(text)
    if text[0] == "n":
        return
    number = int(text[0])
    call.outputs["again" if number else "done"].append(f"{number - 1}{text[1:]}" if number else text)


LOOP = Unit("loop", Kind.LOOP, rounds, outputs=("again", "done"))


# ---- graphs ----------------------------------------------------------------------------------------------------


def chain(*units: Unit) -> Graph:
    """source -> n0 -> n1 -> ... -> output o; branches of a condition meet at the next node."""
    graph = Graph()
    graph.source()
    ends: str | list[str] = "source:out"
    for number, unit in enumerate(units):
        (port,) = unit.inputs
        graph.add(f"n{number}", unit, {port: ends})
        ends = [f"n{number}:{output}" for output in unit.outputs]
    graph.output("o", ends)
    return graph


def out(graph: Graph, *values: Any) -> list[Any]:
    return run(graph, {"source": values}).outputs["o"]


def codes(items: list[Any]) -> list[Any]:
    return [f"!{item.code}" if isinstance(item, Err) else item for item in items]


def failure(graph: Graph, *values: Any) -> str:
    with pytest.raises(SessionFailed) as caught:
        run(graph, {"source": values})
    return caught.value.node


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


def framed(kind: Kind = Kind.STREAM, **more: Any) -> Unit:
    """Tells of data_pre and data_post, and counts."""

    def begin(call: Call) -> None:
        call.state["n"] = 0
        call.outputs["out"].append("<")

    def process(call: Call) -> None:
        call.state["n"] += len(call.inputs["in"])
        if kind is Kind.STREAM:
            call.outputs["out"] += [item.code if isinstance(item, Err) else item for item in call.inputs["in"]]

    def end(call: Call) -> None:
        call.outputs["out"].append(f"{call.state['n']}>")

    return Unit("framed", kind, process, begin=begin if kind is Kind.STREAM else framed_begin, end=end, **more)


def framed_begin(call: Call) -> None:
    call.state["n"] = 0


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


# ---- condition -----------------------------------------------------------------------------------------------------


# "one value, on one port; the other ports get a hole"
def test_condition() -> None:
    result = run(chain(BRANCH, UPPER), {"source": ["x1", "y1", "y2"]})
    assert result.streams["n0", "x"].items == ["x1", HOLE, HOLE]
    assert result.streams["n0", "y"].items == [HOLE, "y1", "y2"]
    assert result.outputs["o"] == ["X1", "Y1", "Y2"]


@pytest.mark.parametrize("value", ["none", "many"])
def test_condition_gives_one_value(value: str) -> None:
    assert failure(chain(BRANCH, UPPER), "x", value) == "n0"


# "a failed call: the error on the first port"
def test_condition_failed_call() -> None:
    result = run(chain(BRANCH, UPPER), {"source": ["fail"]})
    assert result.streams["n0", "x"].items == [Err("branch.ProcessError", "fail", 1)]
    assert result.streams["n0", "y"].items == [HOLE]


# "An error that the unit does not see goes to the first port, the others get holes."
def test_condition_and_an_error() -> None:
    result = run(chain(normal(bad), BRANCH, UPPER), {"source": ["b"]})
    assert codes(result.streams["n1", "x"].items) == ["!Bad.B"]
    assert result.streams["n1", "y"].items == [HOLE]


# "at each position, the one branch that has a value gives it; all holes give a hole"
def test_three_branches_of_which_two_meet() -> None:
    graph = Graph()
    graph.source()
    graph.add("c", Unit("c", Kind.CONDITION, by_letter, outputs=("x", "y", "z")), {"in": "source:out"})
    graph.add("up", UPPER, {"in": "c:y"})
    graph.add("m", normal(str), {"in": ["c:x", "up:out"]})
    graph.add("s", SHOW, {"in": "c:z"})
    graph.output("o", "m:out")
    result = run(graph, {"source": ["x", "z", "y"]})
    assert result.outputs["o"] == ["x", HOLE, "Y"]
    assert result.delivered("o") == ["x", "Y"]
    assert result.seen == {"s": [["z"]]}


# "Two values at one position, or branches of different length, fail the session."
@pytest.mark.parametrize(
    ("function", "values"),
    [
        (lambda text: None, ["x", "y"]),
        (lambda text: [text, text], ["x", "y"]),
        (lambda text: [text] * (2 if text == "x1" else 0), ["x1", "y", "x2"]),
    ],
)
def test_branches_that_do_not_fit(function: Any, values: list[str]) -> None:
    graph = chain(BRANCH)
    graph.exits.clear()
    graph.add("s", stream(function), {"in": "n0:x"})
    graph.add("m", normal(str), {"in": ["s:out", "n0:y"]})
    graph.output("o", "m:out")
    assert failure(graph, *values) == "m"


def test_only_branches_of_one_condition_meet() -> None:
    graph = chain(BRANCH, UPPER)
    graph.add("m", normal(str), {"in": ["n0:x", "source:out"]})
    with pytest.raises(ValueError, match="only branches of one condition may meet"):
        run(graph, {"source": []})


# ---- expand and collapse ---------------------------------------------------------------------------------------------


def letters(result: Result, end: tuple[str, str]) -> list[Any]:
    return [item if item is HOLE else codes(item.items) for item in result.streams[end].items]


# "any number per port: a sub-stream per input position"
def test_expand() -> None:
    result = run(chain(EXPAND, COLLAPSE), {"source": ["xy", "", "z"]})
    assert letters(result, ("n0", "out")) == [["X", "Y"], [], ["Z"]]


# "a failed call: one error on each port"
def test_expand_failed_call() -> None:
    result = run(chain(EXPAND, COLLAPSE), {"source": ["f"]})
    assert letters(result, ("n0", "out")) == [["!expand.ProcessError"]]
    assert result.outputs["o"] == [Err("expand.ProcessError", "f", 1)]


# "An unseen error becomes a sub-stream of just that error."
def test_expand_and_an_error() -> None:
    assert letters(run(chain(normal(bad), EXPAND, COLLAPSE), {"source": ["b"]}), ("n1", "out")) == [["!Bad.B"]]


# "A hole becomes no sub-stream: its place is a hole behind the collapse."
def test_expand_in_a_branch() -> None:
    graph = chain(BRANCH)
    graph.exits.clear()
    graph.add("e", EXPAND, {"in": "n0:x"})
    graph.add("c", COLLAPSE, {"in": "e:out"})
    graph.add("m", normal(str), {"in": ["c:out", "n0:y"]})
    graph.output("o", "m:out")
    result = run(graph, {"source": ["xy", "yy", "xz"]})
    assert letters(result, ("e", "out")) == [["X", "Y"], HOLE, ["X", "Z"]]
    assert result.streams["c", "out"].items == ["X+Y", HOLE, "X+Z"]
    assert result.outputs["o"] == ["X+Y", "yy", "X+Z"]


# "at most one value per port: it stands at the position that the sub-stream came from; none: a hole"
def test_collapse_may_give_nothing() -> None:
    assert out(chain(EXPAND, COLLAPSE), "xy", "-", "z") == ["X+Y", HOLE, "Z"]


# "A sub-stream without any value (only holes, or empty) gives a hole, and no call."
def test_collapse_of_nothing() -> None:
    called: list[Any] = []
    watch = Unit("watch", Kind.COLLAPSE, lambda call: called.append(call.inputs["in"]))
    assert out(chain(EXPAND, watch), "", "xy", "") == [HOLE, HOLE, HOLE]
    assert called == [["X", "Y"]]


# "One with an error that the unit does not see gives the first such error, and no call."
def test_collapse_and_an_error() -> None:
    numbered = Unit("expand", Kind.EXPAND, each(lambda text: [Err(f"E.{x}") if x < "c" else x for x in text]))
    assert codes(out(chain(numbered, COLLAPSE), "xba", "xy")) == ["!E.b", "x+y"]
    seeing = Unit("collapse", Kind.COLLAPSE, fold, sees_errors=True)
    assert codes(out(chain(numbered, seeing), "xba")) == ["x+E.b+E.a"]


def test_a_collapse_does_not_see_an_error_from_outside() -> None:
    seeing = Unit("collapse", Kind.COLLAPSE, fold, sees_errors=True)
    assert codes(out(chain(normal(bad), EXPAND, seeing), "b")) == ["!Bad.B"]


# "a failed call: one error"
def test_collapse_failed_call() -> None:
    some = Unit("expand", Kind.EXPAND, each(lambda text: list(text.upper())))
    assert out(chain(some, COLLAPSE), "xf") == [Err("collapse.ProcessError", "F", 0)]


# "More than one value on a port fails the session."
def test_collapse_gives_one_value_at_most() -> None:
    both = Unit("both", Kind.COLLAPSE, each(str))
    assert out(chain(EXPAND, both), "x", "y") == ["X", "Y"]
    assert failure(chain(EXPAND, both), "x", "yz") == "n1"


# "For each sub-stream one call (collapse_all = true) or several."
@pytest.mark.parametrize("collapse_all", [True, False])
def test_collapse_all(collapse_all: bool) -> None:
    unit = framed(Kind.COLLAPSE, collapse_all=collapse_all)  # counts, and answers in data_post
    assert out(chain(EXPAND, unit), "xyz", "", "x") == ["3>", HOLE, "1>"]


# "data_pre and data_post frame each sub-stream."
def test_collapse_data_pre_fails() -> None:
    def refuse(call: Call) -> None:
        raise Failed("no")

    unit = Unit("collapse", Kind.COLLAPSE, fold, begin=refuse)
    assert codes(out(chain(EXPAND, unit), "xy", "", "z")) == ["!collapse.DataPreError", HOLE, "!collapse.DataPreError"]


def test_expands_nest() -> None:
    words = Unit("words", Kind.EXPAND, each(str.split))
    assert out(chain(words, EXPAND, COLLAPSE, COLLAPSE), "ab xy z", "", "q") == [Err("Bad.B", "b", 2), HOLE, "Q"]
    assert out(chain(words, EXPAND, CATCH, COLLAPSE, COLLAPSE), "ab xy z") == ["A+caught Bad.B+X+Y+Z"]


def test_several_collapses_of_one_expand() -> None:
    graph = chain(EXPAND, COLLAPSE)
    count = Unit("count", Kind.COLLAPSE, lambda call: call.outputs["out"].append(str(len(call.inputs["in"]))))
    graph.add("count", count, {"in": "n0:out"})
    graph.add("j", JOIN, {"a": "n1:out", "b": "count:out"})
    graph.output("p", "j:out")
    assert run(graph, {"source": ["xyz", "", "x"]}).outputs["p"] == ["X+Y+Z3", HOLE, "X1"]


# "the same one for all ports"
def test_ports_of_an_expand_join_inside() -> None:
    def two(call: Call) -> None:
        (text,) = call.inputs["in"]
        call.outputs["l"] += list(text)
        call.outputs["r"] += list(text[::-1])

    graph = Graph()
    graph.source()
    graph.add("e", Unit("e", Kind.EXPAND, two, outputs=("l", "r")), {"in": "source:out"})
    graph.add("j", JOIN, {"a": "e:l", "b": "e:r"})
    graph.add("c", COLLAPSE, {"in": "j:out"})
    graph.output("o", "c:out")
    assert out(graph, "abc", "z") == ["ac+bb+ca", "zz"]


def test_a_collapse_needs_an_expand() -> None:
    with pytest.raises(ValueError, match="no expand"):
        out(chain(COLLAPSE))


# "data_pre and data_post frame the input stream of an expand that is also stream = true"
def test_expand_of_a_stream() -> None:
    ended: list[int] = []

    def begin(call: Call) -> None:
        call.state["n"] = 0

    def process(call: Call) -> None:
        call.state["n"] += 1
        call.outputs["out"] += [f"{call.state['n']}{letter}" for letter in call.inputs["in"][0]]

    unit = Unit("e", Kind.EXPAND, process, begin=begin, end=lambda call: ended.append(call.state["n"]), stream=True)
    assert out(chain(unit, COLLAPSE), "xy", "z") == ["1x+1y", "2z"]
    assert ended == [2]


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
