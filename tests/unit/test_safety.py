"""What a configuration may say, and that our own code never opens a pickle, evaluates text or starts a shell."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lab import ROOT
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from nmm.config import Arch, ConfigError, RunConfig, Size, from_dict, run_id
from nmm.safety import (
    LOGGING,
    check_hydra,
    check_texts,
    harmless_environment,
    is_harmless,
    refuse_targets,
    shipped_logging,
)

# -------------------------------------------------------------------------------------------------- the environment


@pytest.mark.parametrize("name", ["HOME", "USER", "TMPDIR", "SCRATCH", "DATA", "DATA_DIR", "SLURM_JOB_ID", "NMM_CACHE"])
def test_places_and_the_schedulers_numbers_are_harmless(name: str) -> None:
    assert is_harmless(name)


@pytest.mark.parametrize(
    "name",
    ["SECRET_TOKEN", "WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PATH", "DATABASE_URL", "HOMES", "",
     "SLURM_JWT", "NMM_TOKEN", "NMM_API_KEY", "DATA_PASSWORD", "NMM_DB_CREDENTIALS", "home"],
)  # fmt: skip
def test_everything_else_is_not(name: str) -> None:
    assert not is_harmless(name)
    with pytest.raises(ConfigError, match="is not allowed"):
        check_texts(["seed=1", f"sweep=${{ oc.env : {name} }}"])


def test_the_resolvers_are_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s")
    monkeypatch.setenv("NMM_COUNT", "3")
    secret = OmegaConf.create({"a": "${oc.env:SECRET_TOKEN}"})
    for text in ("${oc.decode:'[1,2]'}", "${oc.create:{b:1}}", "${oc.env:SECRET_TOKEN,none}"):
        with harmless_environment(), pytest.raises(InterpolationResolutionError, match="is a group|spell|not allowed"):
            OmegaConf.to_container(OmegaConf.create({"a": text}), resolve=True)
    with harmless_environment():
        assert OmegaConf.create({"a": "${oc.decode:${oc.env:NMM_COUNT}}"}).a == 3
        with pytest.raises(InterpolationResolutionError):
            _ = secret.a
    assert secret.a == "s"
    assert OmegaConf.create({"a": "${oc.decode:'[1,2]'}"}).a == [1, 2]


# --------------------------------------------------------------------------------------------------- code by its name


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"_target_": "os.system"}, "_target_='os.system'"),
        ({"data": {"world": {"_target_": 1}}}, "data.world._target_=1"),
        ({"overrides": [{"a": [{"_target_": "x"}]}]}, r"overrides\[0\].a\[0\]._target_='x'"),
    ],
)
def test_a_target_is_found_at_any_depth(values: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        refuse_targets(values)
    refuse_targets({"target": "_target_", "list": ["_target_"]})


@pytest.mark.parametrize(
    "values",
    [
        {"launcher": {"_target_": "os.system"}},
        {"launcher": {"_target_": "hydra_plugins.evil.Launcher"}},
        {"launcher": {"_target_": "hydra_plugins.hydra_joblib_launcher"}},
        {"launcher": {"_target_": "${oc.env:X}"}},
        {"launcher": {"_target_": ["hydra._internal.core_plugins.x"]}},
        {"launcher": "fine", "help": {"deep": [{"_target_": "x"}]}},
        {"callbacks": {"x": {"_target_": "hydra._internal.core_plugins.x"}}},
        {"job": {"env_copy": ["HOME", "SECRET_TOKEN"]}},
        {"job": {"env_set": {"CXX": "/tmp/x.sh"}}},
        {"job": {"env_set": {"HOME": "/elsewhere"}, "env_copy": ["HOME"]}},
        {"job": {"env_set": "${data.world}"}},
        {"job": "${data.world}"},
    ],
)
def test_hydras_node_names_nothing_that_is_not_on_the_list(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is not allowed|callbacks of Hydra"):
        check_hydra(values)


LOGGERS = {
    "a factory": {"handlers": {"x": {"()": "os.system"}}},
    "any class": {"handlers": {"x": {"class": "subprocess.Popen"}}},
    "a function that logging imports": {"formatters": {"x": {"class": "logging.os.execl", "format": "/bin/touch"}}},
    "a queue": {"handlers": {"x": {"class": "logging.handlers.QueueHandler", "queue": "os.abort"}}},
    "a listener": {"handlers": {"x": {"class": "logging.handlers.QueueHandler", "listener": "os.abort"}}},
    "an emptied file": {"handlers": {"x": {"class": "logging.FileHandler", "filename": "/precious", "mode": "w"}}},
    "an object": {"handlers": {"x": {"class": "logging.StreamHandler", "stream": "ext://os.abort"}}},
    "a filter": {"filters": {"x": {"()": "os.abort"}}},
    "a level": {"root": {"level": "DEBUG"}},
    "a key of its own": {"incremental": False},
}


@pytest.mark.parametrize("name", LOGGING)
@pytest.mark.parametrize("what", LOGGERS)
def test_logging_is_as_hydra_ships_it_and_nothing_else(name: str, what: str) -> None:
    for option, node in shipped_logging(name).items():
        check_hydra({name: node})
        changed = OmegaConf.to_container(OmegaConf.merge(copy.deepcopy(node), LOGGERS[what]))
        if changed == node:
            raise AssertionError(f"{option} holds {what} already")
        with pytest.raises(ConfigError, match=rf"hydra\.{name}\..* is not allowed: .*hydra/{name}=none\|disabled\|def"):
            check_hydra({name: changed})


def test_logging_is_no_pointer_and_not_one_with_something_taken_away() -> None:
    node = shipped_logging("job_logging")["default"]
    for changed in ("${data.world}", "???", None, {key: node[key] for key in node if key != "root"}):
        with pytest.raises(ConfigError, match="hydra.job_logging=.* is not allowed"):
            check_hydra({"job_logging": changed})


def test_an_option_of_the_colorlog_plugin_counts_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = {"version": 1, "formatters": {"colorlog": {"()": "colorlog.ColoredFormatter"}}}
    with pytest.raises(ConfigError, match="ColoredFormatter' is not allowed"):
        check_hydra({"job_logging": node})
    package = tmp_path / "colorlog_stand_in"
    file = package / "conf" / "hydra" / "job_logging" / "colorlog.yaml"
    file.parent.mkdir(parents=True)
    (package / "__init__.py").touch()
    file.write_text(yaml.safe_dump(node))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("nmm.safety.COLORLOG", package.name)
    check_hydra({"job_logging": node})


def test_a_target_in_a_manifest_or_a_config_json_is_refused() -> None:
    with pytest.raises(ConfigError, match="data.world._target_: a configuration names no code"):
        from_dict({"data": {"world": {"_target_": "os.system"}}})
    with pytest.raises(ConfigError, match="unknown key arch._target_"):
        from_dict({"arch": {"_target_": "os.system"}})


def test_what_hydra_needs_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    check_hydra(
        {
            "launcher": {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"},
            "sweeper": {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"},
            "job_logging": {"version": 1, "root": None, "disable_existing_loggers": False},
            "job": {"env_copy": ["HOME"], "env_set": {"HOME": "/home/me"}},
            "callbacks": {},
        }
    )


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def test_our_own_configuration_names_no_code_and_reads_no_environment() -> None:
    files = [*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "sweeps").rglob("*.yaml")]
    assert len(files) > 40
    for file in files:
        text = file.read_text()
        assert "_target_" not in set(keys(yaml.safe_load(text))) and "${oc." not in text, file


# ------------------------------------------------------------------------------------------------ names of directories


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "", "a\nb", "a b", "é", "x" * 121, "-rf", "a\0"])
def test_a_run_is_not_called_by_a_path(name: str) -> None:
    config = from_dict({"budget": {"steps": 4}})
    with pytest.raises(ConfigError, match="arch.name="):
        run_id(RunConfig(arch=Arch(name=name), budget=config.budget))
    if name:
        with pytest.raises(ConfigError, match="size.name="):
            run_id(RunConfig(size=Size(name=name), budget=config.budget))
        with pytest.raises(ConfigError, match="parent.run_id="):
            run_id(from_dict({"role": "branch", "parent": {"run_id": name, "step": 1}, "budget": {"steps": 4}}))


# ------------------------------------------------------------------------------------------------------- our own code

CALLS = {  # what must not be called -> why
    "eval": "evaluates text",
    "exec": "evaluates text",
    "compile": "evaluates text",
    "os.system": "starts a shell",
    "os.popen": "starts a shell",
    "yaml.load": "use safe_load",
    "yaml.unsafe_load": "builds objects from text",
    "yaml.full_load": "use safe_load",
    "joblib.load": "opens a pickle",
    "pandas.read_pickle": "opens a pickle",
    "pd.read_pickle": "opens a pickle",
    "runpy.run_path": "executes a file",
}
LIBRARIES = {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
ALLOWED = {
    # of these only the names of exceptions: what torch.load raises for a file that is no checkpoint of tensors
    ("nmm/model/timm_nets.py", "imports pickle"),
    # a law of one's own, a file named on the command line of `nmm fit --law FILE.py:NAME`: it says that it is executed
    ("analysis/laws/catalogue.py", "executes a module by its path"),
}


def dangers(tree: ast.AST) -> Iterator[str]:
    """What in a module could run code that came as data."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"imports {name}" for name in names if name.split(".")[0] in LIBRARIES)
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if called in CALLS:
            yield f"{called} {CALLS[called]}"
        if called == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        if given.get("allow_pickle", "False") != "False":
            yield f"{called} with allow_pickle"
        if given.get("shell", "False") != "False":
            yield f"{called} with a shell"
        if called.endswith("exec_module"):
            yield "executes a module by its path"


def test_our_code_opens_no_pickle_evaluates_no_text_and_starts_no_shell() -> None:
    files = [p for top in ("nmm", "sweeps", "analysis", "hydra_plugins") for p in (ROOT / top).rglob("*.py")]
    assert len(files) > 200
    found = {(str(p.relative_to(ROOT)), danger) for p in files for danger in dangers(ast.parse(p.read_text()))}
    assert found == ALLOWED


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from cloudpickle import loads", "torch.load(path)", "torch.load(path, weights_only=False)",
     "np.load(path, allow_pickle=True)", "subprocess.run(x, shell=True)", "eval(x)", "yaml.unsafe_load(x)",
     "os.system(x)", "joblib.load(x)", "spec.loader.exec_module(m)"],
)  # fmt: skip
def test_a_planted_danger_is_found(code: str) -> None:
    assert len(list(dangers(ast.parse(code)))) == 1


def test_what_is_no_danger_is_not(tmp_path: Path) -> None:
    for code in ("model.eval()", "torch.load(p, weights_only=True)", "np.load(p)", "re.compile(x)", "torch.compile(m)"):
        assert list(dangers(ast.parse(code))) == []
