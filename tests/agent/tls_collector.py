"""The reference collector behind a real TLS server, with a certificate authority of its own."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from duramen.api import JoinString, parse_enroll_request
from tests.agent.reference_collector import Answer, ReferenceCollector

DAY = dt.timedelta(days=1)


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


class Authority:
    def __init__(self, name: str = "test authority") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key.public_key(), [
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (x509.KeyUsage(False, False, False, False, False, True, True, False, False), True),
        ])  # fmt: skip

    def _sign(self, subject, public, extensions) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(public)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - DAY).not_valid_after(now + 30 * DAY)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def certify(self, csr_pem: str) -> str:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return pem(self._sign(csr.subject, csr.public_key(), [(names.value, False)]))

    def server(self, directory: Path) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "collector")])
        certificate = directory / "server.pem"
        certificate.write_text(pem(self._sign(subject, key.public_key(), [(names, False)])))
        path = directory / "server.key"
        path.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ))  # fmt: skip
        return certificate, path


class TlsCollector:
    """Listens on 127.0.0.1; ``instead`` may answer before the collector does."""

    def __init__(self, directory: Path, *, authority: Authority | None = None, port: int = 0) -> None:
        self.authority = authority or Authority()
        self.collector = ReferenceCollector()
        self.lock = threading.Lock()
        self.instead = lambda handler: None
        self.peers: list[str] = []
        self.connections: list[ssl.SSLSocket] = []
        self.directory = directory
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.load_cert_chain(*self.authority.server(directory))
        self.context.load_verify_locations(cadata=pem(self.authority.certificate))
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.http: ThreadingHTTPServer | None = None
        self.start(port)

    def start(self, port: int) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def setup(self) -> None:
                outer.connections.append(self.request)
                self.request.do_handshake()
                super().setup()

            def log_message(self, *_) -> None:
                pass

            def _do(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                certificate = self.request.getpeercert()
                if certificate:
                    outer.peers.append(str(certificate["subjectAltName"]))
                answer = outer.instead(self)
                if answer is None and not certificate and self.path != "/v1/enroll":
                    answer = Answer(401, {"content-type": "text/plain"}, b"certificate, please")
                if answer is None:
                    with outer.lock:
                        if self.path == "/v1/enroll":
                            csr = parse_enroll_request(body).csr_pem
                            outer.collector.certificate = outer.authority.certify(csr)
                        headers = {key.lower(): value for key, value in self.headers.items()}
                        answer = outer.collector.handle(self.command, self.path, headers, body)
                self.send_response(answer.status)
                for key, value in answer.headers.items():
                    self.send_header(key, value)
                if answer.status != 204:
                    self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)
                self.wfile.flush()

            do_GET = do_POST = do_PUT = _do

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_) -> None:
                pass

            def get_request(self):
                connection, address = super().get_request()
                connection.settimeout(30)
                return outer.context.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                ), address

        self.http = Server(("127.0.0.1", port), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def port(self) -> int:
        return self.http.server_address[1]

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def publish(self) -> None:
        with self.lock:
            self.collector.publish()

    def join(self, **changes) -> JoinString:
        keys = self.collector.signer.keys()
        values = {
            "tenant": "acme",
            "agent": "web-1",
            "collectors": (self.url,),
            "ca_pem": pem(self.authority.certificate),
            "log_keys": (keys.ed25519.encode(), keys.mldsa44.encode()),
            "token": "token",
        }
        return JoinString(**{**values, **changes})
