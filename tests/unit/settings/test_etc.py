"""What is installed to /etc and systemd, and the smaller rules of modelbox.conf."""

from __future__ import annotations

import configparser
import os
import socket
import tomllib
from pathlib import Path

import pytest

from modelbox.errors import ConfigError
from modelboxd import cli, paths, systemd
from modelboxd.graph.loader import load_graph
from modelboxd.jobs import sources
from modelboxd.settings import LogSettings, Settings
from modelboxd.settings_file import effective, load

TOP = Path(__file__).resolve().parents[3]


def conf(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "m.conf"
    path.write_text(text)
    return path


def test_the_installed_files_load() -> None:
    settings = load(TOP / "etc/modelbox/modelbox.conf")
    assert settings.include.files == ("conf.d/*.conf",)
    assert load_graph(TOP / "etc/modelbox/graph.conf").nodes
    assert sources.graph_files(settings) == [TOP / "etc/modelbox/graph.conf"]


def test_the_service_file_uses_options_that_exist() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(TOP / "systemd/modelbox.service")
    command = unit["Service"]["ExecStart"].split()
    assert command.pop() == "$MODELBOX_OPTS"
    options = cli.parser().parse_args(command[1:])
    assert (options.f, options.c) == (True, "/etc/modelbox/modelbox.conf")
    assert str(cli.EX_CONFIG) in unit["Service"]["RestartPreventExitStatus"].split()


@pytest.mark.parametrize(
    ("text", "value"),
    [('"64MB"', 64 << 20), ('"64 mb"', 64 << 20), ('"1G"', 1 << 30), ("5000", 5000), ('"5000"', 5000)],
)
def test_sizes(tmp_path: Path, text: str, value: int) -> None:
    assert load(conf(tmp_path, f"[log]\nsize = {text}\n")).log.size == value


@pytest.mark.parametrize(("text", "value"), [("30", 30), ('"30s"', 30), ('"2min"', 120), ('"1 h"', 3600)])
def test_durations(tmp_path: Path, text: str, value: int) -> None:
    assert load(conf(tmp_path, f"[server]\ndrain_timeout = {text}\n")).server.drain_timeout == value


@pytest.mark.parametrize(("text", "value"), [("250", 250), ('"250ms"', 250), ('"2s"', 2000)])
def test_milliseconds(tmp_path: Path, text: str, value: int) -> None:
    assert load(conf(tmp_path, f"[python]\nprocess_timeout_ms = {text}\n")).python.process_timeout_ms == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nport = 70000", r"m\.conf:2: server\.port = 70000 is too large \(at most 65535\)"),
        ('[server]\nport = "1K"', r"server\.port = '1K' is no whole number \(such as 5\)"),
        ("[server]\ninit_timeout = 2.5", r"init_timeout = 2\.5 is no whole number \(such as 30 or \"5min\"\)"),
        ("[server]\nport = true", r"server\.port = True is no whole number"),
        ("[memory]\nmax = 99999999999999999999", r"memory\.max = 99999999999999999999 is too large"),
        ('[memory]\narena = "1KB"', r"memory\.arena = '1KB' is too small \(at least 1MB\)"),
        ('[memory]\narena = "٣MB"', r"is no whole number"),
        ("[driver]\ndir = [true]", r"driver\.dir must be a text or a list of texts"),
        ("[driver]\ndir = {a = 1}", r"driver\.dir must be a text or a list of texts"),
        ("[include]\nfiles = [1.5]", r"include\.files must be a text or a list of texts"),
        ('[include]\nfiles = "none.conf"', r"m\.conf:2: include\.files: .*none\.conf does not exist"),
        ("[log]\nscreen = 2", r"log\.screen = 2 is not true or false"),
        ("[log]\npath = 5", r"log\.path = 5 must be a text"),
        ("port = 5", r"m\.conf:1: 'port' stands outside any section"),
        ("log = 5", r"m\.conf:1: 'log' must be a section \[log\]"),
        ("[engine]\n[engi]\nx = 1", r"m\.conf:2: section \[engi\] is not known \(did you mean 'engine'\?\)"),
        ("[log]\nlevel = \"INFO\"\n[server]\nlevel = 1", r"m\.conf:4: server\.level is not known"),
        ("log = {levl = 1}", r"m\.conf:1: log\.levl is not known \(did you mean 'level'\?\)"),
        ("log.levl = 1", r"m\.conf:1: log\.levl is not known"),
        ("[log]\nlevel = ]", r"m\.conf:2:9: Invalid value"),
    ],
)  # fmt: skip
def test_what_is_wrong_and_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(conf(tmp_path, text + "\n"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.conf").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(byte 5\)"):
        load(tmp_path / "latin.conf")


def test_byte_order_mark_line_ends_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "w.conf").write_bytes(b"\xef\xbb\xbf[server]\r\nport = 5\r\n")
    assert load(tmp_path / "w.conf").server.port == 5
    assert load(conf(tmp_path, "")).server == Settings().server
    assert load(conf(tmp_path, '[include]\nfiles = ["", "none.d/*.conf"]\n')).server == Settings().server


