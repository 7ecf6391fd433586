"""What commands say of builds that take longer than a second, as they may on a busy machine."""

from __future__ import annotations


def without_progress(output: str) -> list[str]:
    """The lines, but for those."""
    return [line for line in output.splitlines() if ": importing " not in line]
