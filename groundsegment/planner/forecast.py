"""When an update will be there: arrivals over contacts as a distribution. Pure.

A contact of n frames delivers Binomial(n, 1 - p) symbols (normal approximation: n is thousands), the loss p itself is
known only so well, and a contact may be missed altogether. Whole and missed contacts are enumerated on a grid, so the
tail of "two of four passes were lost" is right, where a single normal distribution would be far too narrow. Frames
count with header and tag; symbols with the codec's overhead, the metadata and its repeats.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from groundsegment.planner.contact_plan import PlannedContact
from protocol.blocks import symbols_needed
from protocol.frame import HEADER_SIZE, TAG_SIZE
from protocol.limits import SYMBOL_SIZE_DEFAULT

OVERHEAD = 1.003  # symbols that the sender's schedule wastes, measured: docs/benchmarks.md
OVERHEAD_ONE_WAY = 1.02  # without reports every block must be sure of itself
ASSUMED_RATE_BPS = 2e6
QUANTILES = (0.5, 0.9, 0.99)
_CERTAINTY = 1 - 1e-9
_GRID = 400
_CONTACTS_MAX = 4000  # beyond some years of passes the answer is "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What has to be carried.

    Attributes:
        bundle_sizes: bytes of each bundle, in order.
        extra_bytes: metadata.
        symbol_size: bytes of a symbol.
        already: symbols that are there, or were delivered before.
        is_one_way: no reports come down.
    """

    bundle_sizes: tuple[int, ...]
    extra_bytes: int = 4096
    symbol_size: int = SYMBOL_SIZE_DEFAULT
    already: int = 0
    is_one_way: bool = False

    @property
    def frame_size(self) -> int:
        """Bytes of a frame on the link."""
        return self.symbol_size + HEADER_SIZE + TAG_SIZE

    @property
    def payload_bytes(self) -> int:
        """Bytes of all bundles."""
        return sum(self.bundle_sizes)

    @property
    def symbols(self) -> int:
        """Symbols that have to arrive."""
        overhead = OVERHEAD_ONE_WAY if self.is_one_way else OVERHEAD
        bundles = sum(symbols_needed(size, self.symbol_size) for size in self.bundle_sizes)
        extra = 3 * symbols_needed(self.extra_bytes, self.symbol_size)
        return max(0, math.ceil((bundles - self.already) * overhead) + extra)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactForecast:
    """What one contact is expected to carry.

    Attributes:
        contact: which one.
        carried_bytes: payload it is expected to deliver.
        total_share: of the payload expected to be there at its end.
        p_done: probability that everything is there at its end.
        bundles: first and last bundle it is expected to complete or carry on, or None.
    """

    contact: PlannedContact
    carried_bytes: float
    total_share: float
    p_done: float
    bundles: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The whole plan.

    Attributes:
        contacts: those that are needed, until it is done with the highest quantile, or as many as there are.
        done_s: Unix seconds by which it is done, for each of QUANTILES; None if never within the plan.
        p_deadline: probability of being done by the deadline; None without one.
        frames: expected to be sent.
        link_bytes: expected to be sent, frames whole.
    """

    contacts: tuple[ContactForecast, ...]
    done_s: tuple[float | None, ...]
    p_deadline: float | None
    frames: int
    link_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What may go wrong.

    Attributes:
        loss: share of frames lost.
        loss_deviation: how well that is known.
        p_missed: probability that a contact does not happen at all.
    """

    loss: float = 0.1
    loss_deviation: float = 0.0
    p_missed: float = 0.0


def forecast(
    load: Load,
    contacts: Iterable[PlannedContact],
    weather: Weather,
    *,
    start_s: float,
    deadline_s: float | None = None,
) -> Forecast:
    """Work out a plan."""
    walk = _Walk(load, weather, start_s)
    deadline: float | None = None
    for number, contact in enumerate(contacts):
        if deadline_s is not None and deadline is None and contact.end_s - contact.guard_s > deadline_s:
            deadline = walk.p_at(contact, deadline_s)
        knows_deadline = deadline_s is None or deadline is not None or walk.p_done > _CERTAINTY
        if number >= _CONTACTS_MAX or (walk.is_sure and knows_deadline):
            break
        walk.step(contact)
    if deadline_s is not None and deadline is None:
        deadline = walk.p_done
    frames = math.ceil(load.symbols / (1 - _mean_loss(walk.rows, weather)))
    return Forecast(
        contacts=tuple(walk.rows),
        done_s=tuple(walk.done_s),
        p_deadline=deadline,
        frames=frames,
        link_bytes=frames * load.frame_size,
    )


