"""The python-master: a clean, single-threaded interpreter that forks workers, reaps them and says how they ended.

The daemon starts it as a fresh program and talks to it over a SOCK_SEQPACKET socket, JSON per message:

    daemon -> master   {"op": "spawn", "id": n, "title": text, "env": {...}} + [worker socket, output pipe]
                       {"op": "kill", "id": n, "signal": number}
    master -> daemon   {"op": "ready"}   {"op": "started", "id": n, "pid": pid}
                       {"op": "exited", "id": n, "pid": pid, "code": number, "signal": number}

When the socket closes, the daemon is gone: the master ends, and the kernel ends the workers with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
from typing import Any

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serves until the daemon goes. The socket's descriptor number is the only argument."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    set_title("modelbox: python-master")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the daemon decides; a terminal's ^C reaches all of us
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # What every worker needs, once, before the first fork.
    import modelboxd.workers.worker  # noqa: F401

    gc.collect()
    gc.freeze()  # forked workers do not copy these pages by counting references
    Master(sock).serve()


def set_title(title: str) -> None:
    import setproctitle

    setproctitle.setproctitle(title)


class Master:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.workers: dict[int, int] = {}  # pid -> id
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        self.send({"op": "ready"})
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

    def send(self, message: dict[str, Any]) -> None:
        try:
            self.sock.send(json.dumps(message).encode())
        except (BrokenPipeError, ConnectionResetError):
            self.end()

    def receive(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self.sock, 65536, 4)
        if not data:
            return False
        order = json.loads(data)
        if order["op"] == "spawn":
            self.spawn(order, fds)
        else:
            for pid, number in self.workers.items():
                if number == order["id"]:
                    os.kill(pid, order["signal"])
        return True

    def spawn(self, order: dict[str, Any], fds: list[int]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        master = os.getpid()
        pid = os.fork()
        if pid == 0:
            become_worker(self, order, fds, master)
        with contextlib.suppress(PermissionError, ProcessLookupError):  # it did so itself
            os.setpgid(pid, pid)
        for fd in fds:
            os.close(fd)
        self.workers[pid] = order["id"]
        self.send({"op": "started", "id": order["id"], "pid": pid})

    def reap(self) -> None:
        while self.workers:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            kill_group(ended.si_pid)  # while its number is still taken
            pid, status = os.waitpid(ended.si_pid, 0)
            number = self.workers.pop(pid, None)
            if number is not None:
                code = os.waitstatus_to_exitcode(status)
                self.send({"op": "exited", "id": number, "pid": pid, "code": max(code, 0), "signal": max(-code, 0)})

    def end(self) -> None:
        """The daemon is gone: so are we, and our workers with what they have started."""
        for pid in self.workers:
            kill_group(pid)
        os._exit(0)


def kill_group(pid: int) -> None:
    """Ends a worker and the processes that its unit has started, unless those have a session of their own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def become_worker(master: Master, order: dict[str, Any], fds: list[int], parent: int) -> None:
    """The child side of fork(); never returns."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)  # the master died before the signal was set
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(master.wake_read)
        os.close(master.wake_write)
        master.sock.close()
        sock_fd, output = fds
        os.set_inheritable(sock_fd, False)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        sys.stdout = open(1, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        for key, value in order["env"].items():
            os.environ.setdefault(key, value)
        set_title(order["title"])
        from modelboxd.workers import worker

        worker.run(socket.socket(fileno=sock_fd))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    main()
