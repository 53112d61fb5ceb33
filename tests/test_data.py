"""Sets of problems: files good and bad, the hub's column shapes, the local copies."""

import json
import os
import re
import time
from pathlib import Path

import datasets
import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from scale_dspy.data import load as data
from scale_dspy.data.load import DataError, digest, load
from scale_dspy.data.registry import SOURCES, Source

COPIES = os.environ.get("SCALE_DATA_DIR", "")
needs_copies = pytest.mark.skipif(not COPIES, reason="SCALE_DATA_DIR names no local copies")


@pytest.fixture(autouse=True)
def no_copies(monkeypatch):
    monkeypatch.delenv("SCALE_DATA_DIR", raising=False)


def write(folder, *rows, name="set.jsonl"):
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def problem(**fields):
    return {"problem": "What is 1 + 1?", "answer": "2", **fields}


# JSON Lines files.


def test_file_gives_examples_with_problem_as_the_only_input(tmp_path):
    row = problem(id="a", solution="1 + 1 = 2", level=4.0, subject="Sums")
    (found,) = load(write(tmp_path, row))
    assert found.inputs().toDict() == {"problem": "What is 1 + 1?"}
    expected = {"id": "a", "answer": "2", "answers": ["2"], "kind": "integer", "source": "set"}
    extras = {"solution": "1 + 1 = 2", "level": "4", "subject": "Sums"}
    assert found.labels().toDict() == expected | extras


def test_absent_fields_are_absent_and_an_id_is_made(tmp_path):
    found = load(write(tmp_path, problem(), problem(id=7), problem(id=None, level=None)))
    assert [e.id for e in found] == ["set-0", "7", "set-2"]
    assert not {"level", "solution", "subject"} & set(found[2].keys())


def test_byte_order_mark_blank_lines_crlf_and_no_last_newline(tmp_path):
    path = tmp_path / "set.jsonl"
    line = json.dumps(problem()).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n  \n" + line)
    assert len(load(str(path))) == 2


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        (["025", 25, "27.0", 27.0, " +25 "], ["25", "27"]),
        (["1,234", 1234, 1.234e3], ["1234"]),
        (["-05", "\u22125", -5.0], ["-5"]),
        (["000", -0.0, "-0"], ["0"]),
        ([12345678901234567890123], ["12345678901234567890123"]),
        ([r"So $x = \boxed{\boxed{7}}$."], ["7"]),
        (["1 + 1 = 2\n#### 1,002"], ["1002"]),
    ],
)
def test_integers_become_canonical(tmp_path, written, canonical):
    row = problem(answer=written[0], accepted_answers=written[1:])
    (found,) = load(write(tmp_path, row))
    assert (found.answers, found.kind) == (canonical, "integer")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (r"\frac{14}{3}", r"\frac{14}{3}"),
        (2.50, "2.5"),
        (1e-5, "0.00001"),
        ("3, 5, 7", "3, 5, 7"),
        ("12,34", "12,34"),
        ("x=5", "x=5"),
        ("\u0663", "\u0663"),
        (r"\boxed{\left\{1\right\}}", r"\left\{1\right\}"),
    ],
)
def test_one_answer_that_is_no_integer_is_kept_and_makes_the_set_math(tmp_path, written, kept):
    path = write(tmp_path, problem(answer="025"), problem(answer=written))
    assert [(e.answer, e.kind) for e in load(path)] == [("025", "math"), (kept, "math")]
    assert load(path, limit=1)[0].kind == "math"


TWO = "080 or 081 (both were accepted)"


def test_accepted_answers_join_and_a_corrected_answer_wins(tmp_path):
    rows = [
        problem(answer="080", accepted_answers=["80", 81]),
        problem(answer=TWO),
        problem(answer="1", corrected_answer="19200"),
        problem(answer="1", corrected_answer=None, accepted_answers=None),
    ]
    found = load(write(tmp_path, *rows))
    assert [e.answers for e in found] == [["80", "81"], ["80", "81"], ["19200"], ["1"]]


