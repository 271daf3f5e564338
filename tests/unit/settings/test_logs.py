"""Logs: one line an event, whatever it holds, and whatever the disk or the journal does."""

from __future__ import annotations

import array
import errno
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelbox._core import ffi, lib
from modelbox.errors import ConfigError
from modelboxd import logs
from modelboxd.settings import LogSettings


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    for handler in before:
        root.removeHandler(handler)
    yield root
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in before:
        root.addHandler(handler)
    root.setLevel(level)


def record(text: str, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("n", level, "/a/file.py", 7, text, (), None)
    made.__dict__.update(extra)
    return made


@pytest.mark.parametrize(
    ("level", "name"),
    [(10, "DEBUG"), (20, "INFO "), (25, "NOTICE"), (30, "WARN "), (40, "ERROR"), (50, "FATAL")],
)
def test_the_form_of_a_line(tmp_path: Path, level: int, name: str) -> None:
    path = tmp_path / "x.log"
    logs.set_up(LogSettings(path=str(path), level="DEBUG"))
    logging.getLogger().handle(record("text", level))
    assert re.fullmatch(
        r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\]\[" + name + r"\]\[file\.py:7\] text\n", path.read_text()
    )


def test_text_of_users_cannot_fake_lines_or_drive_a_terminal() -> None:
    line = logs.LineFormatter().format(record("a\n[2026] b\r\x1b[2Jc\x00\u2028d\te\x85f"))
    assert line.endswith("] a\\n[2026] b\\r\\x1b[2Jc\\x00\\x2028d\te\\x85f")
    assert len(line.splitlines()) == 1


def test_an_exception_is_one_line() -> None:
    try:
        raise ValueError("wrong\nthing")
    except ValueError:
        import sys

        made = logging.LogRecord("n", logging.ERROR, "f.py", 1, "failed", (), sys.exc_info())
    line = logs.LineFormatter().format(made)
    assert len(line.splitlines()) == 1
    assert line.endswith("ValueError: wrong\\nthing")


def test_names_that_are_not_unicode_are_logged(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    logs.set_up(LogSettings(path=str(path)))
    logging.getLogger("x").info("%s", os.fsdecode(b"caf\xe9"))
    assert "caf\\udce9" in path.read_text()


def test_a_log_call_that_is_wrong_raises_nothing(tmp_path: Path) -> None:
    logs.set_up(LogSettings(path=str(tmp_path / "x.log")))
    logging.getLogger("x").info("%d", "no number")
    logging.getLogger("x").info("next")
    text = (tmp_path / "x.log").read_text()
    assert "next" in text
    assert "1 log lines before this one could not be written" in text


def test_no_rotated_files_starts_the_file_over(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    logs.set_up(LogSettings(path=str(path), size=4096, num=0))
    for number in range(500):
        logging.getLogger("x").info("line %d", number)
    assert path.stat().st_size <= 4096
    assert path.read_text().endswith("line 499\n")
    assert list(tmp_path.iterdir()) == [path]


def test_a_rotation_that_is_not_allowed_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.log"
    logs.set_up(LogSettings(path=str(path), size=4096, num=3))
    tries = 0

    def refused(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "rename", refused)
    for number in range(300):
        logging.getLogger("x").info("line %d", number)
    lines = path.read_text().splitlines()
    assert [int(line.rsplit(" ", 1)[1]) for line in lines] == list(range(300))
    assert 1 <= tries <= path.stat().st_size // 4096 + 1  # not with every line


@pytest.mark.parametrize("name", ["file/x.log", "folder", "file/deep/x.log"])
def test_a_path_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"log\.path: .* cannot be written: .*choose another log\.path"):
        logs.set_up(LogSettings(path=str(tmp_path / name)))


def test_levels_and_native_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    logs.set_up(LogSettings(path=str(path), level="WARN"))
    for level, text in ((1, b"info"), (3, b"warn\nmore"), (4, b"error \xff")):
        lib.mb_python_log(level, ffi.new("char[]", text))
    logging.getLogger("x").info("python info")
    found = [line.split("][")[1].strip() + line.split("] ")[1] for line in path.read_text().splitlines()]
    assert found == ["WARNwarn\\nmore", "ERRORerror \ufffd"]


def test_off_logs_nothing(tmp_path: Path) -> None:
    logs.set_up(LogSettings(path=str(tmp_path / "x.log"), level="OFF"))
    logging.getLogger("x").critical("end")
    assert (tmp_path / "x.log").read_text() == ""


def test_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogSettings(path=str(tmp_path / "none/x.log")), verbose=True)
    logging.getLogger("x").info("text")
    assert capsys.readouterr().err.endswith("] text\n")
    assert not (tmp_path / "none").exists()
    assert logs.on_screen()
    logs.set_up(LogSettings(path=str(tmp_path / "x.log"), screen=True))
    logging.getLogger("x").info("both")
    assert "both" in capsys.readouterr().err
    assert "both" in (tmp_path / "x.log").read_text()
    with pytest.raises(ConfigError, match="needs a server in the foreground"):
        logs.set_up(LogSettings(target="screen"), background=True)


# ---- the journal -------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "journal"))
        sock.settimeout(10)
        yield sock


def test_journal_fields_of_job_and_node(tmp_path: Path, journal: socket.socket) -> None:
    handler = logs.JournalHandler(str(tmp_path / "journal"))
    handler.handle(record("text", logging.ERROR, job="demo", node="resize"))
    fields = journal.recv(65536).split(b"\n")
    assert {b"PRIORITY=3", b"MESSAGE=text", b"CODE_FILE=/a/file.py", b"CODE_LINE=7"} <= set(fields)
    assert {b"MODELBOX_JOB=demo", b"MODELBOX_NODE=resize"} <= set(fields)
    handler.close()


