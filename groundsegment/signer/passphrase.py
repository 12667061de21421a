"""Where the passphrase of private keys comes from: a file, the environment, or a person at a terminal.

In this order: a file that was named (`--passphrase-file` of `skyload keys`), SKYLOAD_PASSPHRASE_FILE,
SKYLOAD_PASSPHRASE, a prompt. Asked for once in the life of a process, and only if a key wants it. Nobody to ask is an
error, and no key is left unsealed. The PIN of a token is SKYLOAD_PIN, or asked for.
"""

import os
import sys
from getpass import getpass
from pathlib import Path

from groundsegment.errors import InputError, KeyStoreError

FILE_VARIABLE = "SKYLOAD_PASSPHRASE_FILE"
WORDS_VARIABLE = "SKYLOAD_PASSPHRASE"
PIN_VARIABLE = "SKYLOAD_PIN"
_SIZE_MAX = 1024
_HINT = f"--passphrase-file of `skyload keys`, {FILE_VARIABLE} or {WORDS_VARIABLE} give one where nobody can be asked"
_NEW_HINT = "--new-passphrase-file FILE names it where nobody can be asked; --passphrase-file is the one until now"
_PIN_HINT = f"{PIN_VARIABLE} gives it where nobody can be asked"


class Passphrase:
    """See the module.

    Args:
        file: that was named, None for none.
        seals: whether new keys are sealed even if that means asking somebody.
        asks_only: whether the environment does not count, for it gives another one.
    """

    def __init__(self, file: Path | None = None, *, seals: bool = False, asks_only: bool = False) -> None:
        self._file, self._seals, self._asks_only = file, seals, asks_only
        self._words: bytes | None = None

    def for_new_key(self) -> bytes | None:
        """The passphrase for a key that is made; None if none is given and nobody wants one.

        Raises:
            InputError: a file that was named gives none.
            KeyStoreError: nobody can be asked.
        """
        if self._words is None:
            self._words = self._given()
        if self._words is None and self._seals:
            self._words = _ask("passphrase for new keys: ", twice=True, hint=_NEW_HINT if self._asks_only else _HINT)
        return self._words

    def for_key(self, path: Path) -> bytes:
        """The passphrase for a key that is sealed. Raises as `for_new_key`."""
        if self._words is None:
            self._words = self._given() or _ask(f"passphrase of {path.name}: ")
        return self._words

    def pin(self, uri: str) -> str:
        """The PIN of a token. Raises as `for_new_key`."""
        return os.environ.get(PIN_VARIABLE) or _ask(f"PIN for {uri}: ", hint=_PIN_HINT).decode()

    def forget(self) -> None:
        """It was the wrong one."""
        self._words = None

    def _given(self) -> bytes | None:
        if self._file is not None:
            return _first_line(self._file)
        if self._asks_only:
            return None
        if os.environ.get(FILE_VARIABLE):
            return _first_line(Path(os.environ[FILE_VARIABLE]))
        words = os.environ.get(WORDS_VARIABLE)
        return words.encode() if words else None


PASSPHRASE = Passphrase()
"""For whoever was given no file: environment or prompt, once in this process."""


def _first_line(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            words = file.read(_SIZE_MAX).partition(b"\n")[0].rstrip(b"\r")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint="name a readable file whose first line it is") from None
    if not words:
        raise InputError(f"{path}: its first line is empty", hint="write the passphrase into its first line")
    return words


def _ask(prompt: str, *, twice: bool = False, hint: str = _HINT) -> bytes:
    if not sys.stdin.isatty():
        raise KeyStoreError("a passphrase is needed, and this is not a terminal", hint=hint)
    words = getpass(prompt)
    if not words or (twice and getpass("once more: ") != words):
        raise KeyStoreError("no passphrase, or two different ones", hint="run the same command again")
    return words.encode()