PROBLEM = "field 'problem' must be text, and is"
ANSWER = "field 'answer' must be text or a number, and is"
ACCEPTED = "field 'accepted_answers' must be"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not valid JSON: Expecting property name enclosed in double quotes (column 2)"),
        ("[" * 100_000, "not valid JSON: maximum recursion depth exceeded"),
        (f'{{"answer": {"9" * 5000}}}', "not valid JSON: Exceeds the limit"),
        (b"\xff\xfe{", "not valid JSON: 'utf-8' codec can't decode byte 0xff in position 0"),
        ("null", "not a JSON object (one a line is needed)"),
        ("{}", f"{PROBLEM} missing"),
        ('{"problem": 5, "answer": 1}', f"{PROBLEM} 5"),
        ('{"problem": "\\u0000 ", "answer": 1}', f"{PROBLEM} empty"),
        ('{"problem": "p"}', f"{ANSWER} missing; the row has 'problem'"),
        ('{"problem": "p", "solution": "so 5"}', f"{ANSWER} missing"),
        ('{"problem": "p", "answer": " "}', f"{ANSWER} empty"),
        ('{"problem": "p", "answer": true}', f"{ANSWER} True"),
        (
            '{"problem": "p", "answer": [1]}',
            "field 'answer' must be text or a number (other right answers go into "
            "'accepted_answers'), and is a list",
        ),
        ('{"problem": "p", "answer": NaN}', f"{ANSWER} nan"),
        ('{"problem": "p", "answer": 1e99999}', f"{ANSWER} inf"),
        ('{"problem": "p", "answer": 1, "id": {}}', "field 'id' must be text or a number"),
        ('{"problem": "p", "answer": 1, "id": "first"}', "field 'id' repeats "),
        ('{"problem": "p", "answer": 1, "accepted_answers": 2}', f"{ACCEPTED} a list, and is 2"),
        ('{"problem": "p", "answer": 1, "accepted_answers": [[]]}', f"{ACCEPTED} text or a number"),
    ],
)
def test_bad_line_is_named_with_its_field(tmp_path, line, complaint):
    path = Path(write(tmp_path, problem(id="first")))
    with path.open("ab") as file:
        file.write(line if isinstance(line, bytes) else line.encode())
    with pytest.raises(DataError) as caught:
        load(str(path))
    assert str(caught.value).startswith(f"{path}:2: {complaint}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lines", [[], ["\ufeff \r", "\t"]])
def test_empty_file(tmp_path, lines):
    with pytest.raises(DataError, match="holds no problems"):
        load(write(tmp_path, *lines))


@pytest.mark.parametrize("end", ["", ".jsonl"])
@pytest.mark.parametrize("name", ["", "nothing", "a/../b", "../up", "\0", "x" * 5000])
def test_what_is_not_there_is_said_in_one_line(name, end):
    with pytest.raises(DataError, match=r"cannot be read|no set is called") as caught:
        load(name + end)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(scalars, lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=4)
names = st.sampled_from(["id", "problem", "Problem", "answer", "accepted_answers"]) | st.text()
usual = st.fixed_dictionaries(
    {"problem": st.text(min_size=1), "answer": st.integers() | st.floats() | st.text(min_size=1)},
    optional={"level": values, "subject": values, "solution": values},
)
lines = (usual | st.dictionaries(names, values) | values).map(json.dumps).map(str.encode)


@given(st.lists(lines | st.binary(), max_size=3))
@example([b'{"problem": "\\ud800", "answer": "\\ud800"}'])
@example([b"1" * 5000, b"-Infinity"])
def test_any_content_loads_or_is_a_data_error(tmp_path_factory, content):
    path = Path(tmp_path_factory.getbasetemp(), "any.jsonl")
    path.write_bytes(b"\n".join(content))
    found, complaint = [], ""
    try:
        found = load(str(path))
    except DataError as error:
        complaint = str(error)
    event("refused" if complaint else "loaded")
    assert "\n" not in complaint
    assert len({e.id for e in found}) == len(found)
    for e in found:
        assert e.problem.encode()
        assert e.answers[0] == e.answer != ""
    assert len(digest(found)) == 16


@pytest.mark.parametrize(
    ("broken", "restored"),
    [
        ("$\x0crac{1}{2}$, $\x08inom nk$", r"$\frac{1}{2}$, $\binom nk$"),
        ("$2\times 3\text{ cm}$", r"$2\times 3\text{ cm}$"),
        ("$\tfrac12$, $\theta_1$, $\triangle ABC$", r"$\tfrac12$, $\theta_1$, $\triangle ABC$"),
        ("have\tequal\tperimeters of\tan\tarea", "have equal perimeters of an area"),
        ("{\n\treturn 2;\n}\r\ntwo\x0c", "{\n return 2;\n}\ntwo"),
        ("\x00\x1b[31mred\u2028b\x7fc\x85", "[31mred\u2028b c"),
    ],
)
def test_broken_commands_are_restored_and_real_tabs_are_spaces(tmp_path, broken, restored):
    row = json.dumps(problem(problem=broken), ensure_ascii=False)
    (found,) = load(write(tmp_path, row))
    assert found.problem == restored


def test_limit_takes_the_front(tmp_path):
    path = write(tmp_path, *(problem(id=i) for i in range(50)))
    assert [e.id for e in load(path, limit=3)] == ["0", "1", "2"]
    assert len(load(path, limit=99)) == 50
    with pytest.raises(DataError, match="limit is 0; it must be at least 1"):
        load(path, limit=0)


