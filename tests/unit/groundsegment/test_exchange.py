"""Whoever waits for an answer believes no station that his command has arrived: it may be stolen."""

import pytest

from groundsegment.depot.records import CommandState, ReceivedReport
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.signing import create_trust
from groundsegment.uplink.wire import exchange
from groundsegment.uplink.wire.link_socket import Endpoint
from protocol.command import Operation
from protocol.report import Report
from tests.fakes.depots import NOW, make_depot


@pytest.mark.parametrize(("station", "is_believed"), [(0, True), (3, False)])
def test_what_a_station_says_has_arrived_is_sent_on(tmp_path, station, is_believed):
    told = []
    with make_depot(tmp_path / "depot") as depot:
        create_trust(KeyStore(depot.keys_path), utc=NOW)
        command = exchange.keep_command(depot, "SAT-1", Operation.SCRUB, {}, state=CommandState.IN_HAND)
        report = Report(complete=(command.handle,), commands=command.counter)
        depot.journal.record_report(
            ReceivedReport(
                satellite="SAT-1", session=b"s" * 6, sequence=1, received_utc=NOW, report=report, station_id=station
            )
        )
        waiting = exchange._Exchange(depot, command, Endpoint.parse("127.0.0.1:9"), told.append)
        waiting._look_for_arrival(1.0)

    assert bool(told) == is_believed
