"""The state directory: whole jobs or none, one server at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelbox.errors import ConfigError, ModelBoxError
from modelboxd.jobs.model import BadJobIdError
from modelboxd.jobs.store import JobStore, Stored


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    first = Stored("b.toml", "[graph]\n", "toml", False, 12.5)
    store.write(first)
    store.write(Stored("aa", "{}", "json", True, 1.0))
    store.write(Stored("aa", '{"graph": "ü"}', "json"))
    store.close()
    again = JobStore(tmp_path)
    assert again.load() == [Stored("aa", '{"graph": "ü"}', "json"), first]
    again.remove("aa")
    again.remove("aa")
    assert again.load() == [first]
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["b.toml.json"]
    assert (tmp_path / "jobs").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "jobs/b.toml.json").stat().st_mode & 0o777 == 0o600
    again.close()


def test_two_servers_do_not_share_one(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    with pytest.raises(ConfigError, match="is used by another server"):
        JobStore(tmp_path)
    store.close()
    JobStore(tmp_path).close()


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be used: Not a directory \(server.state_dir"):
        JobStore(tmp_path / "file/state")


@pytest.mark.parametrize("job_id", ["../x", "a/b", "..", ".hidden", "a\0b", "a", "x" * 65, "a\nb", ""])
def test_no_id_leads_out_of_the_directory(tmp_path: Path, job_id: str) -> None:
    store = JobStore(tmp_path)
    with pytest.raises(BadJobIdError):
        store.write(Stored(job_id, "", "toml"))
    with pytest.raises(BadJobIdError):
        store.remove(job_id)
    assert [path.name for path in tmp_path.rglob("*")] == ["jobs", "lock"] or list((tmp_path / "jobs").iterdir()) == []
    store.close()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"version": 2, "id": "aa"}', '{"version": 1, "id": "bb", "graph": "", "format": "toml"}',
     '{"version": 1, "id": "aa", "graph": "", "format": "toml", "more": 1}', '{"version": 1, "id": "aa", "graph": 5, "format": "toml"}',
     '{"version": 1, "id": 5, "graph": "", "format": "toml"}', "\xff"],
)  # fmt: skip
def test_a_damaged_file_is_set_aside(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    store = JobStore(tmp_path)
    store.write(Stored("good", "g", "toml"))
    (tmp_path / "jobs/aa.json").write_text(content, encoding="latin-1")
    assert [stored.id for stored in store.load()] == ["good"]
    assert "aa.json cannot be read and is set aside" in caplog.text
    assert (tmp_path / "jobs/aa.json.damaged").exists()
    assert [stored.id for stored in store.load()] == ["good"]
    store.close()


def test_what_a_crash_has_left_is_removed(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    (tmp_path / "jobs/aa.json.tmp").write_text("{")
    assert store.load() == []
    assert list((tmp_path / "jobs").iterdir()) == []
    store.close()


def test_a_full_disk_leaves_the_old_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(tmp_path)
    store.write(Stored("aa", "old", "toml"))

    def fail(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ModelBoxError, match=r"job 'aa' cannot be kept in .*: No space left on device"):
        store.write(Stored("aa", "new", "toml"))
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["aa.json"]
    assert store.load() == [Stored("aa", "old", "toml")]
    store.close()
