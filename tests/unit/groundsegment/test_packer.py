import dataclasses
import hashlib
import random
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from groundsegment.errors import GroundError, InputError
from groundsegment.packer import workers
from groundsegment.packer.bundles import read_head
from groundsegment.packer.encoding import choose_codec
from groundsegment.packer.estimating import estimate
from groundsegment.packer.packing import Sources, fitting_bundle_size, pack
from groundsegment.packer.plan import PackPlan, survey
from groundsegment.packer.workers import Workers, run_in_order
from protocol.codec.kinds import TransformKind
from protocol.limits import BUNDLE_SIZE_DEFAULT, BUNDLES_MAX, KIB, MIB
from protocol.manifest import FileEntry, release_digest
from protocol.segment import SegmentCodec
from tests.fakes.rebuild import rebuild

KEY = b"k" * 32
SEGMENT_SIZE = 64 * KIB
NOISE = random.Random(1).randbytes(5 * SEGMENT_SIZE)


def entry(name, content):
    return FileEntry(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).digest())


@pytest.fixture
def job(tmp_path):
    """A plan of five segments of noise, one bundle each, its sources, and where to pack."""
    (tmp_path / "weights").write_bytes(NOISE)
    (tmp_path / "out").mkdir()
    files = (entry("weights", NOISE),)
    plan = PackPlan(
        satellite="SAT-1",
        release_digest=release_digest(files),
        files=files,
        base_digest=None,
        base_files=(),
        bundle_size_bytes=SEGMENT_SIZE + 100,
        level=3,
        survey=survey({"weights": tmp_path / "weights"}, {}, bundle_size_bytes=SEGMENT_SIZE),
    )
    return plan, Sources(files=(tmp_path / "weights",), base_files=()), tmp_path / "out"


def run(job, **options):
    plan, sources, out = job
    return pack(plan, sources, out, release_key=KEY, **{"workers": Workers(), **options})


def totals(packed):
    return packed.tally.by_transform, packed.tally.raw_bytes, packed.tally.num_segments


def is_whole(job, packed):
    plan, _, out = job
    files = rebuild(
        out,
        [bundle.entry for bundle in packed.bundles],
        plan.files,
        release_key=KEY,
        release_digest=plan.release_digest,
    )
    return files == {"weights": NOISE}


def test_bundles_keep_to_their_size_and_are_numbered(job):
    packed = run(job)
    assert len(packed.bundles) == 5
    assert all(bundle.size_bytes <= SEGMENT_SIZE + 100 for bundle in packed.bundles)
    assert [read_head(path).number for path in sorted(job[2].glob("*.skb"))] == list(range(5))
    assert is_whole(job, packed)


def test_what_is_there_is_used_again(job):
    first = run(job)
    times = {path: path.stat().st_mtime_ns for path in job[2].glob("*.skb")}
    again = run(job)
    assert (again.num_reused, again.bundles, totals(again)) == (5, first.bundles, totals(first))
    assert times == {path: path.stat().st_mtime_ns for path in times}


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove", "tear the index", "garbage in the index", "no text"])
def test_what_is_damaged_is_made_again_from_there_on(job, damage):
    first = run(job)
    bundle, index = job[2] / "bundle-00002.skb", job[2] / "index.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    if damage == "flip":
        data = bytearray(bundle.read_bytes())
        data[500] ^= 1
        bundle.write_bytes(data)
    elif damage == "shorten":
        bundle.write_bytes(bundle.read_bytes()[:-1])
    elif damage == "remove":
        bundle.unlink()
    elif damage == "tear the index":
        index.write_text("".join(lines[:3]) + lines[3][:20])
    elif damage == "no text":
        index.write_bytes("".join(lines[:3]).encode() + b"\xff\xfe\n")
    else:
        index.write_text("".join(lines[:3]) + "[1, 2]\n" + "".join(lines[4:]))
    again = run(job)
    assert again.num_reused == 2
    assert again.bundles == first.bundles
    assert totals(again) == totals(first)
    assert is_whole(job, again)


def test_bundles_of_another_plan_are_not_used(job):
    plan, sources, out = job
    run(job)
    assert run((dataclasses.replace(plan, level=9), sources, out)).num_reused == 0


def test_progress_starts_where_the_earlier_run_was_and_ends_at_the_end(job):
    seen = []
    run(job, on_progress=seen.append)
    assert seen == [n * SEGMENT_SIZE for n in range(6)]
    seen.clear()
    run(job, on_progress=seen.append)
    assert seen == [5 * SEGMENT_SIZE]


