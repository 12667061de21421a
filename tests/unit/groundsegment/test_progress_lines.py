"""A long step in a log says how far it is; a short one says nothing."""

from groundsegment.console.progress_lines import PERIOD_S, ProgressLines


def test_a_line_comes_once_in_a_period_and_says_what_and_how_far():
    now, lines = [100.0], []
    progress = ProgressLines(lines.append, clock=lambda: now[0])
    for step in range(1, 41):
        now[0] += PERIOD_S / 10
        progress.show("packing" if step < 25 else "checking", step, 40)
    assert lines == [
        "packing 25%, 15 s so far",
        "packing 50%, 30 s so far",
        "checking 75%, 45 s so far",
        "checking 100%, 60 s so far",
    ]


def test_what_is_soon_done_says_nothing_and_an_unknown_total_no_share():
    now, lines = [0.0], []
    progress = ProgressLines(lines.append, clock=lambda: now[0])
    progress.show("reading", 0, 0)
    assert lines == []
    now[0] += PERIOD_S
    progress.show("reading", 7, 0)
    assert lines == ["reading, 15 s so far"]
