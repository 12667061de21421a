import hashlib
import random
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundsegment.packer.encoding import choose_codec
from groundsegment.packer.packing import Sources, pack
from groundsegment.packer.plan import PackPlan, survey
from groundsegment.packer.workers import Workers
from protocol.limits import KIB
from protocol.manifest import FileEntry, release_digest
from protocol.segment import SegmentCodec, SegmentRow, expand
from tests.fakes.rebuild import rebuild

KEY = bytes(range(32))
SEGMENT_SIZE = 64 * KIB


def entries_of(files):
    return tuple(
        FileEntry(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).digest())
        for name, content in sorted(files.items())
    )


def write_files(directory, files):
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return tuple(directory / name for name in sorted(files))


def pack_files(directory, new, old, *, bundle_size=256 * KIB, level=3):
    files, base_files = entries_of(new), entries_of(old)
    new_paths, old_paths = write_files(directory / "new", new), write_files(directory / "old", old)
    plan = PackPlan(
        satellite="SAT-1",
        release_digest=release_digest(files),
        files=files,
        base_digest=release_digest(base_files) if old else None,
        base_files=base_files,
        bundle_size_bytes=bundle_size,
        level=level,
        survey=survey(
            {path.name: path for path in new_paths},
            {path.name: path for path in old_paths},
            bundle_size_bytes=SEGMENT_SIZE,
        ),
    )
    sources = Sources(files=new_paths, base_files=old_paths)
    (directory / "out").mkdir()
    packed = pack(plan, sources, directory / "out", release_key=KEY, workers=Workers())
    return plan, sources, packed


@st.composite
def contents(draw):
    """Bytes around the segment size: noise, text or zeros."""
    size = draw(
        st.one_of(
            st.integers(0, 2000),
            st.sampled_from([SEGMENT_SIZE - 1, SEGMENT_SIZE, SEGMENT_SIZE + 1, 2 * SEGMENT_SIZE + 77]),
        )
    )
    kind = draw(st.sampled_from(["noise", "text", "zeros"]))
    if kind == "noise":
        return random.Random(draw(st.integers(0, 99))).randbytes(size)
    return (b"weights " * (size // 8 + 1))[:size] if kind == "text" else bytes(size)


@st.composite
def old_of(draw, new):
    """What the base had under that name: the same, a little different, shorter, longer, or unrelated."""
    kind = draw(st.sampled_from(["same", "nudged", "shorter", "longer", "other"]))
    if kind == "same":
        return new
    if kind == "shorter":
        return new[: len(new) * 2 // 3]
    if kind == "longer":
        return new + b"tail"
    if kind == "other":
        return draw(contents())
    changed = bytearray(new)
    for at in range(0, len(changed), 97):
        changed[at] = (changed[at] + 1) & 0xFF
    return bytes(changed)


@st.composite
def releases(draw):
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True))
    new = {name: draw(contents()) for name in names}
    old = {name: draw(old_of(new[name])) for name in names if draw(st.booleans())}
    if draw(st.booleans()):
        old["zz"] = b"only in the base"
    return new, old


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(releases(), st.sampled_from([64 * KIB, 2 * SEGMENT_SIZE]))
def test_what_is_packed_opens_to_the_same_bytes(release, bundle_size):
    new, old = release
    with tempfile.TemporaryDirectory() as name:
        plan, _, packed = pack_files(Path(name), new, old, bundle_size=bundle_size)
        assert (
            rebuild(
                Path(name) / "out",
                [bundle.entry for bundle in packed.bundles],
                plan.files,
                release_key=KEY,
                release_digest=plan.release_digest,
                base=old,
            )
            == new
        )
        assert sum(entry.raw_bytes for entry in packed.tally.by_transform.values()) == sum(map(len, new.values()))
        assert packed.tally.raw_bytes == plan.raw_bytes
        assert packed.tally.num_segments == plan.num_segments == sum(entry.num_segments for entry in packed.bundles)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=4000), st.data(), st.sampled_from([3, 15, 19]))
def test_the_codec_chosen_decodes_and_never_grows(raw, data, level):
    old = data.draw(st.none() | st.just(raw) | st.binary(min_size=len(raw), max_size=len(raw)))
    codec, payload = choose_codec(raw, old, level)
    assert len(payload) <= len(raw)
    row = SegmentRow(
        number=0,
        codec=codec,
        file=0,
        offset=0,
        raw_size=len(raw),
        stored_size=0 if codec is SegmentCodec.COPY else len(payload) + 16,
        base_file=0 if codec in {SegmentCodec.COPY, SegmentCodec.DELTA_ZSTD} else 0xFFFF,
    )
    row.check()
    assert expand(row, payload, old) == raw
