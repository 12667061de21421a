"""Every parser takes some hundred hostile inputs at each test run; the fuzzer finds what it is there to find."""

import json
import time
from pathlib import Path

import msgpack
import pytest

import tests.fuzz
from tests.fuzz import runner
from tests.fuzz.mutate import cases
from tests.fuzz.runner import attack
from tests.fuzz.target import Form, Target
from tests.fuzz.targets import ROOMS, TARGETS

FOUND = sorted((Path(tests.fuzz.__file__).parent / "found").glob("*/*"))


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_input_is_taken_or_refused(name):
    outcome = attack(TARGETS[name], seed=2026, count=100, seconds=60)
    assert outcome.finding == "", outcome.culprit
    assert outcome.cases == 100


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_once_stays_mended(path):
    TARGETS[path.parent.name].attack(path.read_bytes())


def test_every_parser_is_in_a_room():
    assert sorted(name for names in ROOMS.values() for name in names) == sorted(TARGETS)


@pytest.mark.parametrize(
    ("parse", "finding"),
    [
        (lambda data: {}[data[0]] if len(data) > 3 else None, "KeyError"),
        (lambda data: spin(0.07) if len(data) > 3 else None, " s"),
        (lambda data: spin(1e9) if len(data) > 3 else None, "no end"),
        (lambda data: bytearray(400 << 20) if len(data) > 3 else None, "MiB"),
    ],
)
def test_a_parser_that_crashes_hangs_or_devours_memory_is_found(parse, finding, monkeypatch):
    monkeypatch.setattr(runner, "SECONDS_MAX", 20.0 if finding == "MiB" else 0.05)
    monkeypatch.setattr(runner, "_TICK_S", 0.01)
    target = Target(parse=parse, refusals=(ValueError,), seeds=[b"abc"])
    outcome = attack(target, seed=1, count=100, seconds=60)
    assert finding in outcome.finding
    assert len(outcome.culprit) > 3


def spin(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_values_deep_in_a_message_are_spoiled_too():
    def parse(data):
        try:
            value = json.loads(data)["a"][0]["b"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise ValueError from None
        assert value == 1

    target = Target(parse=parse, refusals=(ValueError,), seeds=[b'{"a": [{"b": 1}]}'], form=Form.JSON)
    assert attack(target, seed=1, count=1000, seconds=60).finding.startswith("AssertionError")


def test_an_attack_can_be_repeated():
    first, second = (attack(TARGETS["manifest"], seed=5, count=200, seconds=60) for _ in range(2))
    assert (first.cases, first.taken) == (second.cases, second.taken)


def test_memory_that_is_taken_in_no_time_is_found_when_its_batch_is_run_again(monkeypatch):
    monkeypatch.setattr(runner, "_SUSPECT_S", 60.0)
    monkeypatch.setattr(runner, "GROWTH_MAX", 40 << 20)
    target = Target(parse=lambda data: data[:1] == b"!" and bytearray(64 << 20), refusals=(), seeds=[b"a!"])
    outcome = attack(target, seed=1, count=400, seconds=60)
    assert outcome.finding.endswith("MiB")
    assert outcome.culprit[:1] == b"!"


@pytest.mark.parametrize("form", [Form.MSGPACK, Form.JSON])
def test_keys_come_twice(form):
    seed = json.dumps({"a": 1, "b": 2}).encode() if form is Form.JSON else msgpack.packb({"a": 1, "b": 2})
    key = b'"a":' if form is Form.JSON else b"\xa1a"
    target = Target(parse=len, refusals=(), seeds=[seed], form=form)
    assert any(data.count(key) == 2 for data in cases(target, seed=1, batch=0, count=2000))


def test_most_parsers_take_some_of_the_input():
    """What never gets past the first check attacks nothing else."""
    shallow = []
    for name in ("manifest", "command", "codec-pieces", "orders", "record", "chat", "report"):
        outcome = attack(TARGETS[name], seed=3, count=300, seconds=60)
        if outcome.taken < 3 or len(outcome.places) < 3:
            shallow.append(name)
    assert shallow == []
