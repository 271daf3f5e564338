"""httpserver_sync_reply: the first buffer of a session's stream is the answer to its HTTP request.

Ports: in: in_reply_info, any bytes; meta `status` (int) and `headers` (dict of str) are honoured.
An error buffer is answered at once with 500 and {"error_code", "error_msg"}.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from modelbox.buffer import Buffer
from modelbox.configuration import Configuration
from modelbox.errors import ConfigError
from modelboxd.engine.unit import BuiltinUnit, Services, UnitCall
from modelboxd.graph.model import Node
from modelboxd.server.reply import Reply, base_headers

log = logging.getLogger(__name__)

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]*")
_FORBIDDEN = {"content-length", "transfer-encoding", "connection"}


class HttpServerSyncReply(BuiltinUnit):
    inline = True

    def __init__(self, node: Node, config: Configuration, services: Services) -> None:
        super().__init__(node, config, services)
        try:
            self.headers = base_headers(config.get_string("content_type") or "txt")
        except ConfigError as error:
            raise ConfigError(f"node '{node.name}': {error.message}", where=node.where, hint=error.hint) from None

    def process(self, call: UnitCall) -> None:
        session = call.session
        reply = session.private.pop("reply", None) if session is not None else None
        if not isinstance(reply, Reply):
            return  # answered already, or the session did not begin with an HTTP request
        buffer = call.input("in_reply_info")[0]
        if buffer is None:
            return
        if buffer.has_error():
            reply.fail(500, buffer.get_error_code(), buffer.get_error_msg())
            return
        values = buffer.meta_dict()
        status = values.get("status", 200)
        if not isinstance(status, int) or not 200 <= status <= 599:
            log.warning("node '%s': meta status = %r is no HTTP status from 200 to 599", self.node.name, status)
            reply.fail(500, "Reply.BadStatus", f"node '{self.node.name}': meta status = {status!r} is no HTTP status")
            return
        reply.answer(status, self._headers(buffer, values), buffer.as_bytes())

    def _headers(self, buffer: Buffer, values: dict[str, Any]) -> dict[str, str]:
        given = values.get("headers")
        # A request that was passed through carries the request's headers; they are no reply headers.
        if not isinstance(given, dict) or "endpoint" in values:
            return self.headers
        headers = dict(self.headers)
        names = {name.lower(): name for name in headers}
        for name, value in given.items():
            text = str(value)
            if not (isinstance(name, str) and _NAME.fullmatch(name) and _VALUE.fullmatch(text)):
                log.warning("node '%s': header %r is not well-formed and left out", self.node.name, name)
            elif name.lower() not in _FORBIDDEN:
                headers.pop(names.get(name.lower(), name), None)
                headers[name] = text
        return headers
