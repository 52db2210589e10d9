"""`ray up` on machines of one's own, for real: hosts are network namespaces (`namespace_hosts`), the file is the shipped `cluster/local.yaml`.

    pytest -m slow -s tests/cluster/test_ray_up_namespaces.py

Needs root, iproute2, openssh-server and rsync; skips with a reason elsewhere. `ray job submit` is tried where Ray's dashboard is installed (`ray[default]`).
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from namespace_hosts import REPOSITORY, Lab, Outcome, what_is_missing

from raysweep.engine.ledger import read_ledger
from raysweep.engine.record import TrialRecord

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OWN = """
from raysweep.anonymizers.base import Anonymizer
from raysweep.search.parameters import Int


class Dark(Anonymizer):
    name = "own/dark"
    parameters = {"divisor": Int(2, 9, default=4, why="how dark")}

    def anonymize(self, faces):
        return faces.image // self.setting["divisor"]
"""

FACES = "synthetic:identities=40,images_per_identity=7"
SWEEP = f"python -m raysweep tune pixelate trials=4 --data {FACES} --workers 2"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    lab = Lab(2)
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Iterator[Path]:
    """A running cluster; its file. Only the four marked lines of the shipped one are changed."""
    path = lab.root / "local.yaml"
    path.write_text(filled_in(lab))
    ray(lab, "bash", "-c", "umask 077; mkdir -p ~/.ray; ray get-auth-token --generate > /dev/null")
    up = ray(lab, "ray", "up", "-y", "--no-config-cache", str(path))
    try:
        assert up.code == 0, up.text[-3000:]
        print(f"\nray up: {up.seconds:.0f} s until the head ran")
        wait_for_nodes(lab, path, 2)
        yield path
    finally:
        down = ray(lab, "ray", "down", "-y", str(path))
        left = wait_until_quiet(lab)
        print(f"ray down: {down.seconds:.0f} s; Ray gone from all hosts after {left:.0f} s more")
    assert down.code == 0, down.text[-3000:]


def filled_in(lab: Lab) -> str:
    text = (REPOSITORY / "cluster" / "local.yaml").read_text()
    marked = {
        "head_ip": lab.addresses[0],
        "worker_ips": f"[{', '.join(lab.addresses[1:])}]",
        "ssh_user": "root",
        "ssh_private_key": str(lab.root / "user_key"),
    }
    for name, value in marked.items():
        text, count = re.subn(rf"(?m)^(  {name}: ).*?( +# <--.*)$", rf"\g<1>{value}\g<2>", text)
        assert count == 1, name
    return text


def ray(lab: Lab, *command: str, timeout_s: float = 300.0) -> Outcome:
    assert lab.laptop is not None
    return lab.laptop.run(*command, cwd=REPOSITORY / "cluster", timeout_s=timeout_s)


def on_head(lab: Lab, cluster: Path, command: str, timeout_s: float = 300.0) -> Outcome:
    return ray(lab, "ray", "exec", str(cluster), command, timeout_s=timeout_s)


def wait_for_nodes(lab: Lab, cluster: Path, count: int) -> None:
    """`ray up` ends when the head runs; the others join later."""
    started = time.monotonic()
    while time.monotonic() - started < 240:
        listed = on_head(lab, cluster, "ray status")
        if re.search(rf"\b{count} local.cluster.node", listed.text) and f"/{count}.0 CPU" in listed.text:
            print(f"{count} nodes: {time.monotonic() - started:.0f} s later")
            return
        time.sleep(2)
    pytest.fail(f"{count} nodes did not come: {listed.text[-2000:]}")


def wait_until_quiet(lab: Lab) -> float:
    started = time.monotonic()
    while time.monotonic() - started < 150:
        if not any(host.processes("raylet") for host in lab.hosts if host.alive()):
            return time.monotonic() - started
        time.sleep(2)
    pytest.fail("Ray still runs on a host after `ray down`")


def local_run(folder: Path, cache: Path) -> list[TrialRecord]:
    """The same sweep without Ray, undisturbed."""
    words = [*SWEEP.split()[3:-2], "--engine", "local", "--runs", str(folder)]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "RAYSWEEP_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = ":".join([str(REPOSITORY), *(path for path in sys.path if path)])
    done = subprocess.run(
        [sys.executable, "-m", "raysweep", *words], env=environment, capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return records(folder)


def records(runs: Path) -> list[TrialRecord]:
    (ledger,) = runs.glob("*/ledger.jsonl")
    return list(read_ledger(ledger))


def assert_equal(ours: list[TrialRecord], theirs: list[TrialRecord]) -> None:
    """Each trial once, with the numbers of the undisturbed run."""
    assert len({record.key for record in theirs}) == len(theirs)
    by_key = {record.key: record for record in theirs}
    assert {record.key for record in ours} == by_key.keys()
    for record in ours:
        other = by_key[record.key]
        assert other.state == record.state == "complete", other.reason
        assert other.setting == record.setting
        for name, value in record.metrics.items():
            assert other.metrics[name].status == value.status, name
            if value.ok:
                assert other.metrics[name].value == pytest.approx(value.value, abs=1e-6), name


def test_the_cluster_asks_for_the_token_and_shows_nothing_to_the_network(lab: Lab, cluster: Path) -> None:
    head = lab.hosts[0]
    home = lab.root / "home"
    assert head.run("stat", "-c", "%a", f"{home}/.ray/auth_token").text.strip() == "600"
    attach = "import ray; ray.init(address='auto', log_to_driver=False); print('joined', len(ray.nodes()))"
    with_token = on_head(lab, cluster, f'python -c "{attach}"')
    assert "joined 2" in with_token.text, with_token.text[-2000:]
    without = on_head(lab, cluster, f'RAY_AUTH_MODE=disabled timeout 60 python -c "{attach}"')
    assert without.code != 0
    assert "joined 2" not in without.text
    listening = head.run("ss", "-ltnH").text.split("\n")
    dashboard = [line for line in listening if ":8265 " in line]
    assert all("127.0.0.1:8265" in line for line in dashboard)
    told = on_head(lab, cluster, "python -m raysweep doctor --address auto").text
    for words in ("2 machines, 2 CPUs", "every machine asks for it", "off on every machine", "seen by every machine"):
        assert words in told, told[-3000:]


def test_a_cache_that_is_not_shared_is_told_before_anything_starts(lab: Lab, cluster: Path) -> None:
    done = on_head(lab, cluster, f"RAYSWEEP_CACHE=~/alone {SWEEP} --address auto --runs /mnt/raysweep/none")
    assert done.code != 0
    assert "the machines of the cluster are not alike" in done.text
    assert f"{lab.addresses[1]} does not see" in done.text
    assert not list(lab.shared.glob("none/*/ledger.jsonl"))


def working_hosts(lab: Lab) -> list[str]:
    return [host.name for host in lab.hosts if host.processes("ray::_WorkerActor")]


@pytest.mark.skipif(
    importlib.util.find_spec("aiohttp_cors") is None, reason="Ray's dashboard is not installed: ray[default]"
)
def test_a_submitted_job_takes_its_own_anonymizer_to_every_host(lab: Lab, cluster: Path) -> None:
    """`ray job submit --working-dir` ships a file of the user's; each of its trials runs where it may."""
    own = lab.root / "home" / "own"  # as the laptop sees it
    assert lab.laptop is not None
    made = lab.laptop.own / "home" / "own"
    made.mkdir()
    (made / "dark.py").write_text(OWN)
    assert ray(lab, "ray", "rsync-up", str(cluster), f"{own}/", "~/own/").code == 0
    sweep = f"python -m raysweep tune file:./dark.py:Dark trials=2 --data {FACES} --workers 2 --address auto --runs /mnt/raysweep/own"
    submit = f"ray job submit --address http://127.0.0.1:8265 --working-dir ~/own -- {sweep}"
    done = on_head(lab, cluster, submit)
    assert done.code == 0, done.text[-3000:]
    assert "succeeded" in done.text
    found = records(lab.shared / "own")
    assert [record.state for record in found] == ["complete"] * 4, [record.reason for record in found]
    print(f"2 trials of an anonymizer in a file, by ray job submit: {done.seconds:.0f} s")


