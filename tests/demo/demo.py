"""`make demo`: the whole path of a line on real logs, then what an attacker and a bad day would do, and
what is found.

Everything happens in a new directory below the system's temporary folder, with processes of its own on
loopback. It exits 0 only if every step held. `--keep` leaves the collector and the agents running and
prints what to try.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.demo.fleet import COMMANDS, REGIONS, Agent, Fleet, Process, StepError, run, wait_until

HERE = Path(__file__).parent
MACHINE_LOGS = Path("/var/log")
COPY_MAX_BYTES = 4 * 1024 * 1024


class Demo:
    """The steps, in order; each says what it does and what was found, or raises StepError."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fleet = Fleet(root)
        self.ledger = root / "ledger"
        self.writer = Process([], root / "writer.log")
        self.copies: Agent
        self.sample: Agent
        self.live: Agent

    def set_up(self) -> None:
        """A collector with two regions, three agents, real logs, a live writer."""
        fleet = self.fleet
        fleet.create_collector()
        fleet.start_collector()
        say(f"collector {fleet.url}, regions {', '.join(REGIONS)}, k = 2 of 2")
        self.copies = fleet.add_agent("host-1", ["**/*"])
        self.sample = fleet.add_agent("host-2", ["*.log"])
        self.live = fleet.add_agent("host-3", ["live.log*"])
        found = copy_machine_logs(self.copies.logs)
        say(f"host-1 tails copies of {found} of this machine's logs from {MACHINE_LOGS}")
        shutil.copy(HERE / "sample.log", self.sample.logs / "sample.log")
        say("host-2 tails a sample with CRLF, NUL, bytes that are no UTF-8, and very long lines")
        log = self.live.logs / "live.log"
        self.writer.command = [sys.executable, str(HERE / "writer.py"), str(log), str(self.ledger)]
        say("host-3 tails a program that writes 400 lines a second and rotates its file every 1,500")
        self.writer.start()
        for agent in fleet.agents:
            agent.process.start()

    def seal(self) -> None:
        """Lines are sealed, forwarded, published to both regions, and receipts verified."""
        for agent in (self.copies, self.sample):
            wait_until(f"everything of {agent.name} is published", agent.is_settled, 60)
        wait_until("host-3 has receipts", lambda: self.live.status()["forward"]["published_seq"] > 1)
        for agent in self.fleet.agents:
            status = agent.status()
            head, forward = status["head"], status["forward"]
            say(
                f"{agent.name}: {head['records']:,} records in {head['seq'] + 1} blocks, receipts up to "
                f"block {forward['published_seq']}, {status['process']['rss_bytes'] / 2**20:.0f} MiB"
            )

    def kill_agent(self) -> None:
        """kill -9 of an agent, three times, while lines are being written."""
        for _ in range(3):
            time.sleep(0.7)
            pid = self.live.process.pid
            self.live.process.stop(signal.SIGKILL)
            say(f"killed host-3's agent (pid {pid}) with SIGKILL at line {self._lines_written():,}")
            time.sleep(0.5)
            self.live.process.start()
        say("started again each time; the count comes at the end, against the writer's ledger")

    def stop_collector(self) -> None:
        """The collector is away for some seconds, and comes back."""
        self.fleet.collector.stop(signal.SIGKILL)
        say("killed the collector with SIGKILL; agents keep sealing")
        wait_until("host-3 says so", lambda: self.live.status()["state"] != "ok", 20)
        status = self.live.status()
        say(f"host-3 status: {status['state']}: {'; '.join(status['reasons'])[:140]}")
        say(f"its spool holds {status['spool']['blocks']} blocks")
        time.sleep(2)
        self.fleet.start_collector()
        self.writer.stop()
        seconds = self.fleet.settle()
        say(f"collector back: all {self._lines_written():,} lines published {seconds:.1f} s later")

    def prove_lines(self) -> None:
        """One block's lines, proven offline to somebody who trusts only the log's keys."""
        bundle = self.root / "evidence.zip"
        region = self.fleet.region("us")
        seq = 3
        options = self.fleet.reader_options()
        run(
            "duramen",
            "prove",
            "--region",
            region,
            *options,
            "--agent",
            "host-2",
            "--seq",
            str(seq),
            "--output",
            bundle,
        )
        keys = ["--vkey", f"@{self.fleet.vkeys[0]}", "--vkey", f"@{self.fleet.vkeys[1]}"]
        report = run("duramen", "verify", bundle, *keys)
        for line in report.splitlines()[:5]:
            say(line[:150])
        shown = run_bytes("duramen", "verify", bundle, *map(str, keys), "--show")
        expect(
            shown in (HERE / "sample.log").read_bytes() and shown,
            "the lines shown are the sample's own bytes",
        )
        damaged = bytearray(bundle.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        forged = self.root / "forged.zip"
        forged.write_bytes(bytes(damaged))
        run("duramen", "verify", forged, *keys, codes=(2, 65))
        say("the same bundle with one bit changed is refused")

    def flip_byte(self) -> None:
        """One byte flipped in one region's pack: named, and restored from the other region."""
        report = self.fleet.verify()
        expect(report["verdict"] == "verified", f"before: {report['verdict']}, {report['findings']}")
        say("before: verified, every byte of both regions")
        pack = max(
            (self.fleet.region("eu") / "acme" / "packs").glob("*.pack"), key=lambda path: path.stat().st_size
        )
        good = pack.read_bytes()
        flip(pack, len(good) // 2)
        say(f"flipped one bit in region eu, {pack.name[:16]}….pack, byte {len(good) // 2:,}")
        report = self.fleet.verify()
        expect(report["verdict"] == "failed", "the damage is found")
        named = [item for item in report["findings"] if item.get("key", "").endswith(pack.name)]
        expect(named, f"a finding names the pack: {report['findings']}")
        expect(all(item["region"] == "eu" for item in named), "it names the region")
        for item in named:
            block = f"chain {item['chain'][:16]} block {item['seq']}" if "seq" in item else ""
            say(f"found: {item['code']} in {item['region']}, {block}: {item['detail'][:110]}")
        expect(any("seq" in item for item in named), "a finding names the block")
        for line in run(
            "duramen-collector", "regions", "repair", "--config", self.fleet.config, "--region", "eu"
        ).splitlines():
            say(line[:150])
        expect(pack.read_bytes() == good, "the pack is what it was")
        expect(self.fleet.verify()["verdict"] == "verified", "after the repair everything verifies")
        say("after: verified; the pack is byte for byte what it was")

    def restore(self) -> None:
        """Files restored from one region alone, compared byte for byte with their sources."""
        output = self.root / "restored"
        region = self.fleet.region("us")
        done = json.loads(
            run(
                "duramen",
                "export",
                "--region",
                region,
                *self.fleet.reader_options(),
                "--output",
                output,
                "--json",
            )
        )
        expect(done["verdict"] == "verified", f"the export verifies: {done['audit']}")
        files = [item for item in done["files"] if item["stream"] == "logs"]
        expect(not any(item["holes"] or item["sealed_twice"] for item in files), "no holes, nothing twice")
        for agent in (self.copies, self.sample):
            sources = {str(path): path.read_bytes() for path in agent.logs.rglob("*") if path.is_file()}
            restored = {item["path"]: read(item) for item in files if item["agent"] == agent.name}
            expect(
                restored == {path: data for path, data in sources.items() if data}, f"{agent.name}'s files"
            )
            say(f"{agent.name}: {len(restored)} files, {sum(map(len, restored.values())):,} bytes: identical")
        live = sorted(read(item) for item in files if item["agent"] == "host-3")
        written = self.ledger.read_bytes()
        expect(
            b"".join(live) == written, "host-3's lines are the writer's ledger: nothing lost, nothing twice"
        )
        lines = written.count(b"\n")
        say(f"host-3: {lines:,} lines in {len(live)} rotated files, 3 kills, an outage: 0 lost, 0 twice")

    def _lines_written(self) -> int:
        return self.ledger.read_bytes().count(b"\n")


def say(text: str) -> None:
    """A line of progress."""
    print(f"     {text}", flush=True)


def expect(held: object, what: str) -> None:
    """StepError unless ``held``."""
    if not held:
        raise StepError(f"this did not hold: {what}")


def copy_machine_logs(target: Path) -> int:
    """Copy this machine's readable logs of moderate size; how many."""
    found = 0
    for path in sorted(MACHINE_LOGS.rglob("*")):
        try:
            if path.is_symlink() or not path.is_file() or not 0 < path.stat().st_size <= COPY_MAX_BYTES:
                continue
            data = path.read_bytes()
        except OSError:
            continue
        if not data.endswith(b"\n"):
            continue  # compressed, or in the middle of a line: an agent would wait for its end
        copy = target / path.relative_to(MACHINE_LOGS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(data)
        found += 1
    if not found:
        (target / "empty-machine.log").write_text("this machine has no logs that may be read\n")
    return found


def flip(path: Path, offset: int) -> None:
    """Flip one bit of a file, whatever its mode says."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))
    path.chmod(mode)


def read(item: dict[str, Any]) -> bytes:
    """A restored file."""
    return Path(item["output"]).read_bytes()


def run_bytes(name: str, *arguments: str | Path) -> bytes:
    """As :func:`run`, for output that is not text."""
    return subprocess.run(
        [str(COMMANDS / name), *map(str, arguments)], capture_output=True, check=True, timeout=60
    ).stdout


def main() -> int:
    """Run the steps; 0 when all held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    keep = parser.parse_args().keep
    root = Path(tempfile.mkdtemp(prefix="duramen-demo-"))
    demo = Demo(root)
    steps: list[Callable[[], None]] = [
        demo.set_up, demo.seal, demo.kill_agent, demo.stop_collector,
        demo.prove_lines, demo.flip_byte, demo.restore,
    ]  # fmt: skip
    print(f"Duramen demonstration in {root}", flush=True)
    begun = time.monotonic()
    held = False
    try:
        for number, step in enumerate(steps, 1):
            print(f"\n{number}/{len(steps)}  {(step.__doc__ or '').strip()}", flush=True)
            step()
        held = True
    except StepError as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        print(f"everything is kept in {root}; look at the *.log files", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
    finally:
        demo.writer.stop()
        if not (keep and held):
            demo.fleet.stop()
    if not held:
        return 1
    print(f"\nEvery step held; {time.monotonic() - begun:.0f} seconds.")
    if keep:
        print_hints(demo)
    else:
        shutil.rmtree(root)
    return 0


def print_hints(demo: Demo) -> None:
    """What to try while it runs."""
    fleet, root = demo.fleet, demo.root
    print(
        f"""
Still running in {root}; append to files in host-*/logs and look. Try:

  {fleet.environment()}
  cd {root}
  duramen-agent status --config host-3/agent.yaml
  duramen-collector status --config collector.yaml
  duramen-collector verify --config collector.yaml --deep --regions
  duramen log fsck regions/eu/acme --vkey @{fleet.vkeys[0].name} --vkey @{fleet.vkeys[1].name}
  openssl s_client -connect 127.0.0.1:{fleet.port} -CAfile collector/ca.pem </dev/null

Stop it with: kill {" ".join(map(str, fleet.pids()))}"""
    )


if __name__ == "__main__":
    sys.exit(main())
