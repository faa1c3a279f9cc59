"""TLS for the listeners: PEM files, a PKCS12 keystore, or a self-signed certificate."""

from __future__ import annotations

import datetime as dt
import ipaddress
import logging
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frame.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

_log = logging.getLogger(__name__)

# TLS 1.2's ephemeral AEAD suites; HTTP/2 forbids most others (RFC 9113, A). TLS 1.3 has its own.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_SELF_SIGNED_DAYS = 365
_NEEDS_CRYPTOGRAPHY = "pip install frame-core[tls], or give certificate_file and private_key_file (PEM)"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """What `config.properties` says about TLS; nothing at all stands for a self-signed certificate.

    Attributes:
        certificate_file: PEM, the server's certificate first, then the chain.
        private_key_file: PEM, without a password.
        keystore: PKCS12 file with key and chain.
        keystore_pass: DJL Serving's default.
    """

    certificate_file: str | None = None
    private_key_file: str | None = None
    keystore: str | None = None
    keystore_pass: str = "changeit"  # noqa: S105  # DJL Serving's default, Java's habit
    keystore_type: str = "PKCS12"


def server_context(files: TlsFiles | None, *, alpn: Sequence[str], host: str) -> ssl.SSLContext:
    """Make the server's TLS context, TLS 1.2 and above.

    Args:
        files: where the certificate is; None makes a self-signed one.
        alpn: protocols to offer, most wanted first (`h2`, `http/1.1`).
        host: the name put into a self-signed certificate, beside localhost.

    Raises:
        ConfigError: a file is missing, malformed or of an unknown kind, or `cryptography` is absent.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(list(alpn))
    files = files or TlsFiles()
    if files.certificate_file or files.private_key_file:
        _load_pem_files(context, files)
    elif files.keystore:
        _load_bytes(context, *_read_keystore(files, files.keystore))
    else:
        _log.warning("tls_self_signed host=%s: clients must be told to trust it; set certificate_file", host)
        _load_bytes(context, *self_signed(host))
    return context


def _load_pem_files(context: ssl.SSLContext, files: TlsFiles) -> None:
    if not files.certificate_file or not files.private_key_file:
        raise ConfigError("certificate_file and private_key_file belong together; only one of them is set")
    for key in ("certificate_file", "private_key_file"):
        path = Path(getattr(files, key))
        if not path.is_file():
            raise ConfigError(f"{key}: there is no file {path}")
    try:
        # The password callback keeps OpenSSL from asking on the terminal.
        context.load_cert_chain(files.certificate_file, files.private_key_file, password=lambda: "")
    except (ssl.SSLError, OSError) as error:
        text = f"{files.certificate_file} and {files.private_key_file} are no pair of PEM certificate and key"
        raise ConfigError(f"{text} without a password ({error})") from error


def _read_keystore(files: TlsFiles, keystore: str) -> tuple[bytes, bytes]:
    """Return the PEM chain and key of a PKCS12 keystore."""
    if files.keystore_type.upper() not in {"PKCS12", "P12"}:
        raise ConfigError(
            f"keystore_type {files.keystore_type}: only PKCS12 is supported; convert it with "
            "keytool -importkeystore -deststoretype PKCS12"
        )
    try:
        from cryptography.hazmat.primitives import serialization as pem  # noqa: PLC0415  # optional
        from cryptography.hazmat.primitives.serialization import pkcs12  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"keystore {keystore}: reading it needs a package; {_NEEDS_CRYPTOGRAPHY}"
        ) from error
    try:
        key, certificate, chain = pkcs12.load_key_and_certificates(
            Path(keystore).read_bytes(), files.keystore_pass.encode()
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"keystore {keystore}: cannot be read with keystore_pass as PKCS12 ({error})"
        ) from error
    if key is None or certificate is None:
        raise ConfigError(f"keystore {keystore}: holds no private key with its certificate")
    encoded = [found.public_bytes(pem.Encoding.PEM) for found in (certificate, *chain)]
    plain = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    return b"".join(encoded), plain


def self_signed(host: str) -> tuple[bytes, bytes]:
    """Make a certificate for `host` and localhost, valid for a year, with a key that is never stored."""
    try:
        from cryptography import x509  # noqa: PLC0415  # optional
        from cryptography.hazmat.primitives import serialization as pem  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
        from cryptography.x509.oid import NameOID  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"https without a certificate: making one needs a package; {_NEEDS_CRYPTOGRAPHY}"
        ) from error
    key: CertificateIssuerPrivateKeyTypes = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Frame, self-signed")])
    now = dt.datetime.now(dt.UTC)
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ("127.0.0.1", "::1")]
    try:
        extra: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        extra = x509.DNSName(host)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))  # clients' clocks differ
        .not_valid_after(now + dt.timedelta(days=_SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName(list(dict.fromkeys([*names, extra]))), critical=False)
        .sign(key, SHA256())
    )
    plain = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    return certificate.public_bytes(pem.Encoding.PEM), plain


def _load_bytes(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Give PEM bytes to OpenSSL, which reads files only: private ones, gone at once."""
    with tempfile.TemporaryDirectory(prefix="frame-tls-") as folder:  # made with mode 0700
        chain_file, key_file = Path(folder, "chain.pem"), Path(folder, "key.pem")
        chain_file.write_bytes(chain)
        key_file.write_bytes(key)
        context.load_cert_chain(chain_file, key_file)
