"""How a run begins to send: by what earlier runs have learned of this station's link, or else by the plan's word."""

from groundsegment.depot.depot import Depot
from groundsegment.uplink.flight.flight_records import FlightPlan
from groundsegment.uplink.sender.core import UplinkOptions
from groundsegment.uplink.sender.loss import LossEstimate
from protocol.fec import best_kind
from protocol.link_keys import Direction

SILENCE_S_OPEN = 8.0
_PLAN_LOSS_WEIGHT = 100.0  # frames that a plan's word is worth


def begin_options(depot: Depot, plan: FlightPlan, now_s: float) -> UplinkOptions:
    """How to send at first."""
    kept = {
        direction: depot.journal.loss(plan.satellite, plan.station, direction)
        for direction in (Direction.UP, Direction.DOWN)
    }
    up, down = kept[Direction.UP], kept[Direction.DOWN]
    loss = LossEstimate()
    if up is not None:
        loss = LossEstimate.from_dict(up).as_prior()
    elif plan.contacts.loss is not None:
        loss = LossEstimate.of_mean(plan.contacts.loss, _PLAN_LOSS_WEIGHT)
    first = next(plan.contacts.from_time(now_s), None)
    # Who sends as fast as reports allow needs them: a busy satellite is late before it is silent.
    is_open = first is not None and plan.is_rate_open(first)
    silence_s = max(plan.silence_s, SILENCE_S_OPEN) if is_open else plan.silence_s
    return UplinkOptions(
        kind=best_kind(),
        silence_s=0.0 if plan.contacts.is_one_way else silence_s,
        loss=loss,
        loss_down=LossEstimate() if down is None else LossEstimate.from_dict(down).as_prior(),
    )
