"""modelbox.conf: values, includes, origins, and the commented file."""

from __future__ import annotations

import dataclasses
import logging
import re
import socket
from pathlib import Path

import pytest

from modelbox.errors import ConfigError
from modelboxd import logs
from modelboxd.settings import SECTIONS, LogSettings, Settings, default_of, file_key
from modelboxd.settings_file import effective, load, template

TOP = Path(__file__).resolve().parents[3]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_values_in_all_forms(tmp_path: Path) -> None:
    made = load(
        write(
            tmp_path / "m.conf",
            '[server]\nport = "1200"\n[log]\nsize = "2MB"\nlevel = "warn"\nscreen = "1"\n[driver]\ndir = "/units"\n',
        )
    )
    assert (made.server.port, made.log.size, made.log.level, made.log.screen) == (1200, 2 << 20, "WARN", True)
    assert made.driver.dir == ("/units",)
    assert str(made.origins["server.port"]).endswith("m.conf:2")


def test_includes_win_and_plugins_are_joined(tmp_path: Path) -> None:
    write(tmp_path / "conf.d/10.conf", '[server]\nport = 2\n[plugin]\nfiles = ["b", "a"]\n')
    write(tmp_path / "conf.d/20.conf", "[server]\nport = 3\n")
    main = write(
        tmp_path / "m.conf",
        '[server]\nport = 1\nip = "::1"\n[plugin]\nfiles = "a"\n[include]\nfiles = "conf.d/*.conf"\n',
    )
    made = load(main)
    assert (made.server.port, made.server.ip, made.plugin.files) == (3, "::1", ("a", "b"))
    assert "port = 3  # " + str(tmp_path / "conf.d/20.conf:2") in effective(made)


def test_errors_name_the_included_file(tmp_path: Path) -> None:
    write(tmp_path / "conf.d/x.conf", "[server]\n\nprt = 1\n")
    main = write(tmp_path / "m.conf", '[include]\nfiles = ["conf.d/*.conf"]\n')
    with pytest.raises(ConfigError, match=r"x\.conf:3: server\.prt is not known \(did you mean 'port'\?\)"):
        load(main)


def test_a_file_that_includes_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="includes itself"):
        load(write(tmp_path / "m.conf", '[include]\nfiles = ["m.conf"]\n'))


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "10.0.0.1")
    made = load(write(tmp_path / "m.conf", '[server]\nip = "${WHERE}"\nuser = "\\\\${WHERE}"\n'))
    assert (made.server.ip, made.server.user) == ("10.0.0.1", "${WHERE}")


def test_the_commented_file_is_true(tmp_path: Path) -> None:
    text = (TOP / "etc/modelbox/modelbox.conf").read_text()
    assert text == template()
    # With every key uncommented it still parses, and gives the defaults.
    lines = [line[2:] if re.match(r"# [\w-]+ = ", line) else line for line in text.split("\n")]
    made = load(write(tmp_path / "m.conf", "\n".join(lines)))
    for name, kind in SECTIONS.items():
        for item in dataclasses.fields(kind):
            if (name, item.name) != ("include", "files"):
                assert f"{file_key(item)} =" in text
                assert getattr(getattr(made, name), item.name) == default_of(item)
    assert dataclasses.replace(made, file="", origins={}, include=Settings().include) == Settings()


@pytest.fixture
def root_logger() -> object:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    yield root
    for handler in list(root.handlers):
        root.removeHandler(handler)
        if handler not in before[0]:
            handler.close()
    for handler in before[0]:
        root.addHandler(handler)
    root.setLevel(before[1])


@pytest.mark.usefixtures("root_logger")
def test_log_lines_and_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log/modelbox.log"
    logs.set_up(LogSettings(path=str(path), size=4096, num=2))
    for number in range(100):
        logging.getLogger("x").info("line %d\nwith a break %s", number, "y" * 50)
    lines = path.read_text().splitlines()
    assert all(line.startswith("[20") and "][INFO ][" in line and "\\nwith a break" in line for line in lines)
    assert sorted(p.name for p in path.parent.iterdir()) == ["modelbox.log", "modelbox.log.1", "modelbox.log.2"]


@pytest.mark.usefixtures("root_logger")
def test_a_full_disk_does_not_stop_logging() -> None:
    logs.set_up(LogSettings(path="/dev/full", num=0))
    for _ in range(3):
        logging.getLogger("x").info("text")
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logs.FileHandler)
    assert handler.lost == 3
    handler.stream = open("/dev/null", "w")  # noqa: SIM115
    logging.getLogger("x").info("again")
    assert handler.lost == 0


def test_journal_fields(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "journal"))
        handler = logs.JournalHandler(str(tmp_path / "journal"))
        handler.emit(logging.LogRecord("n", logging.WARNING, "/a/file.py", 7, "one\ntwo", (), None))
        data = sock.recv(65536)
    assert b"PRIORITY=4\n" in data
    assert b"CODE_LINE=7\n" in data
    assert b"MESSAGE\n" + (7).to_bytes(8, "little") + b"one\ntwo\n" in data
