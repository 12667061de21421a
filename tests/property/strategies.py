"""Hypothesis strategies for the protocol's units: valid ones, over every field."""

from hypothesis import strategies as st

from protocol.adapters.names import CONFIG_NAME, NOTE_NAME, WEIGHTS_NAME
from protocol.bundle import BundleHeader
from protocol.canary import Canary, CanaryPrompt
from protocol.command import Command, Operation
from protocol.frame import HANDLE_SIZE, SEQUENCE_MAX, Frame, FrameKind
from protocol.limits import BLOCKS_MAX, ESI_MAX, STATIONS_MAX, SYMBOLS_MAX
from protocol.manifest import (
    AdapterEntry,
    AdapterUse,
    BundleEntry,
    FileEntry,
    Manifest,
    release_digest,
    sized,
)
from protocol.message import Message, MessageKind
from protocol.metadata import MetadataBundle
from protocol.report import FRESHNESS_SIZE, SOLVED, UPDATES_MAX, OpenBlock, Reason, Report, UpdateState, UpdateStatus
from protocol.segment import NO_BASE, TAG_SIZE, TENSOR_STORED_MIN, SegmentCodec, SegmentRow

names = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32)
handles = st.binary(min_size=HANDLE_SIZE, max_size=HANDLE_SIZE)
esis = st.integers(0, ESI_MAX)
block_numbers = st.integers(0, BLOCKS_MAX - 1)
stations = st.integers(0, STATIONS_MAX - 1)
u32 = st.integers(0, 2**32 - 1)

symbol_frames = st.builds(
    Frame,
    kind=st.sampled_from([FrameKind.RAPTORQ, FrameKind.PLAIN]),
    handle=handles,
    num_symbols=st.integers(1, SYMBOLS_MAX),
    block=block_numbers,
    esi=esis,
    station=stations,
    payload=st.integers(1, 20).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n)),
)
report_frames = st.builds(
    Frame,
    kind=st.just(FrameKind.REPORT),
    handle=handles,
    sequence=st.integers(0, SEQUENCE_MAX),
    station=stations,
    payload=st.binary(min_size=1, max_size=200),
)
frames = symbol_frames | report_frames


@st.composite
def range_tuples(draw) -> tuple[tuple[int, int], ...]:
    edges = sorted(draw(st.sets(st.integers(0, 65535), max_size=10)))
    return tuple((edges[i], edges[i + 1]) for i in range(0, len(edges) - 1, 2))


updates = st.builds(
    UpdateStatus,
    handle=handles,
    state=st.sampled_from(UpdateState),
    reason=st.sampled_from(Reason),
    bundle_ranges=range_tuples(),
)
reports = st.builds(
    Report,
    echo_handle=handles,
    echo_block=block_numbers,
    echo_esi=esis,
    frames_received=u32,
    frames_rejected=u32,
    serving=handles,
    accepted=u32,
    root_version=st.integers(0, 2**16 - 1),
    epoch=st.integers(0, 2**16 - 1),
    nonce=st.binary(min_size=FRESHNESS_SIZE, max_size=FRESHNESS_SIZE),
    boot_count=u32,
    free_mib=u32,
    is_full=st.booleans(),
    updates=st.lists(updates, max_size=UPDATES_MAX).map(tuple),
    complete=st.lists(handles, max_size=6).map(tuple),
    open_blocks=st.lists(
        st.builds(OpenBlock, handle=handles, block=block_numbers, have=st.integers(0, SOLVED)), max_size=6
    ).map(tuple),
)

