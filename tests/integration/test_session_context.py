"""What nodes keep with a session is shared by all its nodes, whatever processes they run in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelbox.errors import UnitError
from modelboxd.engine.job import JobSettings
from modelboxd.workers.values import Budget
from tests.integration.graphs import Graphs, write
from tests.unit.engine.harness import LIMIT_S
from tests.waiting import wait_for

Start = Callable[..., Graphs]


SETTER = """
    def process(self, ctx):
        for buffer in ctx.input("in"):
            session = ctx.get_session_context()
            text = str(buffer)
            session.set_private_string("text", text)
            session.set_private_int("size", len(text))
            session.set_private("list", [text])
            session.set_private("large", text * 100000)
            session.get_session_config().set("node.get.mark", text + "?")
            ctx.output("out").push_back(buffer)
        return modelbox.Status()
"""
GETTER = """
    def process(self, ctx):
        for buffer in ctx.input("in"):
            session = ctx.get_session_context()
            text, size = session.get_private_string("text"), session.get_private_int("size")
            found = session.get_private("list")
            assert session.get_private("large") == text * 100000
            found.append(str(size))
            mark = ctx.get_session_config().get_string("mark")
            ctx.output("out").push_back(f"{buffer}:{text}:{size}:{mark}")
        return modelbox.Status()
"""
SHOW = """
    def process(self, ctx):
        for buffer in ctx.input("in"):
            found = ctx.get_session_context().get_private("list")
            ctx.output("out").push_back(f"{buffer}:{'+'.join(found)}")
        return modelbox.Status()
"""
CHAIN = (
    "s [flowunit=source]; set [flowunit=set]; get [flowunit=get, workers=2]; show [flowunit=show]; t [flowunit=sink];"
)
CHAIN += "s:out -> set:in; set:out -> get:in; get:out -> show:in; show:out -> t:in"


@pytest.mark.parametrize("stream", ["true", "false"])
def test_values_reach_later_nodes(tmp_path: Path, start_graphs: Start, stream: str) -> None:
    for name, code in (("set", SETTER), ("get", GETTER), ("show", SHOW)):
        write(tmp_path, name, code, base=f"stream = {stream}")
    graphs = start_graphs()
    # A batch of a normal unit may mix sessions, and has one context: that of its first buffer.
    job = graphs.run(CHAIN.replace("[flowunit", "[batch_size=1, flowunit"))
    records = [graphs.bench.send(job, f"w{number}") for number in range(50)]
    for number, record in enumerate(records):
        assert record.error() is None
        # An object that a later node changes in place is changed for all.
        assert record.got == [f"w{number}:w{number}:{len(str(number)) + 1}:w{number}?:w{number}+{len(str(number)) + 1}"]
    assert not job.sessions


def test_nothing_is_kept_of_sessions_that_have_ended(tmp_path: Path, start_graphs: Start) -> None:
    write(tmp_path, "set", SETTER, base="stream = true")
    count = """
    def process(self, ctx):
        import gc
        from modelbox.session import SessionContext
        for buffer in ctx.input("in"):
            ctx.get_session_context().get_private("text")
            gc.collect()
            count = sum(isinstance(item, SessionContext) for item in gc.get_objects())
            ctx.output("out").push_back(str(count))
        return modelbox.Status()
"""
    write(tmp_path, "count", count, base="stream = true")
    graphs = start_graphs()
    job = graphs.run("s [flowunit=source]; a [flowunit=set]; b [flowunit=count]; t [flowunit=sink];"
                     "s:out -> a:in; a:out -> b:in; b:out -> t:in")  # fmt: skip
    for _ in range(10):
        record = graphs.bench.send(job, "x")
        assert record.error() is None
        assert record.got == ["1"]


ERRORS = {
    "missing": ("", "ctx.get_session_context().get_private('none')", "ValueError: can not find session private: none"),
    "missing int": ("", "ctx.get_session_context().get_private_int('none')", "RuntimeError: invalid key."),
    "wrong type": (
        "ctx.get_session_context().set_private('x', 'text')",
        "ctx.get_session_context().get_private_int('x')",
        "RuntimeError: invalid key.",
    ),
    "no pickle": (
        "ctx.get_session_context().set_private('lock', __import__('threading').Lock())",
        "ctx.get_session_context().get_private('lock')",
        "the session's value 'lock', which node 'a' has set, cannot leave its process: TypeError: cannot pickle",
    ),
    "own class": (
        "ctx.get_session_context().set_private('unit', self.made)",
        "ctx.get_session_context().get_private('unit')",
        "the session's value 'unit', which node 'a' has set, cannot be rebuilt here: ModuleNotFoundError: No module named 'set'",
    ),
    "key": ("ctx.get_session_context().set_private(3, 4)", "pass", "TypeError: a key must be a str, not int"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_node_and_key(tmp_path: Path, start_graphs: Start, name: str) -> None:
    first, second, message = ERRORS[name]
    code = """
    def process(self, ctx):
        self.made = Made()
        for buffer in ctx.input("in"):
            {}
            {}
            ctx.output("out").push_back(buffer)
        return modelbox.Status()


class Made:
    pass
