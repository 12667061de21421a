"""Numbers of contacts: which one comes next, and which ones a satellite looks for. Pure; both ends follow it.

Every contact of a ground station has a number, 0 and up in each generation of the station's key, and frame keys of its
own (`link_keys`). The number is in no frame: a satellite holds the one it heard last, and when a frame's tag fails
under it, tries those that may have come since. Numbers only rise at both ends, so what was recorded in one contact is
void in all later ones.

What may have come since are the next `WINDOW` numbers, and the next `WINDOW` multiples of 64, of 4096, of 2**18 and of
2**24. So a ground that was not heard for many contacts, or that has forgotten how far it was, goes on to a multiple,
and is found. A satellite that has forgotten its own number is at 0, and finds every multiple that is "found from
anywhere". A ground goes half as far as it would be found, lest a satellite that falls back a little finds it no more.
"""

from collections.abc import Iterator

WINDOW = 64
STEPS = (1, 64, 4096, 2**18, 2**24)
_GOING = STEPS[:3]  # those that a ground goes by while it knows where the satellite is
_REACH = WINDOW // 2 * _GOING[-1]
CONTACT_MAX = 2**32 - 1


def later_contacts(current: int, step: int) -> Iterator[int]:
    """The multiples of a step that are looked for from a number on."""
    first = current // step + 1
    return (number * step for number in range(first, first + WINDOW) if number * step <= CONTACT_MAX)


def is_found(contact: int, current: int) -> bool:
    """Whether a satellite at `current` finds a later number."""
    if contact > CONTACT_MAX:
        return False
    return any(contact % step == 0 and 0 < contact // step - current // step <= WINDOW for step in STEPS)


def first_found(number: int, current: int) -> int | None:
    """Return the first number from one on that a satellite finds which is at `current`, or has come nearer since."""
    for step in STEPS:
        following = number if number % step == 0 else skip(number, step)
        if is_found(following, current):
            return following
    return None


def next_contact(number: int, heard: int) -> int:
    """Return the number of the contact after one; the same where the satellite would find none that follows.

    Args:
        number: of the last contact.
        heard: the satellite is known to have been at this one. A ground that never hears it says `number`.
    """
    for step in _GOING:
        following = skip(number, step)
        if is_found(following, heard) and (step == 1 or is_near(following, heard)):
            return following
    return number


def is_near(contact: int, heard: int) -> bool:
    """Whether a satellite finds a contact, heard at one or fallen back from there since."""
    return is_found(contact, heard) and contact - heard <= _REACH


def found_from_anywhere(number: int) -> int:
    """Return the next number, or this one, that a satellite finds which has forgotten all; this one if none is left."""
    for step in STEPS[len(_GOING) :]:
        following = number if number % step == 0 and number else skip(number, step)
        if following // step <= WINDOW:
            return following
    return number


def skip(number: int, step: int) -> int:
    """Return the next multiple of a step after a number."""
    return (number // step + 1) * step
