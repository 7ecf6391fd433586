"""The control API on TCP: nobody gets in without a token, no web page gets anything done, no code comes that way."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from harness.waiting import eventually
from salver.controller.api.routing import Endpoint
from salver.controller.client import ControlClient
from salver.engine.local.admin_token import (
    create_token,
    drop_old_token,
    old_token_file,
    rotate_token,
    token_file,
    valid_tokens,
)

from .control_scene import Server, application, ask_tcp

OPEN = {"/livez", "/readyz"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def paths(server: Server) -> list[str]:
    """Every path of the table of routes, with something in the place of parameters."""
    return sorted({re.sub(r"{\w+}", "some", each.path) for each in server.api.endpoints()})


def test_every_route_is_401_without_a_token(server: Server) -> None:
    known = paths(server)
    assert len(known) >= 10
    for path in [*known, "/", "/nothing", "/livez/", "/api", "/api/v1/applications/", "*", "//livez"]:
        for method in METHODS:
            answer = ask_tcp(server, method, path, token="")
            if path in OPEN and method in {"GET", "HEAD"}:
                assert answer.status == 200, (method, path)
                continue
            if path == "*":
                assert answer.status in {400, 401}, (method, path)
                continue
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), (method, path)
            assert answer.headers["content-type"] == "application/problem+json"
            if method != "HEAD":
                assert answer.body["status"] == 401
    assert server.ends == 0


def test_what_is_open_says_nothing(server: Server, client: ControlClient) -> None:
    client.deploy(application("secret-name"))
    for path in ("/livez", "/readyz", "/readyz?verbose", "/readyz?verbose=1"):
        answer = ask_tcp(server, "GET", path, token="")
        assert list(answer.body) == ["status"], path
    client.wait_settled("secret-name", 30)
    assert ask_tcp(server, "GET", "/readyz", token="").body == {"status": "ok"}


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Basic {token}",
        "{token}",
        "Bearer {token}x",
        "Bearer {short}",
        "Bearer {token} {token}",
        "Bearer \xff",
    ],
)
def test_nothing_but_the_token_is_a_token(server: Server, authorization: str) -> None:
    given = authorization.format(token=server.token, short=server.token[:-1])
    headers = {"authorization": given.encode("latin-1")} if given else {}
    assert ask_tcp(server, "GET", "/api/v1/status", token="", headers=headers).status == 401  # type: ignore[arg-type]


def test_a_token_in_the_url_or_in_a_cookie_is_none(server: Server) -> None:
    token = server.token
    assert ask_tcp(server, "GET", f"/api/v1/status?token={token}&access_token={token}", token="").status == 401
    assert ask_tcp(server, "GET", "/api/v1/status", token="", headers={"cookie": f"token={token}"}).status == 401


def test_the_token_opens_every_route(server: Server) -> None:
    assert ask_tcp(server, "GET", "/api/v1/status").status == 200
    assert ask_tcp(server, "GET", "/api/serve/applications/").status == 200
    assert ask_tcp(server, "GET", "/nothing").status == 404
    assert ask_tcp(server, "OPTIONS", "/api/v1/status").status == 405
    assert ask_tcp(server, "HEAD", "/openapi.json").status == 200
    lower = {"authorization": f"bearer {server.token}"}
    assert ask_tcp(server, "GET", "/api/v1/status", token="", headers=lower).status == 200
    assert ask_tcp(server, "DELETE", "/api/serve/applications/").status == 200
    eventually("the end is asked for", lambda: server.ends == 1, 30)


def test_rotation_two_tokens_then_one(server: Server) -> None:
    first = server.token
    second = rotate_token(server.instance)
    assert valid_tokens(server.instance) == (second, first)
    assert [ask_tcp(server, "GET", "/api/v1/status", token=each).status for each in (first, second)] == [200, 200]
    third = rotate_token(server.instance)
    assert [ask_tcp(server, "GET", "/api/v1/status", token=each).status for each in (first, second, third)] == [
        401,
        200,
        200,
    ]
    drop_old_token(server.instance)
    drop_old_token(server.instance)
    assert ask_tcp(server, "GET", "/api/v1/status", token=second).status == 401
    assert ask_tcp(server, "GET", "/api/v1/status", token=third).status == 200
    assert len({first, second, third}) == 3
    assert all(len(each) == 43 for each in (first, second, third)), "256 bits in base64"
    assert {path.name for path in server.instance.folder.glob("admin*")} == {"admin.token"}
    assert token_file(server.instance).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_token_that_others_could_read_opens_nothing(server: Server, mode: int) -> None:
    token = server.token
    token_file(server.instance).chmod(mode)
    assert ask_tcp(server, "GET", "/api/v1/status", token=token).status == 401
    token_file(server.instance).chmod(0o600)
    assert ask_tcp(server, "GET", "/api/v1/status", token=token).status == 200


def test_a_link_in_its_place_is_not_followed(server: Server) -> None:
    token = server.token
    place = token_file(server.instance)
    elsewhere = place.with_name("elsewhere")
    place.rename(elsewhere)
    assert ask_tcp(server, "GET", "/api/v1/status", token=token).status == 401, "no file, no token"
    place.symlink_to(elsewhere)
    assert ask_tcp(server, "GET", "/api/v1/status", token=token).status == 401
    with pytest.raises(FileExistsError):
        create_token(server.instance)
    place.unlink()
    elsewhere.write_bytes(b"")
    elsewhere.rename(place)
    assert ask_tcp(server, "GET", "/api/v1/status", token="").status == 401, "an empty file is no empty token"
    assert not old_token_file(server.instance).exists()


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.2", "", "[::2]", "localhost@evil"],
)
@pytest.mark.parametrize("path", ["/api/v1/status", "/livez"])
def test_another_host_is_421(server: Server, host: str, path: str) -> None:
    assert ask_tcp(server, "GET", path, headers={"host": host}).status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:9", "allowed.example:443"])
def test_own_and_allowed_hosts(server: Server, host: str) -> None:
    assert ask_tcp(server, "GET", "/api/v1/status", headers={"host": host}).status == 200


def raw(server: Server, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


def test_no_host_and_two_hosts_are_421(server: Server) -> None:
    authorization = b"Authorization: Bearer " + server.token.encode() + b"\r\nConnection: close\r\n"
    for hosts in (b"", b"Host: localhost\r\nHost: evil.example\r\n", b"Host: localhost\r\nHost: localhost\r\n"):
        answer = raw(server, b"GET /api/v1/status HTTP/1.1\r\n" + hosts + authorization + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 421 "), hosts


FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:1"},
    {"origin": "https://127.0.0.1"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "origin": "OWN"},
    {"sec-fetch-site": "same-origin", "origin": "http://evil.example"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_page_of_another_origin_changes_nothing(server: Server, headers: dict[str, str]) -> None:
    own = f"http://127.0.0.1:{server.port}"
    headers = {name: own if value == "OWN" else value for name, value in headers.items()}
    for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE"):
        for path in [*paths(server), "/nothing"]:
            assert ask_tcp(server, method, path, headers=headers).status == 403, (method, path)
    assert server.ends == 0
    assert ask_tcp(server, "GET", "/api/v1/status", headers=headers).status == 200, (
        "but without an answer it can read"
    )


@pytest.mark.parametrize(
    "headers", [{"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {"origin": "OWN"}, {}]
)
def test_our_own_pages_and_programs_do(server: Server, headers: dict[str, str]) -> None:
    own = f"http://127.0.0.1:{server.port}"
    headers = {name: own if value == "OWN" else value for name, value in headers.items()}
    assert ask_tcp(server, "DELETE", "/api/v1/applications/unknown", headers=headers).status == 200


@pytest.mark.parametrize("token", ["", None])
def test_every_answer_has_the_headers_of_defence(server: Server, token: str | None) -> None:
    for path in ("/api/v1/status", "/livez", "/nothing"):
        answer = ask_tcp(server, "GET", path, token=token, headers={"origin": "http://evil.example"})
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert not [name for name in answer.headers if name.startswith("access-control") or name == "set-cookie"]


def test_no_code_comes_over_the_network(server: Server) -> None:
    code_routes = [each for each in server.api.endpoints() if each.from_this_machine]
    assert [(each.method, each.path) for each in code_routes] == [("PUT", "/api/v1/applications/{name}")]
    body = msgspec.msgpack.encode(application())
    answer = ask_tcp(server, "PUT", "/api/v1/applications/app", body)
    assert answer.status == 403
    assert "Unix socket" in answer.body["detail"]
    assert server.controller.views() == ()


def test_routes_inherit_the_guard(server: Server) -> None:
    """Whatever is in the table: an endpoint itself has no say in it."""
    assert set(Endpoint.__struct_fields__) == {"method", "path", "handler", "from_this_machine"}


def test_a_large_head_and_too_many_connections_are_refused(server: Server) -> None:
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "
    answer = raw(server, head.ljust(64 * 1024 + 1, b"x"))  # not a byte more: an unread one would cut the answer off
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in answer
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(256)]
    try:
        late = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        held.append(late)
        try:
            assert late.recv(1) == b""
        except ConnectionResetError:
            pass
        assert ControlClient(server.path).status().controller_pid == 7, "the Unix socket is not concerned"
    finally:
        for each in held:
            each.close()


def test_what_is_not_http_is_a_problem_too(server: Server) -> None:
    answer = raw(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer


def test_many_at_once(server: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask_tcp(server, "GET", "/api/v1/status").status, range(64)))
    assert answers == [200] * 64
