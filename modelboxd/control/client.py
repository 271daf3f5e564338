"""Asks a running server by its control socket."""

from __future__ import annotations

import json
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

from modelbox.errors import ModelBoxError

ANSWER_BYTES = 64 << 20
ANSWER_S = 30.0


class ControlError(ModelBoxError):
    """No server could be asked, or it refused: one line for the user."""


class NoServerError(ControlError):
    """Nobody is at the control socket."""


class Control:
    """One request. `path`: of the socket."""

    def __init__(self, path: Path) -> None:
        """Raises ControlError, which says which socket was tried; NoServerError when nobody is there."""
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # Not settimeout(): a connect() to a socket whose queue is full would then fail at once.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(ANSWER_S), 0))
        other = "-conn SOCKET or -conf FILE names another one"
        kind: type[ControlError] = ControlError
        try:
            self._sock.connect(str(path))
            return
        except FileNotFoundError:
            kind = NoServerError
            reason = f"no server runs: there is no control socket {path} ({other}; control.enable switches it on)"
        except ConnectionRefusedError:
            kind = NoServerError
            reason = f"no server runs: its control socket {path} was left over by one that has ended ({other})"
        except PermissionError:
            reason = f"no permission for the control socket {path}: only root and the user of the server may use it"
        except (TimeoutError, BlockingIOError):
            reason = f"the server does not take connections at {path}"
        except OSError as error:
            reason = f"the control socket {path} cannot be used: {error.strerror or error} ({other})"
        self._sock.close()
        raise kind(reason)

    @property
    def peer(self) -> int:
        """The process id of the server, as seen from here; 0 when it is in another pid namespace."""
        data = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", data)[0])

    def ask(self, command: str, *, patient: bool = False, **options: Any) -> Any:
        """The result of a command. With `patient`, however long it takes. Raises ControlError."""
        self._sock.settimeout(None if patient else ANSWER_S)
        try:
            with suppress(BrokenPipeError):  # it has hung up, and said why
                self._sock.sendall(json.dumps({"command": command, **options}).encode() + b"\n")
            line = self._read_line()
        except TimeoutError:
            raise ControlError(f"the server at {self._path} did not answer within {ANSWER_S:g} s") from None
        except OSError as error:
            raise ControlError(f"the server at {self._path} went away: {error.strerror or error}") from None
        try:
            answer = json.loads(line)
            if "error" in answer:
                raise ControlError(str(answer["error"]))
            return answer["result"]
        except (ValueError, KeyError, TypeError):
            raise ControlError(f"the server at {self._path} ended without an answer") from None

    def _read_line(self) -> bytes:
        data = bytearray()
        while not data.endswith(b"\n"):
            part = self._sock.recv(1 << 16)
            if not part:
                break
            data += part
            if len(data) > ANSWER_BYTES:
                raise ControlError(f"the answer of the server at {self._path} is larger than {ANSWER_BYTES} bytes")
        return bytes(data)

    def wait_for_end(self) -> None:
        """Until the server hangs up, which it does at its end."""
        self._sock.settimeout(None)
        with suppress(ConnectionResetError):  # that is an end too
            while self._sock.recv(1 << 16):
                continue

    def close(self) -> None:
        """Hangs up."""
        self._sock.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
