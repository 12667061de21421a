"""What a seed makes happen to one flight: the link's profile, and who is killed or cut off when."""

import random
from dataclasses import dataclass
from typing import Any

KILL_SATELLITE, KILL_UPLINK, CUT_LINK = "kill satellite", "kill uplink", "cut link"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One thing that happens.

    Attributes:
        at_s: seconds after take-off.
        what: KILL_SATELLITE, KILL_UPLINK or CUT_LINK.
        for_s: how long the link stays cut, or the killed one stays dead.
    """

    at_s: float
    what: str
    for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """All that chance decides about one flight.

    Attributes:
        profile: a link profile, as YAML would hold it.
        troubles: in order of time.
        link_seed: of the emulator.
        nudge: how far the new model is from the old one; None for unrelated weights.
    """

    profile: dict[str, Any]
    troubles: tuple[Trouble, ...]
    link_seed: int
    nudge: float | None


def draw_weather(seed: int, flight: int) -> Weather:
    """The weather of one flight; the same for the same seed and number."""
    rng = random.Random(f"{seed}/{flight}")
    up: dict[str, Any] = {
        "rate_bps": rng.choice([8e6, 16e6, 32e6]),
        "delay_s": rng.choice([0.0, 0.01, 0.05]),
        "queue_bytes_max": 2_000_000,
    }
    if rng.random() < 0.3:
        up["burst"] = {"p_good_to_bad": 0.005, "p_bad_to_good": 0.05, "loss_bad": 0.8}
    up["loss"] = round(rng.uniform(0, 0.4), 3)
    if rng.random() < 0.3:
        up |= {"bit_error_rate": 2e-6, "duplicate": 0.02, "reorder": {"probability": 0.02, "delay_s": 0.05}}
    down = None if rng.random() < 0.1 else {"delay_s": up["delay_s"], "loss": round(rng.uniform(0, 0.4), 3)}
    profile: dict[str, Any] = {"description": f"soak, seed {seed}, flight {flight}", "up": up, "down": down}
    if rng.random() < 0.7:
        profile["contacts"] = {
            "period_s": rng.choice([3, 5]),
            "duration_s": rng.choice([1.5, 2]),
            "first_s": 0,
            "count": 1000,
        }
    troubles = [
        Trouble(
            at_s=round(rng.uniform(0.2, 9), 2),
            what=rng.choice([KILL_SATELLITE, KILL_UPLINK, CUT_LINK]),
            for_s=round(rng.uniform(0, 1.5), 2),
        )
        for _ in range(rng.choice([0, 1, 1, 2, 3]))
    ]
    return Weather(
        profile=profile,
        troubles=tuple(sorted(troubles, key=lambda trouble: trouble.at_s)),
        link_seed=rng.randrange(2**31),
        nudge=rng.choice([None, 0.001, 0.01]),
    )
