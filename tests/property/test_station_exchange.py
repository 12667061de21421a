"""Home, two stations and a stick that is carried, cut, garbled and lost, in any order: nothing wrong ever flies."""

import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from groundsegment.depot.records import FlightState, ReceivedMessage
from tests.fakes.depots import stage_bytes
from tests.fakes.stations import Homestead, sealed_receipt

NAMES = ("svalbard", "inuvik")
ENDS = (FlightState.CONFIRMED, FlightState.REJECTED, FlightState.CANCELLED)
SIZES = (3000, 2000)


class Carriers(RuleBasedStateMachine):
    """Every rule is something that happens; the invariants are what holds whatever happened."""

    def __init__(self):
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="skyload-carriers-"))
        self.place = Homestead(self.path, *NAMES)
        self.stick = self.path / "stick"
        self.stations = {name: self.place.export(name) for name in NAMES}
        self.staged = {}
        self.serials = dict.fromkeys(NAMES, 0)
        self.decided = {}

    def teardown(self):
        self.place.__exit__()
        shutil.rmtree(self.path, ignore_errors=True)

    # What happens

    @rule(lanes=st.integers(1, 3))
    def stage(self, lanes):
        staged = stage_bytes(self.place.depot, SIZES, seed=len(self.staged) + 1)
        with self.place.depot._engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE updates SET lanes = {lanes} WHERE sequence = {staged.update.sequence}")
        self.staged[staged.update.handle] = staged

    @rule(pick=st.integers(0, 99), end=st.sampled_from(ENDS))
    def decide(self, pick, end):
        still_open = self.place.depot.open_updates("SAT-1")
        if still_open:
            handle = still_open[pick % len(still_open)].handle
            self.place.depot.set_update_state(handle, end)
            self.decided[handle] = end

    @rule()
    def carry(self):
        if not self.stick.is_symlink():
            self.place.exchange(via=self.stick)

    @rule(name=st.sampled_from(NAMES), steps=st.integers(0, 9))
    def sync(self, name, steps):
        count = iter(range(steps))
        outcome = self.place.sync(self.stations[name], self.stick, should_stop=lambda: next(count, None) is None)
        if outcome.is_complete:
            ordered = {entry.update.handle for entry in self.stations[name].orders().updates}
            assert ordered <= {update.handle for update in self.stations[name].depot.updates("SAT-1")}

    @rule(seed=st.integers(0, 2**31))
    def spoil(self, seed):
        rng = random.Random(seed)
        files = sorted(path for path in self.stick.rglob("*") if path.is_file())
        if not files:
            return
        path = rng.choice(files)
        data = path.read_bytes()
        match rng.randrange(4):
            case 0:
                path.unlink()
            case 1:
                path.write_bytes(data[: rng.randrange(len(data) + 1)])
            case 2 if data:
                at = rng.randrange(len(data))
                path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            case _:
                path.write_bytes(rng.choice(files).read_bytes())

    @rule()
    def lose_the_stick(self):
        shutil.rmtree(self.stick, ignore_errors=True)

    @rule(name=st.sampled_from(NAMES), pick=st.integers(0, 99))
    def hear_a_receipt(self, name, pick):
        """The satellite tells a station that it has confirmed what flies there."""
        station = self.stations[name]
        flying = station.depot.open_updates("SAT-1")
        if not flying:
            return
        handle = flying[pick % len(flying)].handle
        counter = len(station.depot.journal.messages("SAT-1")) + (1000 if name == "inuvik" else 1)
        data = sealed_receipt(handle, counter=counter)
        station.depot.journal.add_message(
            ReceivedMessage(
                satellite="SAT-1", counter=counter, kind="receipt", re=handle, received_utc=self.place.now, data=data
            )
        )
        station.depot.set_update_state(handle, FlightState.CONFIRMED)
        self.decided.setdefault(handle, FlightState.CONFIRMED)

    # What holds

    @invariant()
    def what_can_fly_has_the_bytes_that_were_staged(self):
        for name, station in self.stations.items():
            for update in station.depot.open_updates("SAT-1"):
                staged = self.staged[update.handle]
                assert update.metadata_path.read_bytes() == staged.metadata
                bundles = station.depot.bundles(update.handle)
                assert tuple(bundle.path.read_bytes() for bundle in bundles) == staged.bundles
                assert update.lanes > station.identity.id, name

    @invariant()
    def what_flies_is_in_the_newest_orders_and_those_never_get_older(self):
        for name, station in self.stations.items():
            orders = station.orders()
            ordered = {entry.update.handle for entry in orders.updates}
            assert {update.handle for update in station.depot.open_updates("SAT-1")} <= ordered
            assert orders.serial >= self.serials[name]
            self.serials[name] = orders.serial

    @invariant()
    def home_ends_an_update_only_by_itself_or_by_the_satellite(self):
        for update in self.place.depot.updates("SAT-1"):
            if not update.state.is_open:
                assert update.handle in self.decided
            elif update.handle in self.decided:
                assert self.decided[update.handle] is FlightState.CONFIRMED  # a receipt is on its way

    def catch_up(self):
        """With a sound stick, one round brings everybody to the same."""
        shutil.rmtree(self.stick, ignore_errors=True)
        for _ in range(2):
            self.place.exchange(via=self.stick)
            for station in self.stations.values():
                assert self.place.sync(station, self.stick).problems == ()
        self.place.exchange(via=self.stick)
        for name, station in self.stations.items():
            wanted = {
                update.handle
                for update in self.place.depot.open_updates("SAT-1")
                if update.lanes > self.stations[name].identity.id
            }
            assert {update.handle for update in station.depot.open_updates("SAT-1")} == wanted


class CarriersThatCatchUp(Carriers):
    """The same, and at the end everybody meets."""

    def teardown(self):
        try:
            self.catch_up()
        finally:
            super().teardown()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whatever_is_carried_nothing_wrong_flies_and_all_catch_up():
    # To shrink what fails would take minutes; the steps that led there are printed all the same.
    bounds = settings(max_examples=8, stateful_step_count=20, deadline=None, phases=[Phase.generate])
    run_state_machine_as_test(CarriersThatCatchUp, settings=bounds)
