"""How the worker processes of a Python node live: the options that a node, its unit's TOML and [python] have in common.

A node's attribute wins over `[base]` of its unit's TOML, that over `[python]` of modelbox.conf.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

AUTO = -1  # workers: as many as this process may use CPUs
MOST_MS = 7 * 24 * 3600 * 1000
MOST_S = MOST_MS // 1000


@dataclass(frozen=True, slots=True)
class LifeOption:
    """One option: a whole number from `least` to `most`, one of `words`, or true or false."""

    default: int | str  # bool: true or false
    help: str
    least: int = 0
    most: int = 1 << 31
    names: Mapping[str, int] = dataclasses.field(default_factory=dict)  # words that stand for a number
    words: tuple[str, ...] = ()

    def read(self, text: str) -> int | str:
        """The value that a text means. Raises ValueError, which says what is allowed."""
        if isinstance(self.default, bool):
            if text.lower() in ("true", "false", "1", "0"):
                return text.lower() in ("true", "1")
            raise ValueError("true or false")
        if self.words:
            if text in self.words:
                return text
            raise ValueError(f"{', '.join(self.words[:-1])} or {self.words[-1]}")
        if text in self.names:
            return self.names[text]
        if re.fullmatch("[0-9]{1,10}", text) and self.least <= int(text) <= self.most:
            return int(text)
        raise ValueError(f"a whole number from {self.least} to {self.most}" + "".join(f", or {n}" for n in self.names))


OPTIONS = {
    "workers": LifeOption(1, 'processes per Python node; "auto" = one per CPU', 1, 1024, {"auto": AUTO}),
    "process_timeout_ms": LifeOption(
        0, "milliseconds that one process() may take; its worker is then killed; 0 = no limit", most=MOST_MS
    ),
    "heartbeat_timeout_ms": LifeOption(
        30000,
        "milliseconds without a sign of life after which a worker with work is killed (it is stopped, or C code keeps "
        "the interpreter locked); 0 = never",
        most=MOST_MS,
    ),
    "orphan_timeout_ms": LifeOption(
        30000,
        "milliseconds that a call may go on when nobody waits for its result any more; 0 = no limit",
        most=MOST_MS,
    ),
    "restart": LifeOption(
        "always", "which workers are replaced when they end by themselves", words=("never", "on-failure", "always")
    ),
    "max_restarts": LifeOption(
        10, "crashes in a row after which a node's buffers fail at once; 0 = it is restarted for ever", most=10000
    ),
    "restart_window_s": LifeOption(
        0, "max_restarts also counts crashes within so many seconds that are not in a row; 0 = it does not", most=MOST_S
    ),
    "restart_cooldown_s": LifeOption(
        10,
        "seconds until one worker is tried again after max_restarts; doubled up to 32 times while it fails",
        1,
        MOST_S,
    ),
    "max_requests": LifeOption(0, "calls after which a worker is replaced by a fresh one; 0 = never"),
    "memory_limit_mb": LifeOption(
        0,
        "megabytes of memory after which a worker is replaced by a fresh one; one that goes on to 1.5 times as much is "
        "killed; 0 = no limit",
        most=1 << 24,
    ),
    "retire_timeout_ms": LifeOption(
        3600000,
        "milliseconds that a worker which has been replaced (max_requests, memory_limit_mb, reload) goes on for its "
        "streams; they fail then; 0 = until they end",
        most=MOST_MS,
    ),
    "spin_us": LifeOption(
        AUTO,
        'microseconds that a worker looks for its next message before it sleeps, while messages come that fast; "auto" '
        "= 200 where each worker of the server has a CPU and the server one more, else 0",
        0,
        10_000,
        {"auto": AUTO},
    ),
    "reload": LifeOption(
        False,
        "for development: workers are replaced when a .py or .toml file in the folder of their unit has changed",
    ),
}


@dataclass(frozen=True, slots=True)
class Life:
    """All of OPTIONS with their values."""

    workers: int = 1
    process_timeout_ms: int = 0
    heartbeat_timeout_ms: int = 30000
    orphan_timeout_ms: int = 30000
    restart: str = "always"
    max_restarts: int = 10
    restart_window_s: int = 0
    restart_cooldown_s: int = 10
    max_requests: int = 0
    memory_limit_mb: int = 0
    retire_timeout_ms: int = 3600000
    spin_us: int = AUTO
    reload: bool = False

    def having(self, values: Mapping[str, int | str]) -> Life:
        """The same with other values for some."""
        return dataclasses.replace(self, **values)  # type: ignore[arg-type]  # the names and types are those of OPTIONS
