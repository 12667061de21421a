"""New roots on their way up: queued beside the commands, for a satellite must follow them even if no update comes.

Every update that is staged brings the roots that its satellite is not known to trust; this is for the time between.
"""

from datetime import datetime

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import ROTATE, CommandState, FlightState, QueuedCommand, Update
from groundsegment.signer.key_store import ONLINE_NAMES, KeyStore
from groundsegment.signer.rotation import NextRoot
from groundsegment.signer.signing import make_rotations
from protocol.objects import object_handle
from protocol.report import UpdateState

_REPLACED = "its keys were replaced: stage it again"


def end_outdated(depot: Depot, next_: NextRoot) -> tuple[Update, ...]:
    """End the updates that no satellite would accept any more, once a root is in force; returns them.

    With a new epoch those are all that are not decided; else those that were signed by a replaced key and are not known
    to be accepted on board, where trust is decided once.
    """
    if not next_.begins_epoch and not set(next_.changes) & set(ONLINE_NAMES):
        return ()
    ended = []
    for update in depot.updates():
        if update.state.is_open and (next_.begins_epoch or not _is_on_board(depot, update)):
            depot.set_update_state(update.handle, FlightState.CANCELLED, reason=_REPLACED)
            ended.append(update)
    return tuple(ended)


def _is_on_board(depot: Depot, update: Update) -> bool:
    heard = depot.journal.last_report(update.satellite)
    status = heard.report.status_of(update.handle) if heard is not None else None
    return status is not None and status.state not in {UpdateState.NONE, UpdateState.REJECTED}


def queue_rotation(depot: Depot, store: KeyStore, satellite: str, *, utc: datetime, is_anew: bool = False) -> int:
    """Queue what brings a satellite from the root it last reported to the newest; returns how many objects that is.

    Args:
        depot: with the satellite.
        store: with all roots.
        satellite: its name.
        utc: now.
        is_anew: bring all roots, for one whose reports cannot be heard.

    Raises:
        KeyStoreError: a root is missing.
    """
    heard = depot.journal.last_report(satellite)
    root_version = 0 if heard is None or is_anew else heard.report.root_version
    objects = make_rotations(store, root_version, label=satellite)
    queued = {
        entry.handle: entry
        for entry in depot.journal.commands(satellite, CommandState.QUEUED)
        if entry.operation == ROTATE
    }
    handles = {object_handle(data): data for data in objects}
    for handle in queued.keys() - handles.keys():
        depot.journal.set_command_state(handle, CommandState.DROPPED)
    known = {entry.handle: entry.state for entry in depot.journal.commands(satellite)}
    for handle, data in handles.items():
        if handle in known:
            depot.journal.set_command_state(handle, CommandState.QUEUED)
            continue
        depot.journal.add_command(
            QueuedCommand(
                handle=handle,
                satellite=satellite,
                counter=depot.journal.allocate_command_counter(satellite),
                operation=ROTATE,
                data=data,
                state=CommandState.QUEUED,
                created_utc=utc,
            )
        )
    return len(handles)
