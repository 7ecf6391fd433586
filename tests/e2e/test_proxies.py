"""Several proxies share one listening socket: all of them serve, and none is missed for long when it dies."""

from __future__ import annotations

import http.client
import os
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from harness.instance import SalverRun
from harness.load import ConstantLoad
from harness.processes import is_alive
from harness.waiting import eventually

Connections = dict[int, http.client.HTTPConnection]


def owner(run: SalverRun, client: http.client.HTTPConnection) -> int:
    """The proxy that accepted a connection, as the kernel has it; 0 while it waits to be accepted."""
    assert isinstance(client.sock, socket.socket)
    port = client.sock.getsockname()[1]
    for pid in run.pids()["proxy"]:
        try:
            if any(each.raddr and each.raddr.port == port for each in psutil.Process(pid).net_connections("tcp")):
                return pid
        except psutil.NoSuchProcess:
            pass
    return 0


def ask(client: http.client.HTTPConnection) -> int:
    client.request("GET", "/")
    answer = client.getresponse()
    answer.read()
    return answer.status


@contextmanager
def connection_to_each(run: SalverRun, proxies: int) -> Generator[Connections]:
    """A connection to each proxy, by its pid. Who has one is stopped until all do: the next goes to another."""
    found: Connections = {}
    with ExitStack() as opened:
        try:
            while len(found) < proxies:
                client = http.client.HTTPConnection("127.0.0.1", run.port, timeout=30)
                opened.callback(client.close)
                assert ask(client) == 200
                pid = owner(run, client)
                assert pid not in found
                found[pid] = client
                os.kill(pid, signal.SIGSTOP)
        finally:
            for pid in found:
                os.kill(pid, signal.SIGCONT)
        yield found


@pytest.mark.parametrize("proxies", [2, 4])
def test_all_of_them_serve(worker_run: Callable[..., SalverRun], proxies: int) -> None:
    run = worker_run("--proxies", str(proxies))
    pids = run.status()["instance"]["proxy_pids"]
    assert len(set(pids)) == proxies
    assert sorted(run.pids()["proxy"]) == sorted(pids)
    with connection_to_each(run, proxies) as connections:
        assert sorted(connections) == sorted(pids)


def test_when_one_dies_the_others_go_on_and_it_is_replaced(worker_run: Callable[..., SalverRun]) -> None:
    run = worker_run("--proxies", "2")
    with connection_to_each(run, 2) as connections:
        dead, alive = connections
        os.kill(dead, signal.SIGKILL)
        assert ask(connections[alive]) == 200
        replaced = eventually(
            "another proxy is there",
            lambda: len(run.pids()["proxy"]) == 2 and dead not in run.pids()["proxy"] and run.pids()["proxy"],
            within=5,  # 1 s is the promise
        )
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            ask(connections[dead])
        assert ask(connections[alive]) == 200
        assert alive in replaced
    with connection_to_each(run, 2) as connections:
        assert sorted(connections) == sorted(replaced)
    assert sorted(run.status()["instance"]["proxy_pids"]) == sorted(replaced)


def test_connections_that_wait_to_be_accepted_outlive_a_proxy(worker_run: Callable[..., SalverRun]) -> None:
    """The supervisor holds the listening socket, and with it the queue of those that nobody has accepted."""
    run = worker_run("--proxies", "2")
    before = run.pids()["proxy"]
    for pid in before:
        os.kill(pid, signal.SIGSTOP)
    waiting = [socket.create_connection(("127.0.0.1", run.port), timeout=30) for _ in range(50)]
    for client in waiting:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for client in waiting:
        with client:
            assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_new_clients_never_meet_an_error(worker_run: Callable[..., SalverRun]) -> None:
    """A client that dials for each request loses at most those that the dead proxy had at that moment."""
    run = worker_run("--proxies", "2")
    victim = run.pids()["proxy"][0]
    with ConstantLoad(run.url, rate=100, connections=4) as load:
        load.wait_for(50)
        os.kill(victim, signal.SIGKILL)
        load.wait_for(200)
    failures = load.failures()
    assert len(failures) <= 4, failures  # one a connection
    assert not is_alive(victim)
