"""What ``redflare up`` shows: the lines of its processes, each with a name in front, and what happens to them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from redflare_broker.transport.url import ServerUrl
from rich.text import Text

from redflare_workers.up import DEFAULT_FOLDER
from redflare_workers.up.events import Connected, Died, Ending, Event, Noted, Over, Ready, Said, Started
from redflare_workers.up.plan import UpPlan
from redflare_workers.util.log_format import level_and_text

from . import display

_COLOURS: Final = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")


class UpDisplay:
    """Shows events on standard error; ``as_json``: as JSON on standard output, without the lines of the processes."""

    def __init__(self, plan: UpPlan, *, as_json: bool) -> None:
        self._plan = plan
        self._as_json = as_json
        self._console = display.console(stderr=True)
        names = [process.name for process in plan.processes]
        self._width = max(map(len, names))
        self._colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
        self._connected: set[str] = set()
        self._is_ending = False

    def show(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Said):
            if not self._as_json:
                for line in event.lines:
                    prefix = (f"{event.name:<{self._width}} | ", self._colours[event.name])
                    self._console.print(Text.assemble(prefix, *shortened(line)), soft_wrap=True)
            return
        self._is_ending = self._is_ending or isinstance(event, Ending)
        if text := self._text(event):
            self._print(event, text)

    def _print(self, event: Event, text: str) -> None:
        name = getattr(event, "name", None)
        if self._as_json:
            more = {"pid": event.pid} if isinstance(event, Started) else {}
            document = {"event": type(event).__name__.lower(), "process": name, **more, "text": text}
            if isinstance(event, Connected):
                document["url"] = self._plan.access.url
            display.print_json(document, lines=True)
            return
        prefix = f"{name}: " if name else ""
        self._console.print(Text(f"redflare: {prefix}{text}", style="bold"), soft_wrap=True)

    def _text(self, event: Event) -> str:
        """Say what happened; "": what a process writes tells enough."""
        text = ""
        match event:
            case Started(pid=pid) if self._as_json:
                text = f"started, process {pid}"
            case Ready(name=name) if name in self._connected:
                text = "connected again"
            case Ready(name=name):
                self._connected.add(name)
                text = "connected" if self._as_json else ""
            case Died(how=how, pause=None):
                text = f"{how}; it is not started again: another process has its name"
            case Died(how=how, pause=pause):
                text = f"died, {how}; starting it again in {pause:g} s"
            case Connected():
                text = "\n".join(next_steps(self._plan))
            case Ending():
                text = "ending all: agents, sites, the server, Redis (once more kills them)"
            case Over() if self._is_ending:
                text = "ended"
            case Noted():
                text = event.text
        return text


def shortened(line: str) -> tuple[tuple[str, str] | str, ...]:
    """Return a line for the terminal: of one of a log its text, and its level if that is worth a look."""
    level, text = level_and_text(line)
    if level in ("", "DEBUG", "INFO"):
        return (text,)
    return ((f"{level} ", "yellow" if level == "WARNING" else "red"), text)


def next_steps(plan: UpPlan) -> list[str]:
    """Say that all are connected, and what a user may do now."""
    agents = f", each with an agent for {plan.agent}" if plan.agent else " (no agents: give --agent, or run your own)"
    sites = f"{len(plan.sites)} site{'s' if len(plan.sites) > 1 else ''}"
    folder = plan.folder.path
    lines = [
        f"all are connected: Redis, the server and {sites}{agents}",
        "  submit a job  redflare job submit FOLDER --wait",
        "  look          redflare status --watch",
        *_redis_cli(plan.access.url),
        f"  logs, data    {folder}",
        "  stop          Ctrl-C; started again in this folder, it goes on",
    ]
    if folder == Path(DEFAULT_FOLDER).absolute():
        return [*lines, "Commands find it in this folder; elsewhere, first:", f"  {_export(plan.access.url)}"]
    return [*lines, "In another terminal, first:", f"  {_export(plan.access.url)}"]


def _redis_cli(url: str) -> list[str]:
    """Say how to look into Redis; nothing of a cluster or of Sentinel, whose URLs redis-cli does not know."""
    if url.startswith("unix://"):
        return [f"  in Redis      redis-cli -s {shlex.quote(url.removeprefix('unix://'))}"]
    if not url.startswith(("redis://", "rediss://")):
        return []
    shown = '"$REDFLARE_URL"' if _is_secret(url) else shlex.quote(url)
    return [f"  in Redis      redis-cli -u {shown}"]


def _export(url: str) -> str:
    shown = "(the URL that you have given)" if _is_secret(url) else shlex.quote(url)
    return f"export REDFLARE_URL={shown}"


def _is_secret(url: str) -> bool:
    return ServerUrl.parse(url).password is not None
