from __future__ import annotations

from ray.exceptions import OutOfMemoryError, RayTaskError

from raysweep.engine.session import SessionError, our_error
from raysweep.errors import DataError

KILLED = (
    "6 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: fb89) was 22.58GB used / "
    "23.54GB limit (0.959272)\nOOM kill reason: ...\nTop 10 memory users: ..."
)


def inside_a_task(cause: Exception) -> Exception:
    return RayTaskError("submit", f"Traceback ...\n{cause}", cause).as_instanceof_cause()  # type: ignore[no-any-return]


def test_too_little_memory_is_said_in_a_line() -> None:
    for error in (OutOfMemoryError(KILLED), inside_a_task(OutOfMemoryError(KILLED))):
        found = our_error(error)
        assert isinstance(found, SessionError)
        assert str(found).startswith(
            "this machine ran short of memory (22.58GB of 23.54GB were in use, by all programs)"
        )
        assert "workers=1" in str(found)
        assert "\n" not in str(found)


def test_our_own_error_is_found_inside_rays() -> None:
    found = our_error(inside_a_task(DataError("row 3 is no image\nFailed to apply UDF transform, retry")))
    assert type(found) is DataError
    assert str(found) == "row 3 is no image"


def test_any_other_error_stays_what_it_is() -> None:
    bug = inside_a_task(ZeroDivisionError("division by zero"))
    assert our_error(bug) is bug