canaries = st.builds(
    Canary,
    prompts=st.lists(
        st.builds(
            CanaryPrompt,
            text=st.text(max_size=40),
            expected=st.lists(st.integers(0, 2**31 - 1), max_size=8).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
    max_tokens=st.integers(1, 256),
    timeout_s=st.integers(1, 86400),
    agreement_permille=st.integers(0, 1000),
)


@st.composite
def manifests(draw) -> Manifest:
    def entries(names_of_files) -> tuple[FileEntry, ...]:
        return tuple(
            FileEntry(name=name, size_bytes=draw(st.integers(0, 2**40)), sha256=draw(digests))
            for name in sorted(names_of_files)
        )

    use = draw(st.none() | st.sampled_from(AdapterUse))
    brought = (CONFIG_NAME, WEIGHTS_NAME)
    files = entries((*brought, NOTE_NAME) if use is AdapterUse.BESIDE else draw(st.sets(names, min_size=1, max_size=4)))
    satellites = tuple(sorted(draw(st.sets(names, min_size=1, max_size=3))))
    sequence = draw(st.integers(1, 2**32 - 1))
    return Manifest(
        sequence=sequence,
        satellites=satellites,
        release_name=draw(names),
        release_digest=release_digest(files),
        files=sized(files),
        base=draw(digests if use else st.none() | digests),
        bundles=tuple(
            draw(
                st.lists(
                    st.builds(
                        BundleEntry,
                        size_bytes=st.integers(1, 2**26),
                        digest=st.binary(min_size=16, max_size=16),
                        num_segments=st.integers(1, 65536),
                    ),
                    max_size=4,
                )
            )
        ),
        keys={name: draw(st.binary(max_size=90)) for name in satellites if draw(st.booleans())},
        floor=draw(st.integers(0, sequence)),
        beside=draw(st.booleans()),
        engine_format="huggingface" if use else draw(st.sampled_from(["huggingface", "gguf"])),
        memory_bytes=draw(st.integers(0, 2**50)),
        canary=draw(canaries),
        adapter=AdapterEntry.to_merge(entries(brought)) if use is AdapterUse.MERGE else use and AdapterEntry(use=use),
    )


@st.composite
def segment_rows(draw, *, number: int | None = None, raw_size_max: int = 2**22) -> SegmentRow:
    codec = draw(st.sampled_from(SegmentCodec))
    raw_size = draw(st.integers(2, raw_size_max))
    needs_base = codec in {SegmentCodec.COPY, SegmentCodec.DELTA_ZSTD}
    stored = {
        SegmentCodec.COPY: st.just(0),
        SegmentCodec.STORED: st.just(raw_size + TAG_SIZE),
        SegmentCodec.TENSOR: st.integers(TENSOR_STORED_MIN, TENSOR_STORED_MIN + raw_size),
    }.get(codec, st.integers(TAG_SIZE + 1, raw_size + TAG_SIZE))
    return SegmentRow(
        number=draw(u32) if number is None else number,
        codec=codec,
        file=draw(st.integers(0, 1023)),
        offset=draw(st.integers(0, 2**46)),
        raw_size=raw_size,
        stored_size=draw(stored),
        base_file=draw(st.integers(0, 1023)) if needs_base else NO_BASE,
        base_offset=draw(st.integers(0, 2**46)) if needs_base else 0,
    )


@st.composite
def bundle_headers(draw) -> BundleHeader:
    first = draw(st.integers(0, 1000))
    count = draw(st.integers(1, 5))
    return BundleHeader(
        release_digest=draw(digests),
        number=draw(u32),
        rows=tuple(draw(segment_rows(number=first + i)) for i in range(count)),
    )


metadata_bundles = st.builds(
    MetadataBundle,
    roots=st.lists(st.binary(max_size=60), max_size=3).map(tuple),
    timestamp=st.binary(min_size=1, max_size=60),
    snapshot=st.binary(min_size=1, max_size=60),
    targets=st.binary(min_size=1, max_size=60),
    manifest=st.binary(min_size=1, max_size=60),
) | st.builds(
    MetadataBundle, roots=st.lists(st.binary(max_size=60), min_size=1, max_size=3).map(tuple), label=st.text(max_size=8)
)

_args = st.dictionaries(
    st.text(max_size=8), st.integers(0, 2**40) | st.text(max_size=20) | st.binary(max_size=20), max_size=4
)
commands = st.builds(
    Command, satellite=names, counter=st.integers(1, 2**63 - 1), operation=st.sampled_from(Operation), args=_args
)
messages = st.builds(
    Message,
    satellite=names,
    counter=st.integers(1, 2**63 - 1),
    kind=st.sampled_from(MessageKind),
    re=handles,
    body=_args,
)
