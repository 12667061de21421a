"""Text from tokens: whole characters, and nothing that a stop string could claim."""

from hypothesis import given
from hypothesis import strategies as st

from onboard.inference.text import Detokenizer, StopFinder


def decode_bytes(tokens):
    """A tokenizer of single bytes: the worst case for UTF-8."""
    return bytes(tokens).decode(errors="replace")


@given(st.text(max_size=40))
def test_byte_tokens_join_to_the_text_and_no_piece_holds_half_a_character(text):
    detokenizer = Detokenizer(decode_bytes)
    pieces = [detokenizer.push(byte) for byte in text.encode()] + [detokenizer.finish()]
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.binary(max_size=60))
def test_broken_bytes_do_not_wait_for_ever(data):
    detokenizer = Detokenizer(decode_bytes)
    for count, byte in enumerate(data):
        detokenizer.push(byte)
        assert len(detokenizer._waiting) <= 9, count
    detokenizer.finish()


def test_a_token_that_reads_differently_after_another_one_keeps_its_space():
    words = {1: "the", 2: "model"}

    def decode(tokens):  # SentencePiece: the first word of a text loses its leading space
        return " ".join(words[token] for token in tokens)

    detokenizer = Detokenizer(decode)
    assert [detokenizer.push(1), detokenizer.push(2), detokenizer.push(1)] == ["the", " model", " the"]


@given(
    st.text(alphabet="ab", max_size=30),
    st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 3), max_size=40),
)
def test_stops_are_found_however_the_text_is_cut(text, stops, cuts):
    finder = StopFinder(stops)
    complete = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = text[: min(complete)[1]] if complete else text
    out, at = "", 0
    for length in [*cuts, 30]:
        out += finder.push(text[at : at + length])
        at += length
        assert expected.startswith(out), "text was let out that a stop claims"
    assert out + finder.push(text[at:]) + finder.finish() == expected
    assert finder.found == bool(complete)


def test_of_two_stops_the_earlier_one_ends_the_text():
    finder = StopFinder(["later", "soon"])
    assert finder.push("as soon as later") == "as "
    assert finder.found
    assert finder.push("more") == ""
