"""What units do by mistake, short of a crash: the call has one clear outcome, and the worker serves the next one."""

from __future__ import annotations

import platform
import re
import textwrap
from concurrent.futures import Future
from pathlib import Path

import pytest

from modelbox import meta
from modelbox.buffer import BufferList
from modelbox.errors import UnitError, WorkerLostError
from modelboxd.workers.protocol import WorkerCall, WorkerResult
from tests.integration.workers import LIMIT_S, Caller, write_unit
from tests.waiting import wait_for

UNIT = """
import os, sys
import _flowunit as modelbox

class Rude(Exception):
    def __str__(self):
        raise {raised}

class Exits:
    def __reduce__(self):
        raise SystemExit(4)

def mistake(context):
{mistake}

class Unit(modelbox.FlowUnit):
    def open(self, config):
        self.answers = 0
        return modelbox.Status()

    def process(self, context):
        if str(context.input("in")[0]) == "mistake":
            result = mistake(context)
            if result is not None:
                return result
        context.output("out").push_back(str(os.getpid()))
        return modelbox.Status()

    def data_post(self, context):
        if str(self) and "post" in globals():
            return post(context)
        return modelbox.Status()
"""

META = "made = modelbox.DataMeta(); made.set_private({key}, {value}); context.set_output_meta('out', made)"
# Mistake -> what it does in process(), and the error of its call; "" where it is none.
MISTAKES = {
    "sys.exit": ("sys.exit('enough')", "SystemExit: enough"),
    "exit 0": ("sys.exit(0)", "SystemExit: 0"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "leaves a generator": ("(lambda: (yield))().throw(GeneratorExit)", "GeneratorExit"),
    "an exception without text": ("raise Rude()", r"Rude \(its text cannot be told: RuntimeError\)"),
    "its chain has no text": ("try:\n    raise Rude()\nexcept Rude:\n    raise KeyError('next')", "KeyError: 'next'"),
    "status without text": (
        "return modelbox.Status(modelbox.Status.StatusCode.STATUS_FAULT, 7)",
        "TypeError: .*not int",
    ),
    "__del__ raises": ("class Dies:\n    def __del__(self):\n        raise ValueError('late')\nDies()", ""),
    "__del__ exits": ("class Dies:\n    def __del__(self):\n        sys.exit(3)\nDies()", ""),
    "a generator that does not end": (
        (
            "def never():\n    while True:\n        try:\n            yield\n        except GeneratorExit:\n"
            "            pass\nlast = never()\nnext(last)\ndel last"
        ),
        "",
    ),
    "a thread raises": (
        "import threading\nthread = threading.Thread(target=lambda: 1 / 0)\nthread.start(); thread.join()",
        "",
    ),
    "a thread exits": (
        "import threading\nthread = threading.Thread(target=sys.exit, args=(3,))\nthread.start(); thread.join()",
        "",
    ),
    "threads print": (
        (
            "import threading\nthreads = [threading.Thread(target=print, args=('x' * 100,)) for _ in range(20)]\n"
            "for thread in threads: thread.start()\nfor thread in threads: thread.join()"
        ),
        "",
    ),
    "prints without end of line": ("sys.stdout.write('y' * 3_000_000); sys.stdout.flush()", ""),
    "another folder": ("os.chdir('/proc')", ""),
    "a folder that is gone": (
        "import tempfile\nfolder = tempfile.mkdtemp()\nos.chdir(folder); os.rmdir(folder)\nimport colorsys",
        "",
    ),
    "closes 0 to 2": ("os.closerange(0, 3)", ""),
    "no stdout": ("sys.stdout = sys.stderr = None\nprint('nowhere')", ""),
    "stdout closed": ("sys.stdout.close()", ""),
    "another stdout": ("import io\nsys.stdout = sys.stderr = io.StringIO()\nprint('there')", ""),
    "reads stdin": ("input('name? ')", "EOFError"),
    "signals": (
        (
            "import signal\nfor name in ('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGCHLD', 'SIGPIPE'):\n"
            "    signal.signal(getattr(signal, name), lambda *_: None)\nos.kill(os.getpid(), signal.SIGTERM)"
        ),
        "",
    ),
    "recursion": ("def deep(): return deep()\ndeep()", "RecursionError: maximum recursion depth exceeded"),
    "deep recursion": ("sys.setrecursionlimit(20000)\ndef deep(): return deep()\ndeep()", "RecursionError"),
    "a deep exception": (
        (
            "error = None\nfor _ in range(5000):\n    made = ValueError('x')\n    made.__cause__ = error\n    error = made\n"
            "raise error"
        ),
        "ValueError: x",
    ),
    "a long exception": ("raise ValueError('long ' * 1_000_000)", "ValueError: long long"),
    "warnings are errors": (
        "import warnings\nwarnings.simplefilter('error')\nwarnings.warn('now')",
        "UserWarning: now",
    ),
    "time stands still": ("import time\ntime.monotonic = time.time = time.perf_counter = lambda: 0.0", ""),
    "time raises": ("import time\ntime.monotonic = time.time = None", ""),
    "asyncio": ("import asyncio\nasync def work():\n    await asyncio.sleep(0)\nasyncio.run(work())", ""),
    "asyncio in asyncio": (
        "import asyncio\nasync def work():\n    asyncio.run(work())\nasyncio.run(work())",
        "RuntimeError: asyncio.run",
    ),
    "logging": ("import logging\nlogging.basicConfig(level=0, force=True)\nlogging.debug('%d', 'x')", ""),
    "logging is off": ("import logging\nlogging.disable(100)\nlogging.shutdown()", ""),
    "imports modelbox": ("import modelbox as again\nassert again is modelbox", ""),
    "default timeout": ("import socket\nsocket.setdefaulttimeout(0.001)", ""),
    "a fork": ("if os.fork() == 0: os._exit(0)\nos.wait()", ""),
    "a fork that comes back": ("child = os.fork()\nif child: os.waitpid(child, 0)", ""),
    "a fork that exits": ("child = os.fork()\nif not child: sys.exit(5)\nassert os.waitpid(child, 0)[1] >> 8 == 5", ""),
    "a fork that raises": ("child = os.fork()\nif not child: raise OSError\nos.waitpid(child, 0)", ""),
    "multiprocessing, fork": (
        (
            "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool:\n"
            "    assert pool.map(abs, [-1, -2]) == [1, 2]"
        ),
        "",
    ),
    "multiprocessing, spawn": (
        (
            "import multiprocessing\nwith multiprocessing.get_context('spawn').Pool(1) as pool:\n"
            "    assert pool.map(abs, [-1, -2]) == [1, 2]"
        ),
        "",
    ),
    "multiprocessing, forkserver": (
        (
            "import multiprocessing\nwith multiprocessing.get_context('forkserver').Pool(1) as pool:\n"
            "    assert pool.map(abs, [-1, -2]) == [1, 2]"
        ),
        "",
    ),
    "subprocess": ("import subprocess\nsubprocess.run(['true'], check=True)", ""),
    "stream meta of a lambda": (META.format(key="'k'", value="lambda: 0"), "meta 'k' cannot be sent"),
    "stream meta exits": (META.format(key="'k'", value="Exits()"), "SystemExit: 4"),
    "stream meta without a key": (META.format(key="7", value="7"), "a key must be a str, not int"),
    "stream meta of 2 MB": (META.format(key="'k'", value="'x' * 2_000_000"), "has 2[0-9]+ bytes, at most 1048576"),
    "stream meta is a dict": ("context.set_output_meta('out', {})", "expected DataMeta"),
    "meta of a lambda": (
        "b = modelbox.Buffer(None, 'x'); b.set('k', lambda: 0); context.output('out').push_back(b)",
        "meta 'k' cannot be sent",
    ),
    "meta exits": (
        "b = modelbox.Buffer(None, 'x'); b.set('k', Exits()); context.output('out').push_back(b)",
        "SystemExit: 4",
    ),
    "a session's value exits": ("context.get_session_context().set_private('k', Exits())", ""),
}


def answer(result: WorkerResult) -> str:
    if result.error is not None:
        raise result.error
    return str(BufferList.from_core(result.outputs[0])[0])


def indented(code: str) -> str:
    return textwrap.indent(code, "    ")


# What a unit does in open(), in close(), when it is imported.
WIDE = """
import os, sys
import _flowunit as modelbox
{imported}

class Unit(modelbox.FlowUnit):
    def open(self, config):
        {opened}
        return modelbox.Status()

    def process(self, context):
        context.output("out").push_back(str(os.getpid()))
        return modelbox.Status()

    def close(self):
        {closed}
"""


@pytest.mark.parametrize("stream", [False, True], ids=["normal", "stream"])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_costs_its_call_at_most(shared_caller: Caller, tmp_path: Path, name: str, stream: bool) -> None:
    code, error = MISTAKES[name]
    text = UNIT.replace("{raised}", "RuntimeError('no text')").replace("{mistake}", indented(code))
    group = shared_caller.start(write_unit(tmp_path, "unit", text, stream=stream))
    pid = group.workers[0].pid

    def call(text: str, stream: int, end: bool) -> WorkerResult:
        return shared_caller.submit(group, text, stream=stream, end=end).result(LIMIT_S)

    for number, end in ((1, False), (2, True)):
        result = call("mistake", number * stream, end)
        if error:
            assert isinstance(result.error, UnitError) and not isinstance(result.error, WorkerLostError), result.error
            assert re.search(error, str(result.error)), result.error
        else:
            assert answer(result) == str(pid)
        assert answer(call("good", (1 if end is False else 3) * stream, True)) == str(pid)
    assert group.restarts == 0
    worker = group.workers[0]
    group.close(LIMIT_S)
    assert worker.clean, worker.cause


def test_stream_meta_that_cannot_be_rebuilt_fails_the_call_that_asks(shared_caller: Caller, tmp_path: Path) -> None:
    code = "return context.get_input_meta('in').get_private('k') and None"
    text = UNIT.replace("{raised}", "OSError").replace("{mistake}", indented(code))
    group = shared_caller.start(write_unit(tmp_path, "unit", text, stream=True))
    block = meta.encode({"k": meta.Opaque(b"Pno pickle")})
    for text in ("good", "mistake"):
        answers: Future[list[WorkerResult]] = Future()
        call = WorkerCall(7, text == "good", text != "good", 1, "session", [shared_caller.list_of(text)], [block])
        group.workers[0].submit([call], answers.set_result)
        (result,) = answers.result(LIMIT_S)
        assert (result.error is None) == (text == "good")
    assert "UnpicklingError" in str(result.error)
    assert group.restarts == 0
    group.close(LIMIT_S)


def test_a_unit_that_closes_all_descriptors_is_told_so(shared_caller: Caller, tmp_path: Path) -> None:
    text = UNIT.replace("{raised}", "OSError").replace("{mistake}", indented("os.closerange(3, 1000)"))
    group = shared_caller.start(write_unit(tmp_path, "unit", text))
    pid = group.workers[0].pid
    error = shared_caller.submit(group, "mistake").result(LIMIT_S).error
    assert isinstance(error, WorkerLostError)
    assert "ended with exit code 1 while it held 1 call" in str(error)
    assert "the unit has closed descriptors that are not its own" in str(error)
    assert answer(shared_caller.submit(group, "good").result(LIMIT_S)) != str(pid)
    group.close(LIMIT_S)


# What the thread for pings has lost it finds when it is asked, so these calls last until then.
VITALS = {
    "pthread_exit in the main thread": (
        "ctypes.CDLL(None).pthread_exit(None)",
        "goes on without its main thread, which",
    ),
    "the system call exit": ("ctypes.CDLL(None).syscall(EXIT, 0)", "goes on without its main thread, which"),
    "closes the socket for pings": (
        "os.close(ours()[0])\nthreading.Event().wait()",
        "does not listen to pings any more: the unit has closed",
    ),
    "puts another in its place": (
        "pair = socket.socketpair()\nos.dup2(pair[0].fileno(), ours()[0])\nthreading.Event().wait()",
        "does not listen to pings any more: the unit has closed a descriptor or ended a thread that is not its own",
    ),
    "ends the thread that answers them": (
        (
            "for other in threading.enumerate():\n"
            "    if other.name == 'mb-heart': end(ctypes.c_ulong(other.ident), ctypes.py_object(SystemExit))\n"
            "threading.Event().wait()"
        ),
        "not its own, and was killed",
    ),
}


@pytest.mark.parametrize("name", VITALS)
def test_a_worker_without_a_part_of_it_is_replaced(shared_caller: Caller, tmp_path: Path, name: str) -> None:
    mistake, words = VITALS[name]
    mistake = mistake.replace("EXIT", "60" if platform.machine() == "x86_64" else "93")
    lines = (
        "import ctypes, socket, threading",
        "end = ctypes.pythonapi.PyThreadState_SetAsyncExc",
        "def ours():",
        "    links = {fd: os.readlink(f'/proc/self/fd/{fd}') for fd in map(int, os.listdir('/proc/self/fd')) if fd > 2",
        "             and os.path.exists(f'/proc/self/fd/{fd}')}",
        "    return sorted(fd for fd, link in links.items() if link.startswith('socket'))",
        mistake,
    )
    text = UNIT.replace("{raised}", "OSError").replace("{mistake}", indented("\n".join(lines)))
    group = shared_caller.start(write_unit(tmp_path, "unit", text), heartbeat_timeout_ms=600)
    pid = group.workers[0].pid
    shared_caller.submit(group, "mistake").result(LIMIT_S)  # it may have been answered
    wait_for(lambda: group.status().state == "ready" and group.workers[0].pid != pid)
    assert words in group.status().last_cause
    assert answer(shared_caller.submit(group, "good").result(LIMIT_S)) != str(pid)
    group.close(LIMIT_S)


def test_a_worker_without_its_main_thread_takes_no_work(shared_caller: Caller, tmp_path: Path) -> None:
    """Which is told long before it is asked for a sign of life."""
    text = UNIT.replace("{raised}", "OSError").replace(
        "{mistake}", indented("import ctypes\nctypes.CDLL(None).pthread_exit(None)")
    )
    group = shared_caller.start(write_unit(tmp_path, "unit", text))
    assert group.trouble() == ""
    future = shared_caller.submit(group, "mistake")
    wait_for(lambda: group.trouble() == "no worker process takes work (stuck)")
    group.close(0.1)
    assert isinstance(future.result(LIMIT_S).error, WorkerLostError)


def test_a_unit_that_changes_what_python_is_made_of_is_told_so(shared_caller: Caller, tmp_path: Path) -> None:
    lines = "import builtins\nfor name in ('len', 'isinstance', 'str', 'getattr'): setattr(builtins, name, None)"
    text = UNIT.replace("{raised}", "OSError").replace("{mistake}", indented(lines))
    group = shared_caller.start(write_unit(tmp_path, "unit", text))
    error = shared_caller.submit(group, "mistake").result(LIMIT_S).error
    assert isinstance(error, WorkerLostError)
    assert "its last words: the unit has changed functions of Python itself" in str(error)
    group.close(LIMIT_S)


@pytest.mark.parametrize(
    "mistake", ["sys.exit(3)", "sys.exit()", "raise KeyboardInterrupt", "os.fork() or sys.exit(3)"]
)
def test_a_mistake_in_close_is_logged(
    shared_caller: Caller, tmp_path: Path, mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = WIDE.format(imported="", opened="pass", closed=mistake)
    group = shared_caller.start(write_unit(tmp_path, "unit", text))
    worker = group.workers[0]
    assert answer(shared_caller.submit(group, "good").result(LIMIT_S)) == str(worker.pid)
    group.close(LIMIT_S)
    assert worker.clean, worker.cause
    assert "fork" in mistake or re.search(r"close\(\) failed: (SystemExit|KeyboardInterrupt)", caplog.text)


@pytest.mark.parametrize("where", ["imported", "opened"])
@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        ("sys.exit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise type('Rude', (Exception,), {'__str__': lambda self: 1 / 0})", "Rude .its text cannot be told"),
        ("os._exit(0)", "ended with exit code 0"),
        ("os.closerange(3, 1000)", "the unit has closed descriptors that are not its own"),
    ],
)
def test_a_mistake_in_open_is_why_the_unit_does_not_open(
    shared_caller: Caller, tmp_path: Path, where: str, mistake: str, text: str
) -> None:
    code = WIDE.format(**{"imported": "", "opened": "pass", "closed": "pass"} | {where: mistake})
    with pytest.raises(UnitError, match=text):
        shared_caller.start(write_unit(tmp_path, "unit", code))


@pytest.mark.parametrize("where", ["imported", "opened"])
def test_a_process_forked_in_open_speaks_for_nobody(shared_caller: Caller, tmp_path: Path, where: str) -> None:
    code = WIDE.format(**{"imported": "", "opened": "pass", "closed": "pass"} | {where: "os.fork() and os.wait()"})
    group = shared_caller.start(write_unit(tmp_path, "unit", code))
    assert answer(shared_caller.submit(group, "good").result(LIMIT_S)) == str(group.workers[0].pid)
    assert group.restarts == 0
    group.close(LIMIT_S)
