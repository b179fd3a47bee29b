"""ICE: our candidates, the lite agent and the relay of checks, with scripted time; and what attackers may not do."""

from __future__ import annotations

import random
import zlib
from itertools import count
from weakref import ref

import pytest
from aioice import stun as foreign
from hypothesis import given
from hypothesis import strategies as st

from rtpengine import ice, stun
from rtpengine.ice import Forward, IceAgent, IceRelay, Verdict
from rtpengine.media import Candidate, Endpoint, IceCredentials
from rtpengine.stun import ERROR, INDICATION, REQUEST, SUCCESS

OURS = IceCredentials("ourufrag", "our-password-of-28-letters-x")
THEIRS = IceCredentials("peer", "their-password-of-28-letters")
A = Endpoint("192.0.2.1", 40001)
B = Endpoint("192.0.2.2", 40002)
C = Endpoint("2001:db8::3", 40003)
RTP, RTCP = 11, 12
HIGH, LOW = 0x7E0000FF, 0x6E0000FF
HOST_MAX = 2130706431

_ids = count(1)


def message(
    message_class: int = REQUEST,
    *attributes: tuple[int, bytes],
    user: str | None = "ourufrag:peer",
    password: str | None = OURS.pwd,
    tid: bytes | None = None,
) -> bytes:
    named = [] if user is None else [(stun.USERNAME, user.encode())]
    tid = next(_ids).to_bytes(12, "big") if tid is None else tid
    return stun.serialize(message_class, tid, [*named, *attributes], password)


def check(
    priority: int = HIGH,
    nominates: bool = False,
    user: str | None = "ourufrag:peer",
    password: str | None = OURS.pwd,
    tid: bytes | None = None,
) -> bytes:
    """A request as a controlling agent sends it."""
    attributes = [(stun.ICE_CONTROLLING, bytes(8)), (stun.PRIORITY, priority.to_bytes(4, "big"))]
    if nominates:
        attributes.append((stun.USE_CANDIDATE, b""))
    return message(REQUEST, *attributes, user=user, password=password, tid=tid)


def with_fingerprint(data: bytes) -> bytes:
    """The message with its last attribute made the right FINGERPRINT: anybody can do that."""
    return data[:-4] + (zlib.crc32(data[:-8]) ^ 0x5354554E).to_bytes(4, "big")


def code_of(reply: bytes | None) -> int | None:
    """The error code of a reply, 0 for a success, None for no reply."""
    if reply is None:
        return None
    found = stun.parse(reply)
    assert found.has_valid_fingerprint
    value = found.attribute(stun.ERROR_CODE)
    assert (found.message_class == ERROR) == (value is not None)
    return value[2] * 100 + value[3] if value else 0


class TestCredentials:
    def test_random_letters_and_digits(self) -> None:
        asked: list[int] = []
        chance = random.Random(8445)

        def source(size: int) -> bytes:
            asked.append(size)
            return chance.randbytes(size)

        made = [ice.new_credentials(source) for _ in range(200)]
        assert {(len(one.ufrag), len(one.pwd)) for one in made} == {(8, 28)}
        assert len({one.ufrag for one in made}) == len({one.pwd for one in made}) == 200
        letters = "".join(one.ufrag + one.pwd for one in made)
        assert letters.isascii()
        assert letters.isalnum()
        assert len(set(letters)) == 62
        # every letter is used up to its 6 bits, and comes from the source that was given
        assert sorted(set(asked)) == [8 + 8, 28 + 8]

    def test_the_same_bytes_make_the_same_credentials(self) -> None:
        assert ice.new_credentials(bytes) == IceCredentials("a" * 8, "a" * 28)

    def test_foundations(self) -> None:
        first, second = ice.new_foundations(random.Random(1).randbytes)
        assert first != second
        assert {len(first), len(second)} == {16}

    def test_nothing_shows_the_password(self) -> None:
        assert OURS.pwd not in repr(OURS)


