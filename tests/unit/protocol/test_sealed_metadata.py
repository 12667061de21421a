"""What is wrapped for a satellite: opened by its key alone, for its use alone; and what a carrier can read of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.canary import Canary, CanaryPrompt
from protocol.errors import DecodeError, ProtocolError, VerificationError, WrongSatelliteError
from protocol.link_keys import unwrap_release_key, wrap_release_key
from protocol.objects import ObjectKind, object_prefix
from protocol.recipient_keys import (
    HYBRID_PRIVATE_SIZE,
    HYBRID_PUBLIC_SIZE,
    open_sealed,
    public_key_of,
    seal_for,
    unwrap_key,
    wrap_key,
)
from protocol.sealed_metadata import is_sealed, open_metadata, seal_metadata
from protocol.trust import TrustState, accept_update
from tests.fakes.updates import FakeGround

PRIVATE = {"x25519": bytes(range(32)), "hybrid": bytes(range(HYBRID_PRIVATE_SIZE))}
OTHER = {name: bytes(reversed(key)) for name, key in PRIVATE.items()}
KEY = b"k" * 32
GROUND = FakeGround()
UPDATE = GROUND.make_update(
    {"secret-config.json": b"{}"},
    name="secret-name",
    canary=Canary(prompts=(CanaryPrompt(text="secret question", expected=(1, 2)),)),
)


@pytest.mark.parametrize(("kind", "size", "public_size"), [("x25519", 80, 32), ("hybrid", 1168, HYBRID_PUBLIC_SIZE)])
def test_a_secret_comes_back_to_its_key_and_use_only(kind, size, public_size):
    public = public_key_of(PRIVATE[kind])
    wrapped = wrap_key(KEY, public, info=b"use")

    assert (len(wrapped), len(public)) == (size, public_size)
    assert unwrap_key(wrapped, PRIVATE[kind], info=b"use") == KEY
    for private, info in ((OTHER[kind], b"use"), (PRIVATE[kind], b"other use")):
        with pytest.raises(VerificationError):
            unwrap_key(wrapped, private, info=info)


@pytest.mark.parametrize("size", [0, 31, 33, 1000])
def test_a_secret_of_another_size_is_no_key(size):
    """Anybody can seal for a public key, so what comes out is no more trusted than what went in."""
    sealed = seal_for(bytes(size), public_key_of(PRIVATE["x25519"]), info=b"use")

    assert open_sealed(sealed, PRIVATE["x25519"], info=b"use") == bytes(size)
    with pytest.raises(VerificationError, match=f"{size} bytes"):
        unwrap_key(sealed, PRIVATE["x25519"], info=b"use")


@pytest.mark.parametrize("kind", PRIVATE)
@pytest.mark.parametrize("fill", [0, 1, 0xFF])
def test_bytes_that_were_never_sealed_are_refused_whatever_their_number(kind, fill):
    for size in (*range(50), 1119, 1120, 1121, 1136, 1137):
        with pytest.raises(VerificationError):
            open_sealed(bytes([fill]) * size, PRIVATE[kind], info=b"use")


def test_a_hybrid_satellite_opens_nothing_that_was_wrapped_without_ml_kem():
    """Else whoever breaks X25519 alone could talk it down."""
    wrapped = wrap_key(KEY, public_key_of(PRIVATE["hybrid"])[:32], info=b"use")

    with pytest.raises(VerificationError):
        unwrap_key(wrapped, PRIVATE["hybrid"], info=b"use")


@pytest.mark.parametrize("half", ["x25519", "ml-kem"])
def test_half_of_a_hybrid_key_opens_nothing(half):
    wrapped = wrap_key(KEY, public_key_of(PRIVATE["hybrid"]), info=b"use")
    good, bad = PRIVATE["hybrid"], OTHER["hybrid"]
    stolen = good[:32] + bad[32:] if half == "x25519" else bad[:32] + good[32:]

    with pytest.raises(VerificationError):
        unwrap_key(wrapped, stolen, info=b"use")


@pytest.mark.parametrize("kind", PRIVATE)
def test_a_release_key_is_bound_to_satellite_and_release(kind):
    names = {"satellite": "SAT-1", "release_digest": bytes(32)}
    wrapped = wrap_release_key(KEY, public_key_of(PRIVATE[kind]), **names)

    assert unwrap_release_key(wrapped, PRIVATE[kind], **names) == KEY
    for change in ({"satellite": "SAT-2"}, {"release_digest": bytes(31) + b"x"}):
        with pytest.raises(VerificationError):
            unwrap_release_key(wrapped, PRIVATE[kind], **{**names, **change})


def sealed(kind="x25519"):
    return seal_metadata(UPDATE.metadata, public_key_of(PRIVATE[kind]), satellite="SAT-1")


@pytest.mark.parametrize("kind", PRIVATE)
def test_sealed_metadata_opens_to_what_was_signed(kind):
    data = sealed(kind)

    assert is_sealed(data)
    assert open_metadata(data, PRIVATE[kind], satellite="SAT-1") == UPDATE.metadata
    state = TrustState(root=GROUND.root, accepted=0)
    opened = open_metadata(data, PRIVATE[kind], satellite="SAT-1")
    assert accept_update(opened, state, satellite="SAT-1", utc=None).manifest == UPDATE.manifest


def test_a_seal_costs_few_bytes():
    assert len(sealed()) - len(UPDATE.metadata) == len("SKE1") + 1 + len("SAT-1") + 32 + 16


def test_metadata_that_is_not_sealed_comes_back_as_it_is():
    assert open_metadata(UPDATE.metadata, PRIVATE["x25519"], satellite="SAT-1") is UPDATE.metadata


def test_it_is_opened_by_nobody_else():
    with pytest.raises(WrongSatelliteError, match="sealed for SAT-1, we are SAT-2"):
        open_metadata(sealed(), OTHER["x25519"], satellite="SAT-2")
    with pytest.raises(VerificationError):
        open_metadata(sealed(), OTHER["x25519"], satellite="SAT-1")


def test_the_name_on_it_is_bound_to_what_is_inside():
    with pytest.raises(VerificationError):
        open_metadata(sealed().replace(b"SAT-1", b"SAT-2"), PRIVATE["x25519"], satellite="SAT-2")


def test_nothing_of_it_can_be_read_on_the_way():
    data = sealed()

    for secret in (
        b"secret",
        UPDATE.digest,
        UPDATE.manifest.files[0].name.encode(),
        UPDATE.manifest.bundles[0].digest,
        UPDATE.manifest.keys["SAT-1"],
        b"keyid",
    ):
        assert secret not in data


@given(at=st.integers(8, len(sealed()) - 1), flip=st.integers(1, 255))
def test_whatever_is_altered_in_it_is_refused(at, flip):
    data = bytearray(sealed())
    data[at] ^= flip
    try:
        opened = open_metadata(bytes(data), PRIVATE["x25519"], satellite="SAT-1")
    except ProtocolError:
        return
    assert opened == bytes(data), "what is no seal any more is metadata that will not parse"
    with pytest.raises(DecodeError):
        accept_update(opened, TrustState(root=GROUND.root, accepted=0), satellite="SAT-1", utc=None)


@pytest.mark.parametrize("body", [b"", b"\5", b"\5SAT-1", b"\0rest", b"\3../rest", b"\1\xffrest"])
def test_a_seal_that_is_none_is_a_decode_error(body):
    body = b"SKE1" + body
    with pytest.raises(DecodeError):
        open_metadata(object_prefix(ObjectKind.METADATA, 8 + len(body)) + body, PRIVATE["x25519"], satellite="SAT-1")
