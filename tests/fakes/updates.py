"""The ground, faked: TUF roles, keys, tiny bundles, signed updates and commands, all in memory and reproducible.

    ground = FakeGround()
    update = ground.make_update({"config.json": b"{}", "model.bin": b"..."}, base=old_files)
    update.metadata, update.bundles          # objects to fly
    ground.command(Operation.REVERT, {"digest": None})
    ground.write_kit(directory, ...)         # satellite.toml and everything it names

Uses the protocol package only, so both sides' tests may use it. Every signature is real; keys come from a seed.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from protocol.arming import arm_args
from protocol.bundle import BundleHeader
from protocol.canary import Canary
from protocol.codec import plain
from protocol.codec.kinds import TransformKind
from protocol.codec.payload import NO_BASE, Extent, Piece, TensorPayload
from protocol.command import Command, Operation
from protocol.link_keys import wrap_release_key
from protocol.manifest import BundleEntry, FileEntry, Manifest, bundle_digest, release_digest, sized
from protocol.metadata import MetadataBundle
from protocol.objects import object_handle
from protocol.recipient_keys import public_key_of
from protocol.sealed_metadata import seal_metadata
from protocol.segment import TAG_SIZE, SegmentCipher, SegmentCodec, SegmentRow, subtract_bytes
from protocol.trust import COMMAND_FIELD, target_path

EXPIRES = datetime(2100, 1, 1, tzinfo=UTC)
ROLES = ("root", "timestamp", "snapshot", "targets")
SERIALIZER = JSONSerializer(compact=True)


@dataclass(frozen=True, kw_only=True)
class FakeUpdate:
    """What flies for one update, and what should come out."""

    manifest: Manifest
    metadata: bytes
    bundles: tuple[bytes, ...]
    files: dict[str, bytes]

    @property
    def handle(self) -> bytes:
        return object_handle(self.metadata)

    @property
    def digest(self) -> bytes:
        return self.manifest.release_digest


@dataclass
class FakeGround:
    """Keys and counters of a ground that knows one satellite."""

    satellite: str = "SAT-1"
    seed: bytes = b"fake ground"
    counter: int = 0
    versions: int = 0
    root_version: int = 1
    is_sealed: bool = False
    expires: datetime = EXPIRES
    signers: dict[str, CryptoSigner] = field(init=False)

    def __post_init__(self) -> None:
        self.signers = {role: CryptoSigner(self._ed25519(role)) for role in (*ROLES, "command")}
        self.link_key = self._secret("link")
        self.release_private_key = self._secret("release key of the satellite")
        self.identity_private_key = self._secret("identity of the satellite")

    @property
    def release_public_key(self) -> bytes:
        return public_key_of(self.release_private_key)

    @property
    def identity_public_key(self) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.identity_private_key).public_key().public_bytes_raw()

    @property
    def root(self) -> bytes:
        return self.root_metadata().to_bytes(SERIALIZER)

    def root_metadata(self) -> Metadata:
        root = Root(version=self.root_version, expires=self.expires, consistent_snapshot=True)
        for role in ROLES:
            root.add_key(self.signers[role].public_key, role)
        command_key = self.signers["command"].public_key
        root.keys[command_key.keyid] = command_key
        root.unrecognized_fields[COMMAND_FIELD] = {"keyids": [command_key.keyid], "threshold": 1}
        return self._signed(root, "root")

    def make_update(
        self,
        files: dict[str, bytes],
        *,
        base: dict[str, bytes] | None = None,
        sequence: int | None = None,
        version: int | None = None,
        satellites: tuple[str, ...] | None = None,
        name: str = "tiny",
        floor: int = 0,
        canary: Canary | None = None,
        segment_size: int = 4096,
        bundle_size: int = 16384,
        memory_bytes: int = 0,
        signed_files: dict[str, bytes] | None = None,
        beside: bool = False,
        hold: bool = False,
        tensors: bool = False,
    ) -> FakeUpdate:
        """Cut, sign and wrap an update.

        `signed_files` signs other bytes than are sent, as a bad packer would; `tensors` makes TENSOR segments of all.
        """
        self.versions += 1
        version = version if version is not None else self.versions
        sequence = sequence if sequence is not None else version
        entries = file_entries(signed_files if signed_files is not None else files)
        digest = release_digest(entries)
        key = self._secret(f"release key {sequence} {version}")
        bundles = make_bundles(
            files,
            base,
            digest=digest,
            key=key,
            segment_size=segment_size,
            bundle_size=bundle_size,
            tensors=tensors,
        )
        satellites = satellites if satellites is not None else (self.satellite,)
        manifest = Manifest(
            sequence=sequence,
            satellites=satellites,
            release_name=name,
            release_digest=digest,
            files=sized(entries),
            base=None if base is None else release_digest(file_entries(base)),
            bundles=tuple(
                BundleEntry(
                    size_bytes=len(data),
                    digest=bundle_digest(hashlib.sha256(data).digest()),
                    num_segments=len(BundleHeader.decode(data).rows),
                )
                for data in bundles
            ),
            keys={
                satellite: wrap_release_key(key, self.release_public_key, satellite=satellite, release_digest=digest)
                for satellite in satellites
            },
            floor=floor,
            beside=beside,
            hold=hold,
            memory_bytes=memory_bytes,
            canary=canary or Canary(),
        )
        return FakeUpdate(
            manifest=manifest, metadata=self.sign_manifest(manifest, version), bundles=bundles, files=dict(files)
        )

    def sign_again(self, update: FakeUpdate, **changes) -> FakeUpdate:
        """Return an update with the same bundles under new metadata, its manifest changed where told."""
        self.versions += 1
        manifest = replace(update.manifest, sequence=self.versions, **changes)
        return replace(update, manifest=manifest, metadata=self.sign_manifest(manifest, self.versions))

    def sign_manifest(self, manifest: Manifest, version: int, *, roots: tuple[bytes, ...] = ()) -> bytes:
        """Return the metadata object of a manifest."""
        data = manifest.encode()
        path = target_path(manifest.sequence)
        target = TargetFile(length=len(data), hashes={"sha256": hashlib.sha256(data).hexdigest()}, path=path)
        targets = self._bytes(Targets(version=version, expires=self.expires, targets={path: target}), "targets")
        meta = {"targets.json": MetaFile.from_data(version, targets, ["sha256"])}
        snapshot = self._bytes(Snapshot(version=version, expires=self.expires, meta=meta), "snapshot")
        timestamp = Timestamp(
            version=version, expires=self.expires, snapshot_meta=MetaFile.from_data(version, snapshot, ["sha256"])
        )
        metadata = MetadataBundle(
            roots=roots,
            timestamp=self._bytes(timestamp, "timestamp"),
            snapshot=snapshot,
            targets=targets,
            manifest=data,
        ).encode()
        if not self.is_sealed:
            return metadata
        return seal_metadata(metadata, self.release_public_key, satellite=manifest.satellites[0])

    def command(
        self,
        operation: Operation,
        args: dict,
        *,
        counter: int | None = None,
        satellite: str = "",
        arm: int = 0,
        nonce: bytes = b"",
    ) -> bytes:
        """Return a signed command object."""
        self.counter = counter if counter is not None else self.counter + 1
        private = self._ed25519("command")
        return Command(
            satellite=satellite or self.satellite,
            counter=self.counter,
            operation=operation,
            args=args,
            arm=arm,
            nonce=nonce,
        ).seal(public_key=private.public_key().public_bytes_raw(), sign=private.sign)

    def arm(self, operation: Operation, args: dict, *, counter: int | None = None) -> bytes:
        """Return the command that arms a dangerous one; its counter is `counter` of the ground then."""
        return self.command(Operation.ARM, arm_args(self.satellite, operation, args), counter=counter)

    def write_kit(
        self,
        directory: Path,
        *,
        link: str = "127.0.0.1:7003",
        endpoint: str = "127.0.0.1:8080",
        command: list[str] | None = None,
        extra: str = "",
    ) -> Path:
        """Write what `skyload keys init` would give the satellite; returns the path of satellite.toml."""
        (directory / "keys").mkdir(parents=True, exist_ok=True)
        (directory / "root.json").write_bytes(self.root)
        secrets = {
            "link": self.link_key,
            "release": self.release_private_key,
            "identity": self.identity_private_key,
        }
        for name, secret in secrets.items():
            path = directory / "keys" / f"{name}.key"
            path.write_text(secret.hex() + "\n")
            path.chmod(0o600)
        path = directory / "satellite.toml"
        path.write_text(
            f"""[satellite]
