"""An update that leaves the link's core and joins again, for another priority say, goes on as if it had stayed."""

import pytest

from groundsegment.uplink.sender.cargo import OutgoingObject
from groundsegment.uplink.sender.core import Uplink, UplinkOptions
from groundsegment.uplink.sender.loss import LossEstimate

METADATA = b"metada"
BUNDLES = [b"bundl%d" % number for number in range(3)]


def objects():
    metadata = OutgoingObject(handle=METADATA, num_symbols=1, symbol_size=1280, bundle=None)
    bundles = [
        OutgoingObject(handle=handle, num_symbols=2000, symbol_size=1280, bundle=number)
        for number, handle in enumerate(BUNDLES)
    ]
    return [metadata, *bundles]


def symbols_sent(*, rejoins_after=None):
    """Symbols of each bundle that a one-way link gets in the first round, bundle after bundle."""
    options = UplinkOptions(loss=LossEstimate.of_mean(0.1, 3000.0), window_bytes=1)
    uplink = Uplink(options)
    uplink.add_update(objects())
    uplink.begin_contact(0.0)
    sent = dict.fromkeys(BUNDLES, 0)
    for step in range(400):
        for run in uplink.frames_to_send(0.05 * step, 20):
            if run.handle in sent:
                sent[run.handle] += run.count
        uplink.progress()
        if rejoins_after is not None and sent[BUNDLES[0]] >= rejoins_after:
            rejoins_after = None
            kept = uplink.progress(METADATA, exact=True)
            uplink.remove_update(METADATA)
            uplink.add_update(objects(), kept, now=0.05 * step, priority=1)
    return sent


@pytest.mark.parametrize("rejoins_after", [20, 1200, 2200])
def test_what_was_sent_before_is_counted_once(rejoins_after):
    stayed, rejoined = symbols_sent(), symbols_sent(rejoins_after=rejoins_after)

    for handle in BUNDLES:
        assert rejoined[handle] == pytest.approx(stayed[handle], abs=60)
