"""TLS at the HTTP edge: the context of the listening side, and what is wrong with its files, in words.

Imported only where TLS is on. The launcher loads the files once to refuse wrong ones at once; every proxy loads them
again when it starts, so a proxy that is restarted serves the certificate that lies there by then.
"""

from __future__ import annotations

import ssl
from typing import Any

from salver.data.http.options import TLSFiles
from salver.errors import ConfigurationError

_HANDSHAKE_WITHIN_S = 10.0
_SHUTDOWN_WITHIN_S = 30.0


def listen_arguments(files: TLSFiles) -> dict[str, Any]:
    """Arguments of ``create_server``. A handshake that takes 10 s is cut off, as is a goodbye that takes 30 s.

    Raises:
        ConfigurationError: as ``server_context``.
    """
    return {
        "ssl": server_context(files),
        "ssl_handshake_timeout": _HANDSHAKE_WITHIN_S,
        "ssl_shutdown_timeout": _SHUTDOWN_WITHIN_S,
    }


def server_context(files: TLSFiles) -> ssl.SSLContext:
    """TLS 1.2 or later with Python's choice of ciphers; with ``ca_certs`` every client must show a certificate.

    Raises:
        ConfigurationError: a file cannot be read, is no PEM, or does not fit to the others; never asks a terminal
            for a password.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # else a client could have us shake hands for ever
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, files)
    if files.ca_certs is not None:
        _check_pem("certificate authorities", files.ca_certs, b"CERTIFICATE-----")
        try:
            context.load_verify_locations(files.ca_certs)
        except ssl.SSLError as error:
            raise ConfigurationError(f"the authorities in {files.ca_certs!r} are damaged: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_certificate(context: ssl.SSLContext, files: TLSFiles) -> None:
    _check_pem("certificate", files.certfile, b"CERTIFICATE-----")
    _check_pem("private key", files.keyfile, b"PRIVATE KEY-----")
    asked = False

    def password() -> str:
        nonlocal asked
        asked = True
        return files.keyfile_password or ""

    try:
        context.load_cert_chain(files.certfile, files.keyfile, password)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(_why_not_loaded(files, error, asked=asked)) from None


def _why_not_loaded(files: TLSFiles, error: Exception, *, asked: bool) -> str:
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return f"the key in {files.keyfile!r} is not the one of the certificate in {files.certfile!r}"
    if asked and files.keyfile_password is None:
        return f"the key in {files.keyfile!r} is encrypted: give its password (ssl_keyfile_password)"
    if asked:
        return f"the password does not open the key in {files.keyfile!r}"
    return f"the certificate in {files.certfile!r} or the key in {files.keyfile!r} is damaged: {error}"


def _check_pem(what: str, path: str, mark: bytes) -> None:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ConfigurationError(f"the file of the {what} cannot be read: {path!r}: {error.strerror}") from None
    if mark not in content:
        raise ConfigurationError(f"{path!r} holds no {what} in PEM form")


def refused_by_clients(context: ssl.SSLContext, certfile: str) -> str:
    """Why clients will not take a certificate that is in order otherwise: ``certificate has expired``; else empty.

    The standard library reads no dates from a certificate of one's own. So: a handshake with ourselves, in memory, by
    a client that trusts this certificate.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certfile)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialling = client.wrap_bio(to_client, to_server)
    listening = context.wrap_bio(to_server, to_client, server_side=True)
    for end in (dialling, listening, dialling):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
    return ""