def test_digest_is_of_what_is_asked_and_accepted_in_order(tmp_path):
    first = load(write(tmp_path, problem(id="a", answer="02"), problem(id="b", solution="s")))
    again = load(write(tmp_path, problem(id="a"), problem(id="b"), name="other.jsonl"))
    assert digest(first) == digest(again) == "f7fb91feab970523"
    assert digest(again[::-1]) != digest(again)


# The hub.


def serve(monkeypatch, rows, expected=None):
    """Let the hub answer with these rows (or splits), and check what it is asked for."""

    def answer(*asked):
        assert expected in (None, asked)
        return rows if isinstance(rows, dict) else datasets.Dataset.from_list(rows)

    monkeypatch.setattr(data, "_load_dataset", answer)


SHAPES = [
    ("aime24", {"id": 60, "problem": "p", "answer": "025", "year": "2024"}, "60", ["25"]),
    ("aime25", {"problem_idx": 1, "problem": "p", "answer": 70, "problem_type": []}, "1", ["70"]),
    ("aime", {"ID": "2022-II-8", "Year": 2022, "Question": "p", "Answer": TWO}, "", ["80", "81"]),
    ("amc23", {"id": 0, "question": "p", "answer": "27.0", "url": "u"}, "0", ["27"]),
    ("math500", {"problem": "p", "answer": r"\pi", "unique_id": "test/1.json"}, "", [r"\pi"]),
    ("gsm8k", {"question": "p", "answer": "1 + 1 = <<1+1=2>>2\n#### 1,002"}, "", ["1002"]),
    ("gsm8k_train", {"question": "p", "answer": "72\n#### 72"}, "", ["72"]),
    ("limo", {"question": "p", "solution": "s", "answer": "46"}, "", ["46"]),
    ("math-ai/aime24", {"id": 5, "problem": "p", "solution": r"\boxed{204}"}, "5", ["204"]),
    ("Maxwell-Jia/AIME_2024", {"ID": "2024-I-1", "Problem": "p", "Answer": 204}, "", ["204"]),
    ("AI-MO/aimo-validation-amc", {"id": 0, "problem": "p", "answer": 27.0}, "0", ["27"]),
    ("a/b", {"Prompt": "p", "Gold": "7"}, "", ["7"]),
    ("a/b", {"problem": "p", "solution": r"\boxed{1} so \boxed {\frac 12}."}, "", [r"\frac 12"]),
]


def test_every_hub_set_of_the_table_has_its_shape_here():
    assert {name for name, source in SOURCES.items() if source.hub} < {name for name, *_ in SHAPES}


@pytest.mark.parametrize(("name", "row", "id_", "answers"), SHAPES)
def test_columns_of_hub_sets_are_found(monkeypatch, name, row, id_, answers):
    source = SOURCES.get(name) or Source(name, name)
    serve(monkeypatch, [row], (source.hub, source.config, source.split))
    (found,) = load(name)
    id_ = id_ or row.get("ID") or row.get("unique_id") or f"{name}-0"
    assert (found.problem, found.id, found.answers, found.source) == ("p", id_, answers, name)
    assert found.kind == (source.kind or ("integer" if answers[0].isdigit() else "math"))


def test_what_a_hub_set_has_besides_is_kept(monkeypatch):
    serve(monkeypatch, [problem(level=2, subject="Algebra", solution="s")])
    assert load("math500")[0].toDict().items() >= {"level": "2", "subject": "Algebra"}.items()
    serve(monkeypatch, [{"question": "p", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}])
    assert load("gsm8k")[0].solution == "1 + 1 = <<1+1=2>>2"


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("owner/set:validation", ("owner/set", None, "validation")),
        ("opencompass/AIME2025/AIME2025-I", ("opencompass/AIME2025", "AIME2025-I", None)),
        ("openai/gsm8k/main:train[:10]", ("openai/gsm8k", "main", "train[:10]")),
    ],
)
def test_hub_path_syntax(monkeypatch, name, asked):
    serve(monkeypatch, [problem()], expected=asked)
    assert load(name)[0].source == name


def test_only_split_is_taken_or_test(monkeypatch):
    serve(monkeypatch, {"train": [problem(id=1)]})
    assert load("owner/set")[0].id == "1"
    serve(monkeypatch, {"train": [problem(id=1)], "test": [problem(id=2)]})
    assert load("owner/set")[0].id == "2"


@pytest.mark.parametrize(
    ("name", "rows", "complaint"),
    [
        ("a/b", {"train": [], "dev": []}, "a/b has the splits train, dev: choose one as a/b:SPLIT"),
        ("a/b", [{"text": "p", "label": "1"}], "a/b, row 0: field 'problem' .*'text', 'label'"),
        ("aime24", [problem(answer="x=5")], "aime24, row 0: field 'answer' is 'x=5', which is not"),
    ],
)
def test_hub_set_that_does_not_fit_is_explained(monkeypatch, name, rows, complaint):
    serve(monkeypatch, rows)
    with pytest.raises(DataError, match=complaint):
        load(name)


