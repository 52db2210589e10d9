from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_evidence import judged_run, store
from fake_sweep import HOSTILE, failed, record, sweep, sweep_info

from raysweep.engine.evidence import SHEET
from raysweep.errors import ConfigError, StoreError
from raysweep.metrics.catalogue import describe
from raysweep.metrics.value import MetricValue
from raysweep.tracking import report
from raysweep.tracking.analysis import Analysis, analyse, reasons
from raysweep.tracking.contact import drawn_sheet
from raysweep.tracking.info import ModelInfo, SweepInfo
from raysweep.tracking.latex import latex, latex_text
from raysweep.tracking.page import build_page
from raysweep.tracking.parts import tabular
from raysweep.tracking.recompute import Difference
from raysweep.tracking.report import write_page, write_tables
from raysweep.tracking.sections import _rates, attackers_by_setting, front_rows, gap_rows, trial_rows
from raysweep.tracking.stored import StoredRun, find_run, load_run
from raysweep.tracking.svg import Axis, Plot, nice_ticks
from raysweep.tracking.verdict import caveats, key_figures, verdict

NOT_CLOSED = {"meta", "img", "link", "br", "hr"}
RTL_AND_ISOLATES = "\u202e\u2066\u200f"


class Reader(HTMLParser):
    """Checks that tags nest, and collects what could act."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in NOT_CLOSED:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def harmless(page: str) -> Reader:
    """Nothing runs, nothing is fetched, and the page itself forbids both."""
    reader = read(page)
    for tag, attributes in reader.tags:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base", "link", "use", "foreignobject"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", "the page's rule refuses style attributes"
            if name in ("href", "src", "xlink:href"):
                assert (value or "").startswith(("#", "data:image/")), (tag, value)
    policy = next(item["content"] for _, item in reader.tags if item.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "//" not in re.sub(
        r"data:image/[^\"]*", "", "".join(str(value) for _, item in reader.tags for value in item.values())
    )
    return reader


@pytest.fixture(scope="module")
def judged() -> StoredRun:
    return judged_run(("A0", "A1", "A3"), count=3)


def plain_run(folder: Path, records: list, **more: object) -> StoredRun:
    return StoredRun(sweep_info(folder, **more), tuple(records), source="test")


def test_a_page_with_evidence_has_every_section(judged: StoredRun) -> None:
    page = build_page(analyse(judged))
    reader = harmless(page)
    anchors = [item["id"] for tag, item in reader.tags if tag == "h2"]
    assert anchors == [
        "front",
        "gap",
        "attackers",
        "curves",
        "people",
        "expression",
        "volume",
        "trials",
        "gaps",
        "basis",
        "repeat",
    ]
    linked = [item["href"] for tag, item in reader.tags if tag == "a"]
    assert linked == [f"#{anchor}" for anchor in anchors]
    words = " ".join(reader.words)
    for wanted in (
        "Synthetic faces: drawn",
        "strongest attacker",
        "Surely beaten",
        "clear faces",
        "person 0",
        "The referee (judge) took",
    ):
        assert wanted in words, wanted
    assert "Zoltan" not in page, "no names unless asked for"
    assert "ImageData" not in page
    assert len(page) < 1_000_000


def test_drawn_faces_are_shown_whole_and_photographs_never(judged: StoredRun) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (7, 112, 112, 3), dtype=np.uint8)
    records = tuple(replace(item, evidence={**item.evidence, SHEET: noise}) for item in judged.records)
    found = analyse(replace(judged, records=records))
    page = build_page(found, sheet=drawn_sheet(found))
    addresses = [str(item["src"]) for tag, item in harmless(page).tags if tag == "img"]
    assert len(addresses) == 2 + len(found.shown)
    for address in addresses:
        with Image.open(
            io.BytesIO(base64.b64decode(address.removeprefix("data:image/jpeg;base64,"), validate=True))
        ) as picture:
            picture.load()
            assert picture.size == (7 * 112, 112)
    photographs = analyse(replace(judged, records=records, info=replace(judged.info, synthetic=False)))
    assert drawn_sheet(photographs) == []


def test_names_only_when_given(judged: StoredRun) -> None:
    page = build_page(analyse(judged), names={0: "Zoltan <b>"})
    harmless(page)
    assert "Zoltan &lt;b&gt;" in page


def test_hostile_words_everywhere_are_dead_text(tmp_path: Path) -> None:
    evil = RTL_AND_ISOLATES + HOSTILE + "</title></style><img src=x onerror=alert(1)>'\"{{7*7}}{% raw %}"
    value = MetricValue(0.5, 0.4, 0.6, 10, 10, "ok", evil)
    row = {
        "attacker": evil,
        "name": evil,
        "embedder": evil,
        "status": "ok",
        "reason": evil,
        "selected": True,
        "rank1_E": 0.3,
        "advantage_S": 0.2,
        "advantage_E": 0.3,
    }
    records = [
        record(
            number, 0.3 + 0.2 * number, 0.8 - 0.2 * number, anonymizer=evil, setting={evil: evil, "same": 1}, attackers=(row, {**row, "status": evil, "selected": False}),
            notes={"guarantee": evil, "reason": evil},
            metrics={"privacy": value, "utility": value, "privacy/naive": value, "privacy/gap": value, f"slice/{evil}/{evil.replace('/', '')}/privacy": value, evil: MetricValue.undefined(evil)},
        )
        for number in range(3)
    ]  # fmt: skip
    records += [failed(8, evil), record(9, 0.1, 0.1, control=evil, key="c")]
    run = plain_run(
        tmp_path, records, name=evil, dataset=evil, key=evil, command=evil, anonymizer=evil, quarantined={evil: 3}, sampler=evil, identities={evil: 3},
        models=(ModelInfo(evil, evil, evil, evil, evil, (evil,)),), clear={evil: value}, versions={evil: evil},
        card={"kind": evil, "licence": evil, "notes": [evil], "images": {evil: 3}, "expressions": {evil: 3}, "digest": evil},
        space={"arms": [{"anonymizer": evil, "fixed": {evil: evil}, "ranges": {evil: {"choices": [evil]}}, "settings": [{evil: evil}]}]},
    )  # fmt: skip
    run = replace(
        run,
        source=evil,
        missing={"x": evil},
        basis={evil: evil, "anonymizers": {evil: evil}, "protocol": {"attackers": [evil]}},
    )
    page = build_page(analyse(run), names={0: evil}, checked=[Difference(evil, evil, 0.1, 0.2)], flags=[evil])
    reader = harmless(page)
    assert "<script>alert" not in page
    assert not {char for char in RTL_AND_ISOLATES + "\x1b\x00\r" if char in page}
    assert "49" not in "".join(word for word in reader.words if "7*7" in word)
    assert not any(tag == "img" for tag, _ in reader.tags)
    assert max(len(line) for word in reader.words for line in word.splitlines() or [""]) <= 4000
    for table in (front_rows, gap_rows, trial_rows, attackers_by_setting):
        text = latex(table(analyse(run)))
        assert not re.search(r"(?<!\\)[$&](?! )", text.replace(" & ", "")), text[:500]
    write_tables(analyse(run), csv=tmp_path / "csv", latex_folder=tmp_path / "tex")
    with (tmp_path / "csv" / "attackers.csv").open(encoding="utf-8", newline="") as file:
        assert not any(cell[:1] in ("=", "+", "@") for row in csv.reader(file) for cell in row)


@pytest.mark.parametrize("records", [[], [failed(0)], [record(0, None, 0.5)], [record(0, 0.5, 0.5)], sweep()])
def test_any_state_gives_a_page(tmp_path: Path, records: list) -> None:
    found = analyse(plain_run(tmp_path, records))
    harmless(build_page(found))
    assert verdict(found)


def naive_run(tmp_path: Path, naive: float) -> Analysis:
    metrics = {
        **record(0, 0.5, 0.5).metrics,
        "privacy/naive": MetricValue(naive),
        "privacy/gap": MetricValue(naive - 0.5, naive - 0.6, naive - 0.4),
    }
    return analyse(plain_run(tmp_path, [record(0, 0.5, 0.5, metrics=metrics)]))


def test_the_naive_attacker_may_err_both_ways(tmp_path: Path) -> None:
    assert "would have claimed a privacy of 0.90 instead of 0.50" in verdict(naive_run(tmp_path, 0.9))
    assert "nearly the same privacy (0.51)" in verdict(naive_run(tmp_path, 0.51))
    further = naive_run(tmp_path, 0.2)
    assert "gets further on these: it leaves a privacy of 0.20" in verdict(further)
    (card,) = [card for card in key_figures(further) if "naive" in card.name]
    assert (card.name, card.value) == ("naive evaluation understates P by", "0.30")
    assert card.note.startswith("[0.20, 0.40]")


def test_undefined_is_never_a_zero(tmp_path: Path) -> None:
    run = plain_run(tmp_path, [record(0, None, 0.5), failed(1, "the generator diverged")])
    rows = reasons(run)
    assert ("failed", "trial", "the generator diverged", 1) in rows
    assert ("undefined", "privacy", "identities without repeats", 1) in rows
    assert any(kind == "vacuous" for kind, *_ in rows)
    cells = [cell.text for row in trial_rows(analyse(run)).rows for cell in row.cells]
    assert "undefined" in cells
    assert "0.00" not in cells


def test_who_surely_beats_whom_and_what_was_chosen_on_s(tmp_path: Path) -> None:
    """Three trials with draws: 1 beats 0 in all of them, 2 and 1 trade off; on S trial 2 is dominated."""

    def trial(number: int, privacy: float, utility: float, on_s: tuple[float, float]):
        rng = np.random.default_rng(number)
        draws = {
            f"draws/{name}": value + 0.01 * rng.standard_normal(100)
            for name, value in (("privacy", privacy), ("utility", utility))
        }
        made = record(number, privacy, utility, evidence=draws)
        selection = {"selection/privacy": MetricValue(on_s[0]), "selection/utility": MetricValue(on_s[1])}
        return replace(made, metrics={**made.metrics, **selection})

    found = analyse(
        plain_run(
            tmp_path, [trial(0, 0.3, 0.3, (0.3, 0.3)), trial(1, 0.6, 0.6, (0.6, 0.7)), trial(2, 0.9, 0.2, (0.5, 0.2))]
        )
    )
    assert found.beaten == {f"{0:08x}": (1,)}
    assert found.chosen == {f"{1:08x}"}
    assert found.selected is not None
    assert found.selected.kept == pytest.approx(0.36)
    assert found.volume.value == pytest.approx(0.36)
    assert found.volume.lo < 0.36 < found.volume.hi
    assert [row.cells[0].text for row in front_rows(found).rows] == ["#2", "#1 knee"]
    assert [point.step for point in found.path] == [1, 2, 3]
    assert found.path[-1].cost_s == pytest.approx(3 * 4.9)


def test_a_curve_of_ties_lies_on_guessing() -> None:
    """All scores equal: two points, which a logarithmic axis must not join by a straight line."""
    points = _rates((np.array([0.0, 1.0]), np.array([1.0, 0.0])))
    assert len(points) > 50
    assert all(rate == pytest.approx(fmr) for fmr, rate in points)
    steps = _rates((np.array([0.0, 0.0005, 0.2, 1.0]), np.array([0.9, 0.5, 0.25, 0.0])))
    assert (0.2, 0.75) in steps
    assert steps[0] == pytest.approx((1e-3, 0.5 + 0.25 * 0.0005 / 0.1995))


def test_caveats(tmp_path: Path) -> None:
    few = plain_run(tmp_path, sweep(), identities={"E": 7})
    assert "Only 7 people" in caveats(analyse(few))[0]
    lost = replace(few, missing={"a": "x.npz is not there", "common": "gone"})
    assert any(line.startswith("1 trial has no evidence") for line in caveats(analyse(lost)))
    hungry = record(0, 0.5, 0.5)
    hungry = replace(hungry, metrics={**hungry.metrics, "attack/undertrained": MetricValue(1.0)})
    assert any(
        "In 1 trial an attacker was still learning" in line for line in caveats(analyse(plain_run(tmp_path, [hungry])))
    )
    assert describe("attack/undertrained") is not None, "a name that the referee gives"
    on_e = [record(0, 0.5, 0.5, attackers=({"attacker": "A1", "selected": True, "selected_on": "E"},))]
    assert any("chosen on the very people" in line for line in caveats(analyse(plain_run(tmp_path, on_e))))


def test_the_table_of_a_study_shows_each_attacker_alone(judged: StoredRun) -> None:
    table = attackers_by_setting(analyse(judged))
    assert [column.name for column in table.columns] == [
        "trial",
        "strength",
        "A0 ignorant",
        "A1 lazy",
        "A3 adaptive_head",
        "P",
        "U",
    ]
    for row in table.rows:
        alone = [float(cell.text) for cell in row.cells[2:5]]
        assert float(row.cells[5].text) <= max(alone) + 0.01
        assert all(cell.css.startswith("h") for cell in row.cells[2:5])


def test_the_report_folder_reads_its_evidence_from_the_run(judged: StoredRun, tmp_path: Path) -> None:
    folder = store(judged, tmp_path / "noise-3f2a91c0")
    stored = load_run(folder)
    bare = [replace(item, evidence={}) for item in stored.records]
    page = build_page(analyse(report._stored(bare, stored.info)))
    assert 'id="curves"' in page
    assert "no evidence on disk" not in page
    assert SweepInfo.from_dict(stored.info.to_dict(), folder) == stored.info


def test_a_run_is_found_by_folder_name_key_or_as_the_newest(judged: StoredRun, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("blur-11aa22bb", "blur-33cc44dd", "k-same-11ff22ee"):
        store(replace(judged, records=()), runs / name)
    os.utime(runs / "blur-11aa22bb" / "ledger.jsonl", (4_000_000_000, 4_000_000_000))
    assert find_run(None, runs).name == "blur-11aa22bb"
    assert find_run("k-same", runs).name == "k-same-11ff22ee"
    assert find_run("33cc", runs).name == "blur-33cc44dd"
    assert find_run(str(runs / "blur-33cc44dd"), tmp_path).name == "blur-33cc44dd"
    assert find_run("blur", runs).name == "blur-11aa22bb", "of several of one space the newest"
    with pytest.raises(ConfigError, match="fits 2 runs: blur-11aa22bb, k-same-11ff22ee"):
        find_run("11", runs)
    with pytest.raises(ConfigError, match="did you mean 'blur-33cc44dd'"):
        find_run("blurr-33cc44dd", runs)
    with pytest.raises(ConfigError, match="run a sweep first"):
        find_run(None, tmp_path / "nothing")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"info": {"name": "x"}}', '{"info": {"clear": {"a": 3}}}', "\x00"])
def test_a_foreign_record_is_refused_with_one_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(StoreError, match="not the record of a sweep"):
        load_run(tmp_path)


def test_files_that_cannot_be_written(judged: StoredRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot write"):
        write_page(analyse(judged), tmp_path / "file" / "report.html")
    with pytest.raises(StoreError, match="cannot write"):
        write_tables(analyse(judged), csv=tmp_path / "file")


def test_latex() -> None:
    text = latex(tabular(["a_b"], [["[x] 50 % & \\input{y}"]]), "two\nlines")
    assert text.startswith("% two lines\n")
    assert r"{}[x] 50 \% \& \textbackslash{}input\{y\} \\" in text
    assert latex_text("#$~^") == r"\#\$\textasciitilde{}\textasciicircum{}"


def test_ticks_and_places() -> None:
    assert nice_ticks(0, 1) == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert nice_ticks(0.71, 0.84) == (0.72, 0.74, 0.76, 0.78, 0.8, 0.82, 0.84)
    assert nice_ticks(0, 34)[-1] <= 34
    assert nice_ticks(1, 1) == (1,)
    axis = Axis("x", 1e-3, 1.0, log=True)
    assert axis.place(1e-3) == 0
    assert axis.place(1.0) == 1
    assert axis.place(0.0) == 0
    plot = Plot(Axis("<x>", 0, 1), Axis("y", 0, 1), "a & b")
    plot.mark(0.5, 0.5, "front", title="<b>")
    plot.text(0.5, 0.5, "<script>")
    drawing = str(plot.svg())
    assert "<title>&lt;b&gt;</title>" in drawing
    assert "<script>" not in drawing
    assert 'aria-label="a &amp; b"' in drawing
