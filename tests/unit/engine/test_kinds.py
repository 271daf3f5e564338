"""Each kind of unit by itself: what docs/dataflow.md promises, one sentence per test. Random graphs do the rest."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from modelbox.errors import UnitError
from modelbox.status import StatusCode
from tests.unit.engine.harness import LIMIT_S, Bench, spec, text_buffer, texts, unit


def choose(call: Any) -> None:
    for item in call.input("in"):
        if str(item) == "both":
            call.output("b").push_back(item)
        if str(item) == "bad":
            raise UnitError("no way")
        call.output("b" if str(item).startswith("b") and str(item) != "both" else "a").push_back(item)


def letters(call: Any) -> None:
    for item in call.input("in"):
        if str(item) == "bad":
            raise UnitError("no letters")
        for letter in str(item):
            call.output("out").push_back(text_buffer(letter))


def together(call: Any) -> None:
    got = texts(call.input("in"))
    if got[0] != "-":
        call.output("out").push_back(text_buffer("".join(got)))
    if got[0] == "2":
        call.output("out").push_back(text_buffer("second"))


def grow(call: Any) -> None:
    for item in call.input("in"):
        text = str(item)
        call.output("out" if len(text) > 3 else "back").push_back(text_buffer(text + "."))


def upper(call: Any) -> None:
    for item in call.input("in"):
        call.output("out").push_back(text_buffer(str(item).upper()))


def cut(call: Any) -> None:
    for item in call.input("in"):
        call.output("out").push_back(text_buffer(str(item)[1:]))


def echo(call: Any) -> Any:
    if call.event is None:
        call.stream.private.setdefault("texts", []).extend(texts(call.input("in")))
        call.send_event("now")
        return StatusCode.STATUS_CONTINUE
    call.output("out").push_back(text_buffer(call.stream.private["texts"].pop(0) + "~"))
    return None


def join(call: Any) -> None:
    for one, two in zip(call.input("a"), call.input("b"), strict=True):
        call.output("out").push_back(text_buffer(f"{one}{two}"))


def name(call: Any) -> None:
    """Every call sets meta: the first value of the call that is no "-"."""
    items = list(call.input("in"))
    call.set_output_meta("out", {"first": str(items[0]), "of": call.input_meta("in").get("first", "")})
    for item in items:
        if str(item) == "-":
            raise UnitError("no name")
        call.output("out").push_back(item)


def tell(call: Any) -> None:
    meta = call.input_meta("in")
    for item in call.input("in"):
        call.output("out").push_back(text_buffer(f"{item} {meta.get('first')} {meta.get('of')}"))


UNITS: dict[str, Any] = {
    "name": (spec("name", max_batch=64), unit(name)),
    "name_stream": (spec("name_stream", stream=True, max_batch=64), unit(name)),
    "tell": (spec("tell"), unit(tell)),
    "tell_stream": (spec("tell_stream", stream=True), unit(tell)),
    "choose": (spec("choose", outputs=("a", "b"), role="condition"), unit(choose)),
    "letters": (spec("letters", role="expand"), unit(letters)),
    "together": (spec("together", role="collapse"), unit(together)),
    "catches": (spec("catches", role="collapse", sees_errors=True), unit(together)),
    "grow": (spec("grow", outputs=("back", "out"), role="loop"), unit(grow)),
    "big": (spec("big"), unit(upper)),
    "cut": (spec("cut"), unit(cut)),
    "echo": (spec("echo", stream=True), unit(echo)),
    "join": (spec("join", ("a", "b")), unit(join)),
}


@pytest.fixture(params=[1, 3])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(UNITS, threads=request.param)
    yield made
    made.close()
    gc.collect()
    assert made.pool.stats().live_buffers == 0


def run(bench: Bench, edges: str, *items: str) -> tuple[list[str], str | None]:
    """What a graph gives for one session, and the error that it ended with."""
    job = bench.run(f"digraph g {{ s [flowunit=source]; t [flowunit=sink]; {edges} }}")
    record = bench.send(job, *items)
    error = record.error()
    return record.got, None if error is None else str(error)


MEET = "c [flowunit=choose]; u [flowunit=big]; s:out -> c:in; c:a -> u:in; u:out -> t:in; c:b -> t:in"
NEST = "x [flowunit=letters]; u [flowunit=big]; c [flowunit={}]; s:out -> x:in; x:out -> u:in; u:out -> c:in; c:out -> t:in"
LOOP = "l [flowunit=grow, loop_limit={}]; u [flowunit=big]; s:out -> l:in; l:back -> u:in; u:out -> l:in; l:out -> t:in"


def test_branches_meet_in_order(bench: Bench) -> None:
    assert run(bench, MEET, "x", "b1", "y", "z", "b2") == (["X", "b1", "Y", "Z", "b2"], None)


def test_branches_of_which_one_is_never_taken(bench: Bench) -> None:
    assert run(bench, MEET, "b1", "b2") == (["b1", "b2"], None)
    assert run(bench, MEET) == ([], None)


def test_an_error_of_a_condition_goes_to_its_first_port(bench: Bench) -> None:
    got, error = run(bench, MEET, "b1", "bad", "x")
    assert (got, error) == (["b1", "!choose.ProcessError: no way", "X"], None)


def test_a_value_on_two_branches_fails_the_session(bench: Bench) -> None:
    assert run(bench, MEET, "x", "both")[1] == "node 'c': one value must go to one output port, it gave 2"


def test_sub_streams_are_collapsed_in_order(bench: Bench) -> None:
    assert run(bench, NEST.format("together"), "abc", "d", "ef" * 40) == (["ABC", "D", "EF" * 40], None)


def test_an_empty_sub_stream_leaves_a_hole(bench: Bench) -> None:
    assert run(bench, NEST.format("together"), "", "ab", "") == (["AB"], None)


def test_a_collapse_may_give_nothing(bench: Bench) -> None:
    assert run(bench, NEST.format("together"), "-a", "b") == (["B"], None)


def test_two_values_of_a_collapse_fail_the_session(bench: Bench) -> None:
    text = "node 'c' port 'out': should generate one buffer for one stream collapse, it gave 2"
    assert run(bench, NEST.format("together"), "a", "2")[1] == text


def test_a_failed_expand_is_an_error_that_passes_the_collapse(bench: Bench) -> None:
    got, error = run(bench, NEST.format("together"), "ab", "bad", "c")
    assert (got, error) == (["AB", "!letters.ProcessError: no letters", "C"], None)


def test_a_collapse_that_sees_errors_gets_those_of_its_level(bench: Bench) -> None:
    got, error = run(bench, NEST.format("catches"), "ab", "bad")
    assert (got, error) == (["AB", "!letters.ProcessError: no letters"], None)


def test_values_leave_a_loop_in_order(bench: Bench) -> None:
    got, error = run(bench, LOOP.format(1000), "abcd", "a", "abc")
    assert error is None
    assert [text[0].lower() for text in got] == ["a", "a", "a"]
    assert [len(text) for text in got] == [5, 5, 5]


def test_a_loop_has_a_limit(bench: Bench) -> None:
    got, error = run(bench, LOOP.format(2), "abc", "a", "xyzw")
    assert error is None
    assert got[0] == "ABC.." and got[2] == "xyzw."
    assert got[1] == "!grow.LoopLimit: node 'l': the value was still in the loop after 2 calls"


def test_a_loop_inside_of_a_loop(bench: Bench) -> None:
    edges = """o [flowunit=grow]; c [flowunit=cut]; i [flowunit=grow, loop_limit=2]; u [flowunit=big]; s:out -> o:in
        o:back -> c:in; c:out -> i:in; i:back -> u:in; u:out -> i:in; i:out -> o:in; o:out -> t:in"""
    text = "!grow.LoopLimit: node 'i': the value was still in the loop after 2 calls"
    assert run(bench, edges, "abc", "xyzq", "g", "def") == (["BC....", "xyzq.", text, "EF...."], None)


def test_events_come_before_more_input(bench: Bench) -> None:
    assert run(bench, "e [flowunit=echo]; s:out -> e:in; e:out -> t:in", *"abc") == (["a~", "b~", "c~"], None)


def outside(
    bench: Bench, attributes: tuple[str, str], sends: list[tuple[str, str, bool]]
) -> tuple[dict[str, str], str]:
    """Sends to two inputs, of which one goes through a unit; what two outputs gave, and how the session ended."""
    job = bench.run(
        f"""digraph g {{ a [type=input{attributes[0]}]; b [type=input{attributes[0]}]; u [flowunit=big]
        o [type=output{attributes[1]}]; p [type=output{attributes[1]}]; a -> u:in; u:out -> o; b -> p }}"""
    )
    got: dict[str, list[str]] = {"o": [], "p": []}
    ended = threading.Event()

    def arrived(_: Any, outputs: dict[str, Any]) -> None:
        for name, items in outputs.items():
            got[name] += texts(items)

    session = job.open(arrived, lambda _: ended.set())
    for port, items, end in sends:
        job.send(session, port, [text_buffer(item) for item in items], end=end)
    assert ended.wait(LIMIT_S)
    return {name: "".join(items) for name, items in got.items()}, str(session.error or "")


def test_inputs_and_outputs_that_match(bench: Bench) -> None:
    sends = [("a", "xy", False), ("b", "1", False), ("b", "23", True), ("a", "z", True)]
    assert outside(bench, ("", ""), sends) == ({"o": "XYZ", "p": "123"}, "")


def test_a_matched_input_that_ends_early(bench: Bench) -> None:
    _, error = outside(bench, ("", ""), [("a", "xy", False), ("b", "1", True)])
    assert error == "input node 'b' has ended, 'a' still has data"


def test_inputs_and_outputs_that_do_not_match(bench: Bench) -> None:
    sends = [("a", "xy", True), ("b", "1", True)]
    attributes = (", input_type=unmatch", ", output_type=unmatch")
    assert outside(bench, attributes, sends) == ({"o": "XY", "p": "1"}, "")


def test_a_port_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(UnitError, match=r"Send Port x is not exist \(input nodes: a, b\)"):
        outside(bench, ("", ""), [("x", "1", True)])


@pytest.mark.parametrize("other", [False, True])
def test_values_behind_the_end_of_an_input_are_refused(bench: Bench, other: bool) -> None:
    attributes = ("", "") if other else (", input_type=unmatch", ", output_type=unmatch")
    with pytest.raises(UnitError, match="input node 'a' of job 'test' has ended in this session"):
        outside(bench, attributes, [("a", "x", True), ("a", "y", True)])


def test_stop_stops_the_job(bench: Bench) -> None:
    job = bench.run("digraph g { s [flowunit=source]; t [flowunit=sink]; s:out -> t:in }")
    session, record = bench.open(job)
    job.ask_stop("node 's': as told")
    assert str(record.error()) == "job 'test' was stopped before this was done"
    assert session.ended


# ---- stream meta ---------------------------------------------------------------------------------------------

META = (
    "n [flowunit={}, batch_size=1]; m [flowunit={}, batch_size=1]; u [flowunit={}]; "
    "s:out -> n:in; n:out -> m:in; m:out -> u:in; u:out -> t:in"
)


@pytest.mark.parametrize("reader", ["tell", "tell_stream"])
@pytest.mark.parametrize("second", ["name", "name_stream"])
@pytest.mark.parametrize("first", ["name", "name_stream"])
def test_what_the_first_call_sets_is_the_meta_of_the_stream(bench: Bench, first: str, second: str, reader: str) -> None:
    assert run(bench, META.format(first, second, reader), "a", "b", "c") == (["a a a", "b a a", "c a a"], None)


def test_meta_that_a_failed_call_has_set_counts(bench: Bench) -> None:
    got, _ = run(bench, META.format("name", "name", "tell"), "-", "b")
    assert got == ["!name.ProcessError: no name", "b b -"]


def test_meta_of_a_call_over_several_sessions_is_of_the_first(bench: Bench) -> None:
    edges = "n [flowunit=name, batch_size=2, max_queue_delay_us=20000000]; u [flowunit=tell, batch_size=1]; "
    edges += "s:out -> n:in; n:out -> u:in; u:out -> t:in"
    job = bench.run(f"digraph g {{ s [flowunit=source]; t [flowunit=sink]; {edges} }}")
    (one, first), (two, second) = bench.open(job), bench.open(job)
    bench.send(job, "a", end=False, session=one, record=first)
    bench.send(job, "b", end=False, session=two, record=second)
    for session, record in ((one, first), (two, second)):
        bench.entry(job).send(session, "out", [], end=True)
        assert record.error() is None
    assert (first.got, second.got) == (["a a "], ["b None None"])