class TestPriority:
    @pytest.mark.parametrize(
        ("kind", "local_preference", "component", "value"),
        [
            ("host", 65535, 1, HOST_MAX),
            ("host", 65535, 2, 2130706430),
            ("host", 65534, 1, HOST_MAX - 256),
            ("host", 0, 256, 126 << 24),
            ("relay", 65535, 1, 16777215),
            ("relay", 0, 1, 255),
        ],
    )
    def test_formula(self, kind: str, local_preference: int, component: int, value: int) -> None:
        assert ice.priority(kind, local_preference, component) == value

    @pytest.mark.parametrize(
        ("lowest", "value"),
        [
            (2**31 - 1, HOST_MAX),
            (HOST_MAX + 1, HOST_MAX),
            (HOST_MAX, HOST_MAX - 256),
            (HOST_MAX - 1, HOST_MAX - 256),
            (HOST_MAX - 255, HOST_MAX - 256),
            (HOST_MAX - 256, HOST_MAX - 512),
            (1694498815, 1694498559),
            # a type preference of its own where the local preference is used up
            (100 << 24 | 255, (100 << 24) - 1),
            (100 << 24 | 256, 100 << 24 | 255),
            (16777215, 16776959),
            (512, 511),
            (511, 255),
            (256, 255),
            (255, 1),
            (1, 1),
            (0, 1),
        ],
    )
    def test_lower_than_others(self, lowest: int, value: int) -> None:
        assert ice.lower_priority(lowest) == value

    @given(st.integers(256, 2**31 - 1))
    def test_the_largest_of_its_form_below(self, lowest: int) -> None:
        value = ice.lower_priority(lowest)
        assert value < lowest
        assert value & 0xFF == 255
        assert value == HOST_MAX or value + 256 >= lowest


class TestCandidates:
    P1, P2 = Endpoint("192.0.2.9", 30000), Endpoint("192.0.2.9", 30001)
    S1, S2 = Endpoint("2001:db8::9", 30000), Endpoint("2001:db8::9", 30001)

    @pytest.mark.parametrize(
        ("rtcp", "lowest", "kind", "alternate", "expected"),
        [
            (P2, None, "host", None, [("f", 1, HOST_MAX, P1), ("f", 2, HOST_MAX - 1, P2)]),
            (None, None, "host", None, [("f", 1, HOST_MAX, P1)]),
            (
                P2,
                None,
                "host",
                (S1, S2),
                [
                    ("f", 1, HOST_MAX, P1),
                    ("f", 2, HOST_MAX - 1, P2),
                    ("g", 1, HOST_MAX - 256, S1),
                    ("g", 2, HOST_MAX - 257, S2),
                ],
            ),
            (None, None, "host", (S1, None), [("f", 1, HOST_MAX, P1), ("g", 1, HOST_MAX - 256, S1)]),
            (P2, 1694498815, "host", None, [("f", 1, 1694498559, P1), ("f", 2, 1694498558, P2)]),
            (None, HOST_MAX, "host", (S1, None), [("f", 1, HOST_MAX - 256, P1), ("g", 1, HOST_MAX - 512, S1)]),
            (P2, 2, "host", (S1, S2), [("f", 1, 1, P1), ("f", 2, 1, P2), ("g", 1, 1, S1), ("g", 2, 1, S2)]),
            (P2, 256, "host", (S1, S2), [("f", 1, 255, P1), ("f", 2, 254, P2), ("g", 1, 1, S1), ("g", 2, 1, S2)]),
            (P2, None, "relay", None, [("f", 1, 16777215, P1), ("f", 2, 16777214, P2)]),
            (P2, HOST_MAX, "relay", None, [("f", 1, 16777215, P1), ("f", 2, 16777214, P2)]),
            (None, 1000, "relay", None, [("f", 1, 767, P1)]),
        ],
    )
    def test_order_and_priority(
        self,
        rtcp: Endpoint | None,
        lowest: int | None,
        kind: str,
        alternate: tuple[Endpoint, Endpoint | None] | None,
        expected: list[tuple[str, int, int, Endpoint]],
    ) -> None:
        made = ice.candidates(self.P1, rtcp, ("f", "g"), lowest=lowest, kind=kind, alternate=alternate)
        assert [one[:4] for one in made] == expected
        assert {one.kind for one in made} == {kind}
        assert [one.related for one in made] == [None if kind == "host" else one.endpoint for one in made]

    def test_type(self) -> None:
        assert ice.candidates(self.P1, None, ("f", "g")) == (Candidate("f", 1, HOST_MAX, self.P1),)