def test_a_sweep_survives_the_loss_of_a_host(lab: Lab, cluster: Path, tmp_path: Path) -> None:
    """One worker, then one on each of two hosts, then these two of which one host is lost in the middle: the same records as without Ray."""
    expected = local_run(tmp_path / "local", tmp_path / "cache")
    seconds = {}
    for name, command in (("1 host", SWEEP.replace("--workers 2", "--workers 1")), ("2 hosts", SWEEP)):
        runs = name.replace(" ", "-")
        done = on_head(lab, cluster, f"{command} --address auto --runs /mnt/raysweep/{runs}")
        assert done.code == 0, done.text[-3000:]
        assert_equal(expected, records(lab.shared / runs))
        seconds[name] = done.seconds
    assert lab.laptop is not None
    sweep = lab.laptop.start(
        *("env", "-C", str(REPOSITORY / "cluster")),
        *("ray", "exec", str(cluster), f"{SWEEP} --address auto --runs /mnt/raysweep/lost"),
    )
    started, lines, lost = time.monotonic(), [], False
    assert sweep.stdout is not None
    for line in sweep.stdout:
        lines.append(line)
        if not lost and re.search(r"(control|trial) \S+: P ", line):  # the first record of several
            assert len(working_hosts(lab)) == 2, "the workers must be spread over the hosts, else nothing is lost"
            lab.hosts[1].pull_the_plug()
            lost = True
    assert sweep.wait() == 0, "".join(lines)[-3000:]
    assert lost, "".join(lines)[-3000:]
    seconds["2 hosts, 1 lost"] = time.monotonic() - started
    assert_equal(expected, records(lab.shared / "lost"))
    # Told only where the sweep lasts longer than it takes to notice that a machine no longer answers.
    print(*(line.strip() for line in lines if "workers are gone" in line), sep="\n")
    for name, value in seconds.items():
        print(f"{len(expected)} trials and controls, {name}: {value:.0f} s")
