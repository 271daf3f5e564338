"""The python-master with workers that misbehave: a unit whose config has `attack` runs worker.py instead of the unit."""

from __future__ import annotations

from typing import Any

from modelboxd.workers import master, worker

MODULE = "tests.integration.hostile.master"
open_unit = worker.Worker.open


def open_or_attack(self: worker.Worker, order: dict[str, Any]) -> bool:
    """In place of the worker's open()."""
    if "attack" in order["config"]:
        from tests.integration.hostile.worker import Hostile

        Hostile(self.sock, order).run()
    return open_unit(self, order)


if __name__ == "__main__":
    worker.Worker.open = open_or_attack  # type: ignore[method-assign]
    master.main()