class TestAnswers:
    @pytest.mark.parametrize("source", [A, C])
    def test_success(self, source: Endpoint) -> None:
        agent = IceAgent(OURS, THEIRS)
        request = check()
        reply, valid, nominated = agent.receive(RTP, request, source, 1.0)
        assert (valid, nominated) == (True, False)
        assert reply is not None
        found = stun.parse(reply)
        assert found.message_class == SUCCESS
        assert found.transaction_id == stun.parse(request).transaction_id
        assert found.attributes == ((stun.XOR_MAPPED_ADDRESS, stun.xor_address(source, found.transaction_id)),)
        assert found.has_valid_integrity(OURS.pwd)
        assert found.has_valid_fingerprint

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            pytest.param(check(), 0, id="good"),
            pytest.param(message(), 0, id="bare"),
            pytest.param(message(REQUEST, (0xC057, b"\0\1\0\2"), (0x8022, b"chrome")), 0, id="optional attributes"),
            pytest.param(check(user=None), 400, id="no user name"),
            pytest.param(check(password=None), 400, id="no integrity"),
            pytest.param(check(user=None, password=None), 400, id="neither"),
            pytest.param(check(password=THEIRS.pwd), 401, id="right user, wrong password"),
            pytest.param(check(password=""), 401, id="right user, empty password"),
            pytest.param(check(user="ourufrag"), 401, id="half a user name"),
            pytest.param(check(user="ourufrag:"), 401, id="user name without remote"),
            pytest.param(check(user=":peer"), 401, id="user name without local"),
            pytest.param(check(user="peer:ourufrag"), 401, id="user name turned round"),
            pytest.param(check(user="ourufra:peer"), 401, id="other local"),
            pytest.param(check(user="OURUFRAG:peer"), 401, id="other case"),
            pytest.param(check(user="ourufrag:pee"), 401, id="other remote"),
            pytest.param(check(user="ourufrag:peer:x"), 401, id="more than a remote"),
            pytest.param(message(REQUEST, (0x0003, b"\0\0\0\2")), 420, id="unknown attribute"),
            pytest.param(message(REQUEST, (stun.XOR_MAPPED_ADDRESS, bytes(8))), 420, id="attribute of responses"),
            pytest.param(message(REQUEST, (0x0003, b""), password="x"), 401, id="unknown attribute, wrong password"),
            pytest.param(message(REQUEST, (0x0003, b""), password=None), 400, id="unknown attribute, no integrity"),
            pytest.param(message(REQUEST, (stun.ICE_CONTROLLED, bytes(8))), 487, id="role conflict"),
            pytest.param(
                message(REQUEST, (stun.ICE_CONTROLLED, bytes(8)), (stun.USE_CANDIDATE, b"")),
                487,
                id="conflict, nominated",
            ),
            pytest.param(message(REQUEST, (stun.ICE_CONTROLLED, bytes(8)), password="x"), 401, id="conflict, forged"),
            pytest.param(message(INDICATION), None, id="indication"),
            pytest.param(message(SUCCESS), None, id="response"),
            pytest.param(message(SUCCESS, (stun.XOR_MAPPED_ADDRESS, bytes(8)), user=None), None, id="usual response"),
            pytest.param(message(ERROR, (stun.ERROR_CODE, b"\0\0\4\1"), user=None), None, id="error response"),
            pytest.param(check()[:-8], None, id="cut"),
            pytest.param(check()[:-1] + b"\0\0", None, id="wrong fingerprint"),
            pytest.param(with_fingerprint(b"\0\3" + check()[2:]), None, id="another method"),
            pytest.param(with_fingerprint(check()[:-1] + b"\1")[:-4] + bytes(4), None, id="zero fingerprint"),
            pytest.param(b"\x80\0" + bytes(170), None, id="RTP"),
            pytest.param(b"", None, id="nothing"),
        ],
    )
    def test_codes(self, data: bytes, code: int | None) -> None:
        agent = IceAgent(OURS, THEIRS)
        verdict = agent.receive(RTP, data, A, 1.0)
        assert code_of(verdict.reply) == code
        assert verdict.valid == (code == 0)
        assert not verdict.nominated
        assert agent.state == ("checking" if code == 0 else "new")
        assert agent.last_valid == (1.0 if code == 0 else None)

    def test_no_fingerprint(self) -> None:
        request = check()
        bare = request[:2] + (len(request) - 28).to_bytes(2, "big") + request[4:-8]
        assert stun.parse(bare).has_valid_integrity(OURS.pwd)
        assert IceAgent(OURS, THEIRS).receive(RTP, bare, A, 0.0) == Verdict()

    def test_unknown_remote_is_not_compared(self) -> None:
        agent = IceAgent(OURS)
        assert agent.receive(RTP, check(user="ourufrag:anybody"), A, 0.0).valid
        for user in ("ourufrag", "ourufrag:"):
            assert code_of(agent.receive(RTP, check(user=user), A, 0.0).reply) == 401
        agent.meet(THEIRS)
        assert not agent.receive(RTP, check(user="ourufrag:anybody"), A, 0.0).valid
        assert agent.receive(RTP, check(), A, 0.0).valid

    def test_names_that_are_no_text(self) -> None:
        agent = IceAgent(OURS, IceCredentials("p\udcffer", "x" * 22))
        odd = stun.serialize(REQUEST, b"t" * 12, [(stun.USERNAME, b"ourufrag:p\xffer")], OURS.pwd)
        assert agent.receive(RTP, odd, A, 0.0).valid
        assert code_of(agent.receive(RTP, check(), A, 0.0).reply) == 401

    @pytest.mark.parametrize(
        ("data", "code", "signed"),
        [
            (check(user=None), 400, False),
            (check(password="x"), 401, False),
            (message(REQUEST, (0x0003, b""), (0xC057, b""), (0x7FFF, b"")), 420, True),
            (message(REQUEST, (stun.ICE_CONTROLLED, bytes(8))), 487, True),
        ],
        ids=["400", "401", "420", "487"],
    )
    def test_error_replies_as_a_peer_reads_them(self, data: bytes, code: int, signed: bool) -> None:
        reply = IceAgent(OURS, THEIRS).receive(RTP, data, A, 0.0).reply
        assert reply is not None
        found = foreign.parse_message(reply)
        assert found.message_class == foreign.Class.ERROR
        assert found.attributes["ERROR-CODE"][0] == code
        assert ("MESSAGE-INTEGRITY" in found.attributes) == signed
        if signed:
            assert stun.parse(reply).has_valid_integrity(OURS.pwd)
        assert stun.parse(reply).attribute(stun.UNKNOWN_ATTRIBUTES) == (b"\0\3\x7f\xff" if code == 420 else None)

    def test_a_peer_s_own_check(self) -> None:
        request = foreign.Message(
            foreign.Method.BINDING,
            foreign.Class.REQUEST,
            attributes={"USERNAME": "ourufrag:peer", "PRIORITY": 7, "ICE-CONTROLLING": 9, "USE-CANDIDATE": None},
        )
        request.add_message_integrity(OURS.pwd.encode())
        reply, valid, nominated = IceAgent(OURS, THEIRS).receive(RTP, bytes(request), C, 0.0)
        assert (valid, nominated) == (True, True)
        assert reply is not None
        found = foreign.parse_message(reply)
        assert found.message_class == foreign.Class.RESPONSE
        assert found.attributes["XOR-MAPPED-ADDRESS"] == tuple(C)
        assert found.attributes["MESSAGE-INTEGRITY"] == foreign.message_integrity(reply[:-32], OURS.pwd.encode())

    def test_answers_for_ever(self) -> None:
        agent = IceAgent(OURS, THEIRS)
        for second in range(0, 86_400, 5):
            assert code_of(agent.receive(RTP, check(), A, float(second)).reply) == 0
        assert agent.last_valid == 86_395.0


