"""HTTPS: who gets in, what is refused, and how a wrong file is told. Real certificates, made for each run."""

from __future__ import annotations

import datetime
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import trustme
from cryptography.hazmat.primitives import serialization

from harness.instance import SalverRun
from harness.processes import title
from harness.waiting import eventually

SOURCE = """
import os
from starlette.requests import Request
from starlette.responses import StreamingResponse
from salver import serve

@serve.deployment(max_ongoing_requests=100)
class Desk:
    async def __call__(self, request: Request):
        path = request.url.path
        if path == "/echo":
            return (await request.body()).decode()
        if path == "/early":
            return "enough"
        if path == "/large":
            return "x" * 900_000
        if path == "/stream":
            async def pieces():
                for number in range(64):
                    yield bytes([65 + number % 26]) * 65536
            return StreamingResponse(pieces())
        if path == "/broken":
            async def broken():
                yield b"a part"
                raise RuntimeError("on purpose")
            return StreamingResponse(broken())
        if path == "/environment":
            return dict(os.environ)
        return {"scheme": request.scope["scheme"], "url": str(request.url), "client": request.client.host}

app = Desk.bind()
"""
PASSWORD = "correct horse"


class Certificates:
    """A CA and what it has signed for this machine, as files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca_file = self._write("ca.pem", self.ca.cert_pem.bytes())
        self.certfile, self.keyfile = self.issue("server")

    def issue(self, name: str, *, ca: trustme.CA | None = None, **options: object) -> tuple[str, str]:
        made = (ca or self.ca).issue_cert("127.0.0.1", "localhost", **options)  # type: ignore[arg-type]
        chain = b"".join(each.bytes() for each in made.cert_chain_pems)
        return self._write(f"{name}.pem", chain), self._write(f"{name}.key", made.private_key_pem.bytes())

    def encrypted_key(self) -> str:
        key = serialization.load_pem_private_key(Path(self.keyfile).read_bytes(), None)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(PASSWORD.encode()),
        )
        return self._write("encrypted.key", pem)

    def _write(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        path.chmod(0o600)
        return str(path)

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def https(salver_run: Callable[..., SalverRun], certificates: Certificates) -> Callable[..., SalverRun]:
    """``https("--proxies", "2")``: a run that serves HTTPS with the certificates of this test."""

    def start(*argv: str, keyfile: str = certificates.keyfile, env: dict[str, str] | None = None) -> SalverRun:
        tls = ("--ssl-certfile", certificates.certfile, "--ssl-keyfile", keyfile)
        return salver_run("app:app", "--port", "0", *tls, *argv, files={"app.py": SOURCE}, env=env)

    return start


def dial(run: SalverRun, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", run.port), timeout=30)
    try:
        return context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)
    except BaseException:
        plain.close()
        raise


def read_to_the_end(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


def test_requests_speak_https(https: Callable[..., SalverRun], certificates: Certificates) -> None:
    run = https()
    assert run.url.startswith("https://127.0.0.1:")
    assert run.status()["instance"]["url"] == run.url
    with requests.Session() as session:
        session.verify, session.trust_env = certificates.ca_file, False
        seen = session.get(run.url + "where", timeout=30).json()
        assert seen == {"scheme": "https", "url": run.url + "where", "client": "127.0.0.1"}
        for body in (b"small", os.urandom(300_000).hex().encode()):  # inline, and streamed
            assert session.post(run.url + "echo", data=body, timeout=30).content == body
        assert session.post(run.url + "echo", data=iter([b"a", b"b"]), timeout=30).text == "ab"
        assert len(session.get(run.url + "large", timeout=30).content) == 900_000
        assert len(session.get(run.url + "stream", timeout=30).content) == 64 * 65536
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            session.get(run.url + "broken", timeout=30)
        assert session.get(run.url + "where", timeout=30).status_code == 200


def test_httpx_speaks_https(https: Callable[..., SalverRun], certificates: Certificates) -> None:
    httpx = pytest.importorskip("httpx")
    run = https()
    with httpx.Client(verify=certificates.client_context(), timeout=30) as client:
        answer = client.get(run.url + "where")
        assert answer.json()["scheme"] == "https"
        assert answer.http_version == "HTTP/1.1"
        assert len(client.get(run.url + "stream").content) == 64 * 65536


def test_versions_and_protocols(https: Callable[..., SalverRun], certificates: Certificates) -> None:
    run = https()
    modern = certificates.client_context()
    modern.set_alpn_protocols(["h2", "http/1.1"])
    with dial(run, modern) as client:
        assert client.version() == "TLSv1.3"
        assert client.selected_alpn_protocol() == "http/1.1"
    older = certificates.client_context()
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with dial(run, older) as client:
        assert client.version() == "TLSv1.2"
    oldest = certificates.client_context()
    oldest.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        oldest.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        oldest.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        dial(run, oldest)


def test_what_is_no_tls_is_hung_up_on(https: Callable[..., SalverRun], certificates: Certificates) -> None:
    run = https()
    with socket.create_connection(("127.0.0.1", run.port), timeout=30) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        try:
            answer = read_to_the_end(client)
        except ConnectionResetError:
            answer = b""
        assert b"HTTP" not in answer
    strange = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        dial(run, strange)
    assert requests.get(run.url, verify=certificates.ca_file, timeout=30).status_code == 200
    assert "Traceback" not in run.output(), run.output()


def test_a_handshake_that_does_not_end_is_cut_off(
    https: Callable[..., SalverRun], certificates: Certificates
) -> None:
    """Others are served meanwhile; the bound is 10 s."""
    run = https()
    silent = [socket.create_connection(("127.0.0.1", run.port), timeout=60) for _ in range(20)]
    silent[0].sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
    began = time.monotonic()
    assert requests.get(run.url, verify=certificates.ca_file, timeout=30).status_code == 200
    for client in silent:
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass
        client.close()
    assert 5 < time.monotonic() - began < 50
    assert "Traceback" not in run.output(), run.output()


def test_clients_must_show_a_certificate(https: Callable[..., SalverRun], certificates: Certificates) -> None:
    run = https("--ssl-ca-certs", certificates.ca_file)
    own = certificates.issue("client")
    assert requests.get(run.url, verify=certificates.ca_file, cert=own, timeout=30).status_code == 200
    stranger = certificates.issue("stranger", ca=trustme.CA())
    for cert in (None, stranger):
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(run.url, verify=certificates.ca_file, cert=cert, timeout=30)


def test_the_password_comes_from_the_environment_and_goes_no_further(
    https: Callable[..., SalverRun], certificates: Certificates
) -> None:
    run = https(keyfile=certificates.encrypted_key(), env={"SALVER_SSL_KEYFILE_PASSWORD": PASSWORD})
    (proxy,) = run.pids()["proxy"]
    os.kill(proxy, signal.SIGKILL)
    eventually("there is another proxy", lambda: [pid for pid in run.pids()["proxy"] if pid != proxy])
    environment = requests.get(run.url + "environment", verify=certificates.ca_file, timeout=30).text
    assert "PATH" in environment
    assert PASSWORD not in environment
    assert [title(pid) for pid in run.processes() if PASSWORD in title(pid)] == []
    for path in run.runtime.rglob("*"):
        if stat.S_ISREG(path.lstat().st_mode):
            assert PASSWORD.encode() not in path.read_bytes(), path
    assert PASSWORD not in run.output()
    assert PASSWORD not in json.dumps(run.status())


def test_a_renewed_certificate_is_served_by_the_next_proxy(
    https: Callable[..., SalverRun], certificates: Certificates
) -> None:
    run = https()
    with dial(run, certificates.client_context()) as client:
        before = client.getpeercert()
    certificates.issue("server")  # over the files of the running instance
    (proxy,) = run.pids()["proxy"]
    os.kill(proxy, signal.SIGTERM)
    eventually("there is another proxy", lambda: [pid for pid in run.pids()["proxy"] if pid != proxy])
    with dial(run, certificates.client_context()) as client:
        after = client.getpeercert()
    assert before is not None
    assert after is not None
    assert before["serialNumber"] != after["serialNumber"]


def test_files_that_break_later_are_told_in_the_log(
    https: Callable[..., SalverRun], certificates: Certificates
) -> None:
    run = https()
    Path(certificates.certfile).unlink()
    os.kill(run.pids()["proxy"][0], signal.SIGKILL)
    run.wait_for_output("the proxy cannot start: the file of the certificate cannot be read")
    assert "Traceback" not in run.output(), run.output()
    certificates.issue("server")
    eventually("the proxy tries again", lambda: requests_succeed(run, certificates), 60)


def requests_succeed(run: SalverRun, certificates: Certificates) -> bool:
    try:
        return requests.get(run.url, verify=certificates.ca_file, timeout=1).status_code == 200
    except requests.exceptions.RequestException:
        return False


def test_an_upload_that_is_answered_early(https: Callable[..., SalverRun], certificates: Certificates) -> None:
    """TLS cannot end one side only; the client gets the answer all the same."""
    run = https()
    with dial(run, certificates.client_context()) as client:
        client.sendall(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n")
        client.sendall(bytes(1_000_000))
        answer = read_to_the_end(client)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"enough")


def test_a_stream_without_length_that_breaks_does_not_look_whole(
    https: Callable[..., SalverRun], certificates: Certificates
) -> None:
    run = https()
    with dial(run, certificates.client_context()) as client:
        client.sendall(b"GET /broken HTTP/1.0\r\n\r\n")
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            read_to_the_end(client)


def test_idle_clients_do_not_hold_up_the_end(https: Callable[..., SalverRun], certificates: Certificates) -> None:
    """They do not read, so they never say goodbye."""
    run = https()
    with dial(run, certificates.client_context()) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert run.cli("shutdown").returncode == 0
        assert time.monotonic() - began < 15  # 2 s are the promise, 21 s what a proxy is given


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--ssl-certfile nowhere.pem --ssl-keyfile server.key", "cannot be read: 'nowhere.pem': No such file"),
        ("--ssl-certfile server.pem --ssl-keyfile nowhere.key", "cannot be read: 'nowhere.key': No such file"),
        ("--ssl-certfile server.key --ssl-keyfile server.key", "'server.key' holds no certificate in PEM form"),
        ("--ssl-certfile server.pem --ssl-keyfile ca.pem", "'ca.pem' holds no private key in PEM form"),
        ("--ssl-certfile server.pem --ssl-keyfile other.key", "is not the one of the certificate in 'server.pem'"),
        ("--ssl-certfile cut.pem --ssl-keyfile server.key", "'cut.pem' or the key in 'server.key' is damaged"),
        ("--ssl-certfile server.pem --ssl-keyfile encrypted.key", "is encrypted: give its password"),
        (
            "--ssl-certfile server.pem --ssl-keyfile encrypted.key --ssl-keyfile-password wrong",
            "the password does not open the key in 'encrypted.key'",
        ),
        (
            "--ssl-certfile server.pem --ssl-keyfile server.key --ssl-ca-certs server.key",
            "'server.key' holds no certificate authorities in PEM form",
        ),
        (
            "--ssl-certfile server.pem --ssl-keyfile server.key --ssl-ca-certs cut.pem",
            "the authorities in 'cut.pem' are damaged",
        ),
    ],
)
def test_wrong_files_are_an_error_at_once(
    salver_run: Callable[..., SalverRun], certificates: Certificates, flags: str, message: str
) -> None:
    certificates.issue("other")
    certificates.encrypted_key()
    cut = Path(certificates.certfile).read_text().splitlines()
    (certificates.folder / "cut.pem").write_text("\n".join(["-----BEGIN CERTIFICATE-----", *cut[5:]]))
    run = salver_run("app:app", "--port", "0", *flags.split(), files={"app.py": SOURCE}, wait_ready=False)
    assert run.wait(20) == 1
    (line,) = run.output().strip().splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert list(run.runtime.glob("salver/*")) == []


@pytest.mark.parametrize(
    ("begins", "ends", "message"),
    [(-20, -10, "certificate has expired"), (10, 20, "certificate is not yet valid")],
)
def test_a_certificate_out_of_its_time_is_served_with_a_warning(
    salver_run: Callable[..., SalverRun], certificates: Certificates, begins: int, ends: int, message: str
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    days = datetime.timedelta(days=1)
    certfile, keyfile = certificates.issue("late", not_before=now + begins * days, not_after=now + ends * days)
    tls = ("--ssl-certfile", certfile, "--ssl-keyfile", keyfile)
    run = salver_run("app:app", "--port", "0", *tls, files={"app.py": SOURCE})
    run.wait_for_output(f"clients will refuse the certificate in {certfile}: {message}")
    with pytest.raises(requests.exceptions.SSLError, match=message):
        requests.get(run.url, verify=certificates.ca_file, timeout=30)
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", run.port, context=trusting, timeout=30)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
