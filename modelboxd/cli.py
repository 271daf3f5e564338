"""The command `modelbox`: options, configuration, foreground or background, and one clear line per error."""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import fcntl
import logging
import os
import pwd
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from modelbox.errors import ConfigError, GraphError, ModelBoxError
from modelbox.version import VERSION
from modelboxd import background, logs, paths, systemd
from modelboxd.settings import Settings
from modelboxd.settings_file import effective, load

EX_FAILED, EX_USAGE, EX_CONFIG = 1, 2, 78
log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="modelbox", description="A server for AI pipelines described as dataflow graphs."
    )
    made.add_argument("-c", metavar="FILE", help="configuration file (default: /etc/modelbox/modelbox.conf)")
    made.add_argument("-f", action="store_true", help="stay in the foreground")
    made.add_argument("-V", action="store_true", help="verbose: stay in the foreground and log to the screen")
    made.add_argument("-p", metavar="FILE", help="pid file; - for none")
    made.add_argument("-u", metavar="USER", help="user to become")
    made.add_argument("-v", "--version", action="version", version=f"modelbox {VERSION}")
    made.add_argument(
        "--graph", metavar="FILE", action="append", default=[], help="run this graph; may be repeated; all must start"
    )
    made.add_argument(
        "--check", metavar="GRAPH", nargs="*", help="check the configuration (and graphs), print the plan, end"
    )
    made.add_argument("--dot", action="store_true", help="with --check: the plan as DOT instead of a table")
    made.add_argument(
        "--log-format", choices=("text", "json"), help="how lines of the log look, whatever the configuration says"
    )
    made.add_argument(
        "--print-config", action="store_true", help="print the effective configuration with its origins, end"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 failed, 2 usage, 78 configuration or graph."""
    options = parser().parse_args(argv)
    paths.use_private_packages()
    if options.dot and options.check is None:
        parser().error("--dot goes with --check")
    code = _guarded(options)
    background.tell(code)
    return code


def _guarded(options: argparse.Namespace) -> int:
    try:
        return _main(options)
    except (ConfigError, GraphError) as error:
        _tell(error)
        return EX_CONFIG
    except ModelBoxError as error:
        _tell(error)
        return EX_FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # modelbox --print-config | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EX_FAILED
    except Exception as error:
        if logs.installed():
            log.exception("internal error")
        elif options.V:
            traceback.print_exc()
        text = logs.one_line(f"internal error: {type(error).__name__}: {error}; please report this")
        print(f"modelbox: {text}", file=sys.stderr)
        return EX_FAILED


def _tell(error: ModelBoxError) -> None:
    for problem in error.problems if isinstance(error, GraphError) else (error,):
        logs.report(str(problem), node=problem.node)


def _main(options: argparse.Namespace) -> int:
    settings = _settings(options)
    if options.log_format:
        settings = dataclasses.replace(settings, log=dataclasses.replace(settings.log, format=options.log_format))
    if options.print_config:
        print(effective(settings), end="")
        return 0
    if options.check is not None:
        return _check(settings, [Path(name) for name in options.check + options.graph], options.dot)
    return _serve(settings, options)


def _settings(options: argparse.Namespace) -> Settings:
    if options.c:
        return load(Path(options.c))
    default = paths.config_file()
    if default.exists():
        return load(default)
    return Settings()


def _check(settings: Settings, graphs: list[Path], dot: bool) -> int:
    from modelboxd import check
    from modelboxd.graph.show import plan_dot, plan_table
    from modelboxd.jobs.sources import absent_folders, graph_files

    logging.disable(logging.CRITICAL)
    code = 0
    if not graphs:
        try:
            check.check_settings(settings)
        except ConfigError as error:
            _tell(error)
            code = EX_CONFIG
        _print_warnings(absent_folders(settings))
    for path in graphs or graph_files(settings):
        try:
            plan = check.check_graph(settings, path)
        except GraphError as error:
            _print_warnings(error.warnings)
            _tell(error)
            code = EX_CONFIG
            continue
        _print_warnings(plan.graph.warnings)
        print(plan_dot(plan) if dot else plan_table(plan))
    if not graphs and not dot and not code:
        print(f"configuration {settings.file or '(built-in defaults)'} is good")
    return code


def _print_warnings(warnings: Sequence[ModelBoxError]) -> None:
    for warning in warnings:
        print(f"modelbox: warning: {warning}", file=sys.stderr)


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    from modelboxd.daemon import Daemon

    graphs = [Path(name).resolve() for name in options.graph]
    foreground = options.f or options.V or systemd.is_supervised()
    logs.set_up(settings.log, verbose=options.V, background=not foreground)
    faulthandler.enable()
    if not foreground:
        background.detach()
    with _PidFile(options.p):
        _become(options.u, settings.server.user)
        _title()
        return Daemon(settings, graphs, skip_bad=not options.graph).run()


def _title() -> None:
    import setproctitle

    setproctitle.setproctitle("modelbox")


def _become(wish: str | None, configured: str) -> None:
    user = wish or configured
    if not user:
        return
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"user '{user}' does not exist", hint="server.user or -u") from None
    if entry.pw_uid == os.geteuid():
        return
    if os.geteuid() != 0:
        if wish:
            raise ConfigError(f"-u {user}: only root can become another user")
        log.warning("server.user = '%s' is left aside: only root can become another user", user)
        return
    logs.hand_over(entry.pw_uid, entry.pw_gid)
    os.environ.update(HOME=entry.pw_dir, USER=user, LOGNAME=user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


class _PidFile:
    """A pid file with a lock, so that one server runs per file."""

    def __init__(self, name: str | None) -> None:
        self._path = Path(name) if name and name != "-" else None
        self._fd = -1

    def __enter__(self) -> None:
        if self._path is None:
            return
        try:
            while not self._lock(self._path):  # its owner ended and removed it in the meantime
                os.close(self._fd)
        except BlockingIOError:
            raise ConfigError(f"Server is already running. ({self._path} is locked)") from None
        except OSError as error:
            raise ConfigError(f"pid file {self._path} cannot be written: {error.strerror}") from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def _lock(self, path: Path) -> bool:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            return os.path.samestat(os.fstat(self._fd), path.stat())
        except FileNotFoundError:
            return False

    def __exit__(self, *_: object) -> None:
        if self._path is not None and self._fd >= 0:
            try:
                self._path.unlink(missing_ok=True)
            except OSError:  # another user now, who may not remove it: an empty file is as good
                os.ftruncate(self._fd, 0)
            os.close(self._fd)


if __name__ == "__main__":
    sys.exit(main())
