"""Several graphs start with the service, and some of them cannot."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelboxd import logs
from modelboxd.daemon import Daemon
from modelboxd.settings import ServerSettings, Settings
from tests.integration.server import Server, http_graph, with_api
from tests.integration.test_bad_start import modelbox
from tests.integration.test_http import ECHO
from tests.integration.workers import write_unit

FAILS_TO_OPEN = (
    ECHO
    + """
    def open(self, config):
        raise ValueError("no way")
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration, and graph/good.toml beside it."""
    (tmp_path / "graph").mkdir()
    write_unit(tmp_path / "graph", "unit", ECHO)
    http_graph(tmp_path / "graph", "unit", name="good.toml")
    (tmp_path / "modelbox.conf").write_text(with_api(f'[log]\npath = "{tmp_path}/modelbox.log"\n', tmp_path))
    return tmp_path


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def serving(folder: Path) -> Server:
    return Server(folder=folder, config=(folder / "modelbox.conf").read_text()).ready()


def test_bad_graphs_are_left_out_and_the_others_run(folder: Path) -> None:
    graphs = folder / "graph"
    (graphs / "a_syntax.toml").write_text("[graph\n")
    http_graph(graphs, "unitt", name="b_unknown.toml")
    write_unit(graphs, "fails", FAILS_TO_OPEN)
    http_graph(graphs, "fails", name="c_open.toml")
    (graphs / "DISABLED_x.toml").write_text("[graph\n")
    with taken_port() as port:
        busy = http_graph(graphs, "unit", name="d_busy.toml")
        busy.write_text(busy.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        server = serving(folder)
    try:
        assert "is ready: 1 jobs, 4 skipped" in server.wait_for("is ready:")
        assert server.request("/v1", b"abc")[:2] == (200, b"abc")
    finally:
        assert server.stop() == 0
    errors = [line.split("] ", 1)[1] for line in server.lines if "][ERROR]" in line]
    syntax, unknown, opened, taken = errors
    assert syntax.startswith(f"job 'a_syntax' is skipped: {graphs}/a_syntax.toml:1:7: ")
    assert unknown.startswith(f"job 'b_unknown' is skipped: {graphs}/b_unknown.toml:7:")
    assert "create flowunit 'unitt' failed" in unknown
    assert opened.startswith(f"job 'c_open' is skipped: {graphs}/c_open.toml: ")
    assert "node 'u'" in opened and "no way" in opened
    assert taken.startswith(f"job 'd_busy' is skipped: {graphs}/d_busy.toml:6:")
    assert f"node 'rx': cannot listen on 127.0.0.1:{port}" in taken
    frames = [line for line in server.lines if ' File "' in line]
    assert frames and all("fails.py" in line for line in frames)  # the unit's own, none of ours


def test_a_job_that_failed_leaves_nothing_behind(folder: Path) -> None:
    """The first source listens already when the second one of the same graph cannot."""
    with taken_port() as taken, taken_port() as free:
        pass
    with taken_port() as taken:
        (folder / "graph/bad.toml").write_text(
            (folder / "graph/good.toml").read_text().replace("digraph g {", f"""digraph g {{
            a [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:{free}/a"]
            b [flowunit=httpserver_sync_receive, endpoint="http://127.0.0.1:{taken}/b"]
            v [flowunit=unit]; w [flowunit=unit]; ta [flowunit=httpserver_sync_reply]; tb [flowunit=httpserver_sync_reply]
            a:out_request_info -> v:in; v:out -> ta:in_reply_info
            b:out_request_info -> w:in; w:out -> tb:in_reply_info
            """).replace("[graph]", "[graph]\nstrict = false")
        )  # fmt: skip
        server = serving(folder)
        try:
            assert server.request("/v1", b"abc")[:2] == (200, b"abc")
            with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", free)):
                pass
        finally:
            assert server.stop() == 0


def test_when_no_graph_can_be_started_nothing_is_served(folder: Path) -> None:
    (folder / "graph/good.toml").write_text("[graph\n")
    http_graph(folder / "graph", "unitt", name="other.toml")
    arguments = ["-c", str(folder / "modelbox.conf")]
    for more in (["-f"], []):  # in the foreground, and for who starts it in the background
        code, _, errors = modelbox(*arguments, *more)
        first, second, last = errors.splitlines()
        assert code == 78
        assert first.startswith(f"modelbox: job 'good' is skipped: {folder}/graph/good.toml:1:7: ")
        assert second.startswith(f"modelbox: job 'other' is skipped: {folder}/graph/other.toml:7:")
        assert last == "modelbox: no graph could be started (2 skipped)"


def test_a_failure_that_may_pass_has_another_exit_code(folder: Path) -> None:
    (folder / "graph/unit/unit.py").write_text(FAILS_TO_OPEN)
    code, _, errors = modelbox("-c", str(folder / "modelbox.conf"), "-f")
    assert (code, errors.splitlines()[-1]) == (1, "modelbox: no graph could be started (1 skipped)")


def test_a_graph_that_is_named_must_start(folder: Path) -> None:
    bad = folder / "graph/bad.toml"
    bad.write_text("[graph\n")
    good = str(folder / "graph/good.toml")
    code, _, errors = modelbox("-c", str(folder / "modelbox.conf"), "-f", "--graph", good, "--graph", str(bad))
    (line,) = errors.splitlines()
    assert code == 78
    assert line.startswith(f"modelbox: {bad}:1:7: ")


def test_no_graphs_at_all_is_no_failure(folder: Path) -> None:
    (folder / "graph/good.toml").unlink()
    server = serving(folder)
    assert "is ready: 0 jobs," in server.wait_for("is ready:")
    assert server.stop() == 0


class Records(logging.Handler):
    """Keeps (message, fields that the journal would get) of each line."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[str, set[bytes]]] = []
        self._journal = logs.JournalHandler("/nowhere")

    def emit(self, record: logging.LogRecord) -> None:
        fields = {field for field in self._journal._fields(record).split(b"\n") if field.startswith(b"MODELBOX_")}
        self.kept.append((record.getMessage(), fields))

    def fields(self, text: str) -> set[bytes]:
        (found,) = (fields for message, fields in self.kept if text in message)
        return found


def test_lines_carry_job_and_node(folder: Path) -> None:
    """In a process of its own, since a daemon changes the one that it runs in."""
    graphs = folder / "graph"
    http_graph(graphs, "unit", name="good.toml", receive="time_out=5").write_text(
        (graphs / "good.toml").read_text() + '[flow]\nname = "named"\n'
    )
    http_graph(graphs, "unitt", name="bad.toml")
    (graphs / "broken.so.toml").write_text("[base\n")
    code = "from tests.integration import test_several_graphs as t; t.log_a_start()"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, sorted(graphs.glob("[bg]*d.toml")))],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], env={**os.environ, "MODELBOX_CACHE_DIR": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def log_a_start() -> None:
    """Starts the graphs of the command line and checks what was logged meanwhile."""
    bad, good = map(Path, sys.argv[1:])
    records = Records()
    logging.getLogger().addHandler(records)
    logging.getLogger().setLevel(logging.INFO)
    daemon = Daemon(
        Settings(server=ServerSettings(drain_timeout=0, api=False, state_dir=os.environ["MODELBOX_CACHE_DIR"])),
        [bad, good],
        skip_bad=True,
    )
    daemon_logs = logging.getLogger("modelboxd.daemon")

    def stop_when_ready(record: logging.LogRecord) -> bool:
        if "is ready" in record.getMessage():
            os.kill(os.getpid(), signal.SIGTERM)
        return True

    daemon_logs.addFilter(stop_when_ready)
    logs._handlers()[0].setFormatter(logs.LineFormatter())  # as set_up() does, for report()
    assert daemon.run() == 0
    assert records.fields("job 'bad' is skipped") == {b"MODELBOX_JOB=bad", b"MODELBOX_NODE=u"}
    assert records.fields("has no option 'time_out'") == {b"MODELBOX_JOB=named", b"MODELBOX_NODE=rx"}
    assert records.fields("job 'named' runs") == {b"MODELBOX_JOB=named"}
    assert records.fields("job 'named' stopped") == {b"MODELBOX_JOB=named"}
    assert records.fields("is ready: 1 jobs, 1 skipped") == set()
    broken = [fields for message, fields in records.kept if "broken.so.toml" in message]
    assert broken == [{b"MODELBOX_JOB=bad"}, {b"MODELBOX_JOB=named"}]
