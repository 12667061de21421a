"""Which calls the durability bench lets fail: of every kind some."""

import random
from collections import Counter

import pytest

from bench.durability.faults import draw
from tests.power.faults import Fault, Kind


@pytest.mark.parametrize("seed", range(5))
def test_short_writes_are_drawn_though_there_are_few(seed):
    many = [Fault(call="openat", number=number, kind=kind) for number in range(500) for kind in list(Kind)[:3]]
    few = [Fault(call="pwrite64", number=number, kind=Kind.SHORT) for number in range(20)]
    drawn = draw([*many, *few], 120, random.Random(seed))
    assert len(set(drawn)) == 120
    assert min(Counter(fault.kind for fault in drawn).values()) >= 15
    assert len(draw(few, 120, random.Random(seed))) == 20
