"""A root on its way to the root keys and back: two files on a stick, and what a person must see before signing.

    DIR/root-N.json       the next root, with the signatures it has so far; whoever signs adds one
    DIR/root-M.json       all roots before it. What is shown is the difference to the one that it follows, and then
                          all that holds under the next one: who wrote the stick may have written both

Nothing here needs the depot, or believes it. A root that the machine with the root keys has known before
(`check_follows`) tells whether what the stick calls the root in force is that.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, Signer, SSlibKey
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError, SerializationError

from groundsegment.errors import InputError, KeyStoreError
from groundsegment.signer.files import check_directory, replace_durably
from groundsegment.signer.key_entry import import_entry, open_signer
from groundsegment.signer.key_file import read_key
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.passphrase import Passphrase
from groundsegment.signer.roots import COMPACT, add_signature, num_signed, role_keyids
from groundsegment.signer.rotation import pending
from protocol.errors import DecodeError, VerificationError
from protocol.roots import TrustedRoot, command_keys, follow_roots, read_root, second_root_role

_NAME = re.compile(r"root-(\d+)\.json")
_SIZE_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceremony:
    """See the module.

    Attributes:
        path: of the next root's file.
        metadata: the next root.
        current: the root that it follows.
        changes: what is different in it, for people.
        holds: who may sign under it, all of it, for people.
        missing: what it lacks, for people.
    """

    path: Path
    metadata: Metadata[Root]
    current: TrustedRoot
    changes: tuple[str, ...]
    holds: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def version(self) -> int:
        """Of the next root."""
        return self.metadata.signed.version


def write_ceremony(store: KeyStore, directory: Path) -> Ceremony:
    """Write the next root, and all before it.

    Raises:
        KeyStoreError: no next root is being made.
    """
    next_ = pending(store)
    if next_ is None or next_.is_in_force:
        raise KeyStoreError("no next root is being made", hint="`skyload keys rotate` or `keys revoke` makes one")
    check_directory(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for version in range(1, next_.version - 1):
        if (older := store.roots_path / f"{version}.json").exists():
            replace_durably(directory / f"root-{version}.json", older.read_bytes(), mode=0o644)
    replace_durably(directory / f"root-{next_.version - 1}.json", store.root(), mode=0o644)
    replace_durably(directory / f"root-{next_.version}.json", next_.data, mode=0o644)
    return read_ceremony(directory)


def read_signed(source: Path) -> tuple[bytes, Path]:
    """Return the newest root of a stick, or a file.

    Raises:
        InputError: there is none.
    """
    path = source
    if source.is_dir():
        found = {int(match[1]): path for path in source.iterdir() if (match := _NAME.fullmatch(path.name))}
        if not found:
            raise InputError(f"{source}: no root-N.json", hint="`skyload keys root prepare` writes it")
        path = found[max(found)]
    try:
        with path.open("rb") as file:
            return file.read(_SIZE_MAX), path
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint="name the stick's directory") from None


def read_ceremony(source: Path) -> Ceremony:
    """Read what was prepared.

    Raises:
        InputError: a file is missing or is no root, or one does not follow the other.
    """
    data, path = read_signed(source)
    hint = "write both files anew with `skyload keys root prepare`"
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        if not isinstance(metadata.signed, Root):
            raise InputError(f"{path}: not a root", hint=hint)
        before = path.with_name(f"root-{metadata.signed.version - 1}.json")
        current = read_root(read_signed(before)[0])
        next_ = read_root(data)
        command_keys(data)  # else whoever is shown the changes would see rubbish
        metadata.signed_bytes  # noqa: B018 - what cannot be written cannot be signed
    except (DeserializationError, SerializationError, DecodeError) as error:
        raise InputError(f"{path}: not a root ({error})", hint=hint) from None
    if next_.version != current.version + 1:
        raise InputError(f"{before}: version {current.version}, not the one before {next_.version}", hint=hint)
    changes, holds = _changes(current, next_), _holds(next_)
    ceremony = Ceremony(path=path, metadata=metadata, current=current, changes=changes, holds=holds, missing=())
    return replace(ceremony, missing=_missing(ceremony))


def check_follows(ceremony: Ceremony, known: Path) -> None:
    """Make sure that the root which the stick says is in force is a known one, or follows it by the roots beside it.

    Raises:
        InputError: the known root cannot be read.
        KeyStoreError: it is not.
    """
    trusted = read_signed(known)[0]
    try:
        version = read_root(trusted).version
    except DecodeError as error:
        raise InputError(
            f"{known}: not a root ({error})", hint="the root.json of a kit, or one signed before"
        ) from None
    between = [ceremony.path.with_name(f"root-{number}.json") for number in range(version + 1, ceremony.version)]
    try:
        leads_to = follow_roots([read_signed(path)[0] for path in between], trusted).data
    except (DecodeError, VerificationError) as error:
        leads_to, why = b"", f": {error}"
    else:
        why = ""
    if leads_to != ceremony.current.data:
        problem = f"root {ceremony.current.version} on the stick does not follow {known}{why}"
        raise KeyStoreError(problem, hint="sign nothing: it may hide what the next root changes; find out who wrote it")


def open_key(key: str, passphrase: Passphrase) -> Signer:
    """Return what signs with a key file, or with a key that a URI names.

    Raises:
        KeyStoreError: it does not open.
    """
    if ":" in key and not Path(key).exists():
        return open_signer(import_entry(key, passphrase), passphrase)
    private = read_key(Path(key), passphrase)
    return CryptoSigner(private, SSlibKey.from_crypto(private.public_key()))


def check_signer(ceremony: Ceremony, signer: Signer) -> None:
    """Make sure that a key has a say.

    Raises:
        KeyStoreError: it is no root key of either root.
    """
    keyid = signer.public_key.keyid
    names = {*_root_keyids(ceremony.current.root), *_root_keyids(ceremony.metadata.signed)}
    if keyid not in names:
        hint = "the root keys are " + ", ".join(sorted(name[:16] for name in names))
        raise KeyStoreError(f"key {keyid[:16]} is a root key of neither root", hint=hint)


def sign_ceremony(ceremony: Ceremony, signer: Signer) -> Ceremony:
    """Add a signature, and write it down. Raises as `check_signer`."""
    check_signer(ceremony, signer)
    add_signature(ceremony.metadata, signer)
    replace_durably(ceremony.path, ceremony.metadata.to_bytes(COMPACT), mode=0o644)
    return replace(ceremony, missing=_missing(ceremony))


def _root_keyids(root: Root) -> list[str]:
    ids = role_keyids(root)
    return [*ids["root"], *ids["root-pq"]]


def _missing(ceremony: Ceremony) -> tuple[str, ...]:
    return tuple(
        f"{threshold - signed} more of the {whose} {role} keys"
        for whose, judge in (("old", ceremony.current.root), ("new", ceremony.metadata.signed))
        for role, (signed, threshold) in num_signed(ceremony.metadata, judge).items()
        if signed < threshold
    )


def _changes(current: TrustedRoot, next_: TrustedRoot) -> tuple[str, ...]:
    """Everything that differs, in words: whoever signs must see it, and must see that it is all."""
    lines = []
    old, new = role_keyids(current.root), role_keyids(next_.root)
    for role in sorted({*old, *new}):
        before, after = old.get(role, []), new.get(role, [])
        lines += [f"{role}: without key {keyid[:16]}" for keyid in before if keyid not in after]
        lines += [f"{role}: with key {keyid[:16]}" for keyid in after if keyid not in before]
    for role, entry in next_.root.roles.items():
        if entry.threshold != current.root.roles[role].threshold:
            lines.append(f"{role}: threshold {entry.threshold} instead of {current.root.roles[role].threshold}")
    if (next_.epoch, next_.floor) != (current.epoch, current.floor):
        lines.append(f"a new epoch, {next_.epoch}: versions start again, with floor {next_.floor}")
    known = set(current.root.unrecognized_fields) | set(next_.root.unrecognized_fields)
    for name in sorted(known - _SHOWN):
        if current.root.unrecognized_fields.get(name) != next_.root.unrecognized_fields.get(name):
            lines.append(f"{name}: {next_.root.unrecognized_fields.get(name)}")
    if next_.signed_at:
        signed = datetime.fromtimestamp(next_.signed_at, UTC).date().isoformat()
        lines.append(f"made on {signed}: whatever expires before that is refused from now on")
    lines.append(f"good until {next_.root.expires.date().isoformat()}")
    return _on_one_line_each(lines)


def _holds(next_: TrustedRoot) -> tuple[str, ...]:
    """Who may sign under a root: what no false root before it can hide."""
    thresholds = {name: role.threshold for name, role in next_.root.roles.items()}
    second = second_root_role(next_.root)
    thresholds |= {"root-pq": second.threshold if second else 0, "command": 1}
    return _on_one_line_each(
        f"{role}: {thresholds[role]} of {', '.join(keyid[:16] for keyid in keyids)}"
        for role, keyids in role_keyids(next_.root).items()
        if keyids
    )


def _on_one_line_each(lines: Iterable[str]) -> tuple[str, ...]:
    """Names of fields and ids in roles may be any text, a line that is not there too."""
    return tuple(ascii(line)[1:-1] for line in lines)


_SHOWN = {"x-skyload-epoch", "x-skyload-signed-at"}
