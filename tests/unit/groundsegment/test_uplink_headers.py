"""Short headers go only where the satellite has had a chance to know the object."""

from groundsegment.uplink.headers import WHOLE_EVERY, WHOLE_FIRST, Headers

A, B = b"objecA", b"objecB"


def test_an_object_begins_with_whole_frames_and_keeps_sending_one_now_and_then():
    headers = Headers()
    shorts = headers.take(A, 10) + headers.take(B, 3) + headers.take(A, 1000)
    own = shorts[:10] + shorts[13:]

    assert not any(own[:WHOLE_FIRST])
    assert not any(shorts[10:13])
    whole = [number for number, is_short in enumerate(own) if not is_short and number >= WHOLE_FIRST]
    assert whole == list(range(WHOLE_EVERY, len(own), WHOLE_EVERY))


def test_a_receiver_that_restarted_is_told_everything_again():
    headers = Headers()
    headers.take(A, 500)
    headers.start_over()

    assert not any(headers.take(A, WHOLE_FIRST))
