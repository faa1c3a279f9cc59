"""TLS: PEM files, keystores, self-signed certificates, and what is wrong with them."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509 import load_pem_x509_certificate
from frame.errors import ConfigError
from frame.http.servers import ServerName
from frame.http.tls import TlsFiles, self_signed, server_context

from tests.http.serving import DEADLINE, SERVERS, echo, pem_pair, run, served

both = pytest.mark.parametrize("server", SERVERS)


def keystore(folder: Path, password: bytes) -> tuple[str, str]:
    """Write a PKCS12 keystore; return its path and that of its certificate as PEM."""
    chain, key = self_signed("localhost")
    private = serialization.load_pem_private_key(key, None)
    store = pkcs12.serialize_key_and_certificates(
        b"frame",
        private,  # type: ignore[arg-type]  # an elliptic-curve key
        load_pem_x509_certificate(chain),
        None,
        serialization.BestAvailableEncryption(password),
    )
    (folder / "keystore.p12").write_bytes(store)
    (folder / "trust.pem").write_bytes(chain)
    return str(folder / "keystore.p12"), str(folder / "trust.pem")


def _ask(server: ServerName, files: TlsFiles | None, trust: ssl.SSLContext | bool) -> httpx.Response:
    answers: list[httpx.Response] = []

    async def scenario() -> None:
        async with (
            served(echo, server=server, address="https://127.0.0.1:0", tls=files) as running,
            httpx.AsyncClient(verify=trust, timeout=DEADLINE) as client,
        ):
            assert running.url.startswith("https://127.0.0.1:")
            answers.append(await client.post(running.url, content=bytes(100_000)))

    run(scenario())
    return answers[0]


@both
def test_pem_pair_is_served(server: ServerName, tmp_path: Path) -> None:
    files = pem_pair(tmp_path)
    got = _ask(server, files, ssl.create_default_context(cafile=files.certificate_file))
    assert len(got.content) == 100_004


@both
def test_keystore_is_served(server: ServerName, tmp_path: Path) -> None:
    store, trusted = keystore(tmp_path, b"changeit")
    got = _ask(server, TlsFiles(keystore=store), ssl.create_default_context(cafile=trusted))
    assert got.status_code == 200


@both
def test_https_without_a_certificate_gets_a_self_signed_one(server: ServerName) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        _ask(server, None, ssl.create_default_context())
    assert caught.group_contains(httpx.ConnectError, match="self-signed")
    assert _ask(server, None, False).status_code == 200


def test_old_tls_is_not_offered() -> None:
    context = server_context(None, alpn=("h2",), host="localhost")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert all("ECDHE" in suite["name"] for suite in context.get_ciphers() if suite["protocol"] == "TLSv1.2")


@pytest.mark.parametrize("host", ["example.org", "10.1.2.3", "::1", "localhost"])
def test_self_signed_certificate_names_host_and_localhost(host: str) -> None:
    chain, _ = self_signed(host)
    text = str(load_pem_x509_certificate(chain).extensions)
    assert host in text
    assert "localhost" in text


def test_certificate_without_key_is_refused(tmp_path: Path) -> None:
    files = TlsFiles(certificate_file=pem_pair(tmp_path).certificate_file)
    with pytest.raises(ConfigError, match="belong together"):
        server_context(files, alpn=(), host="h")


def test_missing_file_is_named(tmp_path: Path) -> None:
    files = TlsFiles(certificate_file=pem_pair(tmp_path).certificate_file, private_key_file="/no/key.pem")
    with pytest.raises(ConfigError, match=r"private_key_file: there is no file /no/key\.pem"):
        server_context(files, alpn=(), host="h")


def test_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    files = pem_pair(tmp_path)
    Path(str(files.private_key_file)).write_bytes(self_signed("localhost")[1])
    with pytest.raises(ConfigError, match="no pair"):
        server_context(files, alpn=(), host="h")


def test_wrong_keystore_password_is_refused_without_showing_it(tmp_path: Path) -> None:
    store, _ = keystore(tmp_path, b"right")
    with pytest.raises(ConfigError, match="keystore_pass") as caught:
        server_context(TlsFiles(keystore=store, keystore_pass="wrong-one"), alpn=(), host="h")
    assert "wrong-one" not in str(caught.value)


def test_missing_keystore_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/no/store\.p12"):
        server_context(TlsFiles(keystore="/no/store.p12"), alpn=(), host="h")


def test_java_keystore_is_refused_with_the_command_that_converts_it() -> None:
    files = TlsFiles(keystore="x.jks", keystore_type="JKS")
    with pytest.raises(ConfigError, match="keytool"):
        server_context(files, alpn=(), host="h")
