"""A process that must not outlive the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping

PARENT = "CERULEA_PARENT"  # the process that a child must not outlive
_PR_SET_PDEATHSIG = 1


def die_with_parent(own: Mapping[str, str] = os.environ) -> None:
    """Ask the kernel to kill this process when the one that started it ends, if that one asked for it.

    Source: prctl(2), PR_SET_PDEATHSIG; elsewhere than on Linux nothing is done.
    """
    parent = own.get(PARENT, "")
    if not parent or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before we asked
        os._exit(1)
