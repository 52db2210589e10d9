"""`raysweep bench`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from raysweep.bench.goals import ALSO, BENCHES, choose
from raysweep.errors import ConfigError

EXAMPLES = (
    "python -m raysweep bench --only R25,R13 --quick",
    "python -m raysweep bench --only R25 --quick --json bench.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--only`, `--quick`, `--faces`, `--json`."""
    listed = ", ".join(f"{name} ({bench.takes})" for name, bench in BENCHES.items())
    parser.add_argument(
        "--only",
        metavar="NAMES",
        default="",
        help=f"by comma, of: {listed}, {', '.join(ALSO)}; default: all that is not very long",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats: to see that it works")
    parser.add_argument(
        "--faces",
        type=int,
        default=500,
        metavar="N",
        help="of the smaller data set of R19 (default 500; the larger has ten times as many)",
    )
    parser.add_argument("--json", metavar="FILE", help="write every figure there")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print the table; 1 when a ratio passes what it must not pass."""
    import tempfile

    if arguments.faces < 100:
        raise ConfigError(f"--faces {arguments.faces}: 100 at least, for ten people")
    names = choose([name for name in arguments.only.split(",") if name])
    from rich.console import Console

    from raysweep.bench.finding import How
    from raysweep.bench.run import machine, run_benches, write_json
    from raysweep.bench.table import findings_table

    console = Console(highlight=False)

    def tell(line: str) -> None:
        console.print(line, style="dim")
        console.file.flush()

    about = machine()
    real = Path(os.environ.get("RAYSWEEP_REAL", "../shared/real"))
    with tempfile.TemporaryDirectory(prefix="raysweep-bench-") as folder:
        how = How(
            folder=Path(folder),
            quick=arguments.quick,
            tell=tell,
            faces=arguments.faces,
            real=real.resolve() if (real / "models").is_dir() else None,
        )
        found = run_benches(names, how)
    gpu = "" if about["gpu"] == "none" else f", {about['gpu']}"
    console.print(f"{about['cores']} cores{gpu}, {about['memory_gb']} GB; median of the repeats, with their range")
    console.print(findings_table(found))
    if arguments.json:
        write_json(Path(arguments.json), found, about)
    return 1 if any(finding.verdict == "fails" for finding in found) else 0
