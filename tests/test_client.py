"""One try of a request: TLS, the number of connections, names as served, models of LiteLLM's."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import dspy
import pytest
from dspy.utils.exceptions import LMConfigurationError, LMTimeoutError, LMTransportError

from scale_dspy import SCALE, connect
from scale_dspy.lm.adapter import PlainAdapter
from scale_dspy.lm.client import cost_nothing
from scale_dspy.lm.connect import MeteredLM
from scale_dspy.lm.event_loop import run
from scale_dspy.stages.ask import ask_many
from tests.fake_vllm import fake_vllm
from tests.plain_server import reply, serve

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `cert.pem`, which vouches for itself, for 127.0.0.1; and its `key.pem`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's authority")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


@pytest.fixture
def tls(authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    return context


def solve(address: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`solve` in a process of its own: which certificates count is settled once for each."""
    command = [sys.executable, "-m", "scale_dspy", "solve", "What is 3 + 4?", "--modes", "hybrid"]
    return subprocess.run(
        [*command, "--method", "cot", "--api-base", address, *flags],
        env={**os.environ, "SCALE_CACHE": "off", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("flags", [("--model", "m"), ()])
def test_a_certificate_that_nobody_vouches_for_is_one_line_and_nothing_is_sent(
    tls: ssl.SSLContext, flags: tuple[str, ...]
) -> None:
    with serve(reply(), tls=tls) as server:
        done = solve(server.api_base, *flags)
        assert server.seen == []
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "self-signed certificate" in done.stderr
    assert "SSL_CERT_FILE" in done.stderr


@pytest.mark.parametrize("flags", [("--model", "m"), ()])
def test_an_authority_of_ones_own_is_believed(
    tls: ssl.SSLContext, authority: Path, flags: tuple[str, ...]
) -> None:
    with serve(reply(r"It is $\boxed{7}$."), tls=tls) as server:
        done = solve(server.api_base, *flags, SSL_CERT_FILE=str(authority / "cert.pem"))
        assert len(server.seen) == 1
    assert (done.returncode, done.stdout) == (0, "7\n")


def test_a_certificate_is_not_tried_again_and_costs_nothing(tls: ssl.SSLContext) -> None:
    with serve(reply(), tls=tls) as server:
        lm = connect("m", server.api_base)
        with pytest.raises(LMConfigurationError, match="is not trusted") as caught:
            lm("hi")
        assert cost_nothing(caught.value)


def test_https_to_a_server_without_tls_says_so() -> None:
    with serve(reply()) as server:
        address = server.api_base.replace("http://", "https://")
        with pytest.raises(LMTransportError, match=r"by TLS .*http://"):
            connect("m", address, num_retries=0)("hi")


SLOW = {
    "nothing at all": [b""],
    "a head without an end": [b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 100],
    "one byte of a head at a time": [bytes([each]) for each in b"HTTP/1.1 200 OK\r\n" * 20],
    "a body without an end": [b"HTTP/1.1 200 OK\r\n\r\n", *[b" "] * 100],
    "chunks without an end": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        *[b"1\r\n \r\n"] * 100,
    ],
    "events without an end": [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
        *[b": keep-alive\n\n"] * 100,
    ],
    "informational replies without an end": [b"HTTP/1.1 100 Continue\r\n\r\n"] * 100,
}


@pytest.mark.parametrize("hears", [False, True])
@pytest.mark.parametrize("pieces", SLOW.values(), ids=SLOW)
def test_a_timeout_bounds_a_request_however_slow_its_reply_is(
    pieces: list[bytes], hears: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.recv(65_536)
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(0.1)
                time.sleep(5 if len(pieces) == 1 else 0)

        threading.Thread(target=answer, daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        lm = connect("m", address, timeout=0.7, num_retries=0, cache=False)
        request = lm.make_request([{"role": "user", "content": "hi"}], {})
        began = time.monotonic()
        with pytest.raises(LMTimeoutError):
            run(lm.core.complete_here(request, (lambda *_: None) if hears else None))
        assert time.monotonic() - began < 4


IN_FLIGHT = """
import asyncio, json, resource, sys
soft, hard, calls, address = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from scale_dspy import connect
from scale_dspy.lm.event_loop import run
lm = connect("m", address, cache=False, num_retries=0)
async def ask_all():
    return await asyncio.gather(*(lm.acall(f"question {n}") for n in range(calls)))
print(json.dumps(run(ask_all()) == [["7"]] * calls))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "least", "most"), [(100, 1000, 250, 300), (100, 100, 40, 75)]
)
def test_more_calls_than_files_wait_for_a_connection(
    soft: int, hard: int, least: int, most: int
) -> None:
    """The limit of files is raised as far as it goes; beyond it calls wait, and none fails."""
    with serve(reply(), delay=1.0) as server:
        command = [sys.executable, "-c", IN_FLIGHT, str(soft), str(hard), "300", server.api_base]
        environment = {**os.environ, "SCALE_CACHE": "off"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.stdout == "true\n", done.stderr
        assert least <= server.most <= most


@pytest.mark.parametrize("name", ["hosted_vllm/org/model", "litellm_proxy/x", "org/model"])
def test_a_model_is_asked_for_by_the_name_it_is_served_under(name: str) -> None:
    """Also where that name looks like one of LiteLLM's."""
    with fake_vllm(model=name) as server:
        for given in (name, None):
            lm = connect(given, server.api_base, cache=False)
            assert lm("What is 1 + 1?")
            assert server.chats()[-1].body["model"] == name


def test_the_number_of_choices_is_left_out_where_litellm_does_not_know_it() -> None:
    """Ollama gives one choice whatever is asked; the others are then asked for one by one."""
    said = {"model": "llama3", "response": "7", "done": True, "eval_count": 5}
    with serve({**said, "message": {"role": "assistant", "content": "7"}}) as server:
        address = server.api_base.removesuffix("/v1")
        lm = MeteredLM("ollama_chat/llama3", api_base=address, cache=False, num_retries=0)
        propose = SCALE().decompose.propose
        with dspy.context(lm=lm, adapter=PlainAdapter()):
            replies = asyncio.run(ask_many(propose, "decompose", {"problem": "p"}, 3))
        assert [each.text for each in replies] == ["7"] * 3
        assert [body["path"] for body in server.bodies] == ["/api/chat"] * 3
        assert all("n" not in {**body, **body["options"]} for body in server.bodies)
