"""The certificate of a client ends: it says so in time, in its log and in `health`."""

import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from raftwork import Raftwork
from support.founded import Founded

WAIT_S = 30


def issue(founded: Founded, directory: Path, days_left: float) -> dict[str, Any]:
    """Sign a certificate of ninety days for the client `desk` with the authority of the cluster."""
    pki = founded.at(0) / "pki"
    authority = x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes())
    signer: Any = serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    end = datetime.now(UTC) + timedelta(days=days_left)
    uri = x509.UniformResourceIdentifier(f"raftwork://{founded.cluster}/client/desk")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=90))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (directory / "desk.key").touch(0o600)
    (directory / "desk.key").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    (directory / "desk.pem").write_bytes(certificate.public_bytes(pem))
    return {
        "storage": founded.url,
        "tls_ca": founded.ca,
        "tls_certificate": str(directory / "desk.pem"),
        "tls_key": str(directory / "desk.key"),
    }


class Warnings(logging.Handler):
    """Waits for a line of the core."""

    def __init__(self, words: str) -> None:
        super().__init__(logging.WARNING)
        self.words, self.seen = words, threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self.words in record.getMessage():
            self.seen.set()


def test_a_client_warns_from_a_month_before_its_certificate_ends(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    with Founded(tmp_path / "cluster") as founded:
        fresh, ending = tmp_path / "fresh", tmp_path / "ending"
        fresh.mkdir()
        ending.mkdir()
        with Raftwork("shop", **issue(founded, fresh, 31)) as app:
            health = app.health()
            assert (health["status"], health["alarms"]) == ("ok", [])
        warnings = Warnings("the certificate of this client expires in 9 days")
        logging.getLogger("raftwork").addHandler(warnings)
        try:
            settings = issue(founded, ending, 9.5)
            with Raftwork("shop", **settings) as app:
                health = app.health()
                assert warnings.seen.wait(WAIT_S)
                assert health["status"] == "alarm"
                assert [settings["tls_certificate"] in alarm for alarm in health["alarms"]] == [True]
                left = timedelta(milliseconds=health["client_certificate_expires_ms"]) - timedelta(
                    seconds=datetime.now(UTC).timestamp()
                )
                assert left.days == 9
                # A new one in its place is enough.
                issue(founded, ending, 80)
                assert app.health()["status"] == "ok"
        finally:
            logging.getLogger("raftwork").removeHandler(warnings)
