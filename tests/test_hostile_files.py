"""Files from strangers: programs, data and runs. No code runs, nothing is written elsewhere, no
traceback is shown, and the report page, in a real browser, is text."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scale_dspy import SCALE
from scale_dspy.cli import main as cli
from scale_dspy.data.load import DataError, load
from scale_dspy.evaluation.runner import name_folder
from scale_dspy.program import load_program
from scale_dspy.report.html_page import POLICY, SCRIPT
from tests.browser import ask, open_page, press, wait_for
from tests.command import backend, run
from tests.fake_vllm import FakeVLLM, Fault, fake_vllm
from tests.test_report import check_harmless, list_html, make_run, unpack
from tests.world import World

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATHS = (
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..\\x",
    "a/b/../c",
    "C:\\x",
    "~/x",
    "\x00",
    "..",
    "",
)


def make_state() -> dict[str, Any]:
    state = SCALE(candidates=2).dump_state()
    return dict(json.loads(json.dumps(state)))


def spoil(*keys: str, value: Any) -> str:
    """A program's file in which one value is another."""
    state: Any = make_state()
    place = state
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return json.dumps(state)


NOT_PROGRAMS = {
    "empty": "",
    "cut off": json.dumps(make_state())[:400],
    "deep list": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "deep inside": json.dumps(make_state())[:-1] + ', "x": ' + "[" * 100_000,
    "a long number": spoil("threshold", "value", value=0).replace(
        '"value": 0', '"value": ' + "9" * 9999
    ),
    "a list": "[1]",
    "text": '"program"',
    "threshold nan": spoil("threshold", "value", value=float("nan")),
    "threshold infinite": spoil("threshold", "value", value=float("inf")),
    "threshold text": spoil("threshold", "value", value="0.5; import os"),
    "threshold list": spoil("threshold", value=[]),
    "split bool": spoil("split", "value", value=True),
    "candidates": spoil("scale_dspy", "options", "candidates", value=10**9),
    "candidates text": spoil("scale_dspy", "options", "candidates", value="8"),
    "candidates none": spoil("scale_dspy", "options", "candidates", value=None),
    "budget": spoil("scale_dspy", "options", "budget", value=-1),
    "unknown option": spoil("scale_dspy", "options", "__class__", value="os.system"),
    "modes": spoil("scale_dspy", "options", "modes", value="hybrid"),
    "timing": spoil("scale_dspy", "options", "assess", value={"a": 1}),
    "signature": spoil("solve.system_1", "signature", value=3),
    "no fields": spoil("solve.system_1", "signature", value={"instructions": "x"}),
    "demos": spoil("solve.system_1", "demos", value=7),
    "demo": spoil("solve.system_1", "demos", value=["x", 1]),
    "no predictor": spoil("solve.system_1", value=None),
    "instructions": spoil("solve.system_1", "signature", "instructions", value=["x"]),
}


