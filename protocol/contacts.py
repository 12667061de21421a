"""Numbers of contacts: which one comes next, and which ones a satellite looks for. Pure; both ends follow it.

Every contact of a ground station has a number, 0 and up in each generation of the station's key, and frame keys of its
own (`link_keys`). The number is in no frame: a satellite holds the one it heard last, and when a frame's tag fails
under it, tries those that may have come since. Numbers only rise at both ends, so what was recorded in one contact is
void in all later ones.

What may have come since are the next `WINDOW` numbers, the next `WINDOW` multiples of 64, and of 4096. So a ground that
was not heard for many contacts, or that has forgotten how far it was, goes on to a multiple, and is found: as far as
262,144 contacts ahead, with 192 tries.
"""

from collections.abc import Iterator

WINDOW = 64
STEPS = (1, 64, 4096)
CONTACT_MAX = 2**32 - 1


def later_contacts(current: int, step: int) -> Iterator[int]:
    """The multiples of a step that are looked for from a number on."""
    first = current // step + 1
    return (number * step for number in range(first, first + WINDOW) if number * step <= CONTACT_MAX)


def is_found(contact: int, current: int) -> bool:
    """Whether a satellite at `current` finds a later number."""
    return any(contact % step == 0 and 0 < contact // step - current // step <= WINDOW for step in STEPS)


def next_contact(number: int, heard: int) -> int:
    """Return the number of the contact after one; the same where the satellite would find none that follows.

    Args:
        number: of the last contact.
        heard: the satellite is known to have been at this one. A ground that never hears it says `number`.
    """
    for step in STEPS:
        following = skip(number, step)
        if is_found(following, heard):
            return following
    return number


def skip(number: int, step: int) -> int:
    """Return the next multiple of a step after a number."""
    return (number // step + 1) * step
