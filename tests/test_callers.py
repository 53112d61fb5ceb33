"""Who may use `serve`: hosts, origins, and a page in a real browser."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest

from scale_dspy.serve.callers import check_caller, describe_callers, say_allowed
from scale_dspy.serve.requests import RefusedError
from tests.command import backend, run
from tests.fake_vllm import Spawned, spawn_fake_vllm
from tests.raw import send_raw
from tests.test_gateway import make_body
from tests.test_serve import chats, start_serve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ALLOWED = "http://pages.example:3000"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Spawned]]:
    flags = ["--allow-origin", ALLOWED, "--allow-host", "scale.example"]
    with spawn_fake_vllm() as fake, start_serve(*backend(fake), *flags) as (said, _):
        yield said["url"], fake


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:4000",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "10.0.0.1",
        "127.0.0.1@evil.example",
        "evil.example#localhost",
        "[::1].evil",
        "0x7f.1",
        "localhost, evil.example",
        "a b",
    ],
)
def test_another_servers_name_is_refused(served: tuple[str, Spawned], host: str) -> None:
    url, fake = served
    start = len(chats(fake))
    for method, path in (("GET", "/models"), ("POST", "/chat/completions"), ("GET", "/../health")):
        reply = httpx.request(
            method, url + path, headers={"Host": host}, json=make_body(), timeout=60
        )
        assert reply.status_code in (400, 403)
        assert "error" in reply.json()
    assert len(chats(fake)) == start


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.1.2.3:99", "[::1]:4000", "Scale.Example"]
)
def test_its_own_names_are_taken(served: tuple[str, Spawned], host: str) -> None:
    assert httpx.get(f"{served[0]}/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://127.0.0.1:1",
        "http://evil.example",
        "null",
        "file://",
        "http://pages.example",
        "https://pages.example:3000",
        "http://pages.example:3000.evil.example",
        "chrome-extension://abc",
        f"{ALLOWED}, {ALLOWED}",
    ],
)
def test_a_page_that_is_not_allowed_causes_nothing(
    served: tuple[str, Spawned], origin: str
) -> None:
    url, fake = served
    start = len(chats(fake))
    for method in ("POST", "OPTIONS", "GET"):
        for path in ("/chat/completions", "/models"):
            reply = httpx.request(
                method,
                url + path,
                headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
                json=make_body(),
                timeout=60,
            )
            assert reply.status_code == 403
            assert "--allow-origin" in reply.json()["error"]["message"]
            assert [name for name in reply.headers if name.startswith("access-control")] == []
    assert len(chats(fake)) == start


def test_a_page_that_is_allowed_may_ask_first_and_read(served: tuple[str, Spawned]) -> None:
    url, _ = served
    asks = {"Origin": ALLOWED, "Access-Control-Request-Method": "POST"}
    asks["Access-Control-Request-Headers"] = "content-type,x-evil,authorization"
    reply = httpx.options(f"{url}/chat/completions", headers=asks)
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (204, ALLOWED)
    assert reply.headers["access-control-allow-headers"] == "authorization, content-type"
    headers = {"Origin": ALLOWED}
    for body, status in ((make_body(), 200), (make_body(stream=True), 200), ({}, 400)):
        reply = httpx.post(f"{url}/chat/completions", json=body, headers=headers, timeout=60)
        assert reply.status_code == status
        assert reply.headers["access-control-allow-origin"] == ALLOWED
        assert reply.headers["vary"] == "Origin"


def test_nobody_else_is_told_of_it(served: tuple[str, Spawned]) -> None:
    reply = httpx.post(f"{served[0]}/chat/completions", json=make_body(), timeout=60)
    assert [name for name in reply.headers if name.startswith("access-control")] == []
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_two_hosts_or_origins_are_none(served: tuple[str, Spawned]) -> None:
    url, fake = served
    start = len(chats(fake))
    two = f"Origin: {ALLOWED}\r\nOrigin: http://evil.example\r\nContent-Type: application/json\r\n"
    assert b" 400 " in send_raw(url, b"{}", two).partition(b"\r\n")[0]
    assert b" 400 " in send_raw(url, b"{}", "Host: evil.example\r\n").partition(b"\r\n")[0]
    assert len(chats(fake)) == start


def test_a_request_that_needs_no_preflight_is_refused_without_an_origin_too(
    served: tuple[str, Spawned],
) -> None:
    url, fake = served
    start = len(chats(fake))
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None):
        content = httpx.Request("POST", url, json=make_body()).content
        headers = {} if kind is None else {"Content-Type": kind}
        reply = httpx.post(f"{url}/chat/completions", content=content, headers=headers)
        assert reply.status_code in (400, 415)
        assert "application/json" in reply.json()["error"]["message"]
    picture = httpx.get(f"{url}/models", headers={"Sec-Fetch-Site": "same-site"})
    assert picture.status_code == 403
    assert len(chats(fake)) == start


def test_a_server_for_other_machines_goes_by_its_addresses() -> None:
    callers = describe_callers("key", "0.0.0.0", ["scale.example"])
    for host, fits in (
        (b"192.168.1.5:4000", True),
        (b"[fe80::1]:4000", True),
        (b"scale.example", True),
        (b"evil.example", False),
    ):
        scope = {"headers": [(b"host", host)], "scheme": "http", "method": "GET"}
        if fits:
            check_caller(scope, callers)
        else:
            with pytest.raises(RefusedError, match="--allow-host"):
                check_caller(scope, callers)
        assert say_allowed(scope, callers) == []


@pytest.mark.parametrize(
    "flags",
    [
        ["--allow-origin", "*"],
        ["--allow-origin", "localhost:3000"],
        ["--allow-origin", "http://localhost:3000/"],
        ["--allow-origin", "http://[::1"],
        ["--allow-host", "http://scale.example"],
        ["--allow-host", "scale.example:4000"],
        ["--allow-host", "*"],
        ["--allow-host", ""],
    ],
)
def test_what_names_no_page_or_host_is_one_line(
    capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    code, _, said = run(capsys, "serve", "--port", "0", *flags)
    assert (code, said.count("\n")) == (2, 1)
    assert flags[0] in said


# A page in a browser, on another port of this machine

PAGE = """<!doctype html><title>x</title><body><script>
const body = JSON.stringify(%(body)s), url = "%(url)s", report = [];
const say = text => navigator.sendBeacon("/told", text);
async function attempt(name, way) {
  try {
    const reply = await way();
    report.push(name + ":" + reply.type + ":" + await reply.text());
  } catch (error) { report.push(name + ":failed"); }
}
(async () => {
  const post = {method: "POST", body};
  await attempt("plain", () => fetch(url + "/chat/completions", post));
  await attempt("blind", () => fetch(url + "/chat/completions", {...post, mode: "no-cors"}));
  await attempt("blob", () => fetch(url + "/chat/completions", {method: "POST", mode: "no-cors",
    body: new Blob([body])}));
  await attempt("json", () => fetch(url + "/chat/completions",
    {...post, headers: {"Content-Type": "application/json"}}));
  await attempt("form", () => fetch(url + "/chat/completions", {method: "POST", mode: "no-cors",
    body: new URLSearchParams({model: "scale"})}));
  await attempt("models", () => fetch(url + "/models"));
  navigator.sendBeacon(url + "/chat/completions", body);
  navigator.sendBeacon(url + "/chat/completions", new Blob([body], {type: "text/plain"}));
  const image = new Image(); image.src = url + "/models";
  const form = document.createElement("form");
  form.method = "POST"; form.enctype = "text/plain"; form.action = url + "/chat/completions";
  form.target = "frame"; const field = document.createElement("input");
  field.name = body.slice(0, -1) + ', "user": "'; field.value = '"}'; form.append(field);
  const frame = document.createElement("iframe"); frame.name = "frame";
  document.body.append(frame, form); form.submit();
  await new Promise(done => setTimeout(done, 1500));
  say(encodeURIComponent(JSON.stringify(report)));
})();
</script>"""


@contextmanager
def serve_page(page: str) -> Iterator[tuple[str, list[str]]]:
    """(the address of a page, what it reports)."""
    told: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            told.append(unquote(self.rfile.read(length).decode()))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", told
    finally:
        server.shutdown()
        server.server_close()


def open_page(address: str, told: list[str], folder: Path) -> str:
    """What a page reports that Chromium has opened."""
    assert CHROMIUM
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", f"--user-data-dir={folder / 'profile'}"]
    browser = subprocess.Popen([*command, address], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while not told and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        browser.kill()
        browser.wait()
    assert told, "the page did not run"
    return told[0]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_page_on_another_port_can_neither_read_nor_cause_a_solve(
    served: tuple[str, Spawned], tmp_path: Path
) -> None:
    url, fake = served
    start = len(chats(fake))
    body = httpx.Request("POST", url, json=make_body()).content.decode()
    with serve_page(PAGE % {"body": body, "url": url}) as (address, told):
        report = open_page(address, told, tmp_path)
    for name in ("plain", "json", "models"):
        assert f"{name}:failed" in report
    for name in ("blind", "blob", "form"):  # sent, and answered with what the page cannot read
        assert f"{name}:opaque:" in report or f"{name}:failed" in report
    assert "boxed" not in report
    assert '"id"' not in report
    assert len(chats(fake)) == start


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_page_that_is_allowed_solves_in_the_same_browser(tmp_path: Path) -> None:
    """So the page above is refused by the server, and not by anything else."""
    told_page = PAGE.replace('"%(url)s"', "location.hash.slice(1)")
    body = httpx.Request("POST", "http://x", json=make_body()).content.decode()
    with serve_page(told_page % {"body": body}) as (address, told):
        origin = address.rstrip("/")
        with (
            spawn_fake_vllm() as fake,
            start_serve(*backend(fake), "--allow-origin", origin) as (said, _),
        ):
            report = open_page(f"{address}#{said['url']}", told, tmp_path)
            assert "json:cors:" in report
            assert "boxed" in report
            assert chats(fake)