class _Walk:
    """Goes from contact to contact with the distribution of frames that were sent."""

    def __init__(self, load: Load, weather: Weather, start_s: float) -> None:
        self._load, self._weather, self._start_s = load, weather, start_s
        self._need = load.symbols
        self._step_frames = max(1, self._need // _GRID)
        self._frames: dict[int, float] = {0: 1.0}  # frames sent, in grid steps: probability
        self._expected = 0.0
        self._bundles = _bundle_ends(load)
        self.p_done = 1.0 if self._need == 0 else 0.0
        self.done_s: list[float | None] = [None] * len(QUANTILES)
        self.rows: list[ContactForecast] = []

    @property
    def is_sure(self) -> bool:
        return self.done_s[-1] is not None

    def step(self, contact: PlannedContact) -> None:
        frames, was_sure = self._frames_of(contact), self.is_sure
        before, p_before = self._expected, self.p_done
        for index, quantile in enumerate(QUANTILES):
            if self.done_s[index] is None and self._p_with(frames) >= quantile:
                self.done_s[index] = self._moment(contact, quantile)
        self.p_done = max(p_before, self._p_with(frames))
        arriving = frames * (1 - self._weather.loss) * (1 - self._weather.p_missed)
        self._expected = min(self._need, self._expected + arriving)
        self._frames = self._spread(frames)
        if not was_sure:
            self.rows.append(self._row(contact, before))

    def p_at(self, contact: PlannedContact, time_s: float) -> float:
        """Probability of being done at a time, if this is the contact in or after it."""
        return max(self.p_done, self._p_with(self._frames_of(contact, until_s=time_s)))

    def _frames_of(self, contact: PlannedContact, until_s: float = math.inf) -> float:
        begin_s = max(contact.start_s, self._start_s)
        end_s = min(contact.end_s - contact.guard_s, until_s)
        if end_s <= begin_s:
            return 0.0
        if math.isinf(end_s):
            return math.inf
        frames = (end_s - begin_s) * (contact.rate_bps or ASSUMED_RATE_BPS) / 8 / self._load.frame_size
        # A contact with a loss of its own counts as the frames that would bring as much with the usual one.
        return frames if contact.loss is None else frames * (1 - contact.loss) / (1 - self._weather.loss)

    def _p_with(self, frames: float) -> float:
        """Probability of being done after so many frames of the next contact."""
        missed = self._weather.p_missed
        hit = sum(p * self._p_enough(steps * self._step_frames + frames) for steps, p in self._frames.items())
        miss = sum(p * self._p_enough(steps * self._step_frames) for steps, p in self._frames.items()) if missed else 0
        return (1 - missed) * hit + missed * miss

    def _p_enough(self, frames: float) -> float:
        if math.isinf(frames) or self._need == 0:
            return 1.0
        loss = self._weather.loss
        mean = frames * (1 - loss)
        deviation = math.sqrt(frames * loss * (1 - loss) + (frames * self._weather.loss_deviation) ** 2)
        if deviation == 0:
            return 1.0 if mean >= self._need else 0.0
        return 0.5 * (1 + math.erf((mean - self._need) / deviation / math.sqrt(2)))

    def _spread(self, frames: float) -> dict[int, float]:
        enough = 4 * math.ceil(self._need / (1 - self._weather.loss) / self._step_frames)
        steps = enough if math.isinf(frames) else round(frames / self._step_frames)
        result: dict[int, float] = {}
        for before, p in self._frames.items():
            for after, share in ((before, self._weather.p_missed), (before + steps, 1 - self._weather.p_missed)):
                if p * share > 1e-12:
                    key = min(after, enough)
                    result[key] = result.get(key, 0.0) + p * share
        return result

    def _moment(self, contact: PlannedContact, quantile: float) -> float:
        """When, in this contact, the probability reaches the quantile: bisection."""
        low_s = max(contact.start_s, self._start_s)
        high_s = contact.end_s - contact.guard_s
        if math.isinf(high_s):
            high_s = low_s + 1.0
            while self._p_with(self._frames_of(contact, until_s=high_s)) < quantile:
                high_s = low_s + 2 * (high_s - low_s)
        for _ in range(40):
            middle_s = (low_s + high_s) / 2
            if self._p_with(self._frames_of(contact, until_s=middle_s)) >= quantile:
                high_s = middle_s
            else:
                low_s = middle_s
        return high_s

    def _row(self, contact: PlannedContact, before: float) -> ContactForecast:
        scale = self._load.payload_bytes / max(1, self._need)
        bundles = [number for number, end in enumerate(self._bundles) if end * self._need > before]
        last = next((n for n, end in enumerate(self._bundles) if end * self._need >= self._expected - 1e-6), None)
        carried = None
        if bundles and self._expected > before:
            carried = (bundles[0], len(self._bundles) - 1 if last is None else max(last, bundles[0]))
        return ContactForecast(
            contact=contact,
            carried_bytes=(self._expected - before) * scale,
            total_share=1.0 if self._need == 0 else self._expected / self._need,
            p_done=self.p_done,
            bundles=carried,
        )


def _mean_loss(rows: Sequence[ContactForecast], weather: Weather) -> float:
    """The share of frames lost over all contacts, by what each is expected to carry."""
    carried = [(row.carried_bytes, weather.loss if row.contact.loss is None else row.contact.loss) for row in rows]
    sent = sum(size / (1 - loss) for size, loss in carried)
    return 1 - sum(size for size, _ in carried) / sent if sent else weather.loss


def _bundle_ends(load: Load) -> Sequence[float]:
    """Where each bundle ends, as a share of the whole."""
    total, at, ends = max(1, load.payload_bytes), 0, []
    for size in load.bundle_sizes:
        at += size
        ends.append(at / total)
    return ends
