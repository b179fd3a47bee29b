"""What holds for source learning whatever is sent, as properties."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from learner import HANDOVER, NONE, PLACES, RTCP, RTCP_MUX, RTP, STRANGER, STRICT, Learner


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 2, allow_nan=False),
            st.sampled_from(["stranger", "stranger2", "stranger3", "local", "null", "multicast", "port 0"]),
            st.integers(0, 65535),
            st.integers(0, 3),
            st.sampled_from([NONE, RTP, RTCP]),
        ),
        max_size=60,
    ),
    st.sampled_from([0, STRICT, STRICT | STRANGER, STRANGER | RTCP_MUX]),
)
def test_a_truthful_party_is_never_displaced_while_it_talks(packets: list[Any], flags: int) -> None:
    """Rule 2 as a property: before and while the named party talks, nothing is sent to a stranger."""
    learner = Learner(flags=flags)
    at = 0.0
    learner.packet(at, "exact", seq=0, ssrc=77)
    for i, (delta, place, seq, ssrc, proof) in enumerate(packets):
        at += min(delta, 1.9)
        learner.packet(at, place, seq=seq, ssrc=ssrc, proof=proof)
        assert learner.send_to == "exact"
        assert learner.packet(at, "exact", seq=i, ssrc=77) == "relay"


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(sorted(PLACES)), st.integers(0, 65535), st.integers(0, 1)), max_size=40))
def test_inside_the_window_nothing_is_sent_to_a_stranger(packets: list[Any]) -> None:
    learner = Learner(flags=STRICT | STRANGER | HANDOVER)
    for i, (place, seq, ssrc) in enumerate(packets):
        learner.packet(i * 2.9 / 40, place, seq=seq, ssrc=ssrc)
        assert learner.send_to in ("exact", "same", "same2", "alias", "alias2") or learner.confirmed
        if not learner.confirmed:
            assert learner.accept_from in (None, "same", "same2", "alias", "alias2")
