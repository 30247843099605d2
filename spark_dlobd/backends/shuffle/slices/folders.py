"""Folders that the tasks of one host share. Runs on each worker."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path


def remove_shared(folder: Path) -> None:
    """Delete a folder, if it is on this host, while other tasks may be doing the same."""
    while folder.exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
