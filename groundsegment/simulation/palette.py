"""Colours of all pictures, those of Okabe and Ito, which colour-blind people can tell apart; and words on axes."""

from groundsegment.simulation.scenario import Scenario

BLUE, ORANGE, GREEN, GREY, RED = "#0072B2", "#E69F00", "#009E73", "#8C8C8C", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#222222"


def percent(value: float, _: object = None) -> str:
    """A tick of an axis, in whole percent."""
    return f"{value * 100:.0f} %"


def percent_fine(value: float, _: object = None) -> str:
    """The same, with what digits it takes."""
    return f"{value * 100:g} %"


def scale_words(scenario: Scenario) -> str:
    """What a title says of the scale."""
    return f" (at 1/{scenario.scale:g})" if scenario.scale > 1 else ""
