"""A depot that was restored from a backup: it finds out, says so, and goes on above what its satellite has seen."""

from dataclasses import replace

import pytest

from groundsegment.depot.records import CommandState, ReceivedReport
from groundsegment.errors import KeyStoreError
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.signing import create_trust
from groundsegment.staging.behind import what_is_behind
from groundsegment.staging.checks import accepted_by
from groundsegment.uplink.wire.exchange import keep_command, send_kept
from groundsegment.uplink.wire.link_socket import Endpoint
from groundsegment.uplink.wire.numbers import NumbersBehindError, commands_seen
from protocol.command import Command, Operation
from protocol.message import MessageKind
from protocol.report import Report
from protocol.trust import command_keys
from tests.fakes.depots import IDENTITY, LINK_KEY, NOW, make_depot
from tests.fakes.satellite import FakeSatellite
from tests.fakes.satellite_process import SatelliteOnUdp
from tests.unit.groundsegment import test_keys_change as change

first_day, nobody_gives_a_passphrase, place, skyload = (
    change.first_day,
    change.nobody_gives_a_passphrase,
    change.place,
    change.skyload,
)
SIGNER = (IDENTITY.public_key().public_bytes_raw(), IDENTITY.sign)


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        create_trust(KeyStore(depot.keys_path), utc=NOW)
        yield depot


def hear(depot, sequence=1, **fields):
    report = Report(**fields)
    depot.journal.record_report(
        ReceivedReport(satellite="SAT-1", session=b"s" * 6, sequence=sequence, received_utc=NOW, report=report)
    )


def command(depot, state=CommandState.QUEUED):
    return keep_command(depot, "SAT-1", Operation.SCRUB, {"release": None, "now": True}, state=state)


class Remembering(FakeSatellite):
    """It has seen more commands than this depot has given."""

    seen = 41

    def report(self, now):
        return replace(super().report(now), commands=self.seen)


def test_a_command_is_numbered_above_what_the_satellite_has_seen(depot):
    assert command(depot).counter == 1
    hear(depot, commands=41)
    assert [command(depot).counter for _ in range(2)] == [42, 43]


def test_who_waits_for_an_answer_hears_that_the_command_was_refused_and_the_next_one_is_obeyed(depot):
    keys = command_keys(KeyStore(depot.keys_path).root())

    def obey(satellite, handle, data, now):
        counter = Command.open(data, public_keys=keys, satellite="SAT-1").counter
        if counter > satellite.seen:
            satellite.seen = counter
            satellite.say(MessageKind.RESULT, handle, {"ok": True, "text": "done"}, now)

    quick = {"sync_interval_s": 0.02, "report_interval_s": 0.02, "keep_symbols": True}
    satellite = Remembering(LINK_KEY, identity=SIGNER, **quick)
    with SatelliteOnUdp(satellite, on_command=obey) as link:
        endpoint, first = Endpoint.parse(link.address), command(depot, CommandState.IN_HAND)
        with pytest.raises(NumbersBehindError, match="seen command 41, this depot gave 1 last") as caught:
            send_kept(depot, first, endpoint, timeout_s=45)
        assert "give it again" in caught.value.hint
        assert first.handle not in {entry.handle for entry in depot.journal.commands("SAT-1", CommandState.QUEUED)}
        second = command(depot, CommandState.IN_HAND)
        assert second.counter == 42
        assert send_kept(depot, second, endpoint, timeout_s=45).message.body["ok"]


def test_numbers_that_a_thief_of_a_command_key_has_used_up_are_not_followed(depot):
    hear(depot, commands=2**32 - 1)
    with pytest.raises(KeyStoreError, match="somebody else has the command key") as caught:
        command(depot)
    assert "revoke command" in caught.value.hint
    assert commands_seen(depot, "SAT-2") == 0


def test_status_says_all_that_is_behind_and_what_becomes_of_it(depot):
    assert what_is_behind(depot, "SAT-1") == ()
    command(depot)
    hear(depot, commands=1, accepted=0, root_version=1)
    assert what_is_behind(depot, "SAT-1") == ()
    hear(depot, sequence=2, commands=9, accepted=7, root_version=3)
    commands, versions, roots = what_is_behind(depot, "SAT-1")
    assert "command 9 was seen there" in commands
    assert "version 7 was accepted there" in versions
    assert "root 3 is followed there, 1 is the newest here" in roots
    command(depot)
    assert len(what_is_behind(depot, "SAT-1")) == 2  # commands go on above what was heard


def test_an_update_that_is_staged_next_is_above_what_was_accepted(depot):
    hear(depot, accepted=7, root_version=1)
    assert depot.allocate_sequence(above=accepted_by(depot, "SAT-1")) == 8
    assert what_is_behind(depot, "SAT-1") == ()


def test_no_root_is_made_beside_one_that_a_satellite_follows_and_that_is_not_here(place, skyload):
    with change.Depot.open(place / "depot") as depot:
        change.report_of(depot, root_version=2)
    for words in (("rotate", "timestamp"), ("revoke", "timestamp", "--yes")):
        assert "SAT-1 follows root 2, 1 is the newest here" in skyload(*words, code=4)
    assert not change.of(place).next_path.exists()


def test_a_root_that_only_a_station_heard_of_keeps_nobody_from_revoking_a_key(place, skyload):
    with change.Depot.open(place / "depot") as depot:
        depot.journal.record_report(
            ReceivedReport(
                satellite="SAT-1", session=b"s" * 6, sequence=1, received_utc=NOW, station="svalbard", station_id=1,
                report=Report(root_version=65535),
            )
        )  # fmt: skip
    skyload("revoke", "timestamp", "--yes")
