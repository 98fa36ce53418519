"""An order that was answered is not lost for a peculiarity of its answer that RFC 9112 tells how to read."""

from __future__ import annotations

import pytest

from proxy.core.errors import UpstreamInvalid
from tests.upstream.conftest import Connect, body_of
from tests.upstream.wire import GET, OK, Peer, answers, once

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </%d>\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"".join(INTERIM % number for number in range(500)) + OK,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 3000 + b"Content-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-LENGTH:\t2 \r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.9 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-Edge : 1\r\nContent-Length\t: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        CHUNKED + b'2 \t; a = b ;c="d" ; e\r\nok\r\n0 ;x\r\n\r\n',
        CHUNKED + b"2 \r\nok\r\n0  \t\r\n\r\n",
        CHUNKED + b"2;a \r\nok\r\n0\r\n\r\n",
        CHUNKED + b"".join(b"1;signature=%064d\r\n%c\r\n" % (0, byte) for byte in b"ok") + b"0\r\n\r\n",
    ],
    ids=[
        "500 interim answers",
        "3000 header lines",
        "the same length three times",
        "a list of the same length",
        "HTTP/1.2",
        "HTTP/1.9 and the same length twice",
        "white space before colons",
        "white space before the colon of the coding",
        "white space in extensions",
        "sizes filled up with white space",
        "white space after an extension",
        "signed chunks",
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
async def test_what_is_peculiar_but_clear_is_read(connect: Connect, answer: bytes, step: int) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            for start in range(0, len(answer), step):
                peer.writer.write(answer[start : start + step])
            await peer.writer.drain()

    _, up = await connect(script)
    for _ in range(2):
        response = await up.send(method="GET", head=GET)
        assert await body_of(response) == b"ok"
    assert up.opened_total == 1


@pytest.mark.parametrize("line", [b"2 x", b"2 2", b" 2", b"2 \x0b", b"2 ;", b"2\r", b"2 \r"])
async def test_a_size_with_anything_else_around_it_is_refused(connect: Connect, line: bytes) -> None:
    _, up = await connect(once(CHUNKED + line + b"\r\nok\r\n0\r\n\r\n"))
    response = await up.send(method="GET", head=GET)
    with pytest.raises(UpstreamInvalid):
        await body_of(response)


async def test_an_answer_of_many_tiny_chunks_is_read(connect: Connect) -> None:
    _, up = await connect(answers(CHUNKED + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n"))
    assert await body_of(await up.send(method="GET", head=GET)) == b"x" * 50_000


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2,\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nContent-Length: x\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 02\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n : b\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\r\n c : d\r\n\r\nok",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000 + OK,
        b"HTTP/1.2 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
)
async def test_what_could_be_read_in_two_ways_or_has_no_end_is_refused(connect: Connect, answer: bytes) -> None:
    _, up = await connect(once(answer))
    with pytest.raises(UpstreamInvalid) as caught:
        await up.send(method="GET", head=GET)
    assert caught.value.sent
