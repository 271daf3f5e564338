"""Source units in Python: session context, many sessions, full queues, the death of their worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.graphs import Graphs, write

Start = Callable[..., Graphs]


SOURCE = """
    def open(self, config):
        import threading
        self.config = config
        self.go = threading.Event()
        threading.Thread(target=self.run, daemon=True).start()
        return modelbox.Status()

    def send(self, external, *texts):
        items = external.create_buffer_list()
        for text in texts:
            items.push_back(text)
        return external.send(items)

    def process(self, ctx):
        for buffer in ctx.external():
            ctx.output("out").push_back(buffer)
        return modelbox.Status()
"""


def test_session_values_of_a_source_reach_its_graph_in_many_sessions(tmp_path: Path, start_graphs: Start) -> None:
    code = """
    def run(self):
        for number in range(300):
            external = self.create_external_data()
            context = external.get_session_context()
            context.set_private("number", {"is": number})
            external.get_session_config().set("nodes.mark", f"m{number}")
            self.send(external, f"{number}")
            context.set_private("second", number + 1)
            self.send(external, f"{number}")
            external.close()
"""
    write(tmp_path, "many", code + SOURCE, inputs="", base="stream = true")
    reader = """
    def process(self, ctx):
        for buffer in ctx.input("in"):
            session = ctx.get_session_context()
            number, mark = session.get_private("number")["is"], ctx.get_session_config().get_string("mark")
            first = ctx.get_private("first") is None
            ctx.set_private("first", False)
            good = mark == f"m{number}" and str(buffer) == str(number) and session.get_session_id()
            if not first:
                good = good and session.get_private("second") == number + 1
            ctx.output("out").push_back("good" if good else f"{buffer} {number} {mark}")
        return modelbox.Status()
"""
    write(tmp_path, "reader", reader, base="stream = true")
    graphs = start_graphs()
    job = graphs.run(
        "s [flowunit=many]; r [flowunit=reader, workers=2]; t [flowunit=got]; s:out -> r:in; r:out -> t:in"
    )
    assert graphs.got.wait(600) == ["good"] * 600
    assert len(graphs.got.texts) == 300
    with job.quiet:
        assert job.quiet.wait_for(lambda: not job.sessions, 20.0)


def test_the_death_of_its_worker_fails_its_sessions_and_a_new_one_begins(tmp_path: Path, start_graphs: Start) -> None:
    code = """
    def run(self):
        external = self.create_external_data()
        self.send(external, "hello")
        self.go.wait()
        import os
        os._exit(7)

    def process(self, ctx):
        for buffer in ctx.external():
            ctx.output("out").push_back(buffer)
        import pathlib
        flag = pathlib.Path(__file__).with_name("died")
        if not flag.exists():
            flag.write_text("")
            self.go.set()
        return modelbox.Status()
"""
    write(tmp_path, "dies", SOURCE[: SOURCE.index("    def process")] + code, inputs="", base="stream = true")
    graphs = start_graphs()
    job = graphs.run("s [flowunit=dies]; t [flowunit=got]; s:out -> t:in")
    graphs.got.wait(2)  # of the first worker, and of its successor
    assert len(graphs.got.texts) == 2
    with job.quiet:
        assert job.quiet.wait_for(lambda: len(job.sessions) == 1, 20.0)
    job.stop(0.0)


# A unit behind the source that takes nothing until a file says so.
HOLD = """
    def process(self, ctx):
        import pathlib, select
        flag = pathlib.Path(__file__).with_name("go")
        while not flag.exists():
            select.select([], [], [], 0.01)
        for buffer in ctx.input("in"):
            ctx.output("out").push_back(buffer)
        return modelbox.Status()
"""


@pytest.mark.parametrize("drop", ["", "oldest", "newest"])
def test_a_full_queue_holds_the_unit_or_drops(tmp_path: Path, start_graphs: Start, drop: str) -> None:
    code = """
    def run(self):
        import pathlib
        external = self.create_external_data()
        for number in range(2000):
            self.send(external, f"{number:04}")
            if number == 200:
                pathlib.Path(__file__).with_name("sent").write_text("")
        external.close()
        pathlib.Path(__file__).with_name("all").write_text("")
"""
    write(tmp_path, "pours", code + SOURCE, inputs="", base="stream = true")
    write(tmp_path, "hold", HOLD, base="stream = true")
    graphs = start_graphs()
    attrs = f"queue_size_external=16{f', drop={drop}' if drop else ''}"
    job = graphs.run(f"s [flowunit=pours, {attrs}]; h [flowunit=hold, queue_size=4]; t [flowunit=got];"
                     "s:out -> h:in; h:out -> t:in")  # fmt: skip
    source = job.sources[0]
    condition = (lambda: source.counts[0] >= 16) if not drop else (lambda: source.stats.dropped > 1000)
    with job.quiet:
        while not condition():
            job.quiet.wait(0.01)
    sent_all = tmp_path / "pours" / "all"
    assert not (sent_all.exists() and not drop)
    (tmp_path / "hold" / "go").write_text("")
    if not drop:
        assert graphs.got.wait(2000) == [f"{number:04}" for number in range(2000)]
        assert source.stats.dropped == 0
    else:
        with job.quiet:
            assert job.quiet.wait_for(lambda: not job.sessions, 20.0)
        (got,) = graphs.got.texts.values()
        assert len(got) + source.stats.dropped == 2000
        assert got == sorted(got)
        assert ("1999" in got) == (drop == "oldest")
        assert drop == "oldest" or "0000" in got


def test_a_unit_hears_that_its_session_failed_and_can_go_on(tmp_path: Path, start_graphs: Start) -> None:
    code = """
    def run(self):
        first = self.create_external_data()
        count = 0
        while True:
            status = self.send(first, "bad")
            if status.code() == modelbox.Status.StatusCode.STATUS_STOP:
                break
        first.close()
        second = self.create_external_data()
        for number in range(40):
            self.send(second, f"{number:02}")
        second.close()
"""
    write(tmp_path, "goes_on", code + SOURCE, inputs="", base="stream = true")
    fail = """
    def process(self, ctx):
        for buffer in ctx.input("in"):
            if str(buffer) == "bad":
                return None  # a wrong return value fails the session
            ctx.output("out").push_back(buffer)
        return modelbox.Status()
"""
    write(tmp_path, "fail", fail, base="stream = true")
    graphs = start_graphs()
    graphs.run("s [flowunit=goes_on, queue_size_external=8]; f [flowunit=fail]; t [flowunit=got];"
               "s:out -> f:in; f:out -> t:in")  # fmt: skip
    assert graphs.got.wait(40) == [f"{number:02}" for number in range(40)]
    assert len(graphs.got.texts) == 1
