"""What can go wrong on the ground, by whose fault, with the exit code a script sees.

    GroundError                 1   never raised itself
    ├── InputError              3   a path, a model directory, a plan or a profile is not usable
    ├── KeyStoreError           4   a key is missing, wrong or refuses to sign
    ├── UnknownError            5   no such satellite, update, release or contact in the depot
    ├── LinkError               6   the link or the satellite did not answer in time
    ├── BusyError               7   another process holds what this one needs
    ├── DiskError               8   no space, or the disk refused
    └── TwinError               9   the twin could not rebuild or answer; nothing was signed

Exit code 2 is usage (typer), 130 an interrupt; 1 is also what `uplink`, `ask` and `revert` say when the satellite said
no. Every error carries a hint: the next thing to do.
"""


class GroundError(Exception):
    """An error a person can act on.

    Attributes:
        hint: one sentence that says what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InputError(GroundError):
    """What the operator gave is not usable."""

    exit_code = 3


class KeyStoreError(GroundError):
    """A key is missing, wrong, or refuses to sign."""

    exit_code = 4


class UnknownError(GroundError):
    """The depot has no such thing."""

    exit_code = 5


class LinkError(GroundError):
    """The link or the satellite did not answer in time."""

    exit_code = 6


class BusyError(GroundError):
    """Another process holds what this one needs."""

    exit_code = 7


class DiskError(GroundError):
    """No space left, or the disk refused."""

    exit_code = 8


class TwinError(GroundError):
    """The twin could not rebuild the release or answer its prompts."""

    exit_code = 9
