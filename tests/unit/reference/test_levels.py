"""The reference interpreter on graphs that are small enough to work out by hand: conditions, expand and collapse. Each
case is a sentence of docs/dataflow.md, which stands above it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reference.interpreter import (
    HOLE,
    Call,
    Err,
    Failed,
    Graph,
    Kind,
    Result,
    Unit,
    run,
)
from tests.unit.reference.units import (
    BRANCH,
    CATCH,
    COLLAPSE,
    EXPAND,
    JOIN,
    SHOW,
    UPPER,
    bad,
    by_letter,
    chain,
    codes,
    each,
    failure,
    fold,
    framed,
    normal,
    out,
    stream,
)

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
