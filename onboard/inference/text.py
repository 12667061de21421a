"""From token ids to text a client may see: whole UTF-8 only, nothing that a stop string could still claim.

Driven by `push` for each token and one `finish`. Pure; the tokenizer comes in as a function. The promise: the
pieces joined are the decoded answer up to the first stop string, however tokens cut characters or stops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
_MAX_WAITING_TOKENS = 8
"""A character has at most four bytes, so tokens that are still not text after this many never will be."""


class Detokenizer:
    """Token ids in, text that is whole UTF-8 out.

    A token may hold part of a character, and how a token reads may depend on the one before it (a leading
    space). So the last readable tokens are decoded again with each new one, and only the difference counts.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []
        self._waiting: list[int] = []

    def push(self, token: int) -> str:
        """Take one token; return the text that became certain."""
        self._waiting.append(token)
        return self._take(force=len(self._waiting) > _MAX_WAITING_TOKENS)

    def finish(self) -> str:
        """Return what is left, broken characters as U+FFFD."""
        return self._take(force=True) if self._waiting else ""

    def _take(self, *, force: bool) -> str:
        before = self._decode(self._context)
        text = self._decode([*self._context, *self._waiting])
        if text.endswith(_REPLACEMENT) and not force:
            return ""
        self._context, self._waiting = self._waiting, []
        return text[len(before) :]


class StopFinder:
    """Text in, text out up to the first stop string; holds back what could be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Take more text; return what is certainly before any stop string. Sets `found` at the first one."""
        if self.found:
            return ""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            # The one that is complete first, as if the text had come letter by letter.
            self.found = True
            certain, self._held = self._held[: min(found)[1]], ""
            return certain
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def finish(self) -> str:
        """Return what was held back: no stop string came of it."""
        certain, self._held = self._held, ""
        return certain


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop` without being all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
