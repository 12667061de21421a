"""What people call an update or a release: first digits, a name, or `newest`; one way to find it for all commands.

`skyload status` shows handles, names and digests; what it shows may be typed. What could mean several is an error that
lists them. It reads the depot and prints nothing.
"""

from collections.abc import Callable, Sequence
from itertools import islice

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import Update
from groundsegment.errors import InputError, UnknownError
from protocol.message import MessageKind

NEWEST = "newest"
_LISTED_MAX = 6
_DIGEST_DIGITS = 64
_STATUS_HINT = "`skyload status` lists the updates"


def find_update(
    depot: Depot, text: str, *, satellite: str | None = None, is_wanted: Callable[[Update], bool] = lambda update: True
) -> Update:
    """Return the one update that is meant.

    Args:
        depot: knows the updates.
        text: first digits of its handle, the name of its release, or NEWEST.
        satellite: whom it is for; None for any.
        is_wanted: what NEWEST chooses from; of several with one name, too, those that are wanted are meant.

    Raises:
        UnknownError: none, several, or one for another satellite.
        InputError: the newest of no satellite.
    """
    known = depot.updates(None if satellite is None else depot.satellite(satellite).name)
    if text == NEWEST:
        return _newest(known, satellite, is_wanted)
    found = _meant(known, text, is_wanted)
    if len(found) == 1:
        return found[0]
    if found:
        raise _several(text, "updates", [_words(update) for update in found])
    others = _meant(depot.updates(), text, is_wanted)
    if satellite is not None and len(others) == 1:
        other = others[0]
        raise UnknownError(f"update {other.handle.hex()} is for {other.satellite}", hint=f"--for {other.satellite}")
    raise UnknownError(f"{text!r}: no such update", hint=_STATUS_HINT)


def find_release(depot: Depot, text: str) -> bytes:
    """Return the digest of the one release that is meant, of all that updates were staged to.

    Args:
        depot: knows the updates.
        text: first digits of the digest, or its name.

    Raises:
        UnknownError: none, or several.
    """
    digits = text.lower()
    found = {
        update.release_digest: f"{update.release_digest.hex()[:16]} {update.release_name}"
        for update in depot.updates()
        if text and (update.release_name == text or update.release_digest.hex().startswith(digits))
    }
    if len(found) == 1:
        return next(iter(found))
    if found:
        raise _several(text, "releases", list(found.values()))
    raise UnknownError(f"{text!r}: no such release", hint="`skyload status` shows digests and names of all updates")


def find_release_on_board(depot: Depot, text: str, *, satellite: str) -> bytes:
    """Return the digest of the one release that is meant, of all that this satellite may hold.

    One that was put on board before launch is known by what the satellite signed of it, and has no name here.

    Args:
        depot: knows the updates, the releases and the satellite's receipts.
        text: all 64 digits of a digest, which are believed; the first of them, or its name.
        satellite: who may hold it.

    Raises:
        UnknownError: none, or several.
    """
    digits = text.lower()
    if len(digits) == _DIGEST_DIGITS and not set(digits) - set("0123456789abcdef"):
        return bytes.fromhex(digits)
    names = _releases_on_board(depot, satellite)
    found = [digest for digest, called in names.items() if text and (text in called or digest.startswith(digits))]
    if len(found) == 1:
        return bytes.fromhex(found[0])
    candidates = [" ".join((digest[:16], *sorted(called))) for digest, called in names.items()]
    if found:
        raise _several(text, "releases", [line for line in candidates if line[:16] in {one[:16] for one in found}])
    listed = f"{satellite} may hold {'; '.join(candidates[:_LISTED_MAX])}; or " if candidates else ""
    raise UnknownError(f"{text!r}: no such release", hint=f"{listed}give all {_DIGEST_DIGITS} digits")


def _releases_on_board(depot: Depot, satellite: str) -> dict[str, set[str]]:
    """Digests, in hex, and what they are called: of updates to it, and of what its receipts speak of."""
    names: dict[str, set[str]] = {}
    for update in depot.updates(satellite):
        names.setdefault(update.release_digest.hex(), set()).add(update.release_name)
    for message in depot.journal.messages(satellite, kind=str(MessageKind.RECEIPT)):
        for digest in (message.body.get("release"), message.body.get("serving")):
            if isinstance(digest, str) and len(digest) == _DIGEST_DIGITS:
                names.setdefault(digest.lower(), set())
    for release in depot.releases():
        if (called := names.get(release.digest.hex())) is not None and not called:
            called.add(release.name)
    return names


def _newest(known: Sequence[Update], satellite: str | None, is_wanted: Callable[[Update], bool]) -> Update:
    if satellite is None:
        raise InputError("newest of which satellite?", hint="add --for SATELLITE")
    wanted = [update for update in known if is_wanted(update)]
    if not wanted:
        raise UnknownError(
            f"{satellite} has no update that it could still take",
            hint="`skyload stage` makes one; any that `skyload status` shows can be named by its first digits",
        )
    return max(wanted, key=lambda update: update.sequence)


def _meant(known: Sequence[Update], text: str, is_wanted: Callable[[Update], bool]) -> list[Update]:
    named = [update for update in known if text and update.release_name == text]
    named = [update for update in named if is_wanted(update)] or named
    numbered = [update for update in known if text and update.handle.hex().startswith(text.lower())]
    return list({update.handle: update for update in (*named, *numbered)}.values())


def _several(text: str, what: str, candidates: Sequence[str]) -> UnknownError:
    more = "" if len(candidates) <= _LISTED_MAX else "; ..."
    hint = f"give the first digits of one: {'; '.join(islice(candidates, _LISTED_MAX))}{more}"
    return UnknownError(f"{text!r}: {len(candidates)} {what} could be meant", hint=hint)


def _words(update: Update) -> str:
    return f"{update.handle.hex()} {update.release_name} for {update.satellite}, {update.state}"
