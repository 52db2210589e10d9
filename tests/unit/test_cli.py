"""The command line: quick help, one message and exit code 2 for wrong input, nothing heavy imported."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysweep.cli import VERBS, main, verb_parser

HEAVY = ("torch", "ray", "mlflow", "optuna", "cv2", "onnxruntime", "pandas", "numpy")


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_imports_nothing_heavy(verb: str) -> None:
    words = [verb, "--help"] if verb else ["--help"]
    code = f"import sys; from raysweep.cli import main\ntry: main({words!r})\nexcept SystemExit: pass\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_is_quick() -> None:
    """Within 12 times the bare interpreter, side by side, the best of each: other jobs may hold the cores."""

    def seconds(*words: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *words], capture_output=True, check=True)
        return time.perf_counter() - started

    for verb in VERBS:
        bare, helped = [], []
        for _ in range(5):
            bare.append(seconds("-c", "pass"))
            helped.append(seconds("-m", "raysweep", verb, "--help"))
            if min(helped) < 6 * min(bare):
                break
        assert min(helped) < 12 * min(bare), (verb, bare, helped)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_examples_that_parse(verb: str) -> None:
    parser = verb_parser(verb)
    text = parser.format_help()
    assert "examples:" in text
    import importlib
    import shlex

    for example in importlib.import_module(f"raysweep.commands.{verb}").EXAMPLES:
        assert example in text
        words = shlex.split(example)
        assert words[:4] == ["python", "-m", "raysweep", verb]
        parser.parse_intermixed_args(words[4:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tne"], "did you mean 'tune'?"),
        (["tune", "blurr"], "did you mean 'blur'?"),
        (["tune", "blur", "kernel_sise=3"], "did you mean 'kernel_size'?"),
        (["tune", "blur", "kernel_size=7"], "kernel_size = 7 is out of range; allowed: 11 to 101"),
        (["tune", "blur", "--trials", "0"], "trials = 0"),
        (["tune", "blur", "--budget", "soon"], "is not a duration"),
        (["tune", "blur", "attackers=[A0,A99]", "--engine", "local"], "unknown attacker 'A99'"),
        (["tune", "nowhere.yaml"], "no search space at nowhere.yaml"),
        (["tune", "blur", "--data", "no/such/folder", "--engine", "local"], "no/such/folder"),
        (["evaluate", "blur", "size=3"], "unknown parameter 'size'"),
        (["models", "fetch", "nothing"], "unknown model 'nothing'"),
        (["models", "fetch"], "name at least one model"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSWEEP_RUNS", str(tmp_path / "runs"))
    assert main(words) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


def test_version_and_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("raysweep ")
    assert main([]) == 0
    overview = capsys.readouterr().out
    assert all(f"\n  {verb} " in overview for verb in VERBS)
    with pytest.raises(SystemExit) as caught:
        main(["tune"])
    assert caught.value.code == 2
