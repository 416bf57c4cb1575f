"""``duramen-collector verify`` and ``regions``, from a configuration file to an exit code."""

import json
import shutil

import pytest
import typer

from duramen.commandline import run
from duramen.system import SystemRandom
from duramen_collector import schema
from duramen_collector.cli_verification import register
from duramen_collector.configuration import load_configuration
from duramen_collector.database import open_database, upgrade, writing
from duramen_collector.statedir import StateDirectory
from tests.core.builder import LogBuilder, Source

ORIGIN = "logs.example.com/acme"


@pytest.fixture
def site(tmp_path):
    """A collector's state and two regions with a log under its keys."""
    config = tmp_path / "collector.yaml"
    for name in ("eu", "us", "state"):
        (tmp_path / name).mkdir(mode=0o700)
    config.write_text(
        "name: logs.example.com\n"
        f"state_dir: {tmp_path}/state\n"
        f"regions: [{{name: eu, url: 'file://{tmp_path}/eu'}}, {{name: us, url: 'file://{tmp_path}/us'}}]\n"
        "publish: {copies: 2}\n"
    )
    configuration = load_configuration(config, {})
    engine = open_database(configuration.database_path)
    upgrade(engine)
    keys = StateDirectory(configuration.state_dir).log_keys()
    keys.create("acme", SystemRandom())
    loaded = keys.load("acme", ORIGIN)
    log = LogBuilder(1, notice_key=False)
    log.signer, log.keys = loaded.log, loaded.log.keys()
    log.vkeys = loaded.verifier_keys
    log.log = loaded.digest()
    log.notice_seed, log.notice_public = loaded.notice.seed, loaded.notice.public
    log.notice("key", public=log.notice_public.hex())
    agent = log.agent("web-1")
    for number in range(3):
        agent.seal([Source("app", b"/a.log", b"line %d\n" % number, 7 * number)])
        log.publish()
    for name in ("eu", "us"):
        for key, data in log.objects.items():
            path = tmp_path / name / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    with writing(engine) as connection:
        connection.execute(
            schema.tenants.insert().values(tenant="acme", origin=ORIGIN, public=False, created_ns=0)
        )
    engine.dispose()
    return tmp_path, log


def call(site, capsys, *argv):
    app = typer.Typer()
    register(app)
    code = run(app, [*argv, "--config", str(site[0] / "collector.yaml")])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def damage(site):
    path, log = site
    target = path / "eu" / log.packs[-1]
    data = bytearray(target.read_bytes())
    data[-3] ^= 1
    target.write_bytes(data)
    return target, log.objects[log.packs[-1]]


def test_a_damaged_byte_from_finding_to_repair(site, capsys):
    code, out, _ = call(site, capsys, "verify", "--deep", "--regions")
    assert code == 0
    assert "acme  verified (bodies)" in out
    assert "us  verified" in out
    target, good = damage(site)
    code, out, _ = call(site, capsys, "verify", "--deep", "--regions")
    assert code == 2
    assert "failure: body_corrupt" in out
    assert "region eu" in out
    assert "a good copy is in us" in out
    assert call(site, capsys, "verify")[0] == 0  # headers only
    code, out, _ = call(site, capsys, "verify", "--deep", "--tenant", "acme", "--json")
    (value,) = json.loads(out)
    assert code == 2
    assert value["findings"][0]["region"] == "eu"
    assert value["findings"][0]["seq"] == 4
    code, out, _ = call(site, capsys, "regions", "scrub")
    assert code == 2
    assert "eu  failed" in out
    assert "us  verified" in out
    assert call(site, capsys, "regions", "scrub", "--region", "us")[0] == 0
    assert call(site, capsys, "regions", "scrub", "--region", "asia")[0] == 64
    code, out, _ = call(site, capsys, "regions", "scrub", "--region", "eu", "--json")
    assert code == 2
    assert json.loads(out)[0]["verdict"] == "failed"
    code, out, _ = call(site, capsys, "regions", "repair", "--region", "eu")
    assert code == 0
    assert "restored acme/packs/" in out
    assert "from us" in out
    assert target.read_bytes() == good
    code, out, _ = call(site, capsys, "regions", "repair", "--region", "eu", "--json")
    assert code == 0
    assert json.loads(out)[0]["repaired"] == []
    assert call(site, capsys, "verify", "--deep")[0] == 0


def test_region_status(site, capsys):
    path, log = site
    code, out, _ = call(site, capsys, "regions", "status")
    assert code == 0
    assert f"acme  eu  {log.size} statements, 0 behind" in out
    (path / "eu/acme/checkpoint").write_bytes(log.objects["acme/checkpoints/5"])
    code, out, _ = call(site, capsys, "regions", "status", "--json")
    assert code == 1
    assert json.loads(out)[0]["lag"] == log.size - 5
    (path / "eu/acme/checkpoint").write_bytes(b"junk")
    assert call(site, capsys, "regions", "status")[0] == 1
    (path / "eu/acme/checkpoint").unlink()
    code, out, _ = call(site, capsys, "regions", "status")
    assert code == 1
    assert "no checkpoint" in out
    shutil.rmtree(path / "eu")
    assert call(site, capsys, "regions", "status")[0] == 1
    assert call(site, capsys, "verify", "--regions")[0] == 1
    code, _, err = call(site, capsys, "regions", "scrub")
    assert code == 74
    assert "eu" in err
    assert call(site, capsys, "regions", "repair", "--region", "asia")[0] == 64


def test_what_is_not_there(site, capsys):
    assert call(site, capsys, "verify", "--tenant", "other")[0] != 0
    (site[0] / "collector.yaml").unlink()
    assert call(site, capsys, "verify")[0] == 78


def test_without_tenants(site, capsys):
    engine = open_database(site[0] / "state/collector.db")
    with writing(engine) as connection:
        connection.execute(schema.tenants.delete())
    engine.dispose()
    code, out, _ = call(site, capsys, "verify", "--json")
    assert code == 0
    assert json.loads(out) == []
