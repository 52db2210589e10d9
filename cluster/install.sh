#!/usr/bin/env bash
# Makes this machine a node: install.sh SHARED [PACKAGE ...]
#
# Installs the project from its own files into .venv beside this script (nothing to do where pyproject.toml is as it was), and writes what
# every process of the cluster must know to ~/.raysweep-node, which each shell that `ray up` opens reads first. SHARED is a folder that all
# nodes see; a PACKAGE is what this node needs beside: a cloud's library on the head, an anonymizer of yours. RAYSWEEP_NODE in ~/.bashrc holds
# options for `ray start` on this machine alone, such as --num-gpus=1.
set -euo pipefail
shared="${1:?which folder do all nodes share?}"
shift
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

mkdir -p "$shared" 2>/dev/null || sudo install -d -m 0700 -o "$(id -u)" -g "$(id -g)" "$shared"
[ -w "$shared" ] || { echo "$shared cannot be written by $(id -un): share it with write access on every node" >&2; exit 1; }
for folder in runs cache models; do
  [ -d "$shared/$folder" ] || mkdir -m 0700 -p "$shared/$folder"
done

cat > ~/.raysweep-node <<END
export PATH="$here/.venv/bin:\$PATH"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
# A sweep that is asked to stop ends the trials that run: let it.
export RAY_JOB_STOP_WAIT_TIME_S=600
export RAYSWEEP_RUNS="$shared/runs" RAYSWEEP_CACHE="$shared/cache" RAYSWEEP_MODELS="$shared/models"
END
touch ~/.bashrc
# First, because the usual .bashrc ends early in shells without a terminal.
grep -q raysweep-node ~/.bashrc || printf '. ~/.raysweep-node\n%s\n' "$(cat ~/.bashrc)" > ~/.bashrc.new
[ ! -f ~/.bashrc.new ] || mv ~/.bashrc.new ~/.bashrc

made_of="$({ cat "$here/pyproject.toml"; echo "$@"; } | sha256sum)"
if [ "$(cat "$here/.venv/made-of" 2>/dev/null)" = "$made_of" ]; then
  exit 0
fi
[ -x ~/.raysweep-uv/bin/uv ] || { python3 -m venv ~/.raysweep-uv && ~/.raysweep-uv/bin/pip install --quiet uv==0.13.9; }
export PATH="$HOME/.raysweep-uv/bin:$PATH"
cd "$here"
uv sync --quiet --python 3.11 --no-dev
# The dashboard, through which jobs are submitted, is an extra of Ray: of the same version.
ray="$(.venv/bin/python -c 'import ray; print(ray.__version__)')"
uv pip install --quiet --python .venv/bin/python "ray[default]==$ray"
# Elsewhere, where the project's versions do not bind: boto3 does not take the newest python-dateutil.
[ $# -eq 0 ] || (cd / && uv pip install --quiet --python "$here/.venv/bin/python" "$@")
printf '%s\n' "$made_of" > .venv/made-of
