"""Hosts on one machine: each a set of Linux namespaces with its own network, processes, host name, home, /tmp and /dev/shm, and an sshd.

    laptop (10.198.77.1) ---- bridge ---- host 0 (10.198.77.10), host 1 (10.198.77.11), ...

`ray up` finds there what it finds on machines in a rack. The bridge lies in the laptop's own network namespace and leads nowhere else: nothing can
get out. Nothing is left over either: namespaces live as long as their first process, which ends when its standard input closes, thus also
when this process is killed. All hosts share one folder at /mnt/raysweep, as by NFS.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["Host", "Lab", "Outcome", "what_is_missing"]

REPOSITORY = Path(__file__).resolve().parents[2]
NETWORK = "10.198.77"
TOOLS = ("ip", "sshd", "ssh", "ssh-keygen", "rsync", "unshare", "nsenter", "mount")
SBIN = "/usr/sbin:/usr/bin:/sbin:/bin"
SHARED = "/mnt/raysweep"

FIRST_PROCESS = r"""
set -e
cd "$1"
mkdir -p tmp/keep home
mount --bind passwd /etc/passwd
mount --bind "$2" "$3"
for place in $4; do
  mkdir -p "tmp/${place#/tmp/}"
  mount --bind "$place" "tmp/${place#/tmp/}"
done
mount --rbind tmp /tmp
mount -t tmpfs -o size=1g,mode=1777 tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount -t tmpfs tmpfs /mnt
mkdir /mnt/raysweep
mount --bind "$5" /mnt/raysweep
hostname "$6"
ip link set lo up
echo ready
while read -r line; do :; done
"""


def what_is_missing() -> str:
    """Why hosts cannot be made here; empty when they can."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=SBIN) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: iproute2 openssh-server openssh-client rsync util-linux)"
    probe = "mount -t tmpfs tmpfs /mnt && ip link add probe type bridge && hostname probe"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "sh", "-c", probe],
        capture_output=True,
        text=True,
        env={"PATH": SBIN},
    )
    return f"no namespaces, mounts or bridges may be made here: {tried.stderr.strip()}" if tried.returncode else ""


class Outcome:
    """Of a command: exit code, and what it wrote to both outputs."""

    def __init__(self, code: int, text: str, seconds: float) -> None:
        self.code, self.text, self.seconds = code, text, seconds


