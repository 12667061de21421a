"""How much fits into the next contacts: the forecast, asked the other way round. Pure."""

from collections.abc import Sequence

from groundsegment.planner.contact_plan import PlannedContact
from groundsegment.planner.forecast import Load, Weather, forecast
from protocol.limits import SYMBOL_SIZE_DEFAULT

CERTAINTY_DEFAULT = 0.9


def capacity_bytes(
    contacts: Sequence[PlannedContact],
    weather: Weather,
    *,
    start_s: float,
    certainty: float = CERTAINTY_DEFAULT,
    symbol_size: int = SYMBOL_SIZE_DEFAULT,
) -> int:
    """Return the largest payload that is there at the end of these contacts with a probability of `certainty`.

    Headers, metadata, lost frames and missed contacts are counted in, other updates are not. 0 if nothing fits.
    """

    def fits(size_bytes: int) -> bool:
        load = Load(bundle_sizes=(size_bytes,), symbol_size=symbol_size)
        rows = forecast(load, contacts, weather, start_s=start_s).contacts
        return bool(rows) and rows[-1].p_done >= certainty

    low, high = 0, symbol_size
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(symbol_size, low // 1000):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
