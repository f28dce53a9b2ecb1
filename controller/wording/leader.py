"""What is said of a controller that leads. Pure; for the log, and for ``abmesh status``."""

from __future__ import annotations


def leader_stalled(process: str, seconds: float | None, intruder: str) -> str:
    """That nobody acts although somebody has the lease, and what to do."""
    if intruder:
        return (
            f"nobody leads: {intruder} holds the lock of the state folder, but is no controller; end that process. "
            f"Until then, only a controller on standby rolls back for harm"
        )
    since = "" if seconds is None else f" for {seconds:.0f} s"
    return (
        f"the controller that leads, {process}, has not finished a tick{since}: it hangs or is stopped, and keeps its "
        f"lock. End it (kill -KILL), so that another takes over. Until then, only a controller on standby rolls back "
        f"for harm"
    )