class TestErrorsAreFew:
    @pytest.mark.parametrize(
        "data",
        [check(user=None), check(password="x"), message(REQUEST, (0x0003, b""))],
        ids=["400", "401", "420"],
    )
    def test_budget(self, data: bytes) -> None:
        agent = IceAgent(OURS, THEIRS)
        at_once = [agent.receive(RTP, data, A, 5.0).reply for _ in range(1000)]
        assert sum(reply is not None for reply in at_once) == ice.ERROR_BURST
        later = [agent.receive(RTP, data, A, 5.0 + step / 100).reply for step in range(1, 1001)]
        assert sum(reply is not None for reply in later) == pytest.approx(10 * ice.ERRORS_PER_S, abs=1)
        # who is authentic is answered all the same
        assert code_of(agent.receive(RTP, check(), A, 5.0).reply) == 0
        assert code_of(agent.receive(RTP, message(REQUEST, (stun.ICE_CONTROLLED, bytes(8))), A, 5.0).reply) == 487

    def test_silence_fills_it_no_more_than_once(self) -> None:
        agent = IceAgent(OURS, THEIRS)
        agent.receive(RTP, check(user=None), A, 0.0)
        replies = [agent.receive(RTP, check(user=None), A, 1e6).reply for _ in range(100)]
        assert sum(reply is not None for reply in replies) == ice.ERROR_BURST


