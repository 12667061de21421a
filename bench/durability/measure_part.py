"""The process of one part (`parts`): its argument says which, its last line is what came of it."""

from bench.durability import cuts, faults, replays
from bench.durability.parts import serve

_MEASURES = {"cuts": cuts.measure_part, "replays": replays.measure_part, "faults": faults.measure_part}

if __name__ == "__main__":
    serve(lambda part: _MEASURES[part.what](part))
