"""A ground in a directory, for tests of `skyload stage`: keys, a depot, the command, and what a satellite would see."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import typer
from typer.testing import CliRunner

from groundsegment.console import keys, stage
from groundsegment.depot.depot import Depot
from groundsegment.depot.records import ReceivedReport
from groundsegment.signer.kit import read_kit
from protocol.link_keys import unwrap_release_key
from protocol.report import Report
from protocol.sealed_metadata import open_metadata
from protocol.trust import TrustState, accept_update
from tests.fakes import twin

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)
TWIN = f"{sys.executable} {twin.__file__}"
APP = typer.Typer()
APP.command()(stage.stage)


def make_ground(directory, monkeypatch):
    """Make keys and a depot in a directory, and go there."""
    monkeypatch.chdir(directory)
    assert CliRunner().invoke(keys.app, ["init", "--satellite", "SAT-1", "--kit", "kit"]).exit_code == 0
    return directory


def run(*words):
    result = CliRunner().invoke(APP, [*words, "--for", "SAT-1"])
    return result.exit_code, result.stdout, result.stderr


def run_json(*words):
    code, out, err = run(*words, "--json")
    assert code == 0, err
    return json.loads(out)


def report_serving(digest, *, sequence=1, **facts):
    report = Report(serving=bytes.fromhex(digest)[:6], free_mib=9999, **facts)
    with Depot.open(Path("depot")) as opened:
        opened.journal.record_report(
            ReceivedReport(satellite="SAT-1", session=b"s" * 6, sequence=sequence, received_utc=NOW, report=report)
        )


def read_release(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def open_as_satellite(directory, accepted=0):
    """What SAT-1 makes of an update's files, with nothing but its kit."""
    kit_keys = Path("kit/keys")
    metadata = (directory / "metadata.skm").read_bytes()
    state = TrustState(root=read_kit(Path("kit")).root, accepted=accepted)
    private = bytes.fromhex((kit_keys / "release.key").read_text())
    metadata = open_metadata(metadata, private, satellite="SAT-1")
    manifest = accept_update(metadata, state, satellite="SAT-1", utc=NOW).manifest
    key = unwrap_release_key(manifest.keys["SAT-1"], private, satellite="SAT-1", release_digest=manifest.release_digest)
    return manifest, key
