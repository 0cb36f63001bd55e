"""What a configuration may do to the process that reads it: name no code, and read no secrets from the environment.

Runs are built from plain values; nothing of a user's configuration is imported or called. Hydra does instantiate its
own launcher and sweeper, so what those nodes name must be on a list (``ALLOWED_TARGETS``), and it configures Python's
logging, which can call and overwrite anything, so those nodes must be as Hydra ships them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from importlib import resources
from importlib.util import find_spec
from typing import Any

from nmm.config import ConfigError

ALLOWED_TARGETS = (
    "hydra._internal.core_plugins.",
    "hydra_plugins.nmm_sweeper.",
    "hydra_plugins.hydra_joblib_launcher.",
    "hydra_plugins.hydra_submitit_launcher.",
)
LOGGING = {"job_logging": ("none", "disabled", "default", "stdout"), "hydra_logging": ("none", "disabled", "default")}
COLORLOG = "hydra_plugins.hydra_colorlog"

# Where things are and what the scheduler gave: never a credential.
HARMLESS = ("HOME", "USER", "LOGNAME", "HOSTNAME", "PWD", "TMPDIR", "SCRATCH", "WORK", "STORE", "PROJECT", "DATASETS")
HARMLESS_PREFIXES = ("DATA_", "SLURM_", "NMM_")
_SECRET = re.compile(r"TOKEN|SECRET|PASS|PWD|KEY|CRED|AUTH|JWT", re.IGNORECASE)
_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*([^,}\s]*)")


def is_harmless(name: str) -> bool:
    """May a configuration read the environment variable ``name``?"""
    if name in HARMLESS:
        return True
    return name == "DATA" or (name.startswith(HARMLESS_PREFIXES) and not _SECRET.search(name))


def refuse_targets(values: Any, where: str = "") -> None:
    """Raise ``ConfigError`` for a key ``_target_`` anywhere in plain nested ``values``."""
    for path, key, value in _items(values, where):
        if key == "_target_":
            raise ConfigError(
                f"{path}={value!r}: a configuration names no code here, nothing of it is imported or called; take the "
                "key out (a launcher is chosen by name: hydra/launcher=submitit_slurm)"
            )


def check_texts(texts: list[str]) -> None:
    """Raise ``ConfigError`` for overrides, as they were typed, that name code or read a secret."""
    for text in texts:
        key, _, value = text.partition("=")
        if "_target_" in text:
            refuse_targets({"_target_": value}, key.removesuffix("._target_").lstrip("+"))
        for name in _ENVIRONMENT.findall(text):
            if not is_harmless(name):
                raise ConfigError(_refusal(name))


def check_hydra(values: dict[str, Any]) -> None:
    """Raise ``ConfigError`` when Hydra's node, as plain values, names code that is not on the list, configures logging
    in another way than Hydra does, or sets an environment variable.
    """
    for name in LOGGING:
        if name in values:
            _check_logging(name, values[name])
    for path, key, value in _items(values, "hydra"):
        if key == "_target_" and not (isinstance(value, str) and value.startswith(ALLOWED_TARGETS)):
            raise ConfigError(f"{path}={value!r} is not allowed; Hydra may load {', '.join(ALLOWED_TARGETS)} only")
        if key == "env_copy" and (secrets := [name for name in value or () if not is_harmless(str(name))]):
            raise ConfigError(f"{path}: {_refusal(str(secrets[0]))}")
        if key == "callbacks" and value:
            raise ConfigError(f"{path}={value!r}: callbacks of Hydra are not used here; take them out")
    _check_job(values.get("job", {}))


def _check_job(job: Any) -> None:
    """Compilers, loaders and the search for programs obey variables, so that setting one can run a program."""
    if not isinstance(job, dict):
        raise ConfigError(f"hydra.job={job!r} is not allowed: it is a group; spell it out")
    given, copied = job.get("env_set") or {}, job.get("env_copy") or ()
    if not isinstance(given, dict):
        raise ConfigError(f"hydra.job.env_set={given!r} is not allowed; export variables in the shell instead")
    for name, value in given.items():
        if name not in copied or value != os.environ.get(name):  # what Hydra itself puts there for env_copy
            raise ConfigError(
                f"hydra.job.env_set.{name} is not allowed: a configuration sets no environment variables; export "
                f"{name} in the shell instead (for SLURM: hydra.launcher.setup, or the file of slurm.env)"
            )


def _check_logging(name: str, node: Any) -> None:
    shipped = shipped_logging(name)
    if node in shipped.values():
        return
    known = [(path, value) for one in shipped.values() for path, _, value in _items(one, f"hydra.{name}")]
    odd = [
        f"{path}={value!r}"
        for path, _, value in _items(node, f"hydra.{name}")
        if not isinstance(value, dict) and (path, value) not in known
    ]
    said = ", ".join(odd[:4]) if odd else f"hydra.{name}={node!r}"
    raise ConfigError(
        f"{said} is not allowed: logging can call any function and empty any file, so it is only chosen by name, as "
        f"Hydra ships it: hydra/{name}={'|'.join(shipped)}"
    )


def shipped_logging(name: str) -> dict[str, Any]:
    """The nodes that Hydra, and its colorlog plugin where that is installed, ship for ``hydra/<name>``: option -> plain
    values, interpolations as text. ``name``: job_logging or hydra_logging.
    """
    conf = resources.files("hydra") / "conf" / "hydra" / name
    files = {option: conf / f"{option}.yaml" for option in LOGGING[name]}
    if find_spec(COLORLOG) is not None:
        files["colorlog"] = resources.files(COLORLOG) / "conf" / "hydra" / name / "colorlog.yaml"
    return {option: _plain(file.read_text(encoding="utf-8")) for option, file in files.items()}


@functools.cache  # 5 ms each, and every run of a list asks
def _plain(text: str) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


def _items(values: Any, where: str) -> Iterator[tuple[str, str, Any]]:
    """(dotted path, key, value) of every key, at any depth."""
    if isinstance(values, dict):
        for key, value in values.items():
            path = f"{where}.{key}" if where else str(key)
            yield path, str(key), value
            yield from _items(value, path)
    elif isinstance(values, (list, tuple)):
        for number, value in enumerate(values):
            yield from _items(value, f"{where}[{number}]")


def _refusal(name: str) -> str:
    return (
        f"${{oc.env:{name}}} is not allowed: what a configuration says is saved with every run; it may read "
        f"{', '.join(HARMLESS)}, DATA and {'*, '.join(HARMLESS_PREFIXES)}* (no keys, tokens, passwords); write the "
        "value itself, or export it under such a name"
    )


@contextlib.contextmanager
def harmless_environment() -> Iterator[None]:
    """Inside, ``${oc.env:NAME}`` gives harmless variables only, and no resolver makes new configuration out of text.

    Raises ``ConfigError`` (wrapped by OmegaConf) for any other name, before anything that was asked for is written.
    """
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    def env(key: str, *default: Any) -> Any:
        if not is_harmless(key):
            raise ConfigError(_refusal(key))
        return oc.env(key, *default)

    def decode(expr: str | None, _parent_: Any, _node_: Any) -> Any:
        value = oc.decode(expr, _parent_, _node_)
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise ConfigError(f"${{oc.decode:...}} of {expr!r} is a group; only numbers, words and true/false are read")
        return value

    def create(obj: Any) -> Any:
        raise ConfigError("${oc.create:...} makes configuration out of text; spell the group out")

    ours: dict[str, Callable[..., Any]] = {"env": env, "decode": decode, "create": create}
    theirs: dict[str, Callable[..., Any]] = {"env": oc.env, "decode": oc.decode, "create": oc.create}
    try:
        for name, resolver in ours.items():
            OmegaConf.register_new_resolver(f"oc.{name}", resolver, replace=True)
        yield
    finally:
        for name, resolver in theirs.items():
            OmegaConf.register_new_resolver(f"oc.{name}", resolver, replace=True)
