"""ng: bytes on the wire against typed commands, both ways; and what bad bytes may not do."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtpengine import ProtocolError, ng
from rtpengine.media import SdesPolicy, Signalling
from rtpengine.ng_keys import Defaults

SDP = b"v=0\r\no=- 1 1 IN IP4 198.51.100.1\r\ns=-\r\nc=IN IP4 198.51.100.1\r\nt=0 0\r\nm=audio 2000 RTP/AVP 0\r\n"


def bencode(value: Any) -> bytes:
    """An encoder of our own for the tests: keeps the order of keys, takes what the program under test never would."""
    match value:
        case int():
            return b"i%de" % value
        case bytes():
            return b"%d:%b" % (len(value), value)
        case str():
            return bencode(value.encode())
        case list():
            return b"l" + b"".join(map(bencode, value)) + b"e"
        case dict():
            return b"d" + b"".join(bencode(key) + bencode(item) for key, item in value.items()) + b"e"
    raise TypeError(value)


def bdecode(data: bytes) -> tuple[Any, bytes]:
    """The counterpart, written from the specification: the value at the start of ``data``, and what follows it."""
    head, rest = data[:1], data[1:]
    if head == b"i":
        number, rest = rest.split(b"e", 1)
        return int(number), rest
    if head.isdigit():
        length, rest = data.split(b":", 1)
        return rest[: int(length)], rest[int(length) :]
    assert head in (b"l", b"d")
    items = []
    while not rest.startswith(b"e"):
        item, rest = bdecode(rest)
        items.append(item)
    return (items if head == b"l" else dict(zip(items[::2], items[1::2], strict=True))), rest[1:]


def request(command: str = "offer", **more: Any) -> dict[str, Any]:
    """The least that a command needs, and ``more``; None removes a key."""
    fields = {"command": command, "sdp": SDP, "call-id": "c@x", "from-tag": "ft", "to-tag": "tt", **more}
    return {key: value for key, value in fields.items() if value is not None}


def offer(keys: dict[str, Any], defaults: Defaults = Defaults()) -> ng.Offer:  # noqa: B008
    """An offer with these additional keys."""
    command = ng.parse(bencode({**request(), **keys}), defaults)
    assert isinstance(command, ng.Offer)
    return command


def signalling(keys: dict[str, Any], trust_default: bool = False) -> Signalling:
    """What an offer with these additional keys asks for."""
    return offer(keys, Defaults(trust_default)).how


def test_split_keeps_every_byte_of_cookie_and_payload() -> None:
    assert ng.split(b"\xff\x00_1 d1:a 1:be") == (b"\xff\x00_1", b"d1:a 1:be")
    assert ng.split(b"c ") == (b"c", b"")


@pytest.mark.parametrize("datagram", [b"", b" ", b" d7:command4:pinge", b"d7:command4:pinge", b"x" * 1025 + b" de"])
def test_split_refuses_a_datagram_without_usable_cookie(datagram: bytes) -> None:
    with pytest.raises(ProtocolError):
        ng.split(datagram)


PLAIN = Signalling(trust_address=False, ice="optional")
KAMAILIO = (
    b"d8:supportsl10:load limite3:sdp3:v=0"
    b"5:flagsl13:trust-address9:symmetrice7:replacel6:origin18:session-connectione"
    b"18:transport-protocol9:RTP/SAVPF3:ICE6:remove8:rtcp-muxl5:offere10:via-branch10:z9hG4bK771"
    b"7:call-id3:a@b13:received-froml3:IP411:203.0.113.5e8:from-tag2:ft7:command5:offere"
)


@pytest.mark.parametrize(
    ("wire", "command"),
    [
        (b"d7:command4:pinge", ng.Ping()),
        (
            KAMAILIO,
            ng.Offer(
                b"v=0",
                "a@b",
                "ft",
                None,
                Signalling(
                    trust_address=True,
                    received_from="203.0.113.5",
                    protocol="RTP/SAVPF",
                    ice="remove",
                    rtcp_mux=frozenset({"offer"}),
                    replace=frozenset({"origin", "session-connection"}),
                    via_branch="z9hG4bK771",
                ),
                knows_load_limit=True,
            ),
        ),
        (bencode(request("answer")), ng.Answer(SDP, "c@x", "ft", "tt", PLAIN)),
        (bencode(request("offer")), ng.Offer(SDP, "c@x", "ft", "tt", PLAIN)),
        (bencode(request("delete", flags=["fatal"])), ng.Delete("c@x", "ft", "tt", None, True, None)),
        (bencode(request("delete", **{"from-tag": "", "to-tag": None})), ng.Delete("c@x", "", None)),
        (bencode(request("query")), ng.Query("c@x", "ft", "tt")),
        (bencode({"call-id": "", "command": "query"}), ng.Query("")),
        (bencode({"call-id": b"\xff\xfe", "command": "query"}), ng.Query("\udcff\udcfe")),
        (b"d7:command4:ping7:command5:offere", ng.Ping()),
        (b"d7:command4:pingetrailing", ng.Ping()),
        (b"d7:command4:ping1:ad1:bli-1ei0e0:deleee1:cdee", ng.Ping()),
    ],
)
def test_parse(wire: bytes, command: ng.Command) -> None:
    parsed = ng.parse(wire)
    # commands are tuples, which are equal whatever their names
    assert (type(parsed), parsed) == (type(command), command)


NOT_DECODABLE = "Could not decode dictionary"


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"", "Invalid data (no payload)"),
        (b"x", NOT_DECODABLE),
        (b'{"command": "ping"}', NOT_DECODABLE),
        (b"i1e", NOT_DECODABLE),
        (b"l7:command4:pinge", NOT_DECODABLE),
        (b"d7:command4:ping", NOT_DECODABLE),
        (b"d7:command5:pinge", NOT_DECODABLE),
        (b"d7:command", NOT_DECODABLE),
        (b"d7:commande", NOT_DECODABLE),
        (b"d7:command4:ping1:al", NOT_DECODABLE),
        (b"d7:command4:ping1:al9:abee", NOT_DECODABLE),
        (b"d07:command4:pinge", NOT_DECODABLE),
        (b"d7:command04:pinge", NOT_DECODABLE),
        (b"d7:command+4:pinge", NOT_DECODABLE),
        (b"d0_7:command4:pinge", NOT_DECODABLE),
        (b"d7:command4:ping1:a99999999999:xe", NOT_DECODABLE),
        (b"d7:command4:ping" + b"9" * 60000 + b":e", NOT_DECODABLE),
        (b"di1ei2e7:command4:pinge", NOT_DECODABLE),
        *[(b"d7:command4:ping1:ai%bee" % number, NOT_DECODABLE) for number in (b"", b"-", b"-0", b"01", b"+5")],
        *[(b"d7:command4:ping1:ai%bee" % number, NOT_DECODABLE) for number in (b"1_0", b" 1", b"1" * 20, b"x")],
        # bencodepy 4.1.0 walks backwards for ever on these
        (b"d1:a1:b-6:", NOT_DECODABLE),
        (b"d7:command4:ping1:ad1:a1:b-6:", NOT_DECODABLE),
        (b"de", 'Dictionary contains no key "command"'),
        (b"d7:commandi1ee", 'Dictionary contains no key "command"'),
        (b"d7:commandl4:pingee", 'Dictionary contains no key "command"'),
        (bencode({"command": "Ping"}), "Unrecognized command"),
        (bencode({"command": ""}), "Unrecognized command"),
        *[
            (bencode({"command": name}), "Unrecognized command")
            for name in ("block DTMF", "unblock media", "play media", "subscribe request", "unsubscribe", "\xff")
        ],
        *[
            (bencode(request(f"{verb}{blank}recording")), "Recording is not supported")
            for verb in ("start", "stop")
            for blank in " -"
        ],
        *[(bencode(request(name, sdp=None)), "No SDP body in message") for name in ("offer", "answer")],
        (bencode(request("offer", sdp=5)), "No SDP body in message"),
        *[
            (bencode(request(name, **{"call-id": None, "from-tag": None})), "No call-id in message")
            for name in ("offer", "answer", "delete", "query")
        ],
        *[
            (bencode(request(name, **{"from-tag": ["x"], "to-tag": None})), "No from-tag in message")
            for name in ("offer", "answer", "delete")
        ],
        (bencode(request("answer", **{"to-tag": None})), "No to-tag in message"),
        (bencode(request("offer", sdp=None, **{"call-id": None})), "No SDP body in message"),
        (bencode(request("offer", **{"call-id": "x" * 1025})), "Value of call-id is too long"),
        (bencode(request("delete", **{"via-branch": "x" * 1025})), "Value of via-branch is too long"),
    ],
)
def test_parse_tells_what_is_wrong(wire: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        ng.parse(wire)
    assert str(caught.value) == reason


def nested(levels: int, opening: bytes, innermost: bytes) -> bytes:
    """A ping with something nested in it, ``levels`` deep with the request itself."""
    return b"d7:command4:ping1:a" + opening * (levels - 2) + innermost + b"e" * (levels - 1)


def many(count: int, element: bytes) -> bytes:
    """A ping with ``count`` elements: the request, its two keys, the command and a list are the first five."""
    return b"d7:command4:ping1:al" + element * (count - 5) + b"ee"


@pytest.mark.parametrize(
    ("fits", "exceeds"),
    [
        *[(nested(16, *kind), nested(17, *kind)) for kind in ((b"l", b"le"), (b"d1:x", b"de"))],
        *[(many(1024, element), many(1025, element)) for element in (b"0:", b"i1e", b"le", b"de")],
        (b"d7:command4:pinge" + b" " * 65518, b"d7:command4:pinge" + b" " * 65519),
    ],
    ids=["lists", "dictionaries", "0:", "i1e", "le", "de", "bytes"],
)
def test_parse_bounds_what_it_takes(fits: bytes, exceeds: bytes) -> None:
    assert ng.parse(fits) == ng.Ping()
    with pytest.raises(ProtocolError, match=NOT_DECODABLE):
        ng.parse(exceeds)


# Every key that has an effect, in the form with blanks: a value, another one, and the effect of the first.
KEYS: list[tuple[str, Any, Any, dict[str, Any]]] = [
    ("received from", ["IP4", "192.0.2.1"], ["IP4", "192.0.2.2"], {"received_from": "192.0.2.1"}),
    ("transport protocol", "RTP/AVPF", "RTP/AVP", {"protocol": "RTP/AVPF"}),
    ("media address", "192.0.2.7", "192.0.2.8", {"media_address": "192.0.2.7"}),
    ("address family", "IP6", "IP4", {"family": 6}),
    ("rtcp mux", ["demux"], ["offer"], {"rtcp_mux": frozenset({"demux"})}),
    ("via branch", "z9", "z8", {"via_branch": "z9"}),
    ("ICE", "force", "remove", {"ice": "force"}),
    ("DTLS", "passive", "off", {"dtls": "passive"}),
    ("SDES", ["nonew"], [], {"sdes": SdesPolicy(fresh_keys=False)}),
    ("flags", ["asymmetric"], [], {"asymmetric": True}),
    ("replace", ["origin"], [], {"replace": frozenset({"origin"})}),
    ("direction", ["internal", "external"], [], {"prefer_ipv6": True}),
    ("rtpp flags", "strict-source", "", {"strict_source": True}),
]
FORMS = [("blank", " "), ("hyphen", "-"), ("underscore", "_")]


BOTH = frozenset({"origin", "session-connection"})
DTLS_FLAGS = {"protocol": "UDP/TLS/RTP/SAVP", "dtls": "passive", "generate_mid": True}


def expected(**effect: Any) -> Signalling:
    return PLAIN._replace(**effect)


@pytest.mark.parametrize(("form", "joint"), FORMS)
@pytest.mark.parametrize(("key", "value", "other", "effect"), KEYS, ids=[row[0] for row in KEYS])
def test_every_spelling_of_a_key(
    key: str, value: Any, other: Any, effect: dict[str, Any], form: str, joint: str
) -> None:
    assert signalling({key.replace(" ", joint): value}) == expected(**effect)


@pytest.mark.parametrize(("key", "value", "other", "effect"), KEYS, ids=[row[0] for row in KEYS])
def test_the_form_with_blanks_wins(key: str, value: Any, other: Any, effect: dict[str, Any]) -> None:
    if " " in key:
        assert signalling({key.replace(" ", "-"): other, key: value}) == expected(**effect)
        assert signalling({key.replace(" ", "-"): value, key.replace(" ", "_"): other}) == expected(**effect)


@pytest.mark.parametrize(
    ("key", "value", "effect", "wrong"),
    [
        (key, value, effect, wrong)
        for key, value, _, effect in KEYS
        for wrong in (1, [], {}, "", [["x"]], {"a": ["b"]})
        if type(wrong) is not type(value)
    ],
    ids=str,
)
def test_a_value_of_another_type_is_no_value(key: str, value: Any, effect: dict[str, Any], wrong: Any) -> None:
    assert signalling({key: wrong}) == expected()
    if " " in key:
        assert signalling({key: wrong, key.replace(" ", "-"): value}) == expected(**effect)


@pytest.mark.parametrize(("form", "joint"), FORMS)
def test_every_spelling_of_the_identifiers(form: str, joint: str) -> None:
    keys = {f"call{joint}id": "c", f"from{joint}tag": "f", f"to{joint}tag": "t", f"via{joint}branch": "v"}
    assert ng.parse(bencode({**keys, f"delete{joint}delay": 7, "command": "delete"})) == ng.Delete(
        "c", "f", "t", "v", False, 7
    )
    assert ng.parse(bencode({**keys, "sdp": "", "command": "answer"})) == ng.Answer(
        b"", "c", "f", "t", expected(via_branch="v")
    )


@pytest.mark.parametrize(
    ("keys", "effect"),
    [
        # the elements of lists, in each form
        *[({"flags": [f"trust{joint}address"]}, {"trust_address": True}) for joint in " -_"],
        *[({"flags": [f"strict{joint}source"]}, {"strict_source": True}) for joint in " -_"],
        *[({"flags": [f"media{joint}handover"]}, {"media_handover": True}) for joint in " -_"],
        *[({"flags": [f"no{joint}rtcp{joint}attribute"]}, {"no_rtcp_attribute": True}) for joint in " -_"],
        *[
            ({"replace": [f"session{joint}connection"]}, {"replace": frozenset({"session-connection"})})
            for joint in " -_"
        ],
        *[({"flags": [f"generate{joint}mid"]}, {"generate_mid": True}) for joint in " -_"],
        ({"flags": ["reset"]}, {"reset": True}),
        ({"flags": ["symmetric", "directional", "", ["x"], {"y": "z"}, 7]}, {}),
        ({"replace": ["username", "SDP version", "zero address"]}, {}),
        (
            {"rtcp-mux": ["offer", "demux", "accept", "reject", "require", "maybe"]},
            {"rtcp_mux": frozenset({"offer", "demux", "accept", "reject", "require"})},
        ),
        # direction: the second element that is one of the two words
        ({"direction": ["external", "external"]}, {"prefer_ipv6": True}),
        ({"direction": ["external", "internal"]}, {}),
        ({"direction": ["external"]}, {}),
        ({"direction": ["eth0", "internal", 5, "external"]}, {"prefer_ipv6": True}),
        ({"direction": ["internal", "external"], "address family": "ip4"}, {"family": 4}),
        ({"direction": ["internal", "external"], "address family": "IPX"}, {"prefer_ipv6": True}),
        ({"address family": "ip6"}, {"family": 6}),
        # addresses
        ({"received-from": ["ip6", "2001:DB8:0::1"]}, {"received_from": "2001:db8::1"}),
        ({"received-from": ["IP6", "[2001:db8::1]"]}, {"received_from": "2001:db8::1"}),
        ({"received-from": ["?", "192.0.2.1"]}, {}),
        ({"received-from": ["IP6", "192.0.2.1"]}, {}),
        ({"received-from": ["IP4", "2001:db8::1"]}, {}),
        ({"received-from": ["IP4", "0.0.0.0"]}, {}),
        ({"received-from": ["IP4", "example.com"]}, {}),
        ({"received-from": ["IP4"]}, {}),
        ({"received-from": ["IP4", 5]}, {}),
        ({"received-from": ["IP6", "fe80::1%eth0"]}, {}),
        ({"media address": "2001:DB8::2"}, {"media_address": "2001:db8::2"}),
        ({"media address": "proxy.example"}, {}),
        ({"media address": b"\xff"}, {}),
        ({"media address": "[" * 40 + "192.0.2.1" + "]" * 40}, {}),
        # words with few values
        ({"transport protocol": "udp/tls/rtp/savpf"}, {"protocol": "UDP/TLS/RTP/SAVPF"}),
        ({"transport protocol": "RTP/XYZ"}, {}),
        ({"transport protocol": b"\xff"}, {}),
        ({"ICE": "remove"}, {"ice": "remove"}),
        *[({"ICE": word}, {"ice": word}) for word in ("force", "force-relay", "default", "optional")],
        *[({"ICE": word}, {"ice": "force-relay"}) for word in ("force_relay", "force relay")],
        *[({"ICE": word}, {}) for word in ("Remove", "", "lite", b"\xff")],
        *[({"DTLS": word}, {"dtls": word}) for word in ("off", "passive", "active")],
        *[({"DTLS": word}, {"dtls": "off"}) for word in ("no", "disable")],
        *[({"DTLS": word}, {}) for word in ("", "yes", "Off")],
        # what means something to others
        (
            {
                "TOS": 184,
                "codec": {"strip": ["all"]},
                "T.38": ["decode"],
                "sip-message-type": "sip_request",
                "record call": "on",
            },
            {},
        ),
        # rtpp-flags
        ({"rtpp-flags": ""}, {}),
        ({"rtpp-flags": "  trust-address   symmetric "}, {"trust_address": True}),
        ({"rtpp-flags": "replace-origin replace=session-connection"}, {"replace": BOTH}),
        ({"rtpp-flags": "rtcp-mux-demux rtcp-mux=offer"}, {"rtcp_mux": frozenset({"demux", "offer"})}),
        ({"rtpp-flags": "replace-origin", "replace": ["session-connection"]}, {"replace": BOTH}),
        ({"rtpp-flags": "RTP/SAVPF"}, {"protocol": "RTP/SAVPF"}),
        ({"rtpp-flags": "transport-protocol=RTP/AVPF"}, {"protocol": "RTP/AVPF"}),
        ({"rtpp-flags": "SRTP AVPF"}, {"protocol": "RTP/SAVPF"}),
        ({"rtpp-flags": "RTP AVP"}, {"protocol": "RTP/AVP"}),
        ({"rtpp-flags": "RTP"}, {"protocol": "RTP/AVP"}),
        ({"rtpp-flags": "DTLS"}, {"protocol": "UDP/TLS/RTP/SAVP"}),
        ({"rtpp-flags": "DTLS AVPF"}, {"protocol": "UDP/TLS/RTP/SAVPF"}),
        ({"rtpp-flags": "RTP/SAVP", "transport-protocol": "RTP/AVP"}, {"protocol": "RTP/AVP"}),
        ({"rtpp-flags": "RTP/SAVP", "transport_protocol": "RTP/AVP"}, {"protocol": "RTP/AVP"}),
        ({"rtpp-flags": "ICE=force media-address=192.0.2.9"}, {"ice": "force", "media_address": "192.0.2.9"}),
        ({"rtpp-flags": "ICE=force", "ICE": "remove"}, {"ice": "remove"}),
        ({"rtpp-flags": "DTLS=passive DTLS generate_mid"}, DTLS_FLAGS),
        # words of other lists among the flags
        ({"flags": ["replace-origin", "replace_session connection"]}, {"replace": BOTH}),
        ({"flags": ["rtcp-mux-demux", "rtcp_mux_accept"]}, {"rtcp_mux": frozenset({"demux", "accept"})}),
        ({"flags": ["external", "direction=external"]}, {"prefer_ipv6": True}),
        ({"flags": ["SDES-off"]}, {"sdes": SdesPolicy(off=True)}),
        # Kamailio makes a string of a word with an equals sign
        ({"rtcp-mux": "demux"}, {"rtcp_mux": frozenset({"demux"})}),
        ({"rtcp mux": "demux", "rtcp-mux": ["offer"]}, {"rtcp_mux": frozenset({"offer"})}),
        ({"SDES": "off"}, {"sdes": SdesPolicy(off=True)}),
        ({"replace": "origin", "flags": "asymmetric", "direction": "external"}, {}),
        ({"rtpp-flags": "internal external"}, {"prefer_ipv6": True}),
        ({"rtpp-flags": "direction=priv direction=internal direction=external"}, {"prefer_ipv6": True}),
        ({"rtpp-flags": "address-family=IP6 via-branch=z"}, {"family": 6, "via_branch": "z"}),
        ({"rtpp-flags": "sdp=x call-id=y command=ping", "flags": ["asymmetric"]}, {"asymmetric": True}),
        ({"rtpp-flags": "asymmetric", "flags": ["strict source"]}, {"asymmetric": True, "strict_source": True}),
        ({"rtpp-flags": b"\xff =\xff -- replace- rtcp-mux= ="}, {}),
    ],
    ids=str,
)
def test_signalling(keys: dict[str, Any], effect: dict[str, Any]) -> None:
    assert signalling(keys) == expected(**effect)


@pytest.mark.parametrize(
    ("flags", "default", "trusted"),
    [
        ([], False, False),
        ([], True, True),
        (["trust address"], False, True),
        (["SIP-source-address"], True, False),
        (["SIP source address"], True, False),
        (["SIP-source-address"], False, False),
        (["SIP-source-address", "trust-address"], False, True),
    ],
)
def test_trust(flags: list[str], default: bool, trusted: bool) -> None:
    assert signalling({"flags": flags}, default).trust_address is trusted


@pytest.mark.parametrize("mode", ["optional", "default", "remove", "force"])
@pytest.mark.parametrize(
    ("key", "chosen"),
    [({}, None), ({"ICE": "nonsense"}, None), ({"ICE": ["force"]}, None), ({"ICE": "force"}, "force")],
)
def test_ice_by_default(mode: str, key: dict[str, Any], chosen: str | None) -> None:
    assert offer(key, Defaults(ice=mode)).how.ice == (chosen or mode)


SDES_UNKNOWN = ["static", "no-AES-X", "order-B", "only-C"]
CM_80, CM_32, GCM = "AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32", "AEAD_AES_256_GCM"


@pytest.mark.parametrize(
    ("words", "policy"),
    [
        ([], {}),
        *[([word], {"off": True}) for word in ("off", "no", "disable")],
        (["pad"], {}),
        (["lifetime"], {"lifetime": True}),
        (["nonew"], {"fresh_keys": False}),
        *[([f"unencrypted{joint}srtp"], {"unencrypted_srtp": True}) for joint in "-_"],
        (["encrypted_srtp"], {"unencrypted_srtp": False}),
        (["unencrypted_srtcp"], {"unencrypted_srtcp": True}),
        (["encrypted_srtcp"], {"unencrypted_srtcp": False}),
        (["unauthenticated_srtp"], {"unauthenticated_srtp": True}),
        (["authenticated_srtp"], {"unauthenticated_srtp": False}),
        (["unencrypted_srtp", "encrypted_srtp"], {"unencrypted_srtp": False}),
        ([f"no-{CM_32}"], {"without": frozenset({CM_32})}),
        ([f"no-{CM_32}", f"no_{GCM.lower()}"], {"without": frozenset({CM_32, GCM})}),
        ([f"only-{CM_80.replace('_', '-')}", f"only-{GCM}"], {"only": frozenset({CM_80, GCM})}),
        ([f"order:{GCM};{CM_80}"], {"order": (GCM, CM_80)}),
        ([f"order:{GCM},{CM_80}"], {"order": (GCM, CM_80)}),
        ([f"order:{GCM}", f"order:{CM_80}"], {"order": (GCM, CM_80)}),
        (
            [f"order:{GCM}", f"no-{CM_32}", "lifetime"],
            {"order": (GCM,), "without": frozenset({CM_32}), "lifetime": True},
        ),
        # what is not known forbids nothing, and allows nothing either
        (["no-AES_X", "no-", "order:AES_X;", "order", "only", CM_80, ["off"], "OFF"], {}),
        (["only-AES_X"], {"only": frozenset({"unknown"})}),
        (["only-AES_X", f"only-{CM_80}"], {"only": frozenset({"unknown", CM_80})}),
    ],
    ids=str,
)
def test_sdes(words: list[Any], policy: dict[str, Any]) -> None:
    assert offer({"SDES": words}).how.sdes == SdesPolicy(**policy)
    if all(isinstance(word, str) for word in words):
        for keys in (
            {"flags": [f"SDES-{word}" for word in words]},
            {"rtpp-flags": " ".join(f"SDES-{w}" for w in words)},
        ):
            assert offer(keys).how.sdes == SdesPolicy(**policy)


@pytest.mark.parametrize(
    ("keys", "unknown"),
    [
        ({}, []),
        ({"flags": ["trust-address", "symmetric", "fatal", "SDES-off", "reset"], "replace": ["origin"]}, []),
        ({"flags": ["directional", "no redis_update", ["x"], 5]}, ["flags: directional", "flags: no-redis-update"]),
        ({"flags": ["replace-SDP-version", "rtcp-mux-maybe"]}, ["rtcp-mux: maybe", "replace: SDP-version"]),
        ({"replace": ["username", "username"]}, ["replace: username"] * 2),
        ({"rtcp-mux": ["", "offer"]}, ["rtcp-mux: "]),
        ({"SDES": ["static", "no-AES_X", f"order:{GCM};B", "only-C"]}, [f"SDES: {w}" for w in SDES_UNKNOWN]),
        ({"ICE": "lite"}, ["ICE: lite"]),
        ({"DTLS": "maybe"}, ["DTLS: maybe"]),
        ({"ICE": "", "DTLS": 5}, []),
        (
            {"address family": "IPX", "transport_protocol": "UDPTL"},
            ["address-family: IPX", "transport-protocol: UDPTL"],
        ),
        ({"media-address": "192.0.2.300"}, ["media-address: no address"]),
        ({"direction": ["eth0", "internal"], "T.38": ["decode"], "unheard-of": "x"}, []),
        ({"rtpp-flags": "trust-address loop-protect KEY=VALUE SDES-pad"}, ["flags: loop-protect"]),
        ({"flags": ["\n\x00'x" + "y" * 99]}, ["flags: \\n\\x00'x" + "y" * 60]),
        ({"flags": [b"\xff"]}, ["flags: \\xff"]),
    ],
    ids=str,
)
def test_what_is_not_known_is_named_each_time(keys: dict[str, Any], unknown: list[str]) -> None:
    """The second request is answered from the memory of the first; it has the unknown words all the same."""
    for _ in range(2):
        assert list(offer(keys).unknown) == unknown
        command = ng.parse(bencode({**request("answer"), **keys}))
        assert isinstance(command, ng.Answer) and list(command.unknown) == unknown


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0), (30, 30), ("30", 30), ("0", 0), (-1, None), ("-1", None), ("", None), ("1.5", None), ([], None)]
    + [(10**10, None), ("1" * 10, None), ("١", None)],
)
def test_delete_delay(value: Any, seconds: int | None) -> None:
    command = ng.parse(bencode(request("delete", **{"delete delay": value})))
    assert isinstance(command, ng.Delete)
    assert command.delete_delay_s == seconds


def test_a_delete_delay_that_is_a_number_wins_over_text() -> None:
    command = ng.parse(bencode(request("delete", **{"delete delay": "3", "delete-delay": [], "delete_delay": 4})))
    assert isinstance(command, ng.Delete)
    assert command.delete_delay_s == 4


def test_delete_reads_rtpp_flags() -> None:
    assert ng.parse(bencode(request("delete", **{"rtpp-flags": "fatal delete-delay=5"}))) == ng.Delete(
        "c@x", "ft", "tt", None, True, 5
    )


@pytest.mark.parametrize(
    ("reply", "wire"),
    [
        ({"result": "pong"}, b"d6:result4:ponge"),
        (ng.error("x y"), b"d12:error-reason3:x y6:result5:errore"),
        ({"b": 1, "a": {"d": [True, False, -5], "c": b"\xff\x00"}}, b"d1:ad1:c2:\xff\x001:dli1ei0ei-5eee1:bi1ee"),
        ({"tags": {"\udcff\u00e9": "\udcfe"}}, b"d4:tagsd3:\xff\xc3\xa91:\xfeee"),
        ({"x": {"tuple": ("t",)}}, b"d1:xd5:tuplel1:teee"),
    ],
)
def test_serialize(reply: dict[str, Any], wire: bytes) -> None:
    assert ng.serialize(b"5323_1", reply) == b"5323_1 " + wire


def test_a_reply_that_no_datagram_can_hold_becomes_an_error() -> None:
    around = len(ng.serialize(b"c", {"sdp": b"x" * 60000})) - 60000
    assert len(ng.serialize(b"c", {"sdp": b"x" * (65507 - around)})) == 65507
    reply, rest = bdecode(ng.serialize(b"c", {"sdp": b"x" * (65508 - around)})[2:])
    assert (reply[b"result"], rest) == (b"error", b"")


def values_with(keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.integers(-(10**18), 10**18) | st.binary(max_size=30),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
        max_leaves=15,
    )


byte_keys = st.binary(max_size=12)
text_keys = st.text(st.characters(codec="utf-8"), max_size=12)


@given(st.dictionaries(byte_keys, values_with(byte_keys), max_size=8))
def test_our_decoder_reads_what_another_wrote(value: dict[bytes, Any]) -> None:
    assert ng._decode(bencode(value)) == value


@given(st.dictionaries(text_keys, values_with(text_keys), max_size=8))
def test_another_decoder_reads_what_we_wrote(value: dict[str, Any]) -> None:
    decoded, rest = bdecode(ng.serialize(b"c", value)[2:])
    assert rest == b""
    assert decoded == _with_byte_keys(value)
    assert list(decoded) == sorted(decoded)


def _with_byte_keys(value: Any) -> Any:
    match value:
        case dict():
            return {key.encode(): _with_byte_keys(item) for key, item in value.items()}
        case list():
            return [_with_byte_keys(item) for item in value]
    return value


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_arbitrary_bytes_are_refused_in_one_way(data: bytes) -> None:
    for payload in (data, b"d" + data, b"d7:command5:offer" + data + b"e"):
        try:
            ng.parse(payload)
        except ProtocolError as error:
            assert str(error).isprintable()


TOKENS = [b"", b"e", b"l", b"d", b"i", b"-", b"i-1e", b"0:", b"1:", b"-6:", b"99999:", b":", b"\x00", b"_", b" "]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change one to four places: overwrite, cut out, repeat, or insert what means something to a decoder."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice([0, 1, 1, 2, 8, 40]))
        middle = rng.choice([rng.choice(TOKENS), rng.randbytes(1), data[start:end] * 2, b""])
        data = data[:start] + middle + data[end:]
    return data


def test_mutated_requests_are_refused_or_understood() -> None:
    originals = [
        KAMAILIO,
        bencode(
            request(
                "answer",
                **{"rtpp-flags": "trust-address SDES-off SDES-only-AES_CM_128_HMAC_SHA1_80 RTP/SAVP ICE=remove"},
            )
        ),
        bencode(request("delete", flags=["fatal"], **{"delete-delay": 30})),
        bencode(request("offer", codec={"strip": ["a", {"b": [1]}]}, direction=["a", "external"], TOS=184)),
    ]
    rng = random.Random(20261123)
    outcomes = {"understood": 0, "refused": 0}
    for number in range(10_000):
        try:
            assert isinstance(ng.parse(mutate(originals[number % len(originals)], rng)), ng.Command)
            outcomes["understood"] += 1
        except ProtocolError:
            outcomes["refused"] += 1
    # both happen, or the mutations are too weak or too strong to show anything
    assert min(outcomes.values()) > 500