# A step: time, source, priority of the check, whether it nominates; and who is selected afterwards.
Step = tuple[float, Endpoint, int, bool, Endpoint | None]
NOMINATION: dict[str, list[Step]] = {
    "no nomination": [(0.0, A, HIGH, False, None), (0.1, B, LOW, False, None)],
    "regular: one check nominates, the others on the pair do not": [
        (0.0, A, HIGH, False, None),
        (0.1, B, LOW, False, None),
        (0.5, B, LOW, True, B),
        (1.0, A, HIGH, False, B),
        (5.0, B, LOW, False, B),
        (90.0, B, LOW, False, B),
    ],
    "regular: a later nomination moves the pair, whatever its priority": [
        (0.0, A, HIGH, True, A),
        (0.5, A, HIGH, False, A),
        (0.6, B, LOW, True, B),
        (0.7, A, HIGH, False, B),
    ],
    "aggressive: the highest priority wins, first or last": [
        (0.0, A, LOW, True, A),
        (0.1, B, HIGH, True, B),
        (0.2, A, LOW, True, B),
        (2.0, C, LOW, True, B),
        (2.5, B, HIGH, True, B),
        (4.0, A, LOW, True, B),
    ],
    "aggressive: it returns as soon as it checks again": [
        (0.0, A, HIGH, True, A),
        (3.5, B, LOW, True, B),
        (3.6, A, HIGH, True, A),
        (3.7, B, LOW, True, A),
    ],
    "of equal priority the latest wins: the same candidate behind a new NAT binding": [
        (0.0, A, HIGH, True, A),
        (0.5, B, HIGH, True, B),
    ],
    "browser: nominates in each check on the pair in use": [
        (0.0, A, HIGH, False, None),
        (0.1, A, HIGH, True, A),
        (0.2, B, LOW, False, A),
        (2.6, A, HIGH, True, A),
        (2.7, A, HIGH, False, A),
        (2.8, B, LOW, True, B),
        (5.2, A, HIGH, False, B),
        (5.3, B, LOW, True, B),
    ],
    "browser: its network is gone, and so is the selected source": [
        (0.0, A, HIGH, True, A),
        (2.5, A, HIGH, True, A),
        (3.0, B, LOW, True, A),
        (5.4, B, LOW, True, A),
        (5.6, B, LOW, True, B),
    ],
    "a source without consent is lost": [
        (0.0, A, HIGH, True, A),
        (29.0, B, LOW, False, A),
        (30.5, B, LOW, False, B),
        (30.6, A, HIGH, False, B),
    ],
    "a check without priority": [
        (0.0, A, LOW, True, A),
        (0.1, B, 0, True, A),
        (0.2, A, 0, True, A),
        (0.3, B, 0, True, B),
    ],
}


class TestNomination:
    @pytest.mark.parametrize("steps", NOMINATION.values(), ids=NOMINATION)
    def test_scenario(self, steps: list[Step]) -> None:
        agent = IceAgent(OURS, THEIRS)
        for now, source, priority, nominates, selected in steps:
            verdict = agent.receive(RTP, check(priority, nominates), source, now)
            assert verdict.valid
            assert verdict.nominated == (source == selected)
            assert agent.selected(RTP) == selected
            assert agent.last_valid == now

    def test_streams_are_apart(self) -> None:
        agent = IceAgent(OURS, THEIRS)
        states = [agent.state]
        for stream, nominates in ((RTP, False), (RTP, True), (RTCP, False), (RTCP, True)):
            agent.receive(stream, check(HIGH, nominates), A if stream == RTP else B, 1.0)
            states.append(agent.state)
        assert states == ["new", "checking", "connected", "checking", "connected"]
        assert (agent.selected(RTP), agent.selected(RTCP), agent.selected(99)) == (A, B, None)

    def test_without_priority_attribute(self) -> None:
        agent = IceAgent(OURS, THEIRS)
        assert agent.receive(RTP, message(REQUEST, (stun.USE_CANDIDATE, b"")), A, 0.0).nominated


