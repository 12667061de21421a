"""Tensors on the ground: which bytes of a release belong to which tensor, what they were in the base, and the cut.

Three steps, each a function over the headers of files; nothing here holds a tensor or writes a byte.

    parts = catalogue.catalogue({name: path, ...})                         # of a whole release, config.json read too
    parts = catalogue.parts_of(path, name, quantization)                   # of one file; quantization is a hint

    read = catalogue.reader({name: path, ...})                             # (file name, offset, size) -> bytes
    matches = matching.match(parts, base_parts, read, base_read)           # dict[Part, Match]; no key: no counterpart
    matches[part].reason                                                   # words for --explain

    for job in cut.cut(parts, matches):                                    # SegmentJob, at most 4 MiB of one file each
        for piece in job.pieces:                                           # PieceJob
            piece.kind, piece.dtype, piece.rows, piece.columns             # what the values are
            piece.packed                                                   # NIBBLES: packing, group, type of scales
            [(x.role, x.offset, x.size_bytes, x.base) for x in piece.extents]   # x.base: BaseRef(file, offset) or None

            layouts.float_layout(piece)     # or integer_layout, nibble_layout_of, gguf_layout: what a module of the
                                            # codec is told about the piece; None if it is not for that module

    matching.why_unmatched(parts, base_parts, matches)                     # words for parts without a counterpart
    matching.removed(base_parts, matches)                                  # parts of the base that are gone

`Part` (parts.py) is a gap-free, overlap-free cut of a file: every byte of a file of n bytes lies in exactly one member
of one part, and every byte of a release in exactly one extent of one piece of one segment job. All extents of a piece
have base bytes, or none has. Everything is a frozen dataclass, hashable and picklable, and the same inputs always give
the same parts, matches and jobs, in the same order.
"""
