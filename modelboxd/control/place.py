"""The path of the control socket: taken by one server at a time, given back at its end, whatever has become of others.

A lock file beside the socket says whether its owner still lives. What a server that crashed has left is taken over.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from modelbox.errors import ConfigError

PATH_BYTES = 107  # that the kernel has for it
BACKLOG = 128


class Place:
    """A listening socket at a path."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError: another server is there, or the path cannot be used."""
        self.path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._lock = -1
        if len(os.fsencode(path)) > PATH_BYTES:
            raise ConfigError(f"control.listen: {path} is longer than the {PATH_BYTES} bytes that a socket may have")
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            while not self._take_lock():  # its owner ended and removed it in the meantime
                os.close(self._lock)
            self.socket = self._bind()
        except BlockingIOError:
            self._give_lock_back(remove=False)
            hint = "stop it, or set control.listen or control.enable = false"
            raise ConfigError(f"control.listen: another server is at {path}", hint=hint) from None
        except OSError as error:
            self._give_lock_back(remove=False)
            hint = "control.listen says where it is"
            raise ConfigError(
                f"control.listen: {error.filename or path}: {error.strerror or error}", hint=hint
            ) from None
        except ConfigError:
            self._give_lock_back(remove=True)
            raise

    def _take_lock(self) -> bool:
        self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            return os.path.samestat(os.fstat(self._lock), os.stat(self._lock_path))
        except FileNotFoundError:
            return False

    def _bind(self) -> socket.socket:
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                raise ConfigError(f"control.listen: {self.path} is there already and is no socket")
            self.path.unlink()
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            made.bind(str(self.path))
            os.chmod(self.path, 0o600)  # nobody can connect before listen()
            made.listen(BACKLOG)
        except BaseException:
            made.close()
            raise
        return made

    def close(self) -> None:
        """Nothing is left at the path. The socket itself is closed by whoever serves it."""
        with suppress(OSError):  # removed by somebody, or in a folder that is gone
            self.path.unlink()
        self._give_lock_back(remove=True)

    def _give_lock_back(self, *, remove: bool) -> None:
        if self._lock < 0:
            return
        if remove:
            with suppress(OSError):  # a lock file without a lock is in nobody's way
                self._lock_path.unlink()
        os.close(self._lock)
        self._lock = -1
