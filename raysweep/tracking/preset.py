"""A ready-made view of one sweep's trials in the MLflow UI, and the links to it.

MLflow keeps shared views of its runs page as experiment tags, and does not document them: the shape below was read from
MLflow 3.17. Where another version does not understand it, the page opens with its own defaults; front.html on the parent
run is what is promised.
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from raysweep.engine.record import TrialRecord
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.standing import standing, varying
from raysweep.tracking.text import entity_key, plain, redact

__all__ = ["front_url", "preset_view", "view_url"]

MAX_AXES = 6
WORKFLOW = "workflowType=machine_learning"
"""Opens the side of the UI for training runs, not the one for language models."""


def preset_view(records: Sequence[TrialRecord], info: SweepInfo, now_ms: int) -> tuple[str, str]:
    """Experiment tag (key, value) of a view with the trials of this sweep: scatter P x U, parallel coordinates, hypervolume.

    Args:
        records: trials so far, they tell which parameters vary; may be empty.
        info: of the sweep.
        now_ms: wall clock, milliseconds since the epoch.
    """
    state = {
        **_defaults(),
        # A filter alone hides child runs behind their folded parent; sorting by a metric unfolds them.
        "searchFilter": f"tags.`raysweep.sweep_key` = '{entity_key(info.key)}' and tags.`raysweep.kind` = 'trial'",
        "orderByKey": "metrics.`utility`",
        "orderByAsc": False,
        "runsHiddenMode": "SHOWALL",
        "selectedColumns": [
            "metrics.`privacy`",
            "metrics.`utility`",
            "tags.`pareto`",
            "tags.`state`",
            "tags.`raysweep.worst_attacker`",
            *(f"params.`{entity_key(name)}`" for name in _axes(records, info)),
        ],
        **_charts(records, info),
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state, separators=(",", ":")).encode())).decode("ascii")
    value = {
        "name": plain(f"Pareto front of {info.name} {info.key}", 120),
        "createdAt": now_ms,
        "updatedAt": now_ms,
        "state": f"deflate;{packed}",
    }
    return f"mlflow.sharedViewState.{_view_key(info)}", json.dumps(value, separators=(",", ":"))


def front_url(tracking_uri: str, experiment_id: str, run_id: str, host: str = "127.0.0.1", port: int = 5000) -> str:
    """Link to the parent run: of the server when the store is one, else of `python -m raysweep ui` on this machine."""
    return f"{_base(tracking_uri, host, port)}/#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}?{WORKFLOW}"


def view_url(tracking_uri: str, experiment_id: str, view_key: str, host: str = "127.0.0.1", port: int = 5000) -> str:
    """Link to the preset view; `view_key` is the sweep's key."""
    query = f"viewStateShareKey={quote(_view_key(view_key))}&compareRunsMode=CHART&{WORKFLOW}"
    return f"{_base(tracking_uri, host, port)}/#/experiments/{quote(experiment_id)}/runs?{query}"


def _base(tracking_uri: str, host: str, port: int) -> str:
    parts = urlsplit(tracking_uri)
    if parts.scheme in ("http", "https"):
        # Credentials in the address of a server have no place in a link that is printed.
        return f"{parts.scheme}://{urlsplit(redact(tracking_uri)).netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    return f"http://{host}:{port}"


def _view_key(sweep: SweepInfo | str) -> str:
    return "raysweep-" + entity_key(sweep if isinstance(sweep, str) else sweep.key).replace("/", "_")


def _axes(records: Sequence[TrialRecord], info: SweepInfo) -> list[str]:
    """Parameters worth an axis: those that vary, or are searched while nothing is known yet."""
    found = list(varying(standing(records, info).ranked)) or list(info.parameters)
    return found[:MAX_AXES]


def _defaults() -> dict[str, Any]:
    """The page's own start values (3.17)."""
    return {
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "viewMaximized": False,
        "runListHidden": False,
        # Else the sections that MLflow makes by itself stand above ours.
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _charts(records: Sequence[TrialRecord], info: SweepInfo) -> dict[str, Any]:
    def name(kind: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{info.key}/{kind}"))

    section = name("section")
    common = {"metricSectionId": section, "runsCountToCompare": 1000, "deleted": False, "isGenerated": False}
    charts = [
        {
            **common,
            "uuid": name("scatter"),
            "type": "SCATTER",
            "xaxis": {"key": "privacy", "type": "METRIC"},
            "yaxis": {"key": "utility", "type": "METRIC"},
        },
        {
            **common,
            "uuid": name("parallel"),
            "type": "PARALLEL",
            "selectedParams": [entity_key(parameter) for parameter in _axes(records, info)],
            "selectedMetrics": ["privacy", "utility"],
            "showAllRuns": True,
        },
    ]
    ours = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    sections = [{"uuid": section, "name": "Privacy and utility", "columns": 2, "cardHeight": 560, **ours}]
    return {"compareRunCharts": charts, "compareRunSections": sections}