def test_aime_leaves_out_the_test_year(monkeypatch):
    rows = [{"ID": f"{y}-II-1", "Year": y, "Question": "p", "Answer": "1"} for y in (2023, 2024)]
    serve(monkeypatch, rows)
    assert [e.id for e in load("aime")] == ["2023-II-1"]


def test_wrong_answers_of_gsm8k_are_corrected_only_where_they_still_stand(monkeypatch):
    rows = [{"question": "p", "answer": f"#### {i}"} for i in range(360)]
    rows[167]["answer"] = "#### 1,920"
    serve(monkeypatch, rows)
    found = load("gsm8k_train")
    assert found[167].answers == ["19200"]
    assert found[356].answers == ["356"]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("aime24", "put a copy aime24.jsonl into a folder and set SCALE_DATA_DIR"), ("a/b", "check")],
)
def test_hub_failure_is_one_line_that_says_what_to_do(monkeypatch, name, remedy):
    def fail(*_):
        raise ConnectionError("Couldn't reach it\nPlease try " + "again " * 200)

    monkeypatch.setattr(data, "_load_dataset", fail)
    with pytest.raises(DataError, match=re.escape(remedy)) as caught:
        load(name)
    assert "ConnectionError: Couldn't reach it Please try again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


# Local copies, and what ships with the package.


def test_local_copy_is_read_instead_of_the_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("SCALE_DATA_DIR", str(tmp_path))
    write(tmp_path, {"question": "alias", "answer": "#### 7"}, name="gsm8k_test.jsonl")
    assert load("gsm8k")[0].problem == "alias"
    write(tmp_path, problem(problem="name"), name="gsm8k.jsonl")
    assert load("gsm8k")[0].problem == "name"
    write(tmp_path, problem(), name="my_set.jsonl")
    assert load("my_set")[0].source == "my_set"
    serve(monkeypatch, [problem(problem="hub")])
    assert load("aime24")[0].problem == "hub"
    monkeypatch.setenv("SCALE_DATA_DIR", str(tmp_path / "missing"))
    with pytest.raises(DataError, match=r"SCALE_DATA_DIR is .*, which is not a folder"):
        load("aime24")


COUNTS = {"aime24": 30, "aime25": 30, "aime": 975, "amc23": 40, "math500": 500, "gsm8k": 1319}


@needs_copies
@pytest.mark.parametrize("name", COUNTS)
def test_local_copies_are_whole(monkeypatch, name):
    monkeypatch.setenv("SCALE_DATA_DIR", COPIES)
    found = load(name)
    kind = "math" if name == "math500" else "integer"
    assert len(found) == len({e.id for e in found}) == COUNTS[name]
    assert {(e.kind, e.source) for e in found} == {(kind, name)}
    texts = [text for e in found for text in (e.problem, e.get("solution", ""), *e.answers)]
    assert not [text for text in texts if re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)]
    assert not [e.id for e in found if kind == "integer" and not re.fullmatch(r"-?\d+", e.answer)]


@needs_copies
def test_local_copies_tell_exceptions(monkeypatch):
    monkeypatch.setenv("SCALE_DATA_DIR", COPIES)
    assert [e.answers for e in load("aime") if len(e.answers) > 1] == [["80", "81"]]
    corrected = {e.id: e.answer for e in load("gsm8k_train")}
    for id_, (_, right) in SOURCES["gsm8k_train"].corrected.items():
        assert corrected[id_.replace("_", "-")] == right


def test_mini_ships_with_the_package():
    assert {(e.kind, e.source) for e in load("mini")} == {("integer", "mini")}


def test_what_groups_problems_is_kept_through_loading(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "answer": "a <<1+1=2>>\nb\nc <<2+2=4>>\n#### 4"},
        {"problem": "p", "answer": 7, "Year": 2023, "Level": "Level 5", "type": "Algebra"},
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = load(str(path))
    assert first.steps == "2"
    assert (second.year, second.level, second.subject) == ("2023", "Level 5", "Algebra")
    assert "steps" not in second


def test_a_hub_that_does_not_answer_is_given_up_within_seconds(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    data.reach_hub.cache_clear()
    began = time.monotonic()
    try:
        for name in ("owner/nosuch-a", "owner/nosuch-b"):
            with pytest.raises(DataError, match="did not answer in 5 seconds"):
                load(name)
    finally:
        data.reach_hub.cache_clear()
    assert time.monotonic() - began < 15  # importing the client included


def test_what_installs_an_extra_is_no_name_on_the_index():
    """The package is on no index: a stranger could put one of its name there."""
    for path in Path(data.__file__).parents[1].rglob("*.py"):
        assert "scale-dspy[" not in path.read_text(encoding="utf-8"), path
