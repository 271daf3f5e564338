"""The daemon: builds every part in order, runs the jobs, and takes all of it down again.

Order of start: memory, threads, I/O loop, driver scan, jobs. Order of stop: sources stop taking work, sessions
drain, units close, workers end, threads end.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from modelbox._core import lib
from modelbox._core.memory import Pool
from modelbox.errors import ModelBoxError
from modelbox.spec import UnitKind, UnitSpec
from modelboxd import systemd
from modelboxd.cpus import cpu_count
from modelboxd.drivers.registry import Registry
from modelboxd.engine.engine import Engine, WorkerSettings
from modelboxd.engine.executor import Executor
from modelboxd.engine.job import Job, JobSettings
from modelboxd.graph.check import GraphDefaults, check_graph as check_spec
from modelboxd.graph.loader import load_graph
from modelboxd.graph.model import GraphSpec, Plan
from modelboxd.graph.plan import make_plan
from modelboxd.loop import IoThread
from modelboxd.server.listener import Listeners
from modelboxd.settings import Settings
from modelboxd.workers.pool import WorkerPool

log = logging.getLogger(__name__)
