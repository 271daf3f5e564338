"""`modelbox-tool template`: files to begin with. So far those of service plugins."""

from __future__ import annotations

import argparse
from pathlib import Path

from modelboxd.plugins.find import NAME
from modelboxd.tool.screen import fail

EXISTS = 2  # exit code
PLUGIN = '''"""The service plugin {name}. docs/plugins.md of modelbox explains what it can do."""

import logging

from modelbox.plugin import Plugin, Request

log = logging.getLogger("plugin.{name}")


class {kind}(Plugin):
    name = "{name}"

    def init(self, config):
        """`config` is [plugin.{name}] of modelbox.conf. Routes, callbacks and timers are declared here."""
        self.greeting = config.get("greeting", "hello")
        self.service.route("GET", "/{name}/hello/{{who}}", self.hello, role="read", summary="Says hello")
        self.service.on_task(self.task_changed)

    async def start(self):
        """The jobs of the configuration have been started."""
        log.info("there are %d jobs", len(self.service.jobs()))

    async def stop(self):
        """The server stops."""

    async def hello(self, request: Request):
        return {{"text": f"{{self.greeting}}, {{request.params['who']}}"}}

    async def task_changed(self, task):
        if task.state == "failed":
            log.warning("task %s of job %s: %s", task.id, task.job, task.error)
'''


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    template = commands.add_parser("template", help="files to begin with")
    template.add_argument("--service-plugin", action="store_true", help="a service plugin in Python")
    template.add_argument("--project", action="store_true", help="not supported by this version")
    template.add_argument("--flowunit", action="store_true", help="not supported by this version")
    template.add_argument("--name", default="", help="its name")
    template.add_argument("--project-path", default=".", metavar="PATH", help="folder of the project")
    template.set_defaults(run_command=run_template)


def run_template(options: argparse.Namespace) -> int:
    """Returns the exit code: 2 when it is there already."""
    if not options.service_plugin:
        return fail("template: only -service-plugin is there; others are not supported by this version")
    if not NAME.fullmatch(options.name):
        return fail(f"template: -name {options.name!r} is no name for a plugin (1 to 64 of a-z, 0-9, _ and -)")
    stem = options.name.replace("-", "_")
    path = Path(options.project_path) / "src/service-plugin" / options.name / f"{stem}.py"
    kind = "".join(word.capitalize() for word in stem.split("_")) or "Plugin"
    kind = f"Plugin{kind}" if kind[0].isdigit() or kind in ("Plugin", "Request") else kind
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(PLUGIN.format(name=options.name, kind=kind))
    except FileExistsError:
        fail(f"template: {path} is there already")
        return EXISTS
    except OSError as error:
        return fail(f"template: {path} cannot be written: {error.strerror}")
    print(path)
    print(f'to load it, in modelbox.conf: [plugin] files = ["{path.absolute()}"]')
    return 0
