from __future__ import annotations

from pathlib import Path

import pytest
from studies import Lab, lab_in


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return lab_in(tmp_path, monkeypatch)
