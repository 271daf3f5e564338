"""Which graph files have changed."""

from __future__ import annotations

from pathlib import Path

from modelboxd.jobs.sources import Changes, Sources, digest
from modelboxd.settings import ServerSettings, Settings


def names(changes: Changes) -> tuple[list[str], list[str], list[str], list[str]]:
    lists = (changes.added, changes.changed, changes.removed, changes.unchanged)
    return tuple([path.name for path in paths] for paths in lists)  # type: ignore[return-value]


def test_changes_since_the_last_time(tmp_path: Path) -> None:
    sources = Sources(
        Settings(server=ServerSettings(flow_path=str(tmp_path)), file=str(tmp_path / "none/modelbox.conf"))
    )
    (tmp_path / "a.toml").write_text("a")
    (tmp_path / "b.json").write_text("b")
    (tmp_path / "DISABLED_c.toml").write_text("c")
    assert names(sources.read()) == (["a.toml", "b.json"], [], [], [])
    assert names(sources.read()) == ([], [], [], ["a.toml", "b.json"])
    (tmp_path / "a.toml").write_text("other")
    (tmp_path / "b.json").unlink()
    (tmp_path / "d.toml").write_text("d")
    assert names(sources.read()) == (["d.toml"], ["a.toml"], ["b.json"], [])
    assert names(sources.read()) == ([], [], [], ["a.toml", "d.toml"])


def test_a_named_file_that_is_gone_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("a")
    sources = Sources(Settings(), [path])
    assert names(sources.read()) == (["a.toml"], [], [], [])
    path.unlink()
    assert names(sources.read()) == ([], ["a.toml"], [], [])


def test_the_dot_file_beside_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[graph]\ngraphconffilepath = "a.dot"\n')
    (tmp_path / "a.dot").write_text("digraph { a }")
    before = digest(path)
    (tmp_path / "a.dot").write_text("digraph { b }")
    assert digest(path) not in ("", before)
    (tmp_path / "a.dot").unlink()
    assert digest(path) == ""


def test_what_cannot_be_parsed_has_a_digest_too(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    seen = set()
    for text in (
        "[graph",
        "a = " + "[" * 5000,
        '{"a": ' + "[" * 100_000,
        '{"graph": 5}',
        '{"graph": {"graphconffilepath": 5}}',
    ):
        path.write_text(text)
        seen.add(digest(path))
    assert len(seen) == 5
