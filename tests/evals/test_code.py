"""pass@k against a plain count of draws, and what a program in the sandbox cannot do."""

import gzip
import itertools
import json
import os
import re
import secrets
import tempfile
from pathlib import Path

import pytest

from jaxllm.cli.main import main
from jaxllm.core.errors import UserError
from jaxllm.core.rundir import RunDirectory, read_metrics
from jaxllm.evals.code import run as code
from jaxllm.evals.code import sandbox
from jaxllm.evals.code.pass_at_k import estimate, pass_at_k
from jaxllm.evals.code.problems import Problem, read_problems
from tests.train.conftest import TEXT, make_recipe, prepare_text
from tests.train.test_loop import run


@pytest.fixture(scope="module")
def locked():
    try:
        assert sandbox.run("pass").passed
    except UserError as error:
        pytest.skip(str(error))


def test_the_estimate_is_the_share_of_draws_with_a_passing_program():
    for n in range(1, 7):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
                assert estimate(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_programs_are_judged_by_their_tests(locked):
    rows = [
        {"prompt": f"def add{i}(a, b):\n", "entry_point": f"add{i}",
         "test": "def check(f):\n    assert f(1, 2) == 3\n    assert f(-1, 1) == 0\n"}
        for i in range(2)
    ]
    problems = [Problem.of_humaneval(row) for row in rows]
    right, wrong, broken = "    return a + b\n", "    return a - b\n", "    return (\n"
    early = "    pass\nimport os\nos._exit(0)\n"
    found = pass_at_k(
        problems, [[right, wrong, broken, early], [wrong] * 4], (1, 2),
        allow_code_execution=True)
    assert found["pass@1"].value == pytest.approx(0.25 / 2)
    assert found["pass@2"].value == pytest.approx(0.5 / 2)
    assert found["pass@1"].n == 2


def test_code_is_only_run_when_it_is_meant():
    with pytest.raises(UserError, match="allow_code_execution=True"):
        pass_at_k([Problem("", "")], [["pass"]])


@pytest.mark.parametrize(("problems", "completions", "ks", "message"), [
    (1, [["a"], ["b"]], (1,), "1 problems and programs for 2"),
    (1, [["a"]], (2,), "k=2 needs as many programs"),
])
def test_mistakes_are_named(problems, completions, ks, message):
    with pytest.raises(UserError, match=message):
        pass_at_k([Problem("", "")] * problems, completions, ks, allow_code_execution=True)
    with pytest.raises(UserError, match="lacks the text 'entry_point'"):
        Problem.of_humaneval({"prompt": "", "test": ""})


def test_a_program_cannot_reach_the_network(locked):
    program = "import socket\nsocket.create_connection(('{}', {}), timeout=2)"
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=2).close()  # from here it works
        outcome = sandbox.run(program.format("127.0.0.1", port))
    assert not outcome.passed
    assert "Error" in outcome.reason


def test_a_program_cannot_ask_another_through_a_socket(locked):
    import socket

    name = f"{secrets.token_hex(6)}.socket"  # a short path: addresses end at 108 bytes
    place = str(Path(tempfile.gettempdir(), name))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        try:
            server.listen(1)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(place)  # from here it works
            program = f"import socket\nsocket.socket(socket.AF_UNIX).connect({place!r})"
            assert "PermissionError" in sandbox.run(program).reason
            pair = "import socket\nsocket.socketpair({})"
            assert sandbox.run(pair.format("")).passed  # asyncio has one
            assert not sandbox.run(pair.format("type=socket.SOCK_DGRAM")).passed
        finally:
            Path(place).unlink()