class TestRestart:
    NEW = IceCredentials("newufrag", "our-other-password-28-letter")

    def restarted(self) -> tuple[IceAgent, bytes, bytes]:
        first = IceAgent(OURS, THEIRS)
        assert first.receive(RTP, check(HIGH, True), A, 0.0).nominated
        again = IceAgent(self.NEW, IceCredentials("fresh", "x" * 22), previous=first)
        return again, check(HIGH, True), check(LOW, True, "newufrag:fresh", self.NEW.pwd)

    def test_the_old_pair_is_answered_until_there_is_a_new_one(self) -> None:
        agent, old, new = self.restarted()
        verdict = agent.receive(RTP, old, A, 1.0)
        assert (code_of(verdict.reply), verdict.valid, verdict.nominated) == (0, True, True)
        assert stun.parse(verdict.reply or b"").has_valid_integrity(OURS.pwd)
        assert (agent.state, agent.last_valid, agent.selected(RTP)) == ("new", 1.0, None)
        assert agent.receive(RTP, new, B, 2.0)[1:] == (True, True)
        assert agent.selected(RTP) == B
        assert code_of(agent.receive(RTP, old, A, 3.0).reply) == 401
        # the other stream has no new pair yet
        assert agent.receive(RTCP, old, A, 3.0).valid

    def test_old_and_new_are_not_mixed(self) -> None:
        agent, _, _ = self.restarted()
        for user, password in (
            ("ourufrag:peer", self.NEW.pwd),
            ("newufrag:fresh", OURS.pwd),
            ("ourufrag:fresh", OURS.pwd),
        ):
            assert code_of(agent.receive(RTP, check(HIGH, True, user, password), B, 1.0).reply) == 401
        assert agent.selected(RTP) is None

    def test_only_one_generation_back(self) -> None:
        agent, old, new = self.restarted()
        first = ref(agent._previous)
        third = IceAgent(IceCredentials("3rd-frag", "z" * 28), THEIRS, previous=agent)
        assert code_of(third.receive(RTP, old, A, 1.0).reply) == 401
        assert third.receive(RTP, new, A, 1.0).valid
        assert first() is None


