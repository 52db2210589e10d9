"""S9, S10: secrets, user names and folders of this machine are in nothing that a whole run writes or prints."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from fault_drivers import BASE, Drivers, ledger_of

from raysweep.redaction import redacted, redacted_all

TOKEN = "planted-token-0123456789"  # noqa: S105 - planted to be looked for
SECRETS = (TOKEN, "planted-password", "planted-key")
USER = "planteduser"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot open /home/ann/faces/7.png", "cannot open 7.png"),
        ("No such file: '/home/ann/x y.png'", "No such file: 'x y.png'"),
        ("--data=/data/ann/faces trials=4", "--data=faces trials=4"),
        ("file:/home/ann/own.py:Own", "file:own.py:Own"),
        ("~/faces/1.png", "1.png"),
        ("http://ann:pw@host:5000/x?token=1", "http://***@host:5000/x?***"),
        ("postgresql+psycopg://ann@host/db", "postgresql+psycopg://***@host/db"),
        ("privacy/naive, P/U, ./own.py, search_spaces/blur.yaml, 1/k, a // b", None),
        ("https://example.org/a/b/c", None),
    ],
)
def test_what_is_taken_out(text: str, shown: str | None) -> None:
    assert redacted(text) == (text if shown is None else shown)


def test_values_of_secret_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", TOKEN)
    monkeypatch.setenv("SHORT_TOKEN", "1")
    assert redacted_all({"a": [f"x{TOKEN}y", 1, ("b",)]}) == {"a": ["x***y", 1, ["b"]]}
    assert redacted("1 of 10") == "1 of 10"


@pytest.mark.slow
def test_nothing_private_in_what_a_run_leaves(drivers: Drivers, tmp_path: Path) -> None:
    home = tmp_path / "home" / USER
    home.mkdir(parents=True)
    own = home / "own.py"
    own.write_text(
        "from raysweep.anonymizers.base import Anonymizer\nfrom raysweep.search.parameters import Float\n\n\n"
        "class Own(Anonymizer):\n    name = 'acme/own'\n    parameters = {'x': Float(0.0, 1.0, default=0.5, why='any')}\n\n"
        "    def anonymize(self, faces):\n        return faces.image\n",
        encoding="utf-8",
    )
    runs = home / "runs"
    environment = {"HOME": str(home), "PLANTED_API_TOKEN": TOKEN, "USER": USER, "LOGNAME": USER}
    words = ("tune", f"file:{own}:Own", "--trials", "4", *BASE)
    driver = drivers.start(*words, runs=runs, env=environment, mlflow=True, report=True, fail=["", "leak"])
    assert driver.wait() == 0, driver.output
    folder = ledger_of(runs).parent
    assert "cannot open faces.png with *** at https://***@example.org/x?***" in ledger_of(runs).read_text()
    files = [path for path in runs.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        for secret in SECRETS:
            assert secret.encode() not in content, path
        if path.is_relative_to(folder) or "mlartifacts" in path.parts:
            assert str(home).encode() not in content, path
            assert USER.encode() not in content, path
    for secret in SECRETS:
        assert secret not in driver.output
    # Where the artifacts lie is in MLflow's database, on this machine; nothing else there may say so.
    with closing(sqlite3.connect(runs / "mlflow.db")) as database:
        for table in ("params", "tags", "latest_metrics", "experiment_tags"):
            for row in database.execute(f"SELECT * FROM {table}"):  # noqa: S608 - names from above
                assert USER not in str(row), (table, row)
    # The same again goes on: the shorter name in the record is known to be this anonymizer's.
    more = drivers.start(*words[:3], "5", *BASE, runs=runs, env=environment)
    assert more.wait() == 0, more.output
    assert len(list(runs.glob("*/ledger.jsonl"))) == 1
