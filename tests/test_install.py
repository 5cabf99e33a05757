"""`install()` replaces select.poll for a whole process; importing pypoll does not."""

from __future__ import annotations

import select
from pathlib import Path
from typing import Any

import pytest

import pypoll
from support import ran


@pytest.mark.parametrize(
    "guarantee",
    [
        "replaces_what_the_standard_library_uses",
        "leaves_what_others_have_replaced",
        "reaches_subprocess",
        "reaches_multiprocessing",
        "reaches_socketserver",
    ],
)
def test_install(guarantee: str, tmp_path: Path) -> None:
    status, _, errors = ran("install", tmp_path, guarantee)
    assert (status, errors) == (0, "")


def test_the_import_alone_replaces_nothing() -> None:
    module: Any = select
    assert module.poll is not pypoll.Poll