class Host:
    """One set of namespaces.

    Args:
        root: of the lab.
        name: host name.
        shared: folder that appears at /mnt/raysweep.
    """

    def __init__(self, root: Path, name: str, shared: Path) -> None:
        self.name, self.root, self.own = name, root, root / name
        (self.own / "home").mkdir(parents=True)
        (self.own / "tmp").mkdir(mode=0o1777)
        (self.own / "passwd").write_text((root / "passwd").read_text())
        words = [str(self.own), str(self.own / "home"), str(root / "home"), " ".join(_below_tmp()), str(shared), name]
        unshare = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        self._keeper = subprocess.Popen(
            [*unshare, "bash", "-c", FIRST_PROCESS, "first-process", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": SBIN},
            text=True,
        )
        assert self._keeper.stdout is not None
        line = self._keeper.stdout.readline()
        if line != "ready\n":
            raise RuntimeError(f"{name}: the namespaces could not be set up")
        children = Path(f"/proc/{self._keeper.pid}/task/{self._keeper.pid}/children").read_text().split()
        self.pid = int(children[0])

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command on the host as its user."""
        home = str(self.root / "home")
        path = f"{home}/raysweep/.venv/bin:{SBIN}"
        environment = {"HOME": home, "PATH": path, "USER": "root", "LANG": "C.UTF-8", "TERM": "dumb"}
        enter = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", "--uts", "--ipc"]
        return subprocess.Popen(
            [*enter, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            errors="replace",
            **options,
        )

    def run(self, *command: str, timeout_s: float = 240.0, cwd: Path | None = None) -> Outcome:
        """Run a command on the host to its end."""
        words = ["env", "-C", str(cwd), *command] if cwd else list(command)
        started = time.monotonic()
        process = self.start(*words)
        try:
            text, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
            text += f"\n(stopped after {timeout_s:.0f} s)"
        return Outcome(process.returncode, text, time.monotonic() - started)

    def processes(self, word: str) -> list[str]:
        """Command lines on the host that hold a word."""
        listed = self.run("ps", "-eo", "args")
        return [line for line in listed.text.splitlines() if word in line and "ps -eo" not in line]

    def pull_the_plug(self) -> None:
        """End every process of the host at once; its network card goes with them, so that no connection is closed in order."""
        os.kill(self.pid, 9)
        self._keeper.wait()

    def alive(self) -> bool:
        """Whether the plug is in."""
        return self._keeper.poll() is None

    def close(self) -> None:
        """End it in order."""
        if self._keeper.poll() is None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            try:
                self._keeper.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._keeper.kill()
                self._keeper.wait()


class Lab:
    """A laptop and some hosts on a bridge.

    Args:
        hosts: how many.
        cpus: that Ray may use on each host.
    """

    def __init__(self, hosts: int, cpus: int = 1) -> None:
        # Not below /tmp, which each host has for itself.
        self.root = Path(tempfile.mkdtemp(prefix=f"raysweep-hosts-{os.getpid()}-", dir="/var/tmp"))
        self.laptop: Host | None = None
        self.hosts: list[Host] = []
        try:
            self._set_up(hosts, cpus)
        except BaseException:
            self.close()
            raise

    @property
    def shared(self) -> Path:
        """What the hosts see at /mnt/raysweep."""
        return self.root / "shared"

    @property
    def addresses(self) -> list[str]:
        return [f"{NETWORK}.{10 + number}" for number in range(len(self.hosts))]

    def close(self) -> None:
        """Everything goes: processes, networks, mounts, files."""
        for host in [*self.hosts, *([self.laptop] if self.laptop else [])]:
            host.close()
        shutil.rmtree(self.root)

    # ------------------------------------------------------------------ parts
    def _set_up(self, count: int, cpus: int) -> None:
        home = self.root / "home"
        home.mkdir()
        self.shared.mkdir()
        lines = Path("/etc/passwd").read_text().splitlines()
        own = [line if not line.startswith("root:") else f"root:x:0:0:root:{home}:/bin/bash" for line in lines]
        if not any(line.startswith("sshd:") for line in own):
            own.append("sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin")
        (self.root / "passwd").write_text("\n".join([*own, ""]))
        self._key("host_key")
        self._key("user_key")
        self.laptop = Host(self.root, f"raysweep-{os.getpid()}-laptop", self.shared)
        self._network(self.laptop, "ip link add bridge0 type bridge")
        self._network(self.laptop, f"ip addr add {NETWORK}.1/24 dev bridge0")
        self._network(self.laptop, "ip link set bridge0 up")
        _environment(self.laptop.own / "home" / "raysweep")
        for number in range(count):
            host = Host(self.root, f"raysweep-{os.getpid()}-{number}", self.shared)
            self.hosts.append(host)
            self._connect(host, number)
            self._install(host, cpus)

    def _key(self, name: str) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "throw-away", "-f", str(self.root / name)]
        subprocess.run(command, check=True, env={"PATH": SBIN})

    def _network(self, host: Host, command: str) -> None:
        words = ["nsenter", "--target", str(host.pid), "--net", "--", *command.split()]
        subprocess.run(words, check=True, env={"PATH": SBIN})

    def _connect(self, host: Host, number: int) -> None:
        assert self.laptop is not None
        self._network(self.laptop, f"ip link add port{number} type veth peer name eth0 netns {host.pid}")
        self._network(self.laptop, f"ip link set port{number} master bridge0 up")
        self._network(host, f"ip addr add {NETWORK}.{10 + number}/24 dev eth0")
        self._network(host, "ip link set eth0 up")
        # Leads nowhere; Ray asks the system which address it would use to go out.
        self._network(host, f"ip route add default via {NETWORK}.1")

    def _install(self, host: Host, cpus: int) -> None:
        """What a machine brings: Python with libraries, somebody's key, an sshd."""
        _environment(host.own / "home" / "raysweep")
        # Little memory for objects: there are several hosts on this machine.
        node = f"export RAYSWEEP_NODE='--num-cpus={cpus} --object-store-memory=300000000'\n"
        (host.own / "home" / ".bashrc").write_text(node)
        config = host.own / "sshd_config"
        config.write_text(
            f"Port 22\nHostKey {self.root}/host_key\nAuthorizedKeysFile {self.root}/user_key.pub\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nPermitRootLogin yes\nPidFile none\nSubsystem sftp internal-sftp\n"
        )
        host.start("/usr/sbin/sshd", "-D", "-f", str(config))


def _below_tmp() -> list[str]:
    """Folders that the hosts must see although they lie below /tmp, of which each host has its own."""
    wanted = [REPOSITORY, Path(sys.prefix), *map(Path, sys.path)]
    found = {str(path.resolve()) for path in wanted if str(path.resolve()).startswith("/tmp/") and path.is_dir()}  # noqa: S108
    return sorted(path for path in found if not any(path.startswith(other + "/") for other in found))


def _environment(folder: Path) -> None:
    """A Python environment as `install.sh` makes it, with the libraries of this process; the project's code is not in it."""
    home = folder.parents[2] / "home" / "raysweep"  # where the host sees it
    bin_, site = (
        folder / ".venv" / "bin",
        folder / ".venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}",
    )
    (site / "site-packages").mkdir(parents=True)
    bin_.mkdir(parents=True)
    base = Path(sys.executable).resolve()
    (folder / ".venv" / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    for name in ("python", "python3"):
        (bin_ / name).symlink_to(base)
    libraries = [path for path in sys.path if path and Path(path).is_dir() and Path(path) != REPOSITORY]
    libraries = [path for path in libraries if not path.startswith(str(REPOSITORY / "tests"))]
    (site / "site-packages" / "node.pth").write_text("\n".join([str(home), *_libraries(libraries), ""]))
    script = bin_ / "ray"
    script.write_text(f"#!{home}/.venv/bin/python\nfrom ray.scripts.scripts import main\nmain()\n")
    script.chmod(0o755)
    made_of = hashlib.sha256((REPOSITORY / "pyproject.toml").read_bytes() + b"\n").hexdigest()
    (folder / ".venv" / "made-of").write_text(f"{made_of}  -\n")


def _libraries(paths: Sequence[str]) -> list[str]:
    """Without the standard library, which every Python brings."""
    return [path for path in paths if "site-packages" in path or path in os.environ.get("PYTHONPATH", "").split(":")]
