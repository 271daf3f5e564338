"""/v1/plugins: the service plugins and what has become of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from modelboxd.api.routes import Answers, Call, Route, answer
from modelboxd.api.schema import list_of, number, record, ref, text
from modelboxd.api.tokens import Role

if TYPE_CHECKING:
    from modelboxd.api.app import Api

SUBJECT = "Plugins"
STATES = ("loading", "starting", "running", "failed", "stopped")


@dataclass(frozen=True, slots=True)
class PluginView:
    """A plugin at one moment."""

    name: str
    state: str  # of STATES
    error: str
    source: str
    routes: list[str]
    calls: int
    failures: int


SCHEMAS = {
    "Plugin": record(
        {
            "name": text("Its name."),
            "state": text("Where it is in its life; failed: it was left out.", enum=list(STATES)),
            "error": text("Why it failed, or how its last call did; empty when none did."),
            "source": text("The file, module or entry point."),
            "routes": list_of(text(), "Its routes, such as `POST /adapter/orders`."),
            "calls": number("Calls of its routes, timers and callbacks so far.", integer=True),
            "failures": number("Those that raised or did not end in time.", integer=True),
        }
    ),
    "Plugins": record({"plugins": list_of(ref("Plugin"))}),
}


def routes(api: Api) -> list[Route]:
    """The routes of this subject."""

    async def show(_: Call) -> web.StreamResponse:
        return answer({"plugins": [asdict(view) for view in api.plugins()]})

    return [
        Route(
            "GET", "/v1/plugins", show, "listPlugins", "All service plugins", Role.READ,
            {200: Answers("In the order of the configuration.", ref("Plugins"))}, subject=SUBJECT,
            help="Routes of plugins are in the document as well, marked with `x-plugin`.",
        )
    ]  # fmt: skip
