"""Images by address: which addresses, which networks, and what of an answer is taken."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from raytrain_xai.errors import ConfigError
from raytrain_xai.storage import locate, write_bytes
from serve.problems import ProblemError
from serve.security.fetch import Fetcher
from serve.security.networks import is_reachable
from serve.security.sources import find_source, parse_address, parse_sources
from serve.settings import FetchSettings

ALLOWED = ("https://cdn.example/photos", "https://cdn.example:8443/", "s3://bucket/public")


# --- addresses ---
@pytest.mark.parametrize(
    "text",
    [
        "https://cdn.example/photos",
        "https://cdn.example/photos/a.png",
        "https://CDN.Example/photos/b/c.png?size=2&sign=a%2Fb",
        "https://cdn.example:443/photos/a.png",
        "https://cdn.example:8443/anything",
        "s3://bucket/public/a.png",
    ],
)
def test_addresses_below_an_entry(text: str) -> None:
    find_source(parse_address(text), parse_sources(ALLOWED))


@pytest.mark.parametrize(
    "text",
    [
        # another host, in every disguise
        "https://evil.example/photos/a.png",
        "https://cdn.example.evil.example/photos/a.png",
        "https://cdn.example@evil.example/photos/a.png",
        "https://evil.example#@cdn.example/photos/a.png",
        "https://evil.example\\@cdn.example/photos/a.png",
        "https://cdn.example\\.evil.example/photos/a.png",
        "https://user:pw@cdn.example/photos/a.png",
        "https://cdn.example:pw@evil.example/photos",
        "https://cdn.example:8080/photos/a.png",
        "https://cdn.example:0443/photos/a.png",
        "https://cdn.example:99999/photos/a.png",
        "https://cdn.example./photos/a.png",
        "https://cdn%2eexample/photos/a.png",
        "https://cdn。example/photos/a.png",
        "https://сdn.example/photos/a.png",  # a Cyrillic letter
        "https:///cdn.example/photos/a.png",
        "https:cdn.example/photos/a.png",
        "//cdn.example/photos/a.png",
        # another scheme
        "http://cdn.example/photos/a.png",
        "HTTPS://cdn.example/photos/a.png",
        "file:///etc/passwd",
        "gopher://cdn.example/photos",
        "ftp://cdn.example/photos/a.png",
        "data:image/png;base64,AAAA",
        "jar:https://cdn.example/photos!/a",
        "/etc/passwd",
        "",
        # this machine and its neighbours
        "https://127.0.0.1/photos/a.png",
        "https://2130706433/photos/a.png",
        "https://0x7f000001/photos/a.png",
        "https://0177.0.0.1/photos/a.png",
        "https://127.1/photos/a.png",
        "https://[::1]/photos/a.png",
        "https://[::ffff:127.0.0.1]/photos/a.png",
        "https://[fe80::1%25eth0]/photos/a.png",
        "https://169.254.169.254/latest/meta-data/",
        "https://localhost/photos/a.png",
        # out of the folder
        "https://cdn.example/",
        "https://cdn.example/private/a.png",
        "https://cdn.example/photos-private/a.png",
        "https://cdn.example/photos/../private/a.png",
        "https://cdn.example/photos/./a.png",
        "https://cdn.example/photos/%2e%2e/private/a.png",
        "https://cdn.example/photos/%2E./private/a.png",
        "https://cdn.example/photos/..%2fprivate/a.png",
        "https://cdn.example/photos/..%5cprivate/a.png",
        "https://cdn.example/photos/%252e%252e/private/a.png",
        "https://cdn.example/photos/..\\private\\a.png",
        "https://cdn.example//photos/a.png",
        "https://cdn.example/photos//a.png",
        "https://cdn.example/PHOTOS/a.png",
        # control characters and halves of encodings
        "https://cdn.example/photos/a\r\nHost: evil.example",
        "https://cdn.example/photos/a%0d%0aHost: evil",
        "https://cdn.example/photos/a%0d%0aX:evil",
        "https://cdn.example/photos/a%00.png",
        "https://cdn.example/photos/a\x00.png",
        "https://cdn.example/photos/a b.png",
        "https://cdn.example/photos/a.png\n",
        "https://cdn.example/photos/%zz.png",
        "https://cdn.example/photos/a.png#fragment",
        "https://cdn.example/photos/" + "a" * 3000,
        # other objects, other servers
        "s3://other/public/a.png",
        "s3://bucket/private/a.png",
        "s3://bucket/publicity/a.png",
        "s3://bucket/public/../private/a.png",
        "s3://key:secret@bucket/public/a.png",
        "s3://bucket/public/a.png?endpoint_override=evil.example",
        "s3://bucket/public?endpoint_override=169.254.169.254&scheme=http",
    ],
)
def test_disguises_are_refused_before_any_name_is_resolved(text: str) -> None:
    asked: list[str] = []

    async def resolve(host: str, _: int) -> list[str]:
        asked.append(host)
        return ["192.0.2.1"]

    with pytest.raises(ProblemError) as caught:
        asyncio.run(Fetcher(FetchSettings(allow=ALLOWED), 100, resolve=resolve)(text))
    assert caught.value.status in (403, 422) and asked == []
    assert "cdn.example" not in caught.value.detail  # what is allowed is nobody's business


def test_nothing_is_allowed_by_default() -> None:
    for text in ("https://cdn.example/photos/a.png", "s3://bucket/public/a.png"):
        with pytest.raises(ProblemError) as caught:
            asyncio.run(Fetcher(FetchSettings(), 100)(text))
        assert caught.value.status == 403


@pytest.mark.parametrize("entry", ["http://h/", "https://h/../", "https://h/?a=b", "*", "https://*.h/"])
def test_entry_that_is_no_beginning_is_told_at_start(entry: str) -> None:
    with pytest.raises(ConfigError, match="security.fetch.allow"):
        Fetcher(FetchSettings(allow=(entry,)), 100)


def test_entry_with_a_user_is_told_before() -> None:
    with pytest.raises(ValidationError, match="allow holds credentials"):
        FetchSettings(allow=("https://u@h/",))


# --- networks ---
@pytest.mark.parametrize(
    ("ip", "public", "private"),
    [
        ("8.8.8.8", True, True),
        ("2606:4700:4700::1111", True, True),
        ("::ffff:8.8.8.8", True, True),
        ("10.1.2.3", False, True),
        ("172.16.0.1", False, True),
        ("192.168.1.1", False, True),
        ("100.64.0.1", False, True),
        ("127.0.0.1", False, True),
        ("127.8.8.8", False, True),
        ("::1", False, True),
        ("fd12:3456::1", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("::ffff:10.0.0.1", False, True),
        ("169.254.169.254", False, False),
        ("169.254.1.1", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("fd00:ec2::254", False, False),
        ("100.100.100.200", False, False),
        ("fe80::1", False, False),
        ("fe80::1%eth0", False, False),
        ("fec0::1", False, False),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("::127.0.0.1", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
        ("240.0.0.1", False, False),
        ("255.255.255.255", False, False),
        ("64:ff9b::7f00:1", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("2002:7f00:1::", False, False),
        ("2001:0:1::1", False, False),
    ],
)
def test_networks(ip: str, public: bool, private: bool) -> None:
    assert (is_reachable(ip, private=False), is_reachable(ip, private=True)) == (public, private)


@pytest.mark.parametrize(
    "found", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:169.254.169.254"], ["8.8.8.8", "::1"], []]
)
def test_name_of_which_any_address_is_private_is_refused(found: list[str]) -> None:
    async def resolve(*_: object) -> list[str]:
        return found

    with pytest.raises(ProblemError) as caught:
        asyncio.run(Fetcher(FetchSettings(allow=ALLOWED), 100, resolve=resolve)("https://cdn.example/photos/a.png"))
    assert caught.value.status == 403


# --- answers, from a real TLS server ---
@dataclass
class Site:
    """A server on loopback for ``cdn.example``; nothing but its own resolver knows that name."""

    port: int = 0
    trust: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    asked: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    resolved: int = 0

    def fetcher(self, *, max_bytes: int = 1000, resolve: Callable[..., Awaitable[Sequence[str]]] | None = None,
                host: str = "cdn.example", **settings: Any) -> Fetcher:  # fmt: skip
        allow = (f"https://{host}:{self.port}/photos",)
        fetch = FetchSettings.model_validate({"allow": allow, "private": True, "time_s": 2.0, **settings})
        return Fetcher(fetch, max_bytes, resolve=resolve or self._resolve, trust=self.trust)

    async def _resolve(self, *_: object) -> list[str]:
        self.resolved += 1
        return ["127.0.0.1"] if self.resolved == 1 else ["203.0.113.1"]  # rebinds at once

    async def get(self, answer: bytes, *, path: str = "/photos/a.png?x=1", **more: Any) -> bytes:
        host = more.get("host", "cdn.example")
        async with self._running(answer):
            return await self.fetcher(**more)(f"https://{host}:{self.port}{path}")

    @asynccontextmanager
    async def _running(self, answer: bytes) -> AsyncIterator[None]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            try:
                await writer.drain()
                if answer:
                    writer.close()
            except (ConnectionError, ssl.SSLError):
                pass  # the client had enough

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        yield
        server.close()

    certificate: str = ""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cdn.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("cdn.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "site.pem").write_bytes(private + public)
    return Site(certificate=str(tmp_path / "site.pem"), trust=ssl.create_default_context(cadata=public.decode()))


def answer_of(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def test_connects_to_the_checked_address_in_the_name_of_the_host(site: Site) -> None:
    assert asyncio.run(site.get(answer_of(b"PNG"))) == b"PNG"
    (request,) = site.asked
    lines = request.decode().split("\r\n")
    assert lines[0] == "GET /photos/a.png?x=1 HTTP/1.1"
    assert f"Host: cdn.example:{site.port}" in lines
    assert not [line for line in lines if line.lower().startswith(("cookie", "authorization", "x-api-key"))]
    assert (site.names, site.resolved) == (["cdn.example"], 1)


def test_certificate_must_be_that_of_the_name(site: Site) -> None:
    with pytest.raises(ProblemError) as caught:
        asyncio.run(site.get(answer_of(b"PNG"), host="other.example"))
    assert (caught.value.status, site.asked) == (422, [])


def refusal(site: Site, answer: bytes, **more: Any) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        asyncio.run(site.get(answer, **more))
    assert len(site.asked) == 1
    return caught.value


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_redirects_are_not_followed(site: Site, status: str) -> None:
    location = "Location: https://169.254.169.254/latest/meta-data/"
    error = refusal(site, answer_of(b"", status, location))
    assert error.status == 422 and "redirects" in error.detail and "169" not in error.detail


@pytest.mark.parametrize(
    "answer", [answer_of(b"no", "404 Not Found"), answer_of(b"\x1f\x8b", "200 OK", "Content-Encoding: gzip")]
)
def test_other_answers_are_no_images(site: Site, answer: bytes) -> None:
    assert refusal(site, answer).status == 422


def test_length_is_counted_whatever_is_announced(site: Site) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n"
    assert refusal(site, chunked).status == 413
    site.asked.clear(), setattr(site, "resolved", 0)
    assert refusal(site, answer_of(b"x" * 1001)).status == 413
    site.asked.clear(), setattr(site, "resolved", 0)
    assert asyncio.run(site.get(answer_of(b"x" * 1000))) == b"x" * 1000


def test_silent_and_torn_answers(site: Site) -> None:
    error = refusal(site, b"", time_s=0.3)
    assert error.status == 422 and "0.3 s" in error.detail
    site.asked.clear(), setattr(site, "resolved", 0)
    torn = refusal(site, answer_of(b"x" * 100)[:-50])
    assert torn.status == 422 and "127.0.0.1" not in torn.detail


def test_name_that_does_not_resolve(site: Site) -> None:
    async def nowhere(*_: object) -> list[str]:
        raise OSError("nameserver 10.0.0.2 says no")

    with pytest.raises(ProblemError) as caught:
        asyncio.run(site.get(b"", resolve=nowhere))
    assert caught.value.status == 422 and "10.0.0.2" not in caught.value.detail


# --- S3 ---
def test_objects_below_an_entry(s3_storage: str) -> None:
    base, _, options = s3_storage.partition("?")
    write_bytes(locate(f"{base}/public/deep/a.png?{options}"), b"PNG")
    write_bytes(locate(f"{base}/private/b.png?{options}"), b"secret")
    fetcher = Fetcher(FetchSettings(allow=(f"{base}/public?{options}",)), 3)
    assert asyncio.run(fetcher(f"{base}/public/deep/a.png")) == b"PNG"
    statuses = []
    for text in (f"{base}/private/b.png", f"{base}/public/absent.png", f"{base}/public/deep/a.png?{options}"):
        with pytest.raises(ProblemError) as caught:
            asyncio.run(fetcher(text))
        statuses.append(caught.value.status)
    assert statuses == [403, 422, 422]
    with pytest.raises(ProblemError) as caught:
        asyncio.run(Fetcher(FetchSettings(allow=(f"{base}/public?{options}",)), 2)(f"{base}/public/deep/a.png"))
    assert caught.value.status == 413
