"""Graph files that are jobs: which there are, and what has changed since they were read last."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelbox.errors import ConfigError, GraphError
from modelboxd import paths
from modelboxd.graph.loader import read_file
from modelboxd.settings import Settings

log = logging.getLogger(__name__)

DISABLED = "DISABLED_"


def graph_files(settings: Settings) -> list[Path]:
    """The graphs that start with the service: graph.conf beside the configuration, flow_path, applications."""
    base = Path(settings.file).parent if settings.file else paths.config_file().parent
    found = [base / "graph.conf"] if (base / "graph.conf").exists() else []
    flow_path = Path(settings.server.flow_path) if settings.server.flow_path else base / "graph"
    found += sorted(path for path in flow_path.glob("*") if path.suffix in (".toml", ".json"))
    if settings.server.application_root:
        found += sorted(Path(settings.server.application_root).glob("*/graph/*.toml"))
        found += sorted(Path(settings.server.application_root).glob("*/graph/*.json"))
    return [path for path in found if DISABLED not in path.name]


def absent_folders(settings: Settings) -> list[ConfigError]:
    """A warning for each folder of graphs that was set and is not there. It may come later: each reload looks again."""
    found = []
    for key in ("flow_path", "application_root"):
        name = getattr(settings.server, key)
        if name and not Path(name).is_dir():
            where = settings.origins.get(f"server.{key}")
            text = f"server.{key}: there is no directory {name}, so no graph starts from it"
            found.append(ConfigError(text, where=where, hint="make it, or take the key out"))
    return found


def digest(path: Path) -> str:
    """Changes when what the graph file says has changed; "" when it cannot be read."""
    try:
        content = path.read_bytes()
        made = hashlib.sha256(content)
        beside = read_file(path).get("graph", {}).get("graphconffilepath")
        if isinstance(beside, str):
            made.update((path.parent / beside).read_bytes())
    except (OSError, AttributeError):
        return ""
    except GraphError:  # its own text alone
        return made.hexdigest()
    return made.hexdigest()


@dataclass(slots=True)
class Changes:
    """What reading the files again has shown."""

    added: list[Path]
    changed: list[Path]
    removed: list[Path]
    unchanged: list[Path]


class Sources:
    """The graph files of this server: those of the configuration, or the ones that were named."""

    def __init__(self, settings: Settings, named: Sequence[Path] = ()) -> None:
        self._settings = settings
        self._named = list(named)
        self._known: dict[Path, str] = {}  # digests

    def read(self) -> Changes:
        """Compares with the last time. A file that was named and is gone counts as changed: it is told as an error."""
        for warning in () if self._named else absent_folders(self._settings):
            log.warning("%s", warning)
        there = {path: digest(path) for path in self._named or graph_files(self._settings)}
        known, self._known = self._known, there
        return Changes(
            added=[path for path in there if path not in known],
            changed=[path for path in there if path in known and known[path] != there[path]],
            removed=[path for path in known if path not in there],
            unchanged=[path for path in there if path in known and known[path] == there[path]],
        )