def test_every_decisive_input_changes_the_plans_digest(job):
    plan = job[0]
    changes = [
        {"satellite": "SAT-2"},
        {"release_digest": bytes(32)},
        {"base_digest": bytes(32)},
        {"bundle_size_bytes": 1},
        {"level": 4},
        {"survey": dataclasses.replace(plan.survey, segment_bytes=SEGMENT_SIZE // 2)},
    ]
    digests = {plan.digest()} | {dataclasses.replace(plan, **change).digest() for change in changes}
    assert len(digests) == 1 + len(changes)


def test_a_file_that_shrank_is_told(job):
    job[1].files[0].write_bytes(NOISE[:-1])
    with pytest.raises(InputError, match="changed while it was packed") as caught:
        run(job)
    assert caught.value.hint


def test_what_is_unchanged_costs_a_row_of_the_table(job, tmp_path):
    plan, sources, out = job
    (tmp_path / "old").write_bytes(NOISE[: 4 * SEGMENT_SIZE])
    base_files = (entry("weights", NOISE[: 4 * SEGMENT_SIZE]),)
    plan = dataclasses.replace(
        plan,
        base_digest=release_digest(base_files),
        base_files=base_files,
        survey=survey({"weights": sources.files[0]}, {"weights": tmp_path / "old"}, bundle_size_bytes=SEGMENT_SIZE),
    )
    packed = run((plan, Sources(files=sources.files, base_files=(tmp_path / "old",)), out))
    by_transform = packed.tally.by_transform
    assert by_transform[TransformKind.SAME].num_pieces == 4
    assert by_transform[TransformKind.SAME].coded_bytes == 0
    assert by_transform[TransformKind.BYTES].raw_bytes == SEGMENT_SIZE
    files = rebuild(
        out,
        [bundle.entry for bundle in packed.bundles],
        plan.files,
        release_key=KEY,
        release_digest=plan.release_digest,
        base={"weights": NOISE[: 4 * SEGMENT_SIZE]},
    )
    assert files == {"weights": NOISE}


@pytest.mark.parametrize(
    ("raw", "old", "expected"),
    [
        (b"x" * 1000, b"x" * 1000, SegmentCodec.COPY),
        (b"x" * 1000, None, SegmentCodec.ZSTD),
        (NOISE[:1000], None, SegmentCodec.STORED),
        (NOISE[:1000], bytes([NOISE[0] ^ 1]) + NOISE[1:1000], SegmentCodec.DELTA_ZSTD),
        (NOISE[:1000], NOISE[1000:2000], SegmentCodec.STORED),
        (b"x" * 1000, NOISE[:1000], SegmentCodec.ZSTD),
    ],
)
def test_the_smallest_codec_wins(raw, old, expected):
    assert choose_codec(raw, old, 3)[0] is expected


def test_effort_pays_for_differences_and_is_not_wasted_on_noise():
    old = random.Random(1).randbytes(MIB // 2)
    rng = random.Random(2)
    new = bytes((byte + (rng.random() < 0.03)) & 0xFF for byte in old)
    sizes = {level: len(choose_codec(new, old, level)[1]) for level in (3, 15)}
    assert sizes[15] < sizes[3] * 0.95


def test_an_estimate_of_few_segments_is_exact_and_of_many_is_near(job):
    plan, sources, _ = job
    packed = run(job)
    exact = estimate(plan, sources)
    assert (exact.payload_bytes, exact.num_sampled) == (packed.payload_bytes, 5)
    near = estimate(plan, sources, num_samples=2)
    assert near.num_sampled < 5
    assert near.payload_bytes == pytest.approx(packed.payload_bytes, rel=0.01)


def test_bundles_grow_with_the_release_until_a_manifest_can_list_them():
    assert fitting_bundle_size(MIB) == fitting_bundle_size(10_000 * MIB) == BUNDLE_SIZE_DEFAULT
    for size in (40_000 * MIB, 70_000 * MIB):
        assert size / fitting_bundle_size(size) < BUNDLES_MAX
    with pytest.raises(InputError, match="more than one update"):
        fitting_bundle_size(200_000 * MIB)


def test_results_come_in_order_with_a_bounded_number_in_flight():
    asked = []

    def jobs():
        for number in range(100):
            asked.append(number)
            yield number

    with ThreadPoolExecutor(2) as executor:
        results = run_in_order(executor, lambda number: number * number, jobs(), num_workers=2)
        assert next(results) == (0, 0)
        assert len(asked) == 8
        assert list(results) == [(number, number * number) for number in range(1, 100)]


def test_a_worker_that_dies_is_told_with_what_to_do():
    class Broken:
        def submit(self, function, job):
            future = Future()
            future.set_exception(BrokenProcessPool("killed"))
            return future

    with pytest.raises(GroundError, match="was killed") as caught:
        list(run_in_order(Broken(), abs, [1], num_workers=1))
    assert "--workers 1" in caught.value.hint


@pytest.mark.slow
def test_worker_processes_make_the_same_bundles(job, tmp_path, monkeypatch):
    plan, sources, _ = job
    one = run(job)
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(workers, "_POOL_PAYS_BYTES", 1)
    assert run((plan, sources, tmp_path / "other"), workers=Workers(count=2)).bundles == one.bundles


def test_a_damaged_head_is_told(tmp_path):
    path = tmp_path / "bundle"
    path.write_bytes(b"SKB1" + bytes(60 * KIB))
    with pytest.raises(InputError, match="bundle"):
        read_head(path)