@pytest.mark.parametrize("text", NOT_PROGRAMS.values(), ids=NOT_PROGRAMS)
def test_a_broken_program_file_is_one_line_and_code_2(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "program.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"program\.json|program"):
        load_program(path)
    out = str(tmp_path / "x.md")
    code, _, said = run(capsys, "export", str(path), "--format", "markdown", "--out", out)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert len(said) < 500
    assert not Path(out).exists()


def test_bytes_that_are_no_text_are_no_program(tmp_path: Path) -> None:
    path = tmp_path / "program.json"
    for content in (b"\x80\x04\x95.", b"\xff\xfe{\x00}", b"\x00" * 1000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot read a program"):
            load_program(path)


def test_a_program_file_names_no_server_and_runs_no_code(tmp_path: Path, server: FakeVLLM) -> None:
    """An LM in the file, pickles, templates and code in its texts: nothing of it is acted on."""
    state = make_state()
    victim = tmp_path / "victim"
    code = f"__import__('pathlib').Path({str(victim)!r}).write_text('x')"
    for name in ("decompose.propose", "assess.rate", "solve.system_1"):
        state[name]["lm"] = {"model": "openai/x", "api_base": "http://127.0.0.1:9/v1"}
        state[name]["signature"]["instructions"] = f"{{{code}}} {{0.__class__}} %s ${{x}} {code}"
        state[name]["traces"] = [code]
    state["metadata"] = {"dependency_versions": {"python": code}}
    state["scale_dspy"]["record"] = {"note": code}
    path = tmp_path / "program.json"
    path.write_text(json.dumps(state))
    program = load_program(path)
    assert all(predictor.lm is None for predictor in program.predictors())
    (example,) = World().problems(1)
    given = ["--program", str(path), *backend(server)]
    assert cli.main(["solve", example.problem, *given]) == 0
    assert code in json.dumps(server.chats("decompose")[0].body).replace("\\\\", "\\")
    assert not victim.exists()


# ---- data -----------------------------------------------------------------------------------

BAD_ROWS = {
    "deep": b'{"problem": ' + b"[" * 100_000,
    "cut off": b'{"problem": "x", "answ',
    "no object": b"[1, 2]",
    "number": b'{"problem": 5, "answer": 1}',
    "nan": b'{"problem": "x", "answer": NaN}',
    "infinite": b'{"problem": "x", "answer": 1e999}',
    "digits": b'{"problem": "x", "answer": ' + b"9" * 9999 + b"}",
    "object": b'{"problem": "x", "answer": {"a": 1}}',
    "bytes": b'{"problem": "\xff", "answer": 1}',
    "blank": b'{"problem": "\\u0000\\ud800", "answer": "\\u0000"}',
    "list id": b'{"id": [1], "problem": "x", "answer": 1}',
    "same id": b'{"id": 1, "problem": "x", "answer": 1}\n{"id": "1", "problem": "y", "answer": 1}',
}


@pytest.mark.parametrize("content", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_broken_data_file_is_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set\.jsonl"):
        load(str(path))
    out = str(tmp_path / "out")
    given = ["--model", "m", "--api-base", "http://127.0.0.1:9/v1", "--out", out]
    code, _, said = run(capsys, "evaluate", str(path), *given)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert len(said) < 500
    assert not Path(out).exists()


def test_a_line_of_ten_megabytes_is_read_and_its_error_is_short(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"problem": "x " * 5_000_000, "answer": "7"}))
    assert len(load(str(path))[0].problem) == 9_999_999
    path.write_text(json.dumps({"problem": "x", "answer": [1], "y" * 10_000_000: "z"}))
    with pytest.raises(DataError) as caught:
        load(str(path))
    assert len(str(caught.value)) < 500


def test_ids_and_names_reach_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeVLLM
) -> None:
    work = tmp_path / "a" / "b" / "work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    rows = [
        {"id": f"{place} {path}" if path in ("", "\x00") else path, "problem": each.problem}
        | {"answer": each.answer}
        for place, (path, each) in enumerate(zip(PATHS, World().problems(len(PATHS)), strict=True))
    ]
    Path("set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--method", "cot", "--samples", "1", *backend(server)]
    assert cli.main(["evaluate", "set.jsonl", *given]) == 0
    assert cli.main(["report", "runs/set-cot", "--out", "page.html"]) == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent for path in written} == {work, work / "runs" / "set-cot"}
    assert len(Path("runs/set-cot/rollouts.jsonl").read_text().splitlines()) == len(PATHS)


@pytest.mark.parametrize("name", [*PATHS, "../x.jsonl", "../../a/b:c", "a\nb", "x" * 50])
def test_a_folders_name_is_a_name(name: str) -> None:
    folder = name_folder(name, "cot")
    assert Path(folder).name == folder
    assert folder not in ("", ".", "..")


# ---- runs and their page --------------------------------------------------------------------


def write_attacks(canary: str) -> str:
    """Everything that a browser might run or fetch, if one of them got through."""
    run = f"document.title='BROKEN';fetch('{canary}/js')"
    return "\n".join(
        [
            f"<script>{run}</script><img src='{canary}/img' onerror=\"{run}\">",
            f"</script></style></title></details></div><svg/onload={run}>",
            f'"><iframe src="{canary}/frame"></iframe><object data="{canary}/object"></object>',
            f'<style>@import "{canary}/css";body{{background:url({canary}/bg)}}</style>',
            f'<link rel=stylesheet href="{canary}/link"><base href="{canary}/"><form action=x>',
            f'<meta http-equiv="refresh" content="0;url={canary}/meta">',
            rf"$\href{{javascript:{run}}}{{x}}$ $\class{{x}}{{y}}$ $\style{{color:url(//x)}}{{z}}$",
            rf"\(\text{{<script>{run}</script>}}\) $\color{{red;background:url({canary}/c)}}{{x}}$",
            rf"\[\includegraphics{{{canary}/tex}}\] \input{{/etc/passwd}} $\unicode{{x3c}}script$",
            r"$\mathrm{&lt;script&gt;}$ &#60;script&#62; \u003cscript\u003e **<b>bold</b>** `<i>`",
            "]]><!-- --><![CDATA[ \x00\x0b\x1b[31m \ud800 \u202e right to left",
        ]
    )


