"""Ready-made views of sweeps and their trials in the MLflow UI, and the links to them.

MLflow keeps shared views of its runs page as experiment tags, and does not document them: the shape below was read from
MLflow 3.17. Where another version does not understand it, the page opens with its own defaults; front.html on the parent
run is what is promised.
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from raysweep.engine.record import TrialRecord
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.standing import standing, varying
from raysweep.tracking.text import entity_key, plain, redact

__all__ = ["front_table_url", "front_url", "preset_views", "sweeps_url", "view_url"]

MAX_AXES = 6
MAX_LINES = 4
"""Of parallel coordinates in half a page: the names of more axes would run into each other."""
FRONT = "-front"
SWEEPS = "raysweep-sweeps"
WORKFLOW = "workflowType=machine_learning"
"""Opens the side of the UI for training runs, not the one for language models."""


def preset_views(records: Sequence[TrialRecord], info: SweepInfo, now_ms: int) -> dict[str, str]:
    """Experiment tags (key -> value) of three views, as they stand in the menu "Views" of the runs page.

    - the trials of this sweep as charts: scatter P x U and parallel coordinates;
    - its front as a table, most private first, with the parameters that vary;
    - all sweeps of the experiment with hypervolume, number of points and knee.

    Args:
        records: trials so far, they tell which parameters vary; may be empty.
        info: of the sweep.
        now_ms: wall clock, milliseconds since the epoch.
    """
    mine = f"tags.`raysweep.sweep_key` = '{entity_key(info.key)}'"
    parameters = [f"params.`{entity_key(name)}`" for name in _axes(records, info)]
    scores = ["metrics.`privacy`", "metrics.`utility`"]
    charts = {
        # A filter alone hides child runs behind their folded parent; sorting by a metric unfolds them.
        "searchFilter": f"{mine} and tags.`raysweep.kind` = 'trial'",
        "orderByKey": "metrics.`utility`",
        "selectedColumns": [*scores, "tags.`pareto`", "tags.`state`", "tags.`raysweep.worst_attacker`", *parameters],
        **_charts(records, info),
    }
    front = {
        "searchFilter": f"{mine} and tags.`pareto` = 'true'",
        "orderByKey": "metrics.`privacy`",
        "selectedColumns": [*scores, "tags.`raysweep.worst_attacker`", *parameters],
    }
    sweeps = {
        "searchFilter": "tags.`raysweep.kind` = 'sweep'",
        "orderByKey": "metrics.`hypervolume`",
        "selectedColumns": [
            *("metrics.`hypervolume`", "metrics.`front_size`", "metrics.`knee_privacy`", "metrics.`knee_utility`"),
            *("tags.`knee.setting`", "params.`anonymizer`", "attributes.`Created`"),
        ],
    }
    name = plain(f"{info.name} {info.key}", 80)
    return dict(
        (
            _view(_view_key(info), f"Charts of {name}", charts, now_ms),
            _view(_view_key(info) + FRONT, f"Pareto front of {name}", front, now_ms),
            _view(SWEEPS, "All sweeps: hypervolume, points, knee", sweeps, now_ms),
        )
    )


def _view(key: str, name: str, state: Mapping[str, Any], now_ms: int) -> tuple[str, str]:
    whole = {**_defaults(), "orderByAsc": False, "runsHiddenMode": "SHOWALL", **state}
    packed = base64.b64encode(zlib.compress(json.dumps(whole, separators=(",", ":")).encode())).decode("ascii")
    value = {"name": plain(name, 120), "createdAt": now_ms, "updatedAt": now_ms, "state": f"deflate;{packed}"}
    return f"mlflow.sharedViewState.{key}", json.dumps(value, separators=(",", ":"))


def front_url(tracking_uri: str, experiment_id: str, run_id: str, host: str = "127.0.0.1", port: int = 5000) -> str:
    """Link to the parent run: of the server when the store is one, else of `python -m raysweep ui` on this machine."""
    return f"{_base(tracking_uri, host, port)}/#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}?{WORKFLOW}"


def view_url(tracking_uri: str, experiment_id: str, view_key: str, host: str = "127.0.0.1", port: int = 5000) -> str:
    """Link to the charts of a sweep; `view_key` is the sweep's key."""
    return _link(tracking_uri, experiment_id, _view_key(view_key), "CHART", host, port)


def front_table_url(
    tracking_uri: str, experiment_id: str, view_key: str, host: str = "127.0.0.1", port: int = 5000
) -> str:
    """Link to the front of a sweep as a table."""
    return _link(tracking_uri, experiment_id, _view_key(view_key) + FRONT, "TABLE", host, port)


def sweeps_url(tracking_uri: str, experiment_id: str, host: str = "127.0.0.1", port: int = 5000) -> str:
    """Link to all sweeps of an experiment, side by side."""
    return _link(tracking_uri, experiment_id, SWEEPS, "TABLE", host, port)


def _link(tracking_uri: str, experiment_id: str, key: str, mode: str, host: str, port: int) -> str:
    query = f"viewStateShareKey={quote(key)}&compareRunsMode={mode}&{WORKFLOW}"
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
            "selectedParams": [entity_key(parameter) for parameter in _axes(records, info)[:MAX_LINES]],
            "selectedMetrics": ["privacy", "utility"],
            "showAllRuns": True,
        },
    ]
    ours = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    sections = [{"uuid": section, "name": "Privacy and utility", "columns": 2, "cardHeight": 560, **ours}]
    return {"compareRunCharts": charts, "compareRunSections": sections}
