"""The most memory this process held at once, in bytes, measured per stage where the system lets us.

Linux keeps a high-water mark that can be reset; elsewhere the mark of the whole process is given. Child processes and
accelerator memory are not counted.
"""

from __future__ import annotations

import sys
from pathlib import Path


def reset_peak() -> None:
    """Starts a new measurement, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes() -> int:
    """High-water mark of resident memory since `reset_peak`, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
