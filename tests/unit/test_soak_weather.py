"""What the soak draws is what the emulator accepts, and the same seed draws the same."""

import yaml

from groundsegment.emulator.profile import parse_profile
from tests.soak.weather import draw_weather


def test_every_weather_is_a_valid_link_profile_and_repeats_by_seed():
    for flight in range(200):
        weather = draw_weather(7, flight)
        assert weather == draw_weather(7, flight)
        parse_profile(yaml.safe_dump(weather.profile), name="soak", source="soak")


def test_two_seeds_do_not_draw_the_same():
    assert draw_weather(1, 0) != draw_weather(2, 0)
