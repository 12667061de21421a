"""Updates that are beside one another may come in any order, each once; the accepted version never goes back."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.trust import ALL_CLOSED, VERSION_MAX, WINDOW_SIZE, TrustState

FRESH = TrustState(root=b"root", accepted=0)


def after(*versions, state=FRESH):
    """The state after versions were accepted; a negative one is not beside."""
    for version in versions:
        state = state.with_accepted(abs(version), beside=version > 0)
    return state


def test_one_update_after_the_other_closes_all_that_is_older():
    state = after(-3)
    assert (state.accepted, state.closed) == (3, ALL_CLOSED)
    assert not any(map(state.may_accept, range(4)))
    assert state.may_accept(4)


def test_an_update_that_another_one_beside_it_overtook_may_still_come_and_once_only():
    state = after(-1, 3)
    assert state.may_accept(2)
    assert not state.may_accept(1)
    state = after(2, state=state)
    assert state.accepted == 3
    assert not state.may_accept(2)


def test_a_late_update_that_is_not_beside_closes_what_is_older_than_itself_only():
    state = after(-1, 6, -3)
    assert [version for version in range(8) if state.may_accept(version)] == [4, 5, 7]


def test_nothing_comes_from_before_the_window():
    state = after(-1, 1000)
    assert not state.may_accept(1000 - WINDOW_SIZE)
    assert state.may_accept(1000 - WINDOW_SIZE + 1)


@given(st.lists(st.tuples(st.integers(1, 200) | st.integers(1, VERSION_MAX), st.booleans()), max_size=30))
def test_a_window_is_as_good_as_a_list_of_all_that_happened(offers):
    state, taken, barrier = FRESH, set(), 0
    for version, beside in offers:
        is_open = version > barrier and version not in taken and version > state.accepted - WINDOW_SIZE
        assert state.may_accept(version) == is_open
        if is_open:
            before, state = state, state.with_accepted(version, beside=beside)
            taken.add(version)
            barrier = barrier if beside else version
            assert state.accepted == max(before.accepted, version)
            assert 0 <= state.closed <= ALL_CLOSED