def write_wide() -> str:
    """Everything that has no place to break a line at."""
    terms = "+".join(f"x_{{{number}}}^2" for number in range(90))
    row = "&".join(str(10**9 + number) for number in range(30))
    return " ".join(
        [
            "W" * 300,
            f"${terms}$ \\[{terms}\\] \\begin{{pmatrix}}{row}\\end{{pmatrix}}",
            f"\\boxed{{{'9' * 300}}} `{'c' * 300}` **{'b' * 250}** $\\text{{{'t' * 300}}}$",
            f"https://example.org/{'u' * 300}",
        ]
    )


def make_hostile_run(folder: Path, canary: str, text: str | None = None) -> Path:
    """A run whose every text, id, name and setting is an attack, or this text."""
    text = text or write_attacks(canary)
    told = dict.fromkeys(("method", "program", "model", "data", "seed", "digest"), text)
    told |= {"options": {text: text}, "versions": {text: [text]}, "threshold": text}  # type: ignore[dict-item]
    make_run(folder, "1001", told=told, text=text)
    lines = [json.loads(line) for line in (folder / "rollouts.jsonl").open()]
    for number, line in enumerate(lines):
        line["id"] = f"../../{number // 2} {text}"
        line["error"] = text if number == 3 else None
        line["gold"] = text
        line["usage"] = {text: line["usage"]["solve_1"]}
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@contextmanager
def listen() -> Iterator[tuple[str, list[str]]]:
    """A server that notes every path it is asked for: none, if the page fetches nothing."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *details: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def find_digest(script: str) -> str:
    """What a policy calls a script by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def browse(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run Chromium without a window, with a profile of its own."""
    profile = folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command += ["--disable-sync", f"--user-data-dir={profile}", "--enable-logging=stderr"]
    return subprocess.run([*command, *flags], capture_output=True, text=True, timeout=90)


async def read_opened(page: Path, folder: Path) -> str:
    """The page as it stands once both its problems were opened, and every sample of them."""
    async with open_page(page, folder, fragment="#p=0") as call:
        parts = []
        for key in "01":
            await wait_for(call, "document.querySelectorAll('#reader-runs .step').length")
            await press(call, key)
            await asyncio.sleep(0.3)
            parts.append(await ask(call, "document.documentElement.outerHTML"))
        await press(call, "j")
        await asyncio.sleep(0.3)
        parts.append(await ask(call, "document.documentElement.outerHTML"))
    return "\n".join(parts)


def test_every_text_of_a_hostile_run_is_escaped(tmp_path: Path) -> None:
    folder = make_hostile_run(tmp_path / "run", "http://127.0.0.1:9")
    page = tmp_path / "page.html"
    assert cli.main(["report", str(folder), "--out", str(page)]) == 0
    text = page.read_text()
    check_harmless(text)
    assert f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">' in text
    assert "default-src 'none'" in POLICY
    assert re.findall("script-src ([^;]*)", POLICY) == [find_digest(SCRIPT)]
    assert "unsafe" not in POLICY
    assert not re.findall(r"<[^>]*\sstyle=", text)
    assert text.count("<style>") == text.count("</style>") == 1
    assert "&lt;script&gt;" in text
    for html_ in (each for body in unpack(text) for each in list_html(body)):
        check_harmless(html_)


def test_no_text_of_a_run_or_a_reply_commands_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_hostile_run(tmp_path / "run", "http://127.0.0.1:9")
    code, shown, _ = run(capsys, "report", str(folder), "--out", str(tmp_path / "page.html"))
    assert code == 0
    escape = "\x1b[2J\x1b]0;title\x07\x9b31m"
    fault = Fault(content=rf"1. Find {escape} it.\boxed{{{escape}7}}", when=lambda body: True)
    (example,) = World().problems(1)
    with fake_vllm(faults=[fault]) as server:
        solved = run(capsys, "solve", example.problem, *backend(server))
        told = run(capsys, "solve", example.problem, "--json", *backend(server))
        server.play(Fault(status=400, message=f"no {escape}"))
        failed = run(capsys, "solve", "another", *backend(server))
        assert failed[0] == 1
    for text in (shown, *solved[1:], *told[1:], *failed[1:]):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_finds_nothing_to_run_or_fetch(tmp_path: Path) -> None:
    with listen() as (canary, asked):
        folder = make_hostile_run(tmp_path / "run", canary)
        page = tmp_path / "page.html"
        assert cli.main(["report", str(folder), "--out", str(page)]) == 0
        # Without its policy the page must be harmless too: then escaping alone holds.
        bare = tmp_path / "bare.html"
        bare.write_text(page.read_text().replace(POLICY, ""))
        for path in (page, bare):
            opened = asyncio.run(read_opened(path, tmp_path))
            assert "&lt;iframe" in opened  # the texts are there, as text
            assert "BROKEN</title>" not in opened
            check_harmless(opened)
            seen = browse(tmp_path, "--dump-dom", path.as_uri())
            assert "<title>Evaluation report</title>" in seen.stdout, seen.stderr[-500:]
            check_harmless(seen.stdout)
            assert "Refused to" not in seen.stderr
            assert "violates" not in seen.stderr
        assert asked == []
        # And the canary does sing where something gets through; the policy alone silences it.
        leak = f"<img src='{canary}/img'><script>document.title='BROKEN'</script></main>"
        for path, text in ((page, "quiet"), (bare, "sings")):
            path.write_text(path.read_text().replace("</main>", leak))
            seen = browse(tmp_path, "--dump-dom", path.as_uri())
            assert ("BROKEN</title>" in seen.stdout) == (text == "sings")
            assert bool(asked) == (text == "sings")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_on_a_phone_nothing_makes_the_page_wider(tmp_path: Path) -> None:
    folder = make_hostile_run(tmp_path / "run", "http://127.0.0.1:9", write_wide())
    page = tmp_path / "page.html"
    assert cli.main(["report", str(folder), "--out", str(page)]) == 0
    measure = """<script>open(0).then(() => {
        const wide = () => document.documentElement.scrollWidth;
        for (const each of document.querySelectorAll("details")) each.open = true;
        const read = Math.max(wide(), reader.scrollWidth);
        reader.close();
        parent.document.title = Math.max(read, wide());
        })</script></body>"""
    inner = page.read_text().replace(POLICY, "").replace("</body>", measure)
    # Chromium's own window is 500 pixels wide at least.
    phone = tmp_path / "phone.html"
    phone.write_text(f'<title></title><iframe width="390" srcdoc="{html.escape(inner)}"></iframe>')
    seen = browse(tmp_path, "--virtual-time-budget=9000", "--dump-dom", phone.as_uri()).stdout
    (width,) = re.findall(r"<title>(\d+)</title>", seen)
    assert 300 < int(width) <= 390


BAD_RUNS = {
    "deep": "[" * 100_000 + "\n",
    "wrong types": '{"id": 1, "sample": "x", "usage": 3, "steps": 4}\n',
    "nan": json.dumps({"id": "a", "sample": 0, "seconds": float("nan")}) + "\n",
    "digits": '{"id": ' + "9" * 9999 + "}\n",
    "no object": "7\n",
}


@pytest.mark.parametrize("content", BAD_RUNS.values(), ids=BAD_RUNS)
def test_a_broken_run_is_one_line_and_code_2(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "rollouts.jsonl").write_text(content)
    code, _, said = run(capsys, "report", str(folder), "--out", str(tmp_path / "page.html"))
    assert code == 2
    assert len(said.splitlines()) == 1
    assert len(said) < 500
    assert not (tmp_path / "page.html").exists()


def test_resuming_a_hostile_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_vllm() as server:
        given = ["--method", "cot", "--samples", "1", "--out", str(tmp_path), *backend(server)]
        for name, content in (("run.json", "[" * 100_000), ("run.json", "[]"), ("run.json", "7")):
            (tmp_path / name).write_text(content)
            code, _, said = run(capsys, "evaluate", "mini", "--limit", "1", *given)
            assert code == 2, content[:9]
            assert said.splitlines()[-1].startswith("scale-dspy: ")
            assert "Traceback" not in said
