"""Sockets that were handed over at the start: which there are, what is wrong with others, and what is done to them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.app import Proxy
from proxy.core.values import ListenAddress
from proxy.handed_over import HandedOver
from proxy.listening import CannotListen, Sockets
from proxy.settings import Settings, load_settings

#: Where descriptors are put in the tests: nothing else is so high up.
FIRST = 200
HTTP = ListenAddress("fd", name="http")

Hand = Callable[..., HandedOver]


@pytest.fixture
def hand() -> Iterator[Hand]:
    """Hand sockets over, by `name=…`, with an environment of their own."""
    given: list[HandedOver] = []

    def hand(*named: tuple[str, socket.socket | int], **environ: str) -> HandedOver:
        for place, (_, sock) in enumerate(named):
            number = sock if isinstance(sock, int) else sock.fileno()
            os.dup2(number, FIRST + place)
        names = ":".join(name for name, _ in named)
        all_of_it = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(named)), "LISTEN_FDNAMES": names, **environ}
        given.append(HandedOver.take(all_of_it, first=FIRST))
        return given[-1]

    yield hand
    for one in given:
        one.close_unused(settings("127.0.0.1:0"))
    os.closerange(FIRST, FIRST + 10)


def settings(listen: str = "fd:http", **more: str) -> Settings:
    environ = {"CARDCASH_APP_ID": "x", "CARDCASH_LISTEN": listen, "CARDCASH_ADMIN__LISTEN": "127.0.0.1:0"}
    return load_settings(environ={**environ, **{f"CARDCASH_{name}": value for name, value in more.items()}})


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_several_sockets_may_have_one_name(hand: Hand, sock: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as another:
        found = hand(("http", sock), ("admin", another), ("http", another))
        assert [one.getsockname() for one in found.named("http")] == [sock.getsockname(), another.getsockname()]
        assert found.faults(settings()) == []
        assert found.close_unused(settings()) == ["admin"]


def test_they_are_not_inherited_and_the_environment_does_not_speak_of_them_any_more(
    hand: Hand, sock: socket.socket
) -> None:
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http", "PATH": "/bin"}
    os.dup2(sock.fileno(), FIRST)
    found = HandedOver.take(environ, first=FIRST)
    assert environ == {"PATH": "/bin"}
    assert fcntl.fcntl(FIRST, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    found.close_unused(settings("127.0.0.1:0"))


def test_sockets_without_names_are_called_unknown(hand: Hand, sock: socket.socket) -> None:
    assert len(hand(("", sock), LISTEN_FDNAMES="").named("unknown")) == 1


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"LISTEN_FDS": ""}, "no socket was handed over (LISTEN_FDS is not set)"),
        ({"LISTEN_PID": "1"}, "the sockets were handed to process 1 (LISTEN_PID), and this is process"),
        ({"LISTEN_PID": ""}, "the sockets were handed to no process (LISTEN_PID)"),
        ({"LISTEN_PID": "²"}, "the sockets were handed to no process (LISTEN_PID)"),
        ({"LISTEN_FDS": "two"}, "LISTEN_FDS is not the number"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS is not the number"),
        ({"LISTEN_FDS": "99999"}, "LISTEN_FDS is not the number"),
        ({"LISTEN_FDS": "2"}, "LISTEN_FDNAMES has 1 names for LISTEN_FDS=2 sockets"),
        ({"LISTEN_FDNAMES": "web"}, "no socket of this name was handed over, but web; set FileDescriptorName="),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:http"}, "what was handed over is no socket"),
    ],
)
def test_what_is_wrong_with_the_environment_is_a_sentence(
    hand: Hand, sock: socket.socket, environ: dict[str, str], says: str
) -> None:
    (fault,) = hand(("http", sock), **environ).faults(settings())
    assert fault.startswith(f"listen: fd:http: {says}")


def test_a_socket_of_the_wrong_type_is_a_sentence(hand: Hand, tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets,
        socket.socket() as deaf,
        (tmp_path / "file").open("w") as file,
    ):
        named = {"datagram": datagram, "packets": packets, "deaf": deaf, "file": file.fileno()}
        faults = hand(*named.items()).faults(settings("fd:datagram,fd:packets,fd:deaf,fd:file"))
    assert [fault.partition(": ")[2] for fault in faults] == [
        "fd:datagram: this socket is not one of TCP or a unix stream; use ListenStream= in its .socket unit",
        "fd:packets: this socket is not one of TCP or a unix stream; use ListenStream= in its .socket unit",
        "fd:deaf: this socket does not listen; a .socket unit hands over one that does with Accept=no",
        "fd:file: what was handed over is no socket",
    ]


def test_one_that_other_machines_reach_needs_networks(hand: Hand) -> None:
    with socket.create_server(("0.0.0.0", 0)) as wide:
        found = hand(("http", wide))
        (fault,) = found.faults(settings())
        assert fault.startswith(f"listen: fd:http: 0.0.0.0:{wide.getsockname()[1]} can be reached from other machines")
        assert found.faults(settings(CALLERS__ALLOWED_NETWORKS="10.0.0.0/8")) == []


def test_a_name_that_is_not_there_is_told_whoever_asks_for_it() -> None:
    with pytest.raises(CannotListen, match=r"^listen: fd:http: no socket was handed over"):
        Sockets([HTTP], "listen")


def test_it_is_not_closed_for_others_and_its_path_stays(hand: Hand, tmp_path: Path) -> None:
    path = tmp_path / "callers"
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        ours = Sockets([HTTP], "listen", handed_over=hand(("http", unix)))
        assert ours.names == [f"unix:{path}"]
        assert ours.bound_here() == []
        ours.remove()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))


def test_all_workers_accept_from_one_socket_and_each_from_its_own_where_there_are_as_many(hand: Hand) -> None:
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(socket.create_server(("127.0.0.1", 0), reuse_port=True))
        same = stack.enter_context(socket.create_server(one.getsockname(), reuse_port=True))
        found = hand(("http", one), ("http", same))
        two = Sockets([HTTP], "listen", each=2, handed_over=found)
        assert [len(two.of(worker)) for worker in (1, 2)] == [1, 1]
        assert two.of(1) != two.of(2)
        assert len(two.names) == 1
        for number in (1, 3):
            other = Sockets([HTTP], "listen", each=number, handed_over=found)
            assert all(other.of(worker) == other.all() for worker in range(1, number + 1))
        two.close()


async def test_its_queue_is_left_to_the_next_process_when_the_proxy_stops(hand: Hand, sock: socket.socket) -> None:
    async with Proxy(settings(SESSION__EAGER="false"), handed_over=hand(("http", sock))) as proxy:
        proxy.request_stop()
        await proxy.run()
        with socket.create_connection(sock.getsockname()):  # it is neither refused nor ignored
            sock.settimeout(1)
            sock.accept()[0].close()
