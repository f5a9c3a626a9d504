"""pass@k against a plain count of draws, and what a program in the sandbox cannot do."""

import itertools
import os

import pytest

from jaxllm.core.errors import UserError
from jaxllm.evals.code import sandbox
from jaxllm.evals.code.pass_at_k import Problem, estimate, pass_at_k


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
        problems, [[right, wrong, broken, early], [wrong] * 4], (1, 2), allow_code=True)
    assert found["pass@1"].value == pytest.approx(0.25 / 2)
    assert found["pass@2"].value == pytest.approx(0.5 / 2)
    assert found["pass@1"].n == 2


def test_code_is_only_run_when_it_is_meant():
    with pytest.raises(UserError, match="allow_code=True"):
        pass_at_k([Problem("", "")], [["pass"]])


@pytest.mark.parametrize(("problems", "completions", "ks", "message"), [
    (1, [["a"], ["b"]], (1,), "1 problems and programs for 2"),
    (1, [["a"]], (2,), "k=2 needs as many programs"),
])
def test_mistakes_are_named(problems, completions, ks, message):
    with pytest.raises(UserError, match=message):
        pass_at_k([Problem("", "")] * problems, completions, ks, allow_code=True)
    with pytest.raises(UserError, match="'entry_point'"):
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
