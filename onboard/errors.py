"""What can go wrong on board, by whose fault, with the exit code a script sees.

    OnboardError                1   never raised itself
    ├── ConfigError             3   the configuration or the kit is not usable: key, line
    ├── StoreError              4   never raised itself
    │   ├── StoreFullError          no space: drop what is not needed, or wait; what is durable stays
    │   ├── StoreCorruptError       what was read is not what was written: name, expected, got
    │   └── StoreFailedError        a write or a sync failed: fail-stop, this handle is not used again
    ├── InstallError            5   an update cannot go on: reason (`protocol.report.Reason`)
    │   ├── CanaryFailedError       the model does not answer as signed
    │   └── BundleSpoiltError       a bundle is no longer what was received and checked: it must come again
    ├── UnknownError            6   no such release or object on board
    └── BusyError               7   another daemon holds the state directory, or nobody answers there

Exit code 2 is usage (typer), 130 an interrupt. Every error carries a hint: the next thing to do. What the link does
to frames is weather and only counted; what is wrong with an object is `protocol.errors`; serving has its own errors
(`onboard.inference.errors`).
"""

from protocol.report import Reason


class OnboardError(Exception):
    """An error a person, or the installer's table, can act on.

    Attributes:
        hint: one sentence that says what to do next.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(OnboardError):
    """The configuration, or a file of the kit that it names, is not usable.

    Attributes:
        key: dotted, "link.listen"; empty if the file as a whole is meant.
        line: in the file, from 1; 0 if there is none.
    """

    exit_code = 3

    def __init__(self, message: str, *, key: str = "", line: int = 0, hint: str = "") -> None:
        where = f"line {line}: " if line else ""
        super().__init__(f"{where}{key}: {message}" if key else f"{where}{message}", hint=hint)
        self.key, self.line = key, line


class StoreError(OnboardError):
    """The disk did not do what was asked."""

    exit_code = 4


class StoreFullError(StoreError):
    """No space left. Nothing that was durable is lost; the same call may succeed later."""


class StoreCorruptError(StoreError):
    """What was read is not what was written.

    Attributes:
        name: of the file.
        expected: what it should be, in words.
        got: what it is.
    """

    def __init__(self, name: str, *, expected: str, got: str, hint: str = "") -> None:
        super().__init__(f"{name}: expected {expected}, got {got}", hint=hint)
        self.name, self.expected, self.got = name, expected, got


class StoreFailedError(StoreError):
    """A write or a sync failed. What was not durable before counts as not written; do not use the handle again."""


class InstallError(OnboardError):
    """An update cannot go on.

    Attributes:
        reason: what the report says.
    """

    exit_code = 5

    def __init__(self, message: str, *, reason: Reason, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class CanaryFailedError(InstallError):
    """The model does not answer as the manifest says it must."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, reason=Reason.CANARY_FAILED, hint=hint)


class BundleSpoiltError(InstallError):
    """A bundle's file is not what its digest says, though it was when it had been received: our medium's fault."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=Reason.DISK_FAILED, hint="it is thrown away and must be sent again")


class UnknownError(OnboardError):
    """There is no such release or object on board."""

    exit_code = 6


class BusyError(OnboardError):
    """Another daemon holds the state directory, or the one that should answers nothing."""

    exit_code = 7
