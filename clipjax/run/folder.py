"""A run's work directory: its `config.json`, and the refusal to change what defines the run.

`config.json` is the config of the latest start. `config_changes.jsonl` lists every run-defining
change that was allowed. The training program opens the folder, the evaluating one reads it.
"""

import importlib.metadata
import json
import logging
import os
import time
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from clipjax import config as settings
from clipjax.build import data as build_data
from clipjax.build import model as build_model
from clipjax.common import files, urls
from clipjax.common.exits import ConfigError
from clipjax.config import Config
from clipjax.parallel import distributed
from clipjax.training.checkpoint.write import FOLDER
from clipjax.training.resume import ASIDE

log = logging.getLogger(__name__)

VERSIONS = ("jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint")


def open_for_training(workdir: str, config: Config, *, allow_config_change: bool) -> None:
    """Make the folder, or check that it is this run's, on all processes alike.

    Raises:
      ConfigError: a run-defining setting differs from the folder's config.
      ConfigError, WriteError: the folder cannot be made or written.
    """
    folder, lead_says = epath.Path(workdir), [b""]
    distributed.on_lead(lambda: lead_says.append(b"begun" if _has_begun(folder) else b""))
    has_begun = bool(distributed.from_lead(lead_says[-1]))
    if not has_begun:  # a later start takes no weights, and goes on without a faulty evaluator
        build_model.check_sizes(config)  # which all processes read together
        build_data.check_class_names(config)
    options = {"has_begun": has_begun, "allow_config_change": allow_config_change}
    distributed.on_lead(lambda: _open(folder, config, **options))


def check_same(config: Config) -> None:
    """All processes must have been started alike; a collective.

    Raises:
      ConfigError: this process's settings or versions are not the lead's; names the first.
    """
    mine = {key: urls.shown(repr(value)) for key, value in settings.flatten(config).items()}
    mine |= {f"version of {name}": importlib.metadata.version(name) for name in VERSIONS}
    lead = json.loads(distributed.from_lead(json.dumps(mine).encode()))
    differing = sorted(key for key in mine | lead if mine.get(key) != lead.get(key))
    if differing:
        key = differing[0]
        raise ConfigError(
            f"process {jax.process_index()} was not started like process 0: {key} is"
            f" {mine.get(key)} here, {lead.get(key)} there"
            + (f", and {len(differing) - 1} more differ" if len(differing) > 1 else "")
        )


def _has_begun(folder: epath.Path) -> bool:
    """Whether the folder, which is made, holds a run that later starts must go on with."""
    files.make_folder(folder, setting="--workdir")
    return (folder / "config.json").exists() and _is_bound(folder)


def _open(
    folder: epath.Path, config: Config, *, has_begun: bool, allow_config_change: bool
) -> None:
    file = folder / "config.json"
    if has_begun:
        changed = _changed(folder, config)
        difference = "; ".join(f"{key}: {a!r} → {b!r}" for key, (a, b) in sorted(changed.items()))
        if changed and not allow_config_change:
            raise ConfigError(
                f"--workdir={folder} holds a run with other settings ({difference}); choose another"
                " --workdir, or add --allow_config_change to go on with the new ones"
            )
        if changed:
            _append(folder / "config_changes.jsonl", {"time": time.time(), "changed": changed})
            print(f"changed     {difference}; recorded in config_changes.jsonl", flush=True)
    with files.errors(folder, setting="--workdir"):
        if file.exists() and not has_begun:
            _begin_anew(folder, config)
        files.write_json(file, settings.to_keep(config))


def _changed(folder: epath.Path, config: Config) -> dict[str, Any]:
    """The run-defining settings that differ from those of the latest start."""
    old = settings.flatten(read_config(folder))
    return settings.changed(old, settings.flatten(settings.to_keep(config)))


def _is_bound(folder: epath.Path) -> bool:
    """Whether steps were trained and saved there, be they damaged since, or weights imported: only
    these bind later starts. What a stop before the first step saves, any start makes again."""
    steps = {
        step.name
        for kept in (folder / FOLDER, folder / ASIDE)
        if kept.exists()
        for step in kept.iterdir()
        if step.name.isdigit()
    }
    first = folder / FOLDER / "0" / "run" / "metadata"
    return bool(steps - {"0"}) or (first.exists() and '"imported"' in first.read_text())


def _begin_anew(folder: epath.Path, config: Config) -> None:
    """Clear away what a start left that trained nothing, so that it binds the next one to nothing.

    Its vocabulary is made again, of captions that may be others now. Its log goes on if the
    settings are the same, as after a kill; else it is moved to `WORKDIR/failed_starts/`.
    """
    files.remove(folder / FOLDER / "0")
    vocabulary, named = folder / "tokenizer", os.path.expanduser(config.tokenizer.path)
    is_named = named and os.path.abspath(named).startswith(os.path.abspath(vocabulary))
    if not is_named:
        files.remove(vocabulary)
    try:
        differs = bool(_changed(folder, config))
    except ConfigError:  # its config.json cannot be read
        differs = True
    lines = folder / "metrics.jsonl"
    if differs and lines.exists() and lines.stat().length:
        number = 1
        while (kept := folder / "failed_starts" / str(number)).exists():
            number += 1
        for name in ("metrics.jsonl", "tensorboard", "report"):
            if (folder / name).exists():
                files.move(folder / name, kept / name)
        log.warning("%s: a start with other settings saved nothing; its log is in %s", folder, kept)


def _append(file: epath.Path, line: dict[str, Any]) -> None:
    before = file.read_text() if file.exists() else ""
    files.write(file, before + json.dumps(line) + "\n")


def read_config(workdir: Any) -> Config:
    """The config that a run was last started with; ConfigError if the folder holds no run."""
    file = epath.Path(workdir) / "config.json"
    try:
        return ConfigDict(json.loads(file.read_text()))
    except OSError as error:
        raise ConfigError(f"{workdir}: holds no clipjax run (no config.json)") from error
    except ValueError as error:
        raise ConfigError(f"{file}: is damaged ({error}); take it from a checkpoint") from error
