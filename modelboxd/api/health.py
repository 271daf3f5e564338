"""Health: whether the server lives, and whether work can flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from modelboxd.api.routes import Answers, Call, Route, answer
from modelboxd.api.schema import flag, list_of, record, ref, text
from modelboxd.api.tokens import Role

if TYPE_CHECKING:
    from modelboxd.api.app import Api

SUBJECT = "Health"
SCHEMAS = {
    "Trouble": record(
        {"reason": text("Why work may not flow.")},
        {"job": text("The job that it is about."), "node": text("The node that it is about.")},
    ),
    "Live": record({"live": flag("The server answers.")}),
    "Ready": record(
        {
            "ready": flag("Work can flow."),
            "reasons": list_of(ref("Trouble"), "What stands in the way; empty when ready."),
        }
    ),
}
LIVE_HELP = "200 as long as the process answers requests at all."
READY_HELP = (
    "503, with the reasons, while jobs are being started, while the server stops, while a node has no worker process "
    "that takes work, or when a thread of the engine makes no progress although work waits."
)


def routes(api: Api) -> list[Route]:
    """The routes of this subject."""

    async def live(_: Call) -> web.StreamResponse:
        return answer({"live": True})

    async def ready(_: Call) -> web.StreamResponse:
        reasons = []
        for trouble in api.jobs.troubles():
            reason: dict[str, Any] = {"reason": trouble.reason}
            reason |= {key: value for key, value in (("job", trouble.job), ("node", trouble.node)) if value}
            reasons.append(reason)
        return answer({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    made = []
    for prefix, name in (("/health", ""), ("/v2/health", "V2")):
        made.append(
            Route(
                "GET", f"{prefix}/live", live, f"live{name}", "Whether the server lives", Role.NONE,
                {200: Answers("It does.", ref("Live"))}, subject=SUBJECT, help=LIVE_HELP,
            )
        )  # fmt: skip
        made.append(
            Route(
                "GET", f"{prefix}/ready", ready, f"ready{name}", "Whether work can flow", Role.NONE,
                {200: Answers("It can.", ref("Ready")), 503: Answers("It cannot.", ref("Ready"))},
                subject=SUBJECT, help=READY_HELP,
            )
        )  # fmt: skip
    return made
