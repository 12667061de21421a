"""Nonces: what a timestamp may echo to show that it was signed lately, without any clock.

A nonce is the boot count it was made at and eight random bytes. Reports tell the newest; it is replaced after a day of
running or eight starts, whichever is first, and the one before it counts as well: the ground signs
hours after it heard. They are in the trust record, so a restart makes no signed update stale.
"""

import secrets
from collections.abc import Callable
from dataclasses import replace

from onboard.store.facts import NONCES_MAX
from onboard.store.record import RecordStore
from protocol.report import FRESHNESS_SIZE, NO_NONCE

LIFE_S = 86400.0
LIFE_BOOTS = 8
_COUNT_SIZE = 4


class Nonces:
    """See the module.

    Args:
        store: the trust record, loaded.
        make: makes so many unpredictable bytes.
    """

    def __init__(self, store: RecordStore, make: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._store, self._make = store, make

    @property
    def told(self) -> bytes:
        """The newest, for reports; all zero if there is none."""
        return next(iter(self._store.record.nonces), NO_NONCE)

    @property
    def known(self) -> tuple[bytes, ...]:
        """Those that count."""
        return self._store.record.nonces

    def begin(self) -> None:
        """A life begins: make one if there is none, or if it has seen too many starts."""
        record = self._store.record
        made_at = int.from_bytes(self.told[:_COUNT_SIZE], "big")
        if not record.nonces or record.boot_count >= made_at + LIFE_BOOTS:
            self.renew()

    def renew(self) -> None:
        """Make a new one.

        Raises:
            StoreError: the trust record cannot be written.
        """
        record = self._store.record
        count = (record.boot_count % 2 ** (8 * _COUNT_SIZE)).to_bytes(_COUNT_SIZE, "big")
        nonce = count + self._make(FRESHNESS_SIZE - _COUNT_SIZE)
        self._store.store(replace(record, nonces=(nonce, *record.nonces)[:NONCES_MAX]))
