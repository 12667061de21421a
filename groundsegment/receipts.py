"""Receipts of the depot and of files: found, verified, exported. It prints nothing.

A receipt is kept as the satellite signed it (`depot.mailbox`), so whoever has the satellite's public key can check it
without this depot: `export` writes the signed object and, beside it, that key as 64 hex digits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import ReceivedMessage, Update
from groundsegment.errors import InputError, UnknownError
from protocol.envelope import KEY_ID_SIZE, key_id
from protocol.limits import MESSAGE_SIZE_MAX
from protocol.message import MessageKind
from protocol.objects import PREFIX_SIZE, object_handle
from protocol.receipt import ReceiptRefusedError, ReceiptVerdict, SignedReceipt, open_receipt

KEY_SIZE = 32
_KEY_FILE_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A receipt and what to think of it.

    Attributes:
        data: the object, as it was signed; empty if an old depot did not keep it.
        verdict: on it.
        text: why, if it is not good.
        receipt: what it says; only if it is good.
        received_utc: when this depot heard it; None for a file.
    """

    data: bytes
    verdict: ReceiptVerdict
    text: str = ""
    receipt: SignedReceipt | None = None
    received_utc: datetime | None = None

    @property
    def is_good(self) -> bool:
        """Whether that satellite signed it."""
        return self.verdict is ReceiptVerdict.GOOD


def check(
    data: bytes,
    *,
    public_key: bytes,
    satellite: str | None = None,
    others: dict[bytes, str] | None = None,
    received_utc: datetime | None = None,
) -> Checked:
    """Judge a receipt; see `protocol.receipt.open_receipt`."""
    try:
        receipt = open_receipt(data, public_key=public_key, satellite=satellite, others=others)
    except ReceiptRefusedError as error:
        return Checked(data=data, verdict=error.verdict, text=str(error), received_utc=received_utc)
    return Checked(data=data, verdict=ReceiptVerdict.GOOD, receipt=receipt, received_utc=received_utc)


def read_file(path: Path) -> bytes:
    """Read a receipt's file, no further than a receipt can be long.

    Raises:
        InputError: it is too long.
    """
    with path.open("rb") as file:
        data = file.read(MESSAGE_SIZE_MAX + 1)
    if len(data) > MESSAGE_SIZE_MAX:
        raise InputError(f"{path}: too long for a receipt", hint="give what `skyload receipt export` wrote")
    return data


def read_public_key(path: Path) -> bytes:
    """Read a satellite's public key: 64 hex digits, as `export` writes them.

    Raises:
        InputError: not a key.
    """
    try:
        key = bytes.fromhex(path.read_bytes()[:_KEY_FILE_MAX].decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        hint = "`skyload receipt export --key-out FILE` writes it, in the depot of whoever flies the satellite"
        raise InputError(f"{path}: not a public key (64 hex digits)", hint=hint)
    return key


def key_text(key: bytes) -> str:
    """What a key's file holds."""
    return f"{key.hex()}\n"


def check_in_depot(depot: Depot, data: bytes, *, satellite: str | None = None) -> Checked:
    """Judge a file with the keys of a depot: of the satellite that is named, or of the one whose key it names."""
    keys = {key_id(entry.identity_public): entry for entry in depot.satellites()}
    names = {identity: entry.name for identity, entry in keys.items()}
    if satellite is not None:
        wanted = depot.satellite(satellite)
        return check(data, public_key=wanted.identity_public, satellite=wanted.name, others=names)
    signer = keys.get(data[PREFIX_SIZE : PREFIX_SIZE + KEY_ID_SIZE])
    if signer is None:
        return Checked(data=data, verdict=ReceiptVerdict.FORGED, text="no satellite of this depot has the key it names")
    return check(data, public_key=signer.identity_public, satellite=signer.name, others=names)


def kept(depot: Depot, satellite: str | None = None, *, update: bytes | None = None) -> list[Checked]:
    """The receipts of a depot in the order they came, each verified again."""
    if satellite is not None:
        depot.satellite(satellite)
    found = depot.journal.messages(satellite, kind=str(MessageKind.RECEIPT), re=update)
    return [_check_kept(depot, message) for message in found]


def _check_kept(depot: Depot, message: ReceivedMessage) -> Checked:
    if not message.data:
        return Checked(
            data=b"",
            verdict=ReceiptVerdict.NOT_A_RECEIPT,
            text="an older skyload kept what it says, and not the signature",
            received_utc=message.received_utc,
        )
    public_key = depot.satellite(message.satellite).identity_public
    return check(message.data, public_key=public_key, satellite=message.satellite, received_utc=message.received_utc)


def of_update(depot: Depot, update: Update) -> list[Checked]:
    """All receipts of an update.

    Raises:
        UnknownError: no receipt of it yet.
    """
    found = kept(depot, update.satellite, update=update.handle)
    if not found:
        hint = "it comes when the update has ended and the satellite is heard; `skyload status` shows where it stands"
        raise UnknownError(f"update {update.handle.hex()}: no receipt has come yet", hint=hint)
    return found


def export_name(checked: Checked) -> str:
    """The name of a receipt's file."""
    assert checked.receipt is not None
    receipt = checked.receipt
    return f"receipt-{receipt.satellite}-{receipt.state}-{object_handle(checked.data).hex()}.ska"


def export(found: Sequence[Checked], directory: Path) -> list[Path]:
    """Write good receipts as files, as they were signed.

    Raises:
        InputError: a file of that name says something else.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for checked in found:
        path = directory / export_name(checked)
        if path.exists() and path.read_bytes() != checked.data:
            raise InputError(f"{path}: is there already, and is another one", hint="give another directory")
        path.write_bytes(checked.data)
        paths.append(path)
    return paths


def utc_of(receipt: SignedReceipt) -> datetime | None:
    """When it was signed, if the satellite believed its clock."""
    return None if receipt.utc_s is None else datetime.fromtimestamp(receipt.utc_s, UTC)
