"""Messages survive the wire, and what is no message is refused by name."""

import pytest

from loaders import protocol
from registry.catalog import Digest

ATTEMPT = protocol.AttemptKey("01936f2e-0000-7000-8000-000000000000", 1)


@pytest.mark.parametrize(
    "message",
    [
        protocol.Started(attempt=ATTEMPT, phase="running"),
        protocol.OutputChunk(attempt=ATTEMPT, index=0, data=b"\x00\xff"),
        protocol.Failed(attempt=ATTEMPT, kind="host", error="out_of_memory", message="no room"),
        protocol.Draining(returned=(ATTEMPT,)),
    ],
)
def test_what_a_host_says_arrives_as_it_was_said(message):
    assert protocol.decode_from_host(protocol.encode(message)) == message


def test_what_a_router_says_arrives_as_it_was_said():
    message = protocol.Assign(
        attempt=ATTEMPT,
        version=Digest("sha256:" + "0" * 64),
        adapters=(protocol.AdapterUse(Digest("sha256:" + "1" * 64), 0.5),),
        input={"prompt": "a red circle on white", "seed": 7},
    )
    assert protocol.decode_to_host(protocol.encode(message)) == message


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"{}", protocol.encode(protocol.Welcome(pool="local"))[:-1]])
def test_what_is_no_message_is_refused(frame):
    with pytest.raises(protocol.ProtocolError):
        protocol.decode_from_host(frame)
    with pytest.raises(protocol.ProtocolError):
        protocol.decode_to_host(frame)


def test_a_router_message_is_not_taken_from_a_host():
    with pytest.raises(protocol.ProtocolError):
        protocol.decode_from_host(protocol.encode(protocol.Welcome(pool="local")))
