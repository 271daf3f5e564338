"""A daemon's pool with a worker that hangs in each state, and one whose unit has started a process: as a program of its
own, which prints the pids below it and waits to be killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import psutil

from modelbox.errors import ModelBoxError
from modelboxd.workers.pool import WorkerGroup
from tests.integration.faults.cells import BUSY, DATA, Rig
from tests.integration.faults.master import STATES
from tests.integration.workers import write_unit
from tests.waiting import wait_for

PARENT = """import _flowunit as modelbox
import subprocess
class Unit(modelbox.FlowUnit):
    def open(self, config):
        self.child = subprocess.Popen(["sleep", "1000"])
        return modelbox.Status()
    def process(self, ctx):
        return modelbox.Status()
"""


def hang_everywhere(rig: Rig) -> list[WorkerGroup]:
    """One group for each state, its only worker in it; and one whose unit has a child."""
    groups = [rig.caller.start(write_unit(rig.folder, "parent", PARENT))]
    for state in STATES:
        folder = rig.folder / f"hangs-{state}"
        folder.mkdir()
        (folder / state).write_text("hang")
        config = {"faults": str(folder)}
        if state in ("starting", "opening"):
            threading.Thread(target=start_in_vain, args=(rig, config), daemon=True).start()
        else:
            group = rig.caller.start(rig.unit, config)
            groups.append(group)
            if state in (*BUSY, "releasing"):
                rig.caller.submit(group, DATA)
            elif state == "idle":
                os.kill(group.workers[0].pid, signal.SIGUSR1)
            else:
                group.workers[0].stop()
        wait_for(lambda state=state, folder=folder: not (folder / state).exists(), f"no worker came to {state}")
    return groups


def start_in_vain(rig: Rig, config: dict[str, str]) -> None:
    try:
        rig.caller.start(rig.unit, config)
    except ModelBoxError as error:
        print(error, file=sys.stderr)


if __name__ == "__main__":
    hang_everywhere(Rig(Path(sys.argv[1])))
    print(json.dumps([child.pid for child in psutil.Process().children(recursive=True)]), flush=True)
    signal.pause()
