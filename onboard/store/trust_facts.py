"""What the trust record holds of trust, in the shape that `protocol.trust` judges by, and back."""

from dataclasses import replace

from onboard.store.facts import OnboardRecord
from onboard.store.roots import root_digest
from protocol.trust import TrustState


def trust_state_of(record: OnboardRecord, root: bytes) -> TrustState:
    """What is trusted so far.

    Args:
        record: the facts.
        root: the trusted root, or an older one if that was lost.
    """
    is_lost = record.root_digest is not None and root_digest(root) != record.root_digest
    return TrustState(
        root=root,
        root_version=record.root_version,
        epoch=record.epoch,
        accepted=record.accepted,
        closed=record.closed,
        floor=record.floor,
        time_floor=record.time_floor,
        lost_root=(record.root_digest or b"") if is_lost else b"",
    )


def with_trust(record: OnboardRecord, state: TrustState, digest: bytes) -> OnboardRecord:
    """Return a record with what is trusted now; the root's copies are durable already.

    What ended in an older epoch keeps its end, but its version means nothing beside versions of the new one.
    """
    assert (state.epoch, state.accepted) >= (record.epoch, record.accepted)
    assert state.root_version >= record.root_version
    is_new_epoch = state.epoch > record.epoch
    if state.commands_are_void:
        record = replace(record, command_highest=0, command_seen=0, armed=())
    return replace(
        record,
        root_version=state.root_version,
        root_digest=digest,
        epoch=state.epoch,
        accepted=state.accepted,
        closed=state.closed,
        floor=state.floor if is_new_epoch else max(record.floor, state.floor),  # confirmed since it was judged
        time_floor=state.time_floor,
        ended=tuple(replace(update, version=0) for update in record.ended) if is_new_epoch else record.ended,
    )
