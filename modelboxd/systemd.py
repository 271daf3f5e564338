"""Talking to systemd: sd_notify(3) without its library."""

from __future__ import annotations

import logging
import os
import socket

from modelboxd import background

log = logging.getLogger(__name__)

FIRST_FD = 3  # of those that systemd hands over


def notify(*lines: str) -> None:
    """Sends state lines such as "READY=1" or "STATUS=..." to whoever started us: systemd, or the process that put
    the server into the background."""
    if "READY=1" in lines:
        background.tell(0)
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        log.warning("cannot notify systemd: %s", error)


def inherited(host: str, port: int) -> socket.socket | None:
    """The listening TCP socket of this numeric address that systemd opened for us (socket activation), if there is one.

    Each call gives a descriptor of its own; closing it does not close systemd's, so a server that starts anew refuses
    nobody meanwhile. Source: sd_listen_fds(3).
    """
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
        return None
    for fd in range(FIRST_FD, FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=os.dup(fd))
        if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getsockname()[:2] == (host, port):
            return sock
        sock.close()
    return None


def is_supervised() -> bool:
    """Whether a supervisor started this very process, so that it stays in the foreground.

    INVOCATION_ID alone does not say so: a shell below a service has it too.
    """
    if os.environ.get("NOTIFY_SOCKET"):
        return True
    direct = os.environ.get("SYSTEMD_EXEC_PID")
    if direct is not None:
        return direct == str(os.getpid())
    return bool(os.environ.get("INVOCATION_ID")) and os.getppid() == 1
