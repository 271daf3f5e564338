"""`python -m tests.integration.faults.run`: all states and faults, as a matrix."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path

from modelboxd.workers import process
from tests.integration.faults.cells import FAULTS, Rig, cells, quick, run_cell, text_of
from tests.integration.faults.master import STATES


def main() -> int:
    logging.disable(logging.CRITICAL)
    quick(process)
    seconds: dict[tuple[str, str], str] = {}
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder))
        for cell in cells():
            start = time.monotonic()
            try:
                run_cell(rig, *cell)
            except Exception as error:
                problems.append(f"{cell[0]}, {cell[1]}: {text_of(error)}")
                seconds[cell] = "FAILED"
                rig.close()
                rig = Rig(Path(tempfile.mkdtemp(dir=folder)))
            else:
                seconds[cell] = f"{time.monotonic() - start:.2f} s"
        rig.close()
    width = max(map(len, FAULTS)) + 2
    print("".ljust(width) + "".join(state.rjust(11) for state in STATES))
    for fault in FAULTS:
        print(fault.ljust(width) + "".join(seconds[state, fault].rjust(11) for state in STATES))
    print(
        "\n".join(problems)
        or f"passed: {sum('s' in text for text in seconds.values())} cells; the time is from start to whole again and closed"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