def test_includes_of_includes_and_odd_folder_names(tmp_path: Path) -> None:
    folder = tmp_path / "odd [1]"
    (folder / "a").mkdir(parents=True)
    (folder / "a/one.conf").write_text('[include]\nfiles = ["two.conf"]\n')
    (folder / "a/two.conf").write_text("[server]\nport = 2\n")
    (folder / "m.conf").write_text('[include]\nfiles = ["a/*ne.conf"]\n')
    assert load(folder / "m.conf").server.port == 2


def test_effective_values_read_back_the_same(tmp_path: Path) -> None:
    first = load(
        conf(
            tmp_path,
            "[server]\nuser = '\\${HOME} \"x\"\\ y'\nip = \"a\\tb\\u007f\\u00e9\"\n[driver]\ndir = ['/a', '/b']\n[log]\nsize = 12345\n",
        )
    )
    assert first.server.user == '${HOME} "x"\\ y'
    text = effective(first)
    assert tomllib.loads(text)
    assert f"size = 12345  # {tmp_path / 'm.conf'}:7\n" in text
    again = load(conf(tmp_path, text))
    assert (again.server, again.driver, again.log) == (first.server, first.driver, first.log)


def test_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELBOX_ROOT", str(tmp_path))
    assert LogSettings().path == str(tmp_path / "var/log/modelbox/modelbox.log")
    assert paths.config_file() == tmp_path / "etc/modelbox/modelbox.conf"
    assert paths.unit_dir() == tmp_path / "usr/lib/modelbox"
    assert load(conf(tmp_path, '[server]\nflow_path = "${MODELBOX_ROOT}/g"\n')).server.flow_path == f"{tmp_path}/g"
    monkeypatch.delenv("MODELBOX_ROOT")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert LogSettings().path == "/var/log/modelbox/modelbox.log"
    assert load(conf(tmp_path, '[server]\nflow_path = "${MODELBOX_ROOT}/g"\n')).server.flow_path == "/g"


