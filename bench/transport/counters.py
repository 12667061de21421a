"""What iptables counted on a link, read from `iptables-save -c`: rules are known by their comments.

Counts are IP packets and IP bytes: every header above Ethernet is in them. In each direction a packet meets `sent` at
the sender (its OUTPUT chain, before anything can be lost), then at the receiver `arriving`, one of the drops, or
`passed`. What met none of the drops by chance and yet did not pass was sent while the link was dark.
"""

import re
from dataclasses import dataclass

_RULE = re.compile(r"^\[(\d+):(\d+)\] -A \S+ .*--comment \"?([\w-]+)\"?")
FRAGMENT_BYTES = 20  # one more IP header; iptables sees such a packet before the kernel cuts it in two
LARGE_BYTES = 1000  # from here on a packet carries data; reports, acknowledgements and metadata are smaller


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Packets and IP bytes."""

    packets: int = 0
    size_bytes: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(packets=self.packets + other.packets, size_bytes=self.size_bytes + other.size_bytes)

    def __sub__(self, other: "Count") -> "Count":
        return Count(packets=self.packets - other.packets, size_bytes=self.size_bytes - other.size_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionCounts:
    """One direction of a link.

    Attributes:
        sent: what its sender put on the link, counted before any loss.
        dark: of it, what met a link that was taken down.
        large: data packets among what met a link that was up.
        large_passed: of them, those that were not lost.
    """

    sent: Count
    dark: Count
    large: Count
    large_passed: Count

    @property
    def used(self) -> Count:
        """What was sent while the link was up."""
        return self.sent - self.dark

    @property
    def loss(self) -> float | None:
        """The share of data packets that the link took while it was up."""
        sent = self.large.packets
        return 1 - self.large_passed.packets / sent if sent else None


def parse_counts(text: str) -> dict[str, Count]:
    """Add up the counters of `iptables-save -c` by comment."""
    found: dict[str, Count] = {}
    for line in text.splitlines():
        match = _RULE.match(line)
        if match:
            packets, size_bytes, name = int(match[1]), int(match[2]), match[3]
            found[name] = found.get(name, Count()) + Count(packets=packets, size_bytes=size_bytes)
    return found


def direction_counts(sender: dict[str, Count], receiver: dict[str, Count]) -> DirectionCounts:
    """Put the two ends of one direction together."""
    in_two, lit = sender["in-two"].packets, receiver["lit"]
    return DirectionCounts(
        sent=sender["sent"] + Count(packets=in_two, size_bytes=FRAGMENT_BYTES * in_two),
        dark=receiver["arriving"] - lit,
        large=receiver["lit-large"],
        large_passed=receiver["passed-large"],
    )
