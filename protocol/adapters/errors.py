"""What is wrong with an adapter."""

from protocol.errors import DecodeError


class AdapterError(DecodeError):
    """An adapter that cannot be used, or not with this base.

    Attributes:
        hint: what to do about it, for whoever has it in hand.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