name = "{self.satellite}"
state_dir = "state"

[link]
listen = "{link}"
link_key_file = "keys/link.key"

[trust]
root_file = "root.json"
release_key_file = "keys/release.key"
identity_key_file = "keys/identity.key"

[endpoint]
listen = "{endpoint}"

[engine]
kind = "transformers"
command = {json.dumps(command or [])}
{extra}"""
        )
        return path

    def _bytes(self, signed, role: str) -> bytes:
        return self._signed(signed, role).to_bytes(SERIALIZER)

    def _signed(self, signed, role: str) -> Metadata:
        metadata = Metadata(signed)
        metadata.sign(self.signers[role])
        return metadata

    def _ed25519(self, role: str) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self._secret(role))

    def _secret(self, what: str) -> bytes:
        return hashlib.sha256(self.seed + b"\0" + what.encode()).digest()


def file_entries(files: dict[str, bytes]) -> tuple[FileEntry, ...]:
    """The manifest's file list of a release in memory."""
    return tuple(
        FileEntry(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).digest())
        for name, data in sorted(files.items())
    )


def digest_of(files: dict[str, bytes]) -> bytes:
    """The release digest of files in memory."""
    return release_digest(file_entries(files))


def make_bundles(
    files: dict[str, bytes],
    base: dict[str, bytes] | None,
    *,
    digest: bytes,
    key: bytes,
    segment_size: int = 4096,
    bundle_size: int = 16384,
    tensors: bool = False,
) -> tuple[bytes, ...]:
    """Cut files into segments (COPY and DELTA where the base has a file of that name), and those into bundles."""
    make = _tensor_segments if tensors else _segments
    segments = list(make(files, base or {}, digest=digest, key=key, segment_size=segment_size))
    bundles, rows, payloads = [], [], []
    for row, stored in segments:
        if rows and sum(map(len, payloads)) + len(stored) > bundle_size:
            bundles.append((rows, payloads))
            rows, payloads = [], []
        rows.append(row)
        payloads.append(stored)
    if rows:
        bundles.append((rows, payloads))
    return tuple(
        BundleHeader(release_digest=digest, number=number, rows=tuple(rows)).encode() + b"".join(payloads)
        for number, (rows, payloads) in enumerate(bundles)
    )


