"""What the trust record holds of trust, in the shape that `protocol.trust` judges by, and back."""

from dataclasses import replace

from onboard.store.facts import OnboardRecord
from protocol.trust import TrustState


def trust_state_of(record: OnboardRecord, root: bytes) -> TrustState:
    """What is trusted so far.

    Args:
        record: the facts.
        root: the trusted root, or an older one if that was lost.
    """
    return TrustState(
        root=root,
        root_version=record.root_version,
        epoch=record.epoch,
        accepted=record.accepted,
        closed=record.closed,
        floor=record.floor,
        time_floor=record.time_floor,
    )


def with_trust(record: OnboardRecord, state: TrustState, root_digest: bytes) -> OnboardRecord:
    """Return a record with what is trusted now; the root's copies are durable already.

    What ended in an older epoch keeps its end, but its version means nothing beside versions of the new one.
    """
    assert (state.epoch, state.accepted) >= (record.epoch, record.accepted)
    assert state.root_version >= record.root_version
    is_new_epoch = state.epoch > record.epoch
    return replace(
        record,
        root_version=state.root_version,
        root_digest=root_digest,
        epoch=state.epoch,
        accepted=state.accepted,
        closed=state.closed,
        floor=state.floor if is_new_epoch else max(record.floor, state.floor),  # confirmed since it was judged
        time_floor=state.time_floor,
        ended=tuple(replace(update, version=0) for update in record.ended) if is_new_epoch else record.ended,
    )
