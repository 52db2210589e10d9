"""No source file may run code that comes from data (S5): a scan of the syntax tree, so that words in prose do not count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PLACES = ("raysweep", "cluster", ".ci", "notebooks", "tests/plugins")

FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "commands",
}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
UNSAFE_YAML = {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader"}
SHELLS = {("os", "system"), ("os", "popen"), ("subprocess", "getoutput"), ("subprocess", "getstatusoutput")}

ALLOWED: dict[tuple[str, str], str] = {
    ("raysweep/anonymizers/registry.py", "exec_module"): "a Python file that the user typed on the command line",
}


def problems_of(source: str, name: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source, name)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for module in names:
                if module.split(".")[0] in FORBIDDEN_MODULES:
                    yield f"{name}:{node.lineno}: imports {module}"
        if isinstance(node, ast.Call):
            for problem in _call(node):
                if (name, problem.split()[0]) not in ALLOWED:
                    yield f"{name}:{node.lineno}: {problem}"


def _call(node: ast.Call) -> Iterator[str]:
    keywords = {item.arg: item.value for item in node.keywords}
    if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_NAMES:
        yield f"{node.func.id}()"
    if isinstance(keywords.get("shell"), ast.Constant) and keywords["shell"].value is not False:  # type: ignore[union-attr]
        yield "shell=True"
    if "allow_pickle" in keywords and not _is(keywords["allow_pickle"], False):
        yield "allow_pickle is not False"
    if "trust_remote_code" in keywords and not _is(keywords["trust_remote_code"], False):
        yield "trust_remote_code"
    if not isinstance(node.func, ast.Attribute):
        return
    owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
    method = node.func.attr
    if (owner, method) in SHELLS:
        yield f"{owner}.{method}"
    if method in ("extractall", "unpack_archive", "exec_module", "load_module"):
        yield f"{method} unpacks or runs what it is given"
    if owner == "yaml" and method in UNSAFE_YAML:
        loader = keywords.get("Loader") or (node.args[1] if len(node.args) > 1 else None)
        if not (isinstance(loader, ast.Attribute) and loader.attr in SAFE_LOADERS):
            yield f"yaml.{method} without a safe loader"
    if owner == "torch" and method == "load" and not _is(keywords.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    if owner == "np" and method == "load" and "allow_pickle" not in keywords:
        yield "np.load without allow_pickle=False"
    if owner in ("torch", "jit") and method in ("package", "hub"):
        yield f"torch.{method}"
    if owner == "hub" and method == "load":
        yield "torch.hub.load"


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def sources() -> list[Path]:
    return sorted(path for place in PLACES for path in (REPOSITORY / place).rglob("*.py"))


def test_no_source_file_can_run_code_from_data() -> None:
    files = sources()
    assert len(files) > 80
    found = [
        problem
        for path in files
        for problem in problems_of(path.read_text(encoding="utf-8"), path.relative_to(REPOSITORY).as_posix())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "eval('1')",
        "exec('1')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import os\nos.system('ls')",
        "archive.extractall('x')",
        "import shutil\nshutil.unpack_archive('x')",
        "spec.loader.exec_module(module)",
    ],
)
def test_the_scan_sees(line: str) -> None:
    assert list(problems_of(line, "some.py"))


@pytest.mark.parametrize(
    "line",
    [
        "import torch\ntorch.load('x', weights_only=True)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)",
        "import yaml\nyaml.parse(text, Loader=yaml.SafeLoader)",
        "'''eval() and pickle in prose'''",
        "network.eval()",
    ],
)
def test_the_scan_lets_pass(line: str) -> None:
    assert not list(problems_of(line, "some.py"))


def test_every_exception_is_still_needed() -> None:
    for (name, problem), reason in ALLOWED.items():
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert problem in text, f"{name}: {problem} is allowed ({reason}) but not there"
