"""`reload = true`: workers are replaced when files of their unit have changed."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelbox.errors import WorkerLostError
from modelboxd.workers import reload
from modelboxd.workers.group import WorkerGroup
from tests.integration.graphs import Graphs, write
from tests.integration.obedient import send, text_of
from tests.integration.server import Server, http_graph
from tests.integration.workers import LIMIT_S, Caller, write_unit
from tests.waiting import wait_for

HEAD = "import os\nimport _flowunit as modelbox\nclass Unit(modelbox.FlowUnit):\n"
SAYS = (
    HEAD
    + """
    def process(self, context):
        for buffer in context.input("in"):
            text = str(buffer)
            while text.startswith("/") and not os.path.exists(text):
                pass
            if text == "die":
                os._exit(7)
            context.output("out").push_back("{word} %d" % os.getpid())
        return modelbox.Status()
"""
)


def says(word: str) -> str:
    return SAYS.replace("{word}", word)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "PERIOD_S", 0.02)


@pytest.fixture
def start(caller: Caller, tmp_path: Path) -> Iterator[Callable[..., WorkerGroup]]:
    groups: list[WorkerGroup] = []

    def made(**more: Any) -> WorkerGroup:
        unit = write_unit(tmp_path, "unit", says("one"), stream=bool(more.pop("stream", False)))
        groups.append(caller.start(unit, reload=True, **more))
        return groups[-1]

    yield made
    for group in groups:
        group.close(LIMIT_S)


def change(tmp_path: Path, code: str) -> None:
    (tmp_path / "unit/unit.py").write_text(code)


def word(caller: Caller, group: WorkerGroup) -> str:
    return str(caller.call(group, "x")[0]).split()[0]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "changed files are not used" in record.getMessage()]


def test_all_workers_are_replaced_and_no_work_is_lost(
    start: Callable[..., WorkerGroup], caller: Caller, tmp_path: Path
) -> None:
    group = start(workers=3)
    before = {worker.pid for worker in group.workers}
    over = threading.Event()
    answers: list[str] = []

    def work() -> None:
        while not over.is_set():
            answers.extend(text_of(made.result(LIMIT_S)) for made in [caller.submit(group, "x") for _ in range(10)])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for text in ("two", "six", "ten"):  # of the same length, within a second perhaps
            change(tmp_path, says(text))
            wait_for(lambda text=text: {answer.split()[0] for answer in answers[-100:]} == {text})
    finally:
        over.set()
        thread.join(LIMIT_S)
    assert list(dict.fromkeys(answer.split()[0] for answer in answers)) == ["one", "two", "six", "ten"]
    wait_for(lambda: [status.state.value for status in group.status().workers] == ["ready"] * 3)
    assert not before & {worker.pid for worker in group.workers}
    assert (group.restarts, group.status().last_cause) == (0, "")


def test_files_beside_the_unit_count_too(start: Callable[..., WorkerGroup], caller: Caller, tmp_path: Path) -> None:
    group = start()
    (tmp_path / "unit/parts").mkdir()
    part = tmp_path / "unit/parts/said.py"
    part.write_text('WORD = "one"\n')
    change(tmp_path, "from parts.said import WORD\n" + says("{word}").replace('"{word} %d" % ', 'WORD + " %d" % '))
    wait_for(lambda: group.recycled)
    part.write_text('WORD = "six"\n')
    wait_for(lambda: word(caller, group) == "six")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (says("two") + "    def open(self:\n", r"SyntaxError: .*unit\.py:14\)"),
        (
            HEAD + "    def open(self, config):\n        raise OSError('no model')\n",
            r"OSError: no model \(.*unit\.py:5\)",
        ),
        (HEAD + "    def open(self, config):\n        os._exit(3)\n", "exit code 3"),
    ],
)
def test_what_does_not_open_leaves_the_old_one(
    start: Callable[..., WorkerGroup],
    caller: Caller,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    code: str,
    text: str,
) -> None:
    group = start(workers=2)
    before = {worker.pid for worker in group.workers}
    change(tmp_path, code)
    wait_for(lambda: told(caplog))
    assert {word(caller, group) for _ in range(10)} == {"one"}
    assert {worker.pid for worker in group.workers} == before
    assert group.status().breaker == "closed" and group.status().crashes == 0
    (line,) = told(caplog)
    assert re.match(rf"node 'node': the changed files are not used, its old workers go on: .*{text}", line), line
    change(tmp_path, says("six"))
    wait_for(lambda: word(caller, group) == "six" and not before & {worker.pid for worker in group.workers})
    assert len(told(caplog)) == 1


def test_streams_finish_on_the_old_worker(start: Callable[..., WorkerGroup], caller: Caller, tmp_path: Path) -> None:
    group = start(stream=True)
    first = group.workers[0]
    assert text_of(send(first, caller, "x", 5).result(LIMIT_S)) == f"one {first.pid}"
    change(tmp_path, says("two"))
    wait_for(lambda: group.recycled == 1)
    second = group.workers[0]
    assert text_of(send(second, caller, "x", 6).result(LIMIT_S)) == f"two {second.pid}"
    change(tmp_path, says("three"))  # while the first is still there
    wait_for(lambda: group.recycled == 2)
    assert text_of(send(group.workers[0], caller, "x", 7).result(LIMIT_S)).startswith("three ")
    assert text_of(send(first, caller, "x", 5, begin=False, end=True).result(LIMIT_S)) == f"one {first.pid}"
    assert text_of(send(second, caller, "x", 6, begin=False, end=True).result(LIMIT_S)) == f"two {second.pid}"
    wait_for(lambda: first.gone and second.gone)
    assert [status.state.value for status in group.status().workers] == ["ready"]


def test_a_call_under_way_is_finished(start: Callable[..., WorkerGroup], caller: Caller, tmp_path: Path) -> None:
    group = start()
    first = group.workers[0].pid
    future = caller.submit(group, str(tmp_path / "go"))
    change(tmp_path, says("two"))
    wait_for(lambda: group.recycled == 1)
    assert word(caller, group) == "two"
    (tmp_path / "go").touch()
    assert text_of(future.result(LIMIT_S)) == f"one {first}"


def test_a_change_closes_the_breaker(start: Callable[..., WorkerGroup], caller: Caller, tmp_path: Path) -> None:
    group = start(max_restarts=2, restart_cooldown_s=3600)
    for _ in range(2):
        with pytest.raises(WorkerLostError, match="exit code 7"):
            caller.call(group, "die")
    with pytest.raises(WorkerLostError, match="out of service"):
        caller.call(group, "x")
    change(tmp_path, says("two"))
    wait_for(lambda: group.status().state == "ready")
    assert word(caller, group) == "two"
    wait_for(lambda: group.status().breaker == "closed")


SOURCE = """
    def open(self, config):
        external = self.create_external_data()
        buffers = external.create_buffer_list()
        buffers.push_back("{word}")
        external.send(buffers)
        external.close()
        return modelbox.Status()

    def process(self, context):
        for buffer in context.external():
            context.output("out").push_back(buffer)
        return modelbox.Status()
