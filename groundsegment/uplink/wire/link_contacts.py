"""The contacts of one station's link: a number for each, durable before its first frame; its keys for the downlink.

Driven by whoever sends: `begin` when a contact begins, `look` a few times a second. All processes of one depot that use
the same link share a number, so that none makes the frames of another void: the uplink raises it, a command that flies
beside it follows. Rules and reasons: `protocol.contacts`.

A number may be behind that of the satellite (a depot restored from a backup), or too far ahead of it (many contacts
that nobody heard). Where answers are expected and none comes, it goes on by itself, to numbers that the satellite looks
for. A link on which nobody ever answers counts blind.
"""

import contextlib

from groundsegment.depot.depot import Depot
from groundsegment.downlink import Downlink
from groundsegment.errors import InputError, KeyStoreError
from protocol.contacts import CONTACT_MAX, STEPS, found_from_anywhere, is_found, is_near, next_contact, skip

SILENCE_S = 15.0  # without an answer, then the satellite may be ahead of us
_LONG_SILENCE_S = 60.0  # the same, where it answered in the contact before
_SHORT_SKIPS, _LONG_SKIPS = 5, 11  # by 64, then by 4096, then to where a satellite finds us that has forgotten all
_SKIPS_MAX = _LONG_SKIPS + 1  # in one contact
_GAP_S = 600.0  # without an answer after there was one: that contact is over, whatever the plan says


class LinkContacts:
    """See the module.

    Args:
        depot: of home or of the station.
        satellite: whose link.
        station: whose.
        downlink: gets the keys.
        is_answered: whether something may ever come down.
    """

    def __init__(self, depot: Depot, satellite: str, station: int, downlink: Downlink, *, is_answered: bool) -> None:
        self._depot, self._satellite, self._station, self._downlink = depot, satellite, station, downlink
        self._is_answered = is_answered
        self._num_heard = 0  # frames, before this contact
        self._may_be_behind, self._num_skips, self._since_s = True, 0, 0.0
        self._heard_s: float | None = None
        self._number = depot.contact(satellite, station)
        with contextlib.suppress(KeyStoreError):  # of the last contact: not needed any more
            self._use(self._number)

    @property
    def number(self) -> int:
        """Of the contact."""
        return self._number

    def begin(self, now: float, *, is_shared: bool = False) -> None:
        """A contact begins; with `is_shared`, another process may have begun it.

        Raises:
            BusyError: somebody holds the depot: not a frame before it is written down.
            KeyStoreError: there is no key for it.
        """
        self._may_be_behind = self._heard_s is None
        self.keep_heard()
        last = self._depot.contact(self._satellite, self._station)
        if is_shared and last:
            self._use(last)
        else:
            known = self._depot.contact_heard(self._satellite, self._station) if self._is_answered else last
            self._raise(last, next_contact(last, known), known, is_needed=last == known)
        self._since_s, self._num_skips, self._heard_s = now, 0, None
        self._num_heard = self._downlink.statistics().frames_received

    def look(self, now: float) -> bool:
        """Follow another process, and go on where nobody answers; returns whether the number is another now.

        Raises:
            BusyError: somebody holds the depot.
            KeyStoreError: there is no key for the next one.
        """
        before = self._number
        last = self._depot.contact(self._satellite, self._station)
        if last > before:
            self._use(last)
            self._since_s = now
        num_heard = self._downlink.statistics().frames_received
        if num_heard > self._num_heard:
            self._num_heard, self._heard_s, self._may_be_behind = num_heard, now, False
            self.keep_heard()
        elif self._heard_s is not None and now - self._heard_s > _GAP_S:
            self.begin(now)
        elif self._is_lost(now):
            self._skip(now)
        return self._number != before

    def keep_heard(self) -> None:
        """Write down how far the satellite is known to be."""
        heard = self._downlink.heard_contact
        if heard > self._depot.contact_heard(self._satellite, self._station):
            self._depot.note_contact_heard(self._satellite, self._station, heard)

    def _is_lost(self, now: float) -> bool:
        """Nobody answers. One that answered in the last contact is out of sight, or fell back a little."""
        num_max = _SKIPS_MAX if self._may_be_behind else 2
        may_skip = self._is_answered and self._heard_s is None and self._num_skips < num_max
        return may_skip and now - self._since_s > (SILENCE_S if self._may_be_behind else _LONG_SILENCE_S)

    def _skip(self, now: float) -> None:
        heard = self._depot.contact_heard(self._satellite, self._station)
        num_short = _SHORT_SKIPS if self._may_be_behind else 1
        if self._num_skips < _LONG_SKIPS:
            following = skip(self._number, STEPS[1] if self._num_skips < num_short else STEPS[2])
            is_good = is_near(following, heard)
        else:
            following = found_from_anywhere(self._number)
            is_good = is_found(following, heard)
        self._since_s, self._num_skips = now, self._num_skips + 1
        if is_good:
            self._raise(self._number, following, heard, is_needed=False)

    def _raise(self, last: int, number: int, heard: int, *, is_needed: bool) -> None:
        """Go on from a number to a later one; or stay, where the satellite would not find it or no key is here."""
        try:
            number = self._depot.usable_contact(self._satellite, self._station, number, heard)
        except KeyStoreError:
            if is_needed or last == 0:
                raise
            number = last
        if number <= last:
            self._use(last)
            return
        self._depot.contact_key(self._satellite, self._station, number)  # without its key no number is used up
        self._use(self._depot.raise_contact(self._satellite, self._station, number))

    def _use(self, number: int) -> None:
        key = self._depot.contact_key(self._satellite, self._station, number)
        self._number = number
        self._downlink.set_contact(number, key)


def set_contact_by_hand(depot: Depot, satellite: str, station: int, number: int) -> None:
    """Let the next contact have a number.

    Raises:
        InputError: that one was used, or is none.
    """
    depot.satellite(satellite)
    last = depot.contact(satellite, station)
    if not last < number <= CONTACT_MAX:
        raise InputError(
            f"--contact {number}: contact {last} was the last one, and numbers only rise",
            hint=f"give one above {last}; {found_from_anywhere(last + 1)} is found wherever the satellite is",
        )
    if not is_found(number, last) and not is_found(number, 0):
        better = found_from_anywhere(number)
        if not is_found(better, 0):  # there is none so far up
            better = found_from_anywhere(last + 1)
        raise InputError(
            f"--contact {number}: a satellite that is at contact {last} or below would never find it",
            hint=f"{better} is found wherever the satellite is",
        )
    if number - 1 > last:
        depot.raise_contact(satellite, station, number - 1)
