"""Every maximum of the protocol, one line each, with its reason."""

KIB = 1024
MIB = 1024 * 1024

SYMBOL_SIZE_DEFAULT = 1280  # frame of 1300 B + 28 B UDP/IP crosses almost any path unfragmented; 1448 fills Ethernet's
SYMBOL_SIZE_MAX = 8192  # larger than the frames of any link we adapt to; bounds one datagram
SYMBOL_ALIGNMENT = 8  # raptorq rounds symbol sizes down to a multiple of 8
BLOCK_SYMBOLS_MAX = 8000  # a solve takes about 0.1 s and 50 MB; more gains nothing in overhead
BLOCK_SIZE_MAX = 10 * MIB  # above this raptorq sub-blocks, and source symbols stop being file slices
BLOCKS_MAX = 16  # the block number has 4 bits; SYMBOLS_MAX symbols are 9 blocks
ESI_MAX = 2**20 - 1  # 20 bits; RFC 6330, 3.2 has 24. Making a symbol costs memory and time that grow with its ESI
SYMBOLS_MAX = 2**16  # of one object: 64 MiB at T = 1024
STATIONS_MAX = 16  # ground stations of one satellite: 4 bits in each frame

OBJECT_SIZE_MAX = 64 * MIB  # CFDP stacks stop at 100 MB to 2 GiB; a bundle must pass through all of them
BUNDLE_SIZE_DEFAULT = 20_480_000  # two full blocks at T = 1280: some minutes of S-band, a lost contact costs little
MESSAGE_SIZE_MAX = 64 * KIB  # commands, answers, receipts

SEGMENT_SIZE_MAX = 4 * MIB  # raw bytes of one segment: bounds decoder memory
SEGMENTS_PER_BUNDLE_MAX = 65536
SEGMENTS_MAX = 2**32 - 1  # the nonce of a segment is its 32-bit number
ZSTD_WINDOW_MAX = 8 * MIB  # bounds decompressor memory; the packer must not exceed it
WINDOWS_SIZE_MAX = 32 * MIB  # of the base, that pieces of one segment may refer to: bounds the decoder's time

MANIFEST_SIZE_MAX = 64 * KIB  # msgpack of empty maps can take 70x its size in memory
METADATA_SIZE_MAX = 256 * KIB  # metadata object of one update, roots included: 16 hybrid roots of 15 kB each
METADATA_UNPACKED_MAX = MIB  # the same decompressed: 32 of them, 23 kB each
ROOTS_MAX = 32  # missed root rotations that one update may carry
ROOT_SIZE_MAX = 64 * KIB
FILES_MAX = 1024  # files of one release
BUNDLES_MAX = 1200  # what fits a manifest beside files and canary: 24 GB at 20 MB each, 75 GB at 64 MiB
NAME_LENGTH_MAX = 128  # one path component
CANARY_PROMPTS_MAX = 32
CANARY_TOKENS_MAX = 256  # expected tokens of one prompt
PROMPT_SIZE_MAX = 16 * KIB

REPORT_SIZE_MAX = 1280  # one frame, always
