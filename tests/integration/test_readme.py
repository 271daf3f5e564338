"""The README's pipeline, taken out of the README and run."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.server import TOP, Server

README = (TOP / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The only code block of a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(found)


def test_the_pipeline_of_the_readme_runs(tmp_path: Path) -> None:
    unit = tmp_path / "flowunit/hello"
    unit.mkdir(parents=True)
    (unit / "hello.py").write_text(block("python"))
    (unit / "hello.toml").write_text((TOP / "examples/hello_world/flowunit/hello/hello.toml").read_text())
    graph = tmp_path / "graph/hello_world.toml"
    graph.parent.mkdir()
    text = block("toml")
    assert "127.0.0.1:7770" in text
    graph.write_text(text.replace("127.0.0.1:7770", "127.0.0.1:0"))
    server = Server(graph, folder=tmp_path).ready()
    try:
        assert server.request("/hello", b"Ada")[:2] == (200, b"hello, Ada\n")
    finally:
        assert server.stop() == 0


def test_files_that_the_readme_names_exist() -> None:
    for name in re.findall(r"(?:examples|docs)/[\w./-]+\w", README):
        assert (TOP / name).exists(), name
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"\bmake ([a-z]+)", README):
        assert target in targets, target
