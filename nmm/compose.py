"""conf/ + command-line overrides -> a plain dict, with Hydra's own words when something is unknown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nmm.config import ConfigError, RunConfig, from_dict
from nmm.safety import check_hydra, check_texts, harmless_environment, refuse_targets

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONFIG_MODULE = "conf"
OWN_CHOICES = re.compile(r"hydra/(launcher=(basic|joblib|submitit_local|submitit_slurm)|sweeper=(basic|nmm))")


def compose_dict(name: str, overrides: Sequence[str], config_module: str = CONFIG_MODULE) -> dict[str, Any]:
    """Compose ``<name>.yaml`` of a package. Raises ``ConfigError`` for an unknown group, option or key, for one that
    names code, and for one that reads a secret from the environment.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    check_texts(list(overrides))
    try:
        with hydra.initialize_config_module(config_module, version_base="1.3"), harmless_environment():
            values = plain(hydra.compose(name, overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"cannot compose {' '.join(overrides) or 'the defaults'}: {explain(error)}") from error
    values.pop("hydra", None)
    return values


def plain(composed: DictConfig) -> dict[str, Any]:
    """The values, every interpolation resolved. Raises ``ConfigError`` for ``_target_``, OmegaConf's error for a secret
    of the environment, a missing value or an interpolation of nothing.
    """
    from omegaconf import OmegaConf

    with harmless_environment():
        values: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    refuse_targets(values)
    return values


def check_command(arguments: Sequence[str]) -> None:
    """Refuse a command line of `nmm train` that names code or reads secrets, before Hydra instantiates a launcher.

    Composes what Hydra will compose, by the same means, and looks at its node; a command line that does not touch that
    node is spared the 0.2 s. Raises ``ConfigError`` and what Hydra raises for a command line it does not understand.
    """
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_automatic_config_search_path, get_args
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    args = get_args(arguments)
    if args.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun executes a pickle; go on with a run by `nmm train --from RUN`")
    check_texts(args.overrides)
    if not (args.config_dir or args.config_path or args.config_name) and not any(map(_touches_hydra, args.overrides)):
        return  # Hydra's node is as conf/ has it
    helps = args.help or args.hydra_help  # instantiate nothing either, but do configure logging
    if not helps and (args.cfg or args.info or args.shell_completion):
        return
    path = create_automatic_config_search_path(None, None, args.config_path or f"pkg://{CONFIG_MODULE}")
    if args.config_dir is not None:
        path.prepend("command-line", f"file://{args.config_dir}", SearchPathQuery(provider="schema"))
    hydra = Hydra.create_main_hydra2(task_name="nmm", config_search_path=path)
    try:
        check_composed(
            hydra.compose_config(
                config_name=None if args.hydra_help and not args.help else args.config_name or "config",
                overrides=list(args.overrides),
                run_mode=RunMode.MULTIRUN,  # as Hydra itself does to learn the mode; lists of values are left alone
                with_log_configuration=False,
                validate_sweep_overrides=False,
            )
        )
    finally:
        GlobalHydra.instance().clear()


def _touches_hydra(override: str) -> bool:
    return "hydra" in override and not OWN_CHOICES.fullmatch(override)


def check_composed(composed: DictConfig) -> None:
    """Refuse a composed configuration whose Hydra node holds what is not allowed. Raises ``ConfigError``."""
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(composed.hydra, resolve=False, throw_on_missing=False)
    check_hydra(values)
    _check_pointers(composed.hydra, "hydra")


def _check_pointers(node: Any, where: str) -> None:
    """A whole group that is an interpolation would hide what is in it until it is instantiated."""
    from omegaconf import ListConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
        if OmegaConf.is_missing(node, key):
            continue
        pointer = OmegaConf.is_interpolation(node, key)
        try:
            value = node[key]
        except OmegaConfBaseException:  # of a value that Hydra fills in later
            value = None
        if pointer and OmegaConf.is_config(value):
            raise ConfigError(f"{where}.{key} is an interpolation of a whole group; spell it out")
        if OmegaConf.is_config(value):
            _check_pointers(value, f"{where}.{key}")


def compose(overrides: Sequence[str], config_module: str = CONFIG_MODULE) -> RunConfig:
    """Compose ``config.yaml`` into a ``RunConfig`` (not yet finalized: see ``nmm.resolve``)."""
    return from_dict(compose_dict("config", overrides, config_module))


def explain(error: BaseException) -> str:
    """One line. Hydra puts the useful half (which key, which options exist) into the cause, and advice that is no help
    here (``+key`` is refused as well) and search paths into the text.
    """
    texts = [str(error)]
    if error.__cause__ is not None and str(error.__cause__).strip() not in texts[0]:
        texts.append(str(error.__cause__))
    lines = [" ".join(line.split()) for text in texts for line in text.splitlines()]
    noise = ("To append to your config", "full_key:", "object_type=", "Config search path", "provider=", "See https:")
    return " ".join(line for line in lines if line and not line.startswith(noise))