"""


def test_a_source_is_loaded_on_trial_before_the_old_one_is_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "ticks", SOURCE.replace("{word}", "one"), inputs="", base="stream = true\nreload = true")
    graphs = Graphs(tmp_path)
    try:
        job = graphs.run("s [flowunit=ticks]; t [flowunit=got]; s:out -> t:in")
        assert graphs.got.wait(1) == ["one"]
        group = job.steps[0].group
        first = group.workers[0].pid
        code = tmp_path / "ticks/ticks.py"
        good = code.read_text()
        code.write_text(good + "    def open(self:\n")
        wait_for(lambda: told(caplog))
        assert group.workers[0].pid == first and group.workers[0].alive
        code.write_text(good.replace('"one"', '"two"'))
        assert graphs.got.wait(2) == ["one", "two"]
        assert group.status().crashes == 0
    finally:
        graphs.close()


ASKS = """
    def open(self, config):
        self.word = config.get_string("word", "") + " " + config.get_string("own", "")
        return modelbox.Status()

    def process(self, context):
        for buffer in context.input("in"):
            context.output("out").push_back(self.word)
        return modelbox.Status()
"""


def answer(graphs: Graphs, job: Any) -> list[str]:
    record = graphs.bench.send(job, "x")
    assert record.error() is None
    return record.got


def test_the_toml(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "asks", ASKS, base='stream = true\nreload = true\n[config]\nword = "one"\nown = "default"')
    graphs = Graphs(tmp_path)
    try:
        job = graphs.run(
            "s [flowunit=source]; u [flowunit=asks, own=mine]; t [flowunit=sink]; s:out -> u:in; u:out -> t:in"
        )
        group = job.steps[1].group
        toml = tmp_path / "asks/asks.toml"
        good = toml.read_text()
        toml.write_text(good.replace('word = "one"', 'word = "two"').replace('own = "default"', 'own = "other"'))
        wait_for(lambda: group.recycled == 1)
        assert answer(graphs, job) == ["two mine"]
        for bad, text in (
            (good.replace("stream = true", "stream = maybe"), f"its workers go on as they are: {toml}:8:10: "),
            (good + "[output.output2]\nname = 'more'\n", f"its workers go on as they are: {toml}: outputs changed"),
        ):
            toml.write_text(bad)
            wait_for(lambda text=text: text in caplog.text)
        assert group.recycled == 1 and answer(graphs, job) == ["two mine"]
    finally:
        graphs.close()


def test_without_the_option_nothing_is_watched(caller: Caller, tmp_path: Path) -> None:
    group = caller.start(write_unit(tmp_path, "unit", says("one")))
    assert group.succession._watcher is None
    assert not [thread for thread in threading.enumerate() if thread.name == "mb-reload"]
    group.close(LIMIT_S)


def test_in_the_daemon(tmp_path: Path) -> None:
    write_unit(tmp_path, "unit", says("one"))
    server = Server(http_graph(tmp_path, "unit"), config="[python]\nreload = true\n", folder=tmp_path)
    try:
        server.ready()
        assert server.request("/v1", b"x")[1].startswith(b"one ")
        change(tmp_path, says("two") + "oops(\n")
        line = server.wait_for("the changed files are not used, its old workers go on: SyntaxError: ")
        assert line.endswith(f"({tmp_path}/unit/unit.py:14)"), line
        assert server.request("/v1", b"x")[1].startswith(b"one ")
        change(tmp_path, says("two"))
        wait_for(lambda: server.request("/v1", b"x")[1].startswith(b"two "))
    finally:
        assert server.stop() == 0


def test_which_files_count(tmp_path: Path) -> None:
    for name in (
        "a.py",
        "b.toml",
        "c.txt",
        "deep/d.py",
        ".hidden/e.py",
        "__pycache__/f.py",
        "venv/pyvenv.cfg",
        "venv/g.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.py").symlink_to(tmp_path / "nothing")
    (tmp_path / "round").symlink_to(tmp_path)
    found = reload.snapshot(str(tmp_path))
    assert sorted(os.path.relpath(name, tmp_path) for name in found) == ["a.py", "b.toml", "deep/d.py"]
    assert reload.snapshot(str(tmp_path / "gone")) == {}