def _segments(files, base, *, digest, key, segment_size):
    cipher = SegmentCipher(key, digest)
    base_names = sorted(base)
    number = 0
    for index, (name, data) in enumerate(sorted(files.items())):
        old_data = base.get(name, b"")
        for offset in range(0, len(data), segment_size):
            new = data[offset : offset + segment_size]
            old = old_data[offset : offset + len(new)]
            codec, payload = _encode(new, old)
            row = SegmentRow(
                number=number,
                codec=codec,
                file=index,
                offset=offset,
                raw_size=len(new),
                stored_size=0 if codec is SegmentCodec.COPY else len(payload) + TAG_SIZE,
                **(
                    {"base_file": base_names.index(name), "base_offset": offset}
                    if codec in {SegmentCodec.COPY, SegmentCodec.DELTA_ZSTD}
                    else {}
                ),
            )
            yield row, b"" if codec is SegmentCodec.COPY else cipher.seal(row, payload)
            number += 1


def _tensor_segments(files, base, *, digest, key, segment_size):
    """Every segment a tensor: a first piece of two runs with a gap, the run in the gap a piece of its own."""
    cipher = SegmentCipher(key, digest)
    base_names = sorted(base)
    number = 0
    for index, (name, data) in enumerate(sorted(files.items())):
        for offset in range(0, len(data), segment_size):
            end = min(offset + segment_size, len(data))
            cuts = sorted({offset, (2 * offset + end) // 3, (offset + 2 * end) // 3, end})
            runs = list(pairwise(cuts))
            outer, inner = runs[:1] + runs[2:], runs[1:2]
            pieces = [
                _tensor_piece(data, base.get(name, b""), some, base_names.index(name) if name in base else NO_BASE)
                for some in (outer, inner)
                if some
            ]
            payload = TensorPayload(pieces=tuple(pieces)).encode()
            row = SegmentRow(
                number=number,
                codec=SegmentCodec.TENSOR,
                file=index,
                offset=offset,
                raw_size=end - offset,
                stored_size=len(payload) + TAG_SIZE,
            )
            yield row, cipher.seal(row, payload)
            number += 1


def _tensor_piece(data, old_data, runs, base_file):
    news = [np.frombuffer(data[start:end], np.uint8) for start, end in runs]
    olds = [np.frombuffer(old_data[start:end], np.uint8) for start, end in runs]
    has_base = [old.size for old in olds] == [new.size for new in news]
    transform = TransformKind.BYTES_DELTA if has_base else TransformKind.BYTES
    if has_base and all(np.array_equal(old, new) for old, new in zip(olds, news, strict=True)):
        transform = TransformKind.SAME
    is_coded = transform is not TransformKind.SAME
    return Piece(
        transform=transform,
        extents=tuple(
            Extent(
                offset=start,
                size=end - start,
                base_file=base_file if has_base else NO_BASE,
                base_offset=start if has_base else 0,
            )
            for start, end in runs
        ),
        streams=plain.encode(news, olds if has_base else None, zstd_level=3)[1] if is_coded else (),
    )


def _encode(new: bytes, old: bytes) -> tuple[SegmentCodec, bytes]:
    if len(old) == len(new):
        if old == new:
            return SegmentCodec.COPY, b""
        delta = zstandard.compress(subtract_bytes(new, old), 3)
        if len(delta) < len(new):
            return SegmentCodec.DELTA_ZSTD, delta
    packed = zstandard.compress(new, 3)
    return (SegmentCodec.ZSTD, packed) if len(packed) < len(new) else (SegmentCodec.STORED, new)


def write_files(directory: Path, files: dict[str, bytes]) -> Path:
    """Write a release in memory to a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory
