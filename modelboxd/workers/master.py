"""The python-master: a clean, single-threaded interpreter that forks workers, reaps them and says how they ended.

The daemon starts it as a fresh program and talks to it over a SOCK_SEQPACKET socket, JSON per message:

    daemon -> master   {"op": "spawn", "id": n, "title": text, "env": {...}} + [socket, pipe, file for stacks]
                       {"op": "kill", "id": n, "signal": number}
    master -> daemon   {"op": "ready", "version": text}
                       {"op": "started", "id": n, "pid": pid} + [pidfd]
                       {"op": "unborn", "id": n, "reason": text}, it could not be forked
                       {"op": "stopped", "id": n, "signal": number}, 0 = it goes on
                       {"op": "exited", "id": n, "pid": pid, "code": number, "signal": number}

Nothing survives its parent. When the daemon goes, the socket closes and the kernel sends SIGCONT, so that also a
stopped master wakes and ends what it has started; when the master goes, the kernel kills the workers. Each worker is a
session and process group of its own: what it has started is killed with it. Processes that have left that group are
adopted here (the master is a "subreaper"), so none becomes a zombie, and are killed when the worker that has started
them has ended, or the master.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from modelbox.version import VERSION
from modelboxd import paths
from modelboxd.workers import marks
from modelboxd.workers.title import set_title

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
END_LIMIT_S = 1.0  # how long the master waits for what it has killed, at its own end
OOM_SCORE = "500"  # when memory is out, the kernel kills a worker before the daemon


def main() -> None:
    """Serves until the daemon goes. Arguments: descriptor number of the socket, the daemon's pid, descriptor number of
    the file for stacks."""
    daemon = int(sys.argv[2])
    die_with(daemon, signal.SIGKILL)  # until it can end by itself
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    os.set_inheritable(int(sys.argv[3]), False)
    set_title("modelbox: python-master", "mb-master")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the daemon decides; a terminal's ^C reaches all of us
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    paths.use_private_packages()
    # What every worker needs, once, before the first fork.
    import modelboxd.workers.worker  # noqa: F401
    from modelboxd.workers import stacks

    stacks.report_to(int(sys.argv[3]))
    gc.collect()
    gc.freeze()  # forked workers do not copy these pages by counting references
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    die_with(daemon, signal.SIGCONT)
    Master(sock).serve()


def die_with(parent: int, number: int) -> None:
    """Has the kernel send this process a signal when its parent ends; ends at once when that has happened already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(0)


class Master:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.workers: dict[int, int] = {}  # pid -> id
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        self.send({"op": "ready", "version": VERSION})
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self.wake_read:
                    os.read(self.wake_read, 4096)
                elif not self.receive():
                    self.end()
            self.reap()

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self.sock, [json.dumps(message).encode()], fds)
        except (BrokenPipeError, ConnectionResetError):
            self.end()

    def receive(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, 65536, 4)
        except ConnectionResetError:  # it died before it had read all that it was told
            return False
        if not data:
            return False
        order = json.loads(data)
        if order["op"] == "spawn":
            self.spawn(order, fds)
        else:
            for pid, number in self.workers.items():
                if number == order["id"]:
                    kill(pid, order["signal"])
        return True

    def spawn(self, order: dict[str, Any], fds: list[int]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        master = os.getpid()
        pid, reason = -1, ""
        try:
            pid = os.fork()
        except OSError as error:  # no memory, or a limit of processes
            reason = str(error.strerror)
        if pid == 0:
            become_worker(self, order, fds, master)
        for fd in fds:
            os.close(fd)
        if pid < 0:
            self.send({"op": "unborn", "id": order["id"], "reason": reason})
            return
        self.workers[pid] = order["id"]
        try:
            pidfds = [os.pidfd_open(pid)]
        except OSError:  # a kernel or container without; the daemon then relies on what it is told here
            pidfds = []
        self.send({"op": "started", "id": order["id"], "pid": pid}, pidfds)
        for fd in pidfds:
            os.close(fd)

    def reap(self) -> None:
        """Says what has become of workers, and lets nothing outlive them."""
        while (found := look_for(os.WSTOPPED | os.WCONTINUED)) is not None:
            if found.si_pid in self.workers:
                number = found.si_status if found.si_code == os.CLD_STOPPED else 0
                self.send({"op": "stopped", "id": self.workers[found.si_pid], "signal": number})
        ended = False
        while (found := look_for(os.WEXITED | os.WNOWAIT)) is not None:
            ended = True
            pid = found.si_pid
            if pid in self.workers:
                kill_group(pid)  # before it is reaped: until then nobody else can have its number
            _, status = os.waitpid(pid, 0)
            known = self.workers.pop(pid, None)
            if known is not None:
                code = os.waitstatus_to_exitcode(status)
                self.send({"op": "exited", "id": known, "pid": pid, "code": max(code, 0), "signal": max(-code, 0)})
        if ended:
            self.sweep()

    def sweep(self) -> None:
        """Kills what was adopted from workers that are gone; what they leave in turn comes here at their end."""
        for pid in children():
            if pid not in self.workers:
                worker = marks.worker_of(pid)
                if worker and worker not in self.workers.values():
                    kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """The daemon is gone: so are we, with all that was started here."""
        for pid in self.workers:
            kill_group(pid)
        limit = time.monotonic() + END_LIMIT_S
        while (left := limit - time.monotonic()) > 0:
            for pid in children():
                kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                break
            if select.select([self.wake_read], [], [], left)[0]:  # SIGCHLD
                os.read(self.wake_read, 4096)
        os._exit(0)


def look_for(kind: int) -> os.waitid_result | None:
    """What has become of a child, of this kind; None when there is no news."""
    try:
        return os.waitid(os.P_ALL, 0, kind | os.WNOHANG)
    except ChildProcessError:
        return None


def kill(pid: int, number: int) -> None:
    """Sends a signal to a child that was not reaped yet."""
    with contextlib.suppress(PermissionError):  # another user's: the unit has started a program that changes it
        os.kill(pid, number)


def kill_group(pid: int) -> None:
    """Kills a worker that was not reaped yet, and what it has started."""
    kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it is not far enough to be a group; others' only
        os.killpg(pid, signal.SIGKILL)


def children() -> list[int]:
    """Processes of this one, adopted ones too."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def become_worker(master: Master, order: dict[str, Any], fds: list[int], parent: int) -> None:
    """The child side of fork(); never returns."""
    try:
        os.setsid()
        die_with(parent, signal.SIGKILL)
        be_killed_first()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(master.wake_read)
        os.close(master.wake_write)
        master.sock.close()
        sock_fd, output, stack_file = fds
        os.set_inheritable(sock_fd, False)
        os.set_inheritable(stack_file, False)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        sys.stdout = open(1, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.environ.update(order["env"])
        marks.mark_worker(order["id"])
        set_title(order["title"], order["title"].rpartition("/")[2])
        faulthandler.enable(2, all_threads=False)  # a crash tells where it was
        from modelboxd.workers import ends, stacks, worker

        stacks.report_to(stack_file)
        ends.ignore()
        worker.run(socket.socket(fileno=sock_fd))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def be_killed_first() -> None:
    """Prefers this process to the daemon when the kernel runs out of memory."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # a container may forbid it
        file.write(OOM_SCORE)


if __name__ == "__main__":
    main()