def test_a_program_changes_nothing_outside_its_folder(locked, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("here")
    for action in (
        f"import os; os.remove({str(kept)!r})", f"open({str(kept)!r}, 'a').write('x')",
        f"open({str(tmp_path / 'new')!r}, 'w')", f"import os; os.mkdir({str(tmp_path / 'd')!r})",
        f"import os; os.truncate({str(kept)!r}, 0)", f"import os; os.rename({str(kept)!r}, 'x')",
    ):
        outcome = sandbox.run(action)
        assert not outcome.passed
        assert "PermissionError" in outcome.reason or "Cross-device" in outcome.reason
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert kept.read_text() == "here"
    assert sandbox.run("open('own', 'w').write('x'); import os; os.remove('own')").passed


def test_a_program_cannot_end_other_processes(locked):
    assert not sandbox.run(f"import os\nos.kill({os.getpid()}, 9)").passed
    assert "ProcessLookupError" in sandbox.run(f"import os\nos.kill({os.getpid()}, 9)").reason


def test_time_and_memory_are_limited(locked):
    assert sandbox.run("while True: pass", seconds=1) != sandbox.Outcome(True, "")
    assert sandbox.run("import time; time.sleep(30)", seconds=1) == (False, "timeout")
    assert "MemoryError" in sandbox.run("x = bytearray(2 << 30)").reason
    assert not sandbox.run("open('big', 'wb').write(bytes(64 << 20))").passed


def test_what_a_program_starts_ends_with_it(locked, tmp_path):
    mark = f"marked-{os.getpid()}"
    sleep = "import time; time.sleep(60)"
    program = (
        "import os, sys\nif not os.fork():\n    os.setsid()\n"
        f"    os.execv(sys.executable, [sys.executable, '-c', {sleep!r}, {mark!r}])\n"
    )
    assert sandbox.run(program).passed
    running = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                running.append(mark.encode() in file.read())
        except OSError:
            continue
    assert not any(running)


ROWS = [
    {"task_id": f"Test/{i}", "prompt": f"def add{i}(a, b):\n", "entry_point": f"add{i}",
     "canonical_solution": "    return a + b\n",
     "test": "def check(f):\n    assert f(1, 2) == 3\n    assert f(-1, 1) == 0\n"}
    for i in range(3)
]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def problems(tmp_path):
    file = tmp_path / "Adding.jsonl.gz"
    file.write_bytes(gzip.compress(lines(ROWS).encode()))
    return file


def test_problems_are_read_from_files_of_all_kinds(tmp_path, problems):
    strange = [{**ROWS[0], "prompt": "# a\u2028b\n"}, *ROWS[1:]]  # no end of a line
    (tmp_path / "b.json").write_text(json.dumps(strange))
    (tmp_path / "c.json").write_text(json.dumps(ROWS[0], indent=1))
    (tmp_path / "d.jsonl").write_text(json.dumps(strange[0], ensure_ascii=False) + "\n")
    (tmp_path / "readme.txt").write_text("no problems")
    found = read_problems(str(tmp_path))
    assert [problem.name for problem in found] == [
        *(f"Test/{i}" for i in (0, 1, 2, 0, 1, 2)), "Test/0", "Test/0"]
    assert found[:3] == read_problems(str(problems)) == list(map(Problem.of_humaneval, ROWS))
    assert found[3].prompt == found[-1].prompt == "# a\u2028b\n"


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.jsonl", None, "no such file or folder"),
    ("a.jsonl", "", "holds no problem"),
    ("a.jsonl", "{", "cannot be read"),
    ("a.jsonl", lines(ROWS) + "{", "cannot be read .*line 4 is no JSON"),
    ("a.jsonl", lines([{**ROWS[0], "test": "'\ud800'"}]), "row 1 .*'test' has half a character"),
    ("a.jsonl", "[1]", "row 1 of .* is no object"),
    ("a.jsonl", lines([*ROWS, {"prompt": "x"}]), "row 4 of .*lacks the text 'test'"),
    ("a.jsonl.gz", b"\x1f\x8bbroken", "cannot be read"),
])
def test_problems_that_are_none_are_named(tmp_path, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_problems(str(file))


def test_a_model_writes_programs_that_are_judged(locked, problems, tmp_path, capsys):
    recipe = make_recipe(prepare_text(tmp_path, TEXT))
    recipe.train.steps = 1
    run(recipe, tmp_path / "base")

    def evaluated(out, *arguments):
        assert main([
            "eval", f"--model={tmp_path / 'base'}", f"--problems={problems}", "--pass_at=1,2",
            "--max_new_tokens=20", "--num_samples=3", "--limit=2", "--batch_size=8",
            "--allow_code_execution", f"--output={tmp_path / out}", *arguments,
        ]) == 0
        file = tmp_path / out / "base" / "samples_Adding.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]

    programs = evaluated("out")
    assert [each["task_id"] for each in programs] == ["Test/0"] * 3 + ["Test/1"] * 3
    assert not any(each["passed"] for each in programs)  # of letters drawn at random
    assert all(each["result"] for each in programs)
    texts = [each["completion"] for each in programs]
    assert len(set(texts)) > 3
    assert not any(stop in text for stop in code.STOP for text in texts)
    [record] = [r for r in read_metrics(RunDirectory(str(tmp_path / "base")).metrics)
                if r["split"] == "eval/Adding"]
    assert (record["n"], record["pass@1"], record["pass@2"]) == (2, 0, 0)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Adding", "pass@2", "2", "0.0000", "[0.0000,", "0.0000]"] in rows
    assert [each["completion"] for each in evaluated("again")] == texts
    assert [each["completion"] for each in evaluated("other", "--seed=1")] != texts


def test_right_programs_pass(locked, llama, problems, tmp_path, monkeypatch, capsys):
    """A generator that solves all of the first problem, one in four of the second, no other."""
    wrong = "    return a - b\n"

    def write(opened, asked, options, display):
        assert options.programs == 4
        assert options.sampling.temperature == 0.8
        return [[ROWS[0]["canonical_solution"] if i < right else wrong for i in range(4)]
                for right, _ in zip((4, 1, 0), asked, strict=True)]

    monkeypatch.setattr(code, "write_programs", write)
    assert main([
        "eval", "--compare", str(llama), str(llama), f"--problems={problems}", "--pass_at=1,2,4",
        "--allow_code_execution", f"--output={tmp_path / 'out'}",
    ]) == 0
    [record] = json.loads((tmp_path / "out" / "llama" / "scores.json").read_text())
    assert record["pass@1"] == pytest.approx((1 + 1 / 4) / 3)
    assert record["pass@2"] == pytest.approx((1 + 1 / 2) / 3)
    assert record["pass@4"] == pytest.approx(2 / 3)
    assert record["pass@1_low"] <= record["pass@1"] <= record["pass@1_high"]
    assert "AssertionError" in (tmp_path / "out" / "llama" / "samples_Adding.jsonl").read_text()
    assert "0.4167 [" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "without a network.*can read what you can read.*--allow_code_execution"),
    (["--allow_code_execution", "--pass_at=1,x"], "--pass_at=1,x: whole numbers"),
    (["--allow_code_execution", "--pass_at=0"], "--pass_at=0: k is a whole number from 1"),
    (["--allow_code_execution", "--pass_at=5", "--num_samples=4"], "--num_samples=4 is too few"),
    (["--allow_code_execution", "--pass_at=2", "--temperature=0"], "always writes the same"),
    (["--allow_code_execution", "--top_p=0"], "top_p=0"),
    (["--allow_code_execution", "--num_fewshot=2"], "--num_fewshot is only read with --tasks"),
    (["--allow_code_execution", "--data=x"], "--data and --problems are two evaluations"),
    (["--allow_code_execution", "--max_new_tokens=0"], "max_new_tokens=0 must be at least 1"),
])
def test_mistakes_are_told_before_a_model_is_read(problems, arguments, message, capsys):
    assert main(["eval", "--model=nowhere", f"--problems={problems}", *arguments]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said)


def test_what_follows_a_model_is_for_tasks(locked, problems, llama):
    with pytest.raises(UserError, match="Leave out what follows"):
        code.evaluate_code([f"{llama} + 5-shot"], str(problems), None, code.Options(),
                           allow_code_execution=True)
