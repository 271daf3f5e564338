"""A Python unit that does what its buffers say, and how tests talk to its workers."""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Any

from modelbox.buffer import BufferList
from modelboxd.workers.group import WorkerGroup
from modelboxd.workers.process import Worker
from modelboxd.workers.protocol import WorkerCall, WorkerResult
from tests.integration.workers import Caller

# What a buffer says is what the unit does with it.
OBEDIENT = """
import ctypes, os, signal, subprocess, sys, threading, time
import _flowunit as modelbox

def child(apart):
    # A process that starts no program; one apart has left our session and has lost its parent.
    said, says = os.pipe()
    pid = os.fork()
    if not pid:
        if apart:
            os.setsid()
            if os.fork():
                os._exit(0)
        os.write(says, b"%d" % os.getpid())
        while True:
            signal.pause()
    if apart:
        os.waitpid(pid, 0)
    pid = int(os.read(said, 20))
    os.close(said)
    os.close(says)
    return pid

class Unit(modelbox.FlowUnit):
    def open(self, config):
        self.kept = []
        if os.path.exists(config.get_string("broken", "")):
            raise OSError("the model is gone")
        return modelbox.Status()

    def process(self, context):
        for buffer in context.input("in"):
            answer = str(os.getpid())
            word, _, rest = str(buffer).partition(" ")
            if word == "signal":
                os.kill(os.getpid(), getattr(signal, rest))
            elif word == "exit":
                os._exit(int(rest))
            elif word == "segfault":
                ctypes.string_at(8)
            elif word == "python":
                while not os.path.exists(rest):
                    pass
            elif word == "sleep":
                open(rest, "rb", 0).read(1)
            elif word == "locked":
                ctypes.PyDLL(None).pause()  # keeps the interpreter
            elif word == "grow":
                self.kept.append(bytearray(os.urandom(1024)) * (1024 * int(rest)))
            elif word == "child":
                answer = str(child(rest == "apart"))
            elif word == "program":
                env = {} if rest == "bare" else None
                answer = str(subprocess.Popen(["/bin/sleep", "1000"], env=env, start_new_session=bool(rest)).pid)
            elif word == "say":
                print(rest, file=sys.stderr, flush=True)
            context.output("out").push_back(answer)
        return modelbox.Status()
"""


def is_there(pid: int) -> bool:
    """Whether the process exists, be it as a zombie."""
    return os.path.exists(f"/proc/{pid}")


def states(group: WorkerGroup) -> list[str]:
    return [worker.state.value for worker in group.status().workers]


def send(
    worker: Worker, caller: Caller, text: str, stream: int = 0, begin: bool = True, end: bool = False
) -> Future[Any]:
    """One call to this very worker."""
    future: Future[WorkerResult] = Future()
    call = WorkerCall(stream, bool(stream) and begin, end, stream or 1, "session", [caller.list_of(text)], [b""])
    worker.submit([call], lambda results: future.set_result(results[0]))
    return future


def text_of(result: WorkerResult) -> str:
    if result.error is not None:
        raise result.error
    return str(BufferList.from_core(result.outputs[0])[0])


def pid_of(caller: Caller, group: WorkerGroup) -> int:
    return int(str(caller.call(group, "pid")[0]))
