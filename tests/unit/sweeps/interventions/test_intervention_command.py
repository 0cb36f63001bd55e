from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from studies import Lab, made_up

from nmm import cli
from sweeps.interventions.command import study_of
from sweeps.interventions.protocol import METHODS


@pytest.fixture
def soup(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A made-up study in the place of the method soup."""
    module = types.ModuleType("sweeps.interventions.soup")
    module.__dict__["study"] = lambda out, scale: made_up((lab.step("one"),), title=f"scale {scale}")
    monkeypatch.setitem(sys.modules, "sweeps.interventions.soup", module)
    return lab


def test_one_command_runs_a_study_to_its_page(soup: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["intervention", "soup", f"out={soup.out}", "scale=tiny", "workers=2"]) == 0
    assert soup.calls == ["write OUT/one.txt", "intervention page OUT"]
    assert "scale tiny: page" in capsys.readouterr().out
    assert (soup.out / "page" / "index.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["magic", "out=x"], "there is no intervention 'magic'; there are filter, soup, pieces, bridge, guide"),
        (["soup"], "out= is missing; e.g. nmm intervention soup out="),
        (["soup", "out=x", "scale=huge"], "scale=huge is not one of tiny, cpu"),
        (["soup", "out=x", "workers=0"], "workers=0 is not a whole number of at least 1"),
        (["soup", "out=x", "seeds=3"], "'seeds=3': give key=value with a key of out, scale, workers"),
        (["soup", "x"], "'x': give key=value"),
    ],
)
def test_mistakes_are_one_line(
    soup: Lab, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(["intervention", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("x").exists()


def test_a_failed_step_is_status_2(lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    module = types.ModuleType("sweeps.interventions.soup")
    module.__dict__["study"] = lambda out, scale: made_up((lab.step("one", "fail"),))
    monkeypatch.setitem(sys.modules, "sweeps.interventions.soup", module)
    assert cli.main(["intervention", "soup", f"out={lab.out}", "scale=tiny"]) == 2
    assert "step one ended with status 3" in capsys.readouterr().err


def test_help_lists_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["intervention", "--help"]) == 0
    shown = capsys.readouterr().out
    for method in METHODS:
        assert f"\n  {method}" in shown
    assert "example:\n  nmm intervention" in shown
    assert cli.main(["intervention"]) == 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", ["tiny", "cpu"])
def test_every_method_describes_its_study(method: str, scale: str, tmp_path: Path) -> None:
    study = study_of(method)(tmp_path / "out", scale)
    assert study.method == method
    assert not (tmp_path / "out").exists()  # describing is not doing