def test_logs_of_an_ordinary_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELBOX_ROOT", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert LogSettings().path == str(tmp_path / "modelbox/modelbox.log")
    monkeypatch.setattr(os, "access", lambda path, mode: True)  # of a server's own user
    assert LogSettings().path == "/var/log/modelbox/modelbox.log"
    monkeypatch.setenv("LOGS_DIRECTORY", "/made/by/systemd")
    assert LogSettings().path == "/made/by/systemd/modelbox.log"


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELBOX_ROOT", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 54321)  # no such user
    monkeypatch.delenv("MODELBOX_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    assert paths.cache_dir() == tmp_path / "var/cache/modelbox"
    monkeypatch.setenv("HOME", "/home/x")
    assert paths.cache_dir() == Path("/home/x/.cache/modelbox")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert paths.cache_dir() == Path("/c/modelbox")
    monkeypatch.setenv("MODELBOX_CACHE_DIR", "/given")
    assert paths.cache_dir() == Path("/given")
    monkeypatch.delenv("MODELBOX_CACHE_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "var/cache/modelbox").mkdir(parents=True)
    assert paths.cache_dir() == tmp_path / "var/cache/modelbox"


def test_graphs_of_the_service(tmp_path: Path) -> None:
    for name in ("graph/b.toml", "graph/a.json", "graph/DISABLED_c.toml", "graph/note.txt", "apps/x/graph/d.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    settings = load(conf(tmp_path, f'[server]\napplication_root = "{tmp_path}/apps"\n'))
    assert [path.name for path in sources.graph_files(settings)] == ["a.json", "b.toml", "d.toml"]


# ---- systemd -----------------------------------------------------------------------------------------------


@pytest.fixture
def no_supervisor(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("NOTIFY_SOCKET", "INVOCATION_ID", "SYSTEMD_EXEC_PID", "LISTEN_FDS", "LISTEN_PID"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_notify(tmp_path: Path, no_supervisor: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    systemd.notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        no_supervisor.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify("READY=1", "STATUS=2 jobs")
        assert sock.recv(1000) == b"READY=1\nSTATUS=2 jobs"
    assert systemd.is_supervised()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"modelbox-test-{os.getpid()}"
        sock.bind("\0" + name)
        sock.settimeout(10)
        no_supervisor.setenv("NOTIFY_SOCKET", "@" + name)
        systemd.notify("STOPPING=1")
        assert sock.recv(1000) == b"STOPPING=1"
    no_supervisor.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.notify("READY=1")
    assert "cannot notify systemd" in caplog.text


def test_supervised_or_merely_below_a_service(no_supervisor: pytest.MonkeyPatch) -> None:
    assert not systemd.is_supervised()
    no_supervisor.setenv("INVOCATION_ID", "x")
    assert systemd.is_supervised() == (os.getppid() == 1)
    no_supervisor.setenv("SYSTEMD_EXEC_PID", "1")
    assert not systemd.is_supervised()  # a shell below a service
    no_supervisor.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    assert systemd.is_supervised()


def test_workers_may_be_a_word(tmp_path: Path) -> None:
    settings = load(conf(tmp_path, '[python]\nworkers = "auto"\nrestart = "on-failure"\nrestart_window_s = "2min"\n'))
    assert (settings.python.workers, settings.python.restart, settings.python.restart_window_s) == (
        -1,
        "on-failure",
        120,
    )
    assert settings.python.life.workers == -1
    assert 'workers = "auto"  # ' in effective(settings)
    with pytest.raises(ConfigError, match=r'workers = .some. is no whole number .such as 5 or "auto"'):
        load(conf(tmp_path, '[python]\nworkers = "some"\n'))


# ---- socket activation ------------------------------------------------------------------------------------


def test_a_socket_of_systemd_is_found_by_its_address(no_supervisor: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        # Two numbers in a row that nobody uses, as 3 and 4 are when a service starts.
        first = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        os.dup2(one.fileno(), first, inheritable=True)
        os.dup2(two.fileno(), first + 1, inheritable=True)
        no_supervisor.setattr(systemd, "FIRST_FD", first)
        try:
            address = two.getsockname()
            assert systemd.inherited(*address) is None  # LISTEN_FDS is not set
            no_supervisor.setenv("LISTEN_FDS", "2")
            no_supervisor.setenv("LISTEN_PID", "1")
            assert systemd.inherited(*address) is None  # meant for another process
            no_supervisor.setenv("LISTEN_PID", str(os.getpid()))
            for _ in range(2):  # again after the first one was closed
                found = systemd.inherited(*address)
                assert found is not None
                with found, socket.create_connection(address), found.accept()[0]:
                    assert found.getsockname() == address
            assert not os.get_inheritable(first) and not os.get_inheritable(first + 1)
            assert systemd.inherited("127.0.0.1", 1) is None
        finally:
            os.close(first)
            os.close(first + 1)
