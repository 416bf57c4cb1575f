"""A collector with two regions, and agents: real processes of the installed commands, in one directory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMANDS = Path(sys.executable).parent
TENANT = "acme"
REGIONS = ("eu", "us")


class StepError(Exception):
    """Something that the demonstration promises did not hold."""


def run(*command: str | Path, stdin: str | None = None, codes: Sequence[int] = (0,)) -> str:
    """Run one of Duramen's commands to its end; its standard output."""
    name, *arguments = map(str, command)
    done = subprocess.run(
        [str(COMMANDS / name), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode not in codes:
        raise StepError(f"{name} {' '.join(arguments)[:200]} exited {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 30) -> float:
    """Poll until ``condition`` holds; how many seconds that took."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise StepError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)
    return time.monotonic() - begun


@dataclass(slots=True)
class Process:
    """A long-running command whose output goes to a file."""

    command: list[str]
    log: Path
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, in a session of its own so that an interrupt ends it only through us."""
        with self.log.open("ab") as output:
            self.running = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal and wait for the end; after 15 s without one, kill."""
        if self.running is None:
            return
        self.running.send_signal(number)
        try:
            self.running.wait(15)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()
        self.running = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.running.pid if self.running else 0


@dataclass(slots=True)
class Agent:
    """One host's agent."""

    name: str
    directory: Path
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        self.process = Process(
            [str(COMMANDS / "duramen-agent"), "run", "--config", str(self.config)],
            self.directory / "agent.log",
        )

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.directory / "agent.yaml"

    @property
    def logs(self) -> Path:
        """The directory that it tails."""
        return self.directory / "logs"

    def status(self) -> dict[str, Any]:
        """`duramen-agent status --json`."""
        found: dict[str, Any] = json.loads(
            run("duramen-agent", "status", "--config", self.config, "--json", codes=(0, 1, 2, 3))
        )
        return found

    def is_settled(self) -> bool:
        """Whether everything that it can see is sealed and published."""
        status = self.status()
        return (
            bool(status["sources"])
            and not any(source["behind_bytes"] for source in status["sources"])
            and status["forward"]["published_seq"] == status["head"]["seq"]
        )


class Fleet:
    """The collector, its regions and the agents."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "collector.yaml"
        self.vkeys = (root / "log-ed25519.vkey", root / "log-mldsa44.vkey")
        self.passphrase = root / "passphrase"
        self.agents: list[Agent] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.collector = Process(
            [str(COMMANDS / "duramen-collector"), "serve", "--config", str(self.config)],
            root / "collector.log",
        )

    @property
    def url(self) -> str:
        """Where agents find the collector."""
        return f"https://127.0.0.1:{self.port}"

    def region(self, name: str) -> Path:
        """A region's directory."""
        return self.root / "regions" / name

    def create_collector(self) -> None:
        """`init`, a tenant, a reader key."""
        regions = [part for name in REGIONS for part in ("--region", f"{name}=file://{self.region(name)}")]
        run(
            "duramen-collector", "init", "--config", self.config, "--name", "logs.example.com",
            "--listen", f"127.0.0.1:{self.port}", "--state-dir", self.root / "collector",
            *regions, "--copies", "2",
        )  # fmt: skip
        self.config.write_text(self.config.read_text().replace("interval: 10s", "interval: 1s"))
        run("duramen-collector", "tenant", "create", "--config", self.config, TENANT)
        listed = json.loads(run("duramen-collector", "tenant", "list", "--config", self.config, "--json"))
        for path, vkey in zip(self.vkeys, listed[0]["log_keys"], strict=True):
            path.write_text(vkey + "\n")
        self.passphrase.write_text("a passphrase for the demonstration\n")
        run("duramen", "keys", "new", "auditor", "--output", self.root, "--passphrase-file", self.passphrase)

    def add_agent(self, name: str, paths: Sequence[str]) -> Agent:
        """Enrol one agent, to tail ``paths`` (globs below its log directory)."""
        agent = Agent(name, self.root / name)
        agent.logs.mkdir(parents=True)
        join = run(
            "duramen-collector", "enroll-token", "--config", self.config, "--tenant", TENANT, "--agent", name,
            "--url", self.url,
        )  # fmt: skip
        state = agent.directory / "state"
        run("duramen-agent", "enroll", "-", "--config", agent.config, "--state-dir", state, stdin=join)
        sources = json.dumps([str(agent.logs / path) for path in paths])
        with agent.config.open("a") as config:
            config.write(
                f"recipients: [{self.root / 'auditor.pub'}]\n"
                f"sources:\n  - {{stream: logs, paths: {sources}}}\n"
                "heartbeat: 1s\n"
            )
        run("duramen-agent", "check-config", "--config", agent.config)
        self.agents.append(agent)
        return agent

    def start_collector(self) -> None:
        """Start it and wait until it listens."""
        self.collector.start()
        wait_until("the collector listens", self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def settle(self) -> float:
        """Wait until every agent's lines are published; how long that took."""
        begun = time.monotonic()
        for agent in self.agents:
            wait_until(f"everything of {agent.name} is published", agent.is_settled, 60)
        return time.monotonic() - begun

    def reader_options(self) -> list[str | Path]:
        """What `duramen` needs to read the tenant's log."""
        return [
            "--tenant", TENANT, "--vkey", f"@{self.vkeys[0]}", "--vkey", f"@{self.vkeys[1]}",
            "--key", self.root / "auditor.key", "--passphrase-file", self.passphrase,
        ]  # fmt: skip

    def verify(self) -> dict[str, Any]:
        """`duramen-collector verify --deep --json`: the tenant's report."""
        output = run(
            "duramen-collector", "verify", "--config", self.config, "--deep", "--json", codes=(0, 1, 2)
        )
        report: dict[str, Any] = json.loads(output)[0]
        return report

    def stop(self) -> None:
        """Stop everything that runs."""
        for process in [*(agent.process for agent in self.agents), self.collector]:
            process.stop()

    def pids(self) -> list[int]:
        """Of everything that runs."""
        processes = [*(agent.process for agent in self.agents), self.collector]
        return [process.pid for process in processes if process.running]

    def environment(self) -> str:
        """How a shell finds the commands."""
        return f"export PATH={COMMANDS}{os.pathsep}$PATH"
