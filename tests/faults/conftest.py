"""One process that starts drivers, for all fault tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fault_drivers import Drivers, content_of


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    found = Drivers(tmp_path_factory.mktemp("drivers"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def undisturbed(drivers: Drivers, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The ledger of three trials that nothing disturbed."""
    runs = tmp_path_factory.mktemp("undisturbed")
    driver = drivers.tune(runs=runs)
    assert driver.wait() == 0, driver.output
    return content_of(runs)
