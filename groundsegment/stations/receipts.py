"""Messages that a station brought home: verified with the satellite's own key, as if they had been heard here. A shell.

A thief may keep one back or bring an old one; he cannot make one.
"""

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import CommandState
from groundsegment.downlink import MessageReceived
from groundsegment.uplink.flight.outcome import record_message
from protocol.envelope import key_id
from protocol.errors import WrongSatelliteError
from protocol.message import Message, MessageKind
from protocol.objects import object_handle


def keep_message(depot: Depot, satellite: str, data: bytes) -> bool:
    """Verify and keep a message, and do what it says of updates and commands; False if it is no news.

    Raises:
        ProtocolError: not a message, or not signed by this satellite.
    """
    public = depot.satellite(satellite).identity_public
    message = Message.open(data, public_keys={key_id(public): public})
    if message.satellite != satellite:
        raise WrongSatelliteError(f"message of {message.satellite}, not of {satellite}")
    if message.kind is MessageKind.RECEIPT:
        known = depot.journal.messages(satellite, kind=str(MessageKind.RECEIPT), re=message.re)
        if any(entry.counter > message.counter for entry in known):
            return False  # the satellite has said something else of this update since
    is_new = record_message(depot, satellite, MessageReceived(message=message, handle=object_handle(data), data=data))
    for command in depot.journal.commands(satellite, CommandState.QUEUED):
        if command.handle == message.re:
            depot.journal.set_command_state(command.handle, CommandState.DONE)
    return is_new