def test_what_a_thread_logs_while_it_works_for_a_job(tmp_path: Path, journal: socket.socket) -> None:
    handler = logs.JournalHandler(str(tmp_path / "journal"))
    with logs.about(job="demo"):
        with logs.about(node="resize"):
            handler.handle(record("both"))
        handler.handle(record("own", job="other", node=""))
    handler.handle(record("none"))
    handler.close()
    found = [[field for field in journal.recv(65536).split(b"\n") if field.startswith(b"MODELBOX_")] for _ in range(3)]
    assert found == [[b"MODELBOX_JOB=demo", b"MODELBOX_NODE=resize"], [b"MODELBOX_JOB=other"], []]


@pytest.mark.parametrize(("level", "priority"), [(10, 7), (20, 6), (25, 5), (30, 4), (40, 3), (50, 2)])
def test_journal_priorities(tmp_path: Path, journal: socket.socket, level: int, priority: int) -> None:
    handler = logs.JournalHandler(str(tmp_path / "journal"))
    handler.handle(record("text", level))
    assert b"PRIORITY=%d\n" % priority in journal.recv(65536)
    handler.close()


def test_a_message_beyond_a_datagram_goes_by_sealed_file(tmp_path: Path, journal: socket.socket) -> None:
    handler = logs.JournalHandler(str(tmp_path / "journal"))
    text = "x" * (32 << 20)
    handler.handle(record(text))
    data, ancillary, _, _ = journal.recvmsg(1024, socket.CMSG_SPACE(4))
    assert data == b""
    ((level, kind, raw),) = ancillary
    assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    (fd,) = array.array("i", raw)
    with open(fd, "rb") as file:
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        file.seek(0)
        assert b"MESSAGE=" + text.encode() + b"\n" in file.read()
    assert handler.lost == 0
    handler.close()


def test_a_journal_that_is_stuck_does_not_block_and_losses_are_told(tmp_path: Path, journal: socket.socket) -> None:
    handler = logs.JournalHandler(str(tmp_path / "journal"))
    sent = 0
    while handler.lost < 5:  # nobody reads
        handler.handle(record("text"))
        sent += 1
    for _ in range(sent - 5):
        journal.recv(65536)
    handler.handle(record("again"))
    assert b"MESSAGE=again\n" in journal.recv(65536)
    assert b"MESSAGE=5 log lines before this one could not be written\n" in journal.recv(65536)
    handler.close()


def test_a_journal_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = logs.JournalHandler(str(tmp_path / "none"))
    handler.handle(record("text"))
    assert handler.lost == 1
    handler.close()
    monkeypatch.setattr(logs, "JOURNAL", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r'log\.target = "journal", but there is no journal at'):
        logs.set_up(LogSettings(target="journal"))


# ---- JSON, files that others move, where lines go -----------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    logs.set_up(LogSettings(path=str(path), format="json"))
    with logs.about(job="j", node="outer"):
        logging.getLogger("a").warning("two\nlines \x1b[31m", extra={"node": "n", "worker": "j/n#0"})
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("a").exception("failed")
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first.pop("line") > 0
    assert first == {
        "level": "WARN", "message": "two\nlines \x1b[31m", "file": "test_logs.py", "job": "j", "node": "n", "worker": "j/n#0",
    }  # fmt: skip
    assert second["traceback"].endswith("ValueError: no")
    assert "\x1b" not in path.read_text()


def test_reopen_goes_on_in_a_file_of_the_name(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    logs.set_up(LogSettings(path=str(path)))
    log = logging.getLogger("a")
    log.warning("one")
    path.rename(tmp_path / "moved")
    logs.reopen()
    log.warning("two")
    assert "one" in (tmp_path / "moved").read_text()
    assert "two" in path.read_text()
    assert "two" not in (tmp_path / "moved").read_text()


def test_a_file_that_was_moved_is_seen_without_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOVED_LOOK_S", 0.0)
    path = tmp_path / "x.log"
    logs.set_up(LogSettings(path=str(path)))
    log = logging.getLogger("a")
    log.warning("one")
    path.rename(tmp_path / "moved")
    log.warning("two")
    path.unlink()
    log.warning("three")
    assert "two" not in (tmp_path / "moved").read_text()
    assert "three" in path.read_text()


def test_a_log_that_cannot_be_opened_again_goes_on_in_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "sub/x.log"
    logs.set_up(LogSettings(path=str(path)))
    path.parent.rename(tmp_path / "moved")
    logs.reopen()
    logging.getLogger("a").warning("still here")
    assert "still here" in (tmp_path / "moved/x.log").read_text()


@pytest.mark.parametrize(
    ("supervised", "own_path", "journal", "kind"),
    [
        (True, False, True, logs.JournalHandler),
        (True, True, True, logs.FileHandler),
        (True, False, False, logs.FileHandler),
        (False, False, True, logs.FileHandler),
    ],
)
def test_auto_is_the_journal_below_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supervised: bool, own_path: bool, journal: bool, kind: type
) -> None:
    monkeypatch.setenv("LOGS_DIRECTORY", f"{tmp_path}/logs:/elsewhere")
    monkeypatch.setattr(logs, "JOURNAL", str(tmp_path if journal else tmp_path / "none"))
    monkeypatch.setattr(logs.systemd, "is_supervised", lambda: supervised)
    logs.set_up(LogSettings(path=str(tmp_path / "own.log")) if own_path else LogSettings())
    (handler,) = logging.getLogger().handlers
    assert type(handler) is kind
    assert (tmp_path / "logs/modelbox.log").exists() == (kind is logs.FileHandler and not own_path)
