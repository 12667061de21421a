"""Short headers go only where the satellite has had a chance to know the object."""

from groundsegment.uplink.sender.headers import WHOLE_EVERY, WHOLE_FIRST, Headers

A, B = b"objecA", b"objecB"


def test_an_object_begins_with_whole_frames_and_keeps_sending_one_now_and_then():
    headers = Headers()
    shorts = headers.take(A, 10, 0.0) + headers.take(B, 3, 0.0) + headers.take(A, 1000, 0.5)
    own = shorts[:10] + shorts[13:]

    assert not any(own[:WHOLE_FIRST])
    assert not any(shorts[10:13])
    whole = [number for number, is_short in enumerate(own) if not is_short and number >= WHOLE_FIRST]
    assert whole == list(range(WHOLE_EVERY, len(own), WHOLE_EVERY))


def test_a_receiver_that_restarted_is_told_everything_again():
    headers = Headers()
    headers.take(A, 500, 0.0)
    headers.start_over()

    assert not any(headers.take(A, WHOLE_FIRST, 0.1))


def test_frames_stay_whole_from_a_silence_until_somebody_answers_and_a_while_longer():
    headers = Headers()
    for number in range(20):
        headers.heard(0.1 * number)
        headers.take(A, 50, 0.1 * number)

    assert any(headers.take(A, 50, 2.5))
    assert not any(headers.take(A, 500, 3.1))
    assert not any(headers.take(B, 500, 9.0))
    headers.heard(9.1)
    assert not any(headers.take(B, WHOLE_FIRST, 9.2))
    assert any(headers.take(B, WHOLE_FIRST, 9.2))


def test_where_reports_are_rare_their_usual_pause_is_no_silence():
    headers = Headers()
    for number in range(40):
        headers.heard(3.0 * number)
        headers.take(A, 100, 3.0 * number)

    assert any(headers.take(A, 50, 3.0 * 39 + 5.0))


def test_a_one_way_link_has_short_headers_too():
    headers = Headers()
    headers.take(A, 100, 0.0)

    assert any(headers.take(A, 50, 1000.0))
