"""Units and graphs that are small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.reference.interpreter import (
    Call,
    Err,
    Failed,
    Graph,
    Kind,
    SessionFailed,
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