def mutated(chance: random.Random, data: bytes) -> bytes:
    """The message with some bytes changed, cut, doubled or moved; every second time with the right FINGERPRINT."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        match chance.randrange(4):
            case 0 | 1:
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            case 2:
                at = 20 + 4 * chance.randrange((len(changed) - 20) // 4)
                changed[at:at] = changed[at : at + 4 * chance.randrange(8)]
            case 3:
                at = 20 + 4 * chance.randrange((len(changed) - 20) // 4)
                del changed[at : at + 4 * chance.randrange(3)]
        if len(changed) < 40:
            return bytes(changed)
    if chance.random() < 0.5:
        changed[2:4] = (len(changed) - 20).to_bytes(2, "big")
        return with_fingerprint(bytes(changed))
    return bytes(changed)


class TestAttacks:
    def test_mutations_prove_nothing(self) -> None:
        agent = IceAgent(OURS, THEIRS)
        relay = known_relay()
        agent.receive(RTP, check(HIGH, True), A, 0.0)
        chance = random.Random(8445)
        codes = set()
        for _ in range(20_000):
            original = check(HIGH, True)
            data = mutated(chance, original)
            # the integrity neither covers what follows it nor the length of that
            if (data[:2] + data[4:]).startswith(original[:2] + original[4:-8]):
                continue
            verdict = agent.receive(RTP, data, B, 0.0)
            assert (verdict.valid, verdict.nominated) == (False, False)
            codes.add(code_of(verdict.reply))
            agent._errors = ice._Budget(1, 0)
            for party in (0, 1):
                assert relay.receive(party, RTP, data, B, 0.0) == Forward()
        assert codes == {None, 400, 401}
        assert (agent.selected(RTP), agent.last_valid, agent.state) == (A, 0.0, "connected")

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(check(HIGH, True, password="x"), id="right user and wrong password"),
            pytest.param(check(HIGH, True, password=None), id="no integrity"),
            pytest.param(check(HIGH, True, user="x:y"), id="unknown user"),
            pytest.param(message(REQUEST, *[(0x8022, b"")] * 1000), id="a thousand attributes"),
            pytest.param(message(REQUEST, (0x8022, bytes(65_000))), id="64 KiB"),
            pytest.param(with_fingerprint(check()[:-12] + b"\x80\x22\xff\xff" + bytes(8)), id="length past the end"),
        ],
    )
    def test_forged(self, data: bytes) -> None:
        agent = IceAgent(OURS, THEIRS)
        agent.receive(RTP, check(HIGH, True), A, 0.0)
        for step in range(100):
            assert not agent.receive(RTP, data, B, 1.0 + step).valid
        assert (agent.selected(RTP), agent.last_valid, agent.state) == (A, 0.0, "connected")
        assert agent.selected(RTCP) is None

    def test_what_is_behind_the_integrity_does_not_nominate(self) -> None:
        request = check()
        body = request[:-8] + b"\0\x25\0\0"
        data = with_fingerprint(body[:2] + (len(body) - 12).to_bytes(2, "big") + body[4:] + request[-8:])
        assert stun.parse(data).has_valid_integrity(OURS.pwd)
        assert stun.parse(data).has_valid_fingerprint
        assert IceAgent(OURS, THEIRS).receive(RTP, data, A, 0.0)[1:] == (True, False)


ALICE = IceCredentials("alice", "the-password-of-alice-28-let")
BOB = IceCredentials("bob1", "the-password-of-bob-28-lette")
TO_ALICE, TO_BOB = 21, 22


def known_relay() -> IceRelay:
    relay = IceRelay()
    relay.learn(0, ALICE)
    relay.learn(1, BOB)
    return relay


def from_alice(priority: int = HIGH, nominates: bool = False, tid: bytes = b"a" * 12) -> bytes:
    return check(priority, nominates, "bob1:alice", BOB.pwd, tid)


def response(tid: bytes, credentials: IceCredentials, message_class: int = SUCCESS) -> bytes:
    return message(message_class, (stun.XOR_MAPPED_ADDRESS, bytes(8)), user=None, password=credentials.pwd, tid=tid)


class TestRelay:
    def test_a_check_and_its_response(self) -> None:
        relay = known_relay()
        assert relay.receive(0, TO_ALICE, from_alice(), A, 0.0) == Forward(True, True, False, None)
        assert relay.receive(1, TO_BOB, response(b"a" * 12, BOB), B, 0.1) == Forward(True, True, False, A)

    def test_nomination_reaches_both_ends(self) -> None:
        relay = known_relay()
        assert relay.receive(0, TO_ALICE, from_alice(HIGH, True), A, 0.0) == Forward(True, True, True, None)
        assert relay.receive(1, TO_BOB, response(b"a" * 12, BOB), B, 0.1) == Forward(True, True, True, A)
        # bob's own checks come from the pair that alice has chosen
        triggered = check(LOW, False, "alice:bob1", ALICE.pwd, b"b" * 12)
        assert relay.receive(1, TO_BOB, triggered, B, 0.2) == Forward(True, True, True, None)
        assert relay.receive(1, TO_BOB, triggered, C, 0.2) == Forward(True, True, False, None)
        assert relay.receive(0, TO_ALICE, response(b"b" * 12, ALICE), A, 0.3) == Forward(True, True, True, C)

    def test_responses_go_where_their_requests_came_from(self) -> None:
        relay = known_relay()
        for tid, source in ((b"1" * 12, A), (b"2" * 12, B)):
            relay.receive(0, TO_ALICE, from_alice(tid=tid), source, 0.0)
        assert relay.receive(1, TO_BOB, response(b"2" * 12, BOB), C, 0.1).to == B
        assert relay.receive(1, TO_BOB, response(b"1" * 12, BOB), C, 0.1).to == A
        # each once, and again if the request was sent again
        assert relay.receive(1, TO_BOB, response(b"1" * 12, BOB), C, 0.1) == Forward()
        relay.receive(0, TO_ALICE, from_alice(tid=b"1" * 12), A, 0.2)
        assert relay.receive(1, TO_BOB, response(b"1" * 12, BOB), C, 0.3).forward

    def test_role_conflicts_pass(self) -> None:
        relay = known_relay()
        relay.receive(0, TO_ALICE, from_alice(HIGH, True), A, 0.0)
        assert relay.receive(1, TO_BOB, response(b"a" * 12, BOB, ERROR), B, 0.1) == Forward(True, True, False, A)

    @pytest.mark.parametrize(
        ("party", "data"),
        [
            pytest.param(0, check(user="bob1:alice", password=ALICE.pwd), id="own password"),
            pytest.param(0, check(user="bob1:alice", password="x"), id="wrong password"),
            pytest.param(0, check(user="bob1:alice", password=None), id="no integrity"),
            pytest.param(0, check(user=None, password=BOB.pwd), id="no user name"),
            pytest.param(0, check(user="bob1:mallory", password=BOB.pwd), id="other sender"),
            pytest.param(0, check(user="bob:alice", password=BOB.pwd), id="other addressee"),
            pytest.param(0, check(user="alice:alice", password=ALICE.pwd), id="to itself"),
            pytest.param(1, from_alice(), id="from the wrong side"),
            pytest.param(1, response(b"x" * 12, BOB), id="response to nothing"),
            pytest.param(1, response(b"p" * 12, ALICE), id="response with the wrong password"),
            pytest.param(0, response(b"p" * 12, BOB), id="response from the wrong side"),
            pytest.param(1, message(ERROR, user=None, password=None, tid=b"p" * 12), id="unsigned response"),
            pytest.param(0, message(INDICATION, user="bob1:alice", password=BOB.pwd), id="indication"),
            pytest.param(0, with_fingerprint(b"\0\3" + from_alice()[2:]), id="another method"),
            pytest.param(0, from_alice()[:-4] + bytes(4), id="wrong fingerprint"),
            pytest.param(0, b"\x80\0" + bytes(170), id="RTP"),
        ],
    )
    def test_not_passed(self, party: int, data: bytes) -> None:
        relay = known_relay()
        assert relay.receive(0, TO_ALICE, from_alice(tid=b"p" * 12), A, 0.0).forward
        assert relay.receive(party, TO_BOB if party else TO_ALICE, data, C, 0.1) == Forward()
        # and the response that is waited for is still welcome
        assert relay.receive(1, TO_BOB, response(b"p" * 12, BOB), B, 0.2) == Forward(True, True, False, A)

    def test_what_cannot_be_verified_passes_in_small_numbers(self) -> None:
        relay = IceRelay()
        relay.learn(0, ALICE)
        passed = [relay.receive(0, TO_ALICE, from_alice(HIGH, True), C, 0.0) for _ in range(1000)]
        assert set(passed) == {Forward(True, False, False, None), Forward()}
        assert sum(one.forward for one in passed) == ice.UNVERIFIED_BURST
        later = [relay.receive(0, TO_ALICE, from_alice(), C, 0.0 + step / 100).forward for step in range(1, 1001)]
        assert sum(later) == pytest.approx(10 * ice.UNVERIFIED_PER_S, abs=1)
        # a user name that cannot be alice's does not, and what can be verified is not counted
        assert not relay.receive(0, TO_ALICE, check(user="bob1:mallory", password="x"), C, 1e6).forward
        early = check(user="alice:bob1", password=ALICE.pwd, tid=b"e" * 12)
        assert relay.receive(1, TO_BOB, early, B, 10.0) == Forward(True, True, False, None)

    def test_an_unverified_request_gets_its_response(self) -> None:
        relay = IceRelay()
        relay.receive(0, TO_ALICE, from_alice(), A, 0.0)
        assert relay.receive(1, TO_BOB, response(b"a" * 12, BOB), B, 0.1) == Forward(True, False, False, A)
        relay.receive(0, TO_ALICE, from_alice(), A, 0.2)
        relay.learn(1, BOB)
        assert relay.receive(1, TO_BOB, response(b"a" * 12, BOB), B, 0.3) == Forward(True, True, False, A)

    def test_waits_for_a_bounded_number_of_responses(self) -> None:
        relay = known_relay()
        tids = [index.to_bytes(12, "big") for index in range(ice.MAX_PENDING + 1)]
        for tid in tids:
            assert relay.receive(0, TO_ALICE, from_alice(tid=tid), A, 0.0).forward
        passed = [relay.receive(1, TO_BOB, response(tid, BOB), B, 0.1).forward for tid in tids]
        assert passed == [False] + [True] * ice.MAX_PENDING

    def test_restart_keeps_the_pairs_in_use(self) -> None:
        relay = known_relay()
        for _ in range(2):
            relay.learn(0, IceCredentials("alice2", "p" * 22))
        assert relay.receive(1, TO_BOB, check(user="alice:bob1", password=ALICE.pwd, tid=b"b" * 12), B, 0.0).valid
        assert relay.receive(1, TO_BOB, check(user="alice2:bob1", password="p" * 22), B, 0.0).valid
        assert not relay.receive(1, TO_BOB, check(user="alice2:bob1", password=ALICE.pwd), B, 0.0).forward
        assert relay.receive(0, TO_ALICE, response(b"b" * 12, ALICE), A, 0.0).valid
        assert relay.receive(0, TO_ALICE, from_alice(), A, 0.0).valid
        relay.learn(0, IceCredentials("alice3", "q" * 22))
        assert not relay.receive(0, TO_ALICE, from_alice(), A, 0.0).forward