"""
    own = "assert ctx.get_session_context().get_private('lock')" if name == "no pickle" else "pass"
    write(tmp_path, "set", code.format(first or "pass", own), base="stream = true")
    write(tmp_path, "get", code.format(second, "pass"), base="stream = true")
    graphs = start_graphs()
    job = graphs.run("s [flowunit=source]; a [flowunit=set]; b [flowunit=get]; t [flowunit=sink];"
                     "s:out -> a:in; a:out -> b:in; b:out -> t:in")  # fmt: skip
    record = graphs.bench.send(job, "x")
    assert record.error() is None
    assert message in record.got[0]


def test_too_many_bytes_fail_the_session_alone(tmp_path: Path, start_graphs: Start) -> None:
    code = """
    def process(self, ctx):
        for buffer in ctx.input("in"):
            ctx.get_session_context().set_private("x", bytes(int(str(buffer))))
            ctx.output("out").push_back(buffer)
        return modelbox.Status()
"""
    write(tmp_path, "big", code, base="stream = true")
    graphs = start_graphs(JobSettings(session_bytes=100_000, drain_timeout_s=LIMIT_S, close_timeout_s=LIMIT_S))
    job = graphs.run("s [flowunit=source]; b [flowunit=big]; t [flowunit=sink]; s:out -> b:in; b:out -> t:in")
    good, bad = graphs.bench.send(job, "50000"), graphs.bench.send(job, "200000")
    assert good.error() is None
    assert good.got == ["50000"]
    error = bad.error()
    assert isinstance(error, UnitError)
    assert "the values of a session need" in str(error)
    assert "'x', at most 100000 are allowed ([python] session_bytes)" in str(error)


def test_the_values_of_all_sessions_are_bounded(tmp_path: Path, start_graphs: Start) -> None:
    code = """
    def process(self, ctx):
        for buffer in ctx.input("in"):
            for key in range(10):
                ctx.get_session_context().set_private(str(key), bytes(int(str(buffer))))
            ctx.output("out").push_back(buffer)
        return modelbox.Status()
"""
    write(tmp_path, "big", code, base="stream = true")
    budget = Budget(100_000)
    graphs = start_graphs(JobSettings(all_values=budget, drain_timeout_s=LIMIT_S, close_timeout_s=LIMIT_S))
    job = graphs.run("s [flowunit=source]; b [flowunit=big]; t [flowunit=sink]; s:out -> b:in; b:out -> t:in")
    for _ in range(3):  # those of a session that has ended do not count, nor do those of one that has failed
        for size in ("9000", "90000"):
            error = graphs.bench.send(job, size).error()
            if size == "90000":
                assert "the values of all sessions need more than 100000 bytes" in str(error)
            else:
                assert error is None
        wait_for(lambda: budget.used == 0)


@pytest.mark.parametrize("key", ["k" * 5000, "\ud800", 7])
@pytest.mark.parametrize("where", ["set_private", "get_session_config().set"])
def test_a_bad_key_is_the_calls_own_mistake(tmp_path: Path, start_graphs: Start, key: object, where: str) -> None:
    code = f"""
    def process(self, ctx):
        ctx.get_session_context().set_private("good", "\\ud800")
        ctx.get_session_context().get_session_config().set("text", "\\ud800")
        ctx.get_session_context().{where}({key!r}, "x")
        return modelbox.Status()
"""
    write(tmp_path, "bad", code, base="stream = true")
    graphs = start_graphs()
    job = graphs.run("s [flowunit=source]; b [flowunit=bad]; t [flowunit=got]; s:out -> b:in; b:out -> t:in")
    for _ in range(2):
        graphs.bench.send(job, "x")
    for got in graphs.got.wait(2):
        assert "bad.ProcessError" in got and ("a key" in got or "surrogates not allowed" in got), got
    assert job.workers()[0].restarts == 0


def test_both_branches_see_what_the_other_has_set_behind_their_join(tmp_path: Path, start_graphs: Start) -> None:
    put = """
    def process(self, ctx):
        for buffer in ctx.input("in"):
            ctx.get_session_context().set_private("{0}", "{0}" + str(buffer))
            ctx.output("out").push_back(buffer)
        return modelbox.Status()
"""
    write(tmp_path, "left", put.format("left"), base="stream = true")
    write(tmp_path, "right", put.format("right"), base="stream = true")
    join = """
    def process(self, ctx):
        for a, b in zip(ctx.input("a"), ctx.input("b")):
            session = ctx.get_session_context()
            ctx.output("out").push_back(session.get_private("left") + session.get_private("right"))
        return modelbox.Status()
"""
    write(tmp_path, "join", join, inputs="a b", base="stream = true")
    graphs = start_graphs()
    job = graphs.run("s [flowunit=source]; l [flowunit=left]; r [flowunit=right]; j [flowunit=join]; t [flowunit=sink];"
                     "s:out -> l:in; s:out -> r:in; l:out -> j:a; r:out -> j:b; j:out -> t:in")  # fmt: skip
    for word in ("x", "y", "z"):
        record = graphs.bench.send(job, word)
        assert record.error() is None
        assert record.got == [f"left{word}right{word}"]
