"""What a checkpoint's JSON says of its run, and whether today's data and tokenizer go with it."""

import base64
from typing import Any

import clipjax
from clipjax import config as settings
from clipjax.common.exits import ConfigError
from clipjax.config.stages import Stage
from clipjax.data import tokenizers


def make(stage: Stage, *, step: int, source: Any, tokenizer: Any) -> dict[str, Any]:
    """The JSON of a checkpoint at `step`; with it one step's folder is usable alone."""
    config = stage.config
    return {
        "step": step,
        "examples_seen": stage.examples(step),
        "seed": config.seed,
        "data_fingerprint": source.fingerprint,
        "tokenizer_hash": tokenizer.hash,
        "tokenizer": {
            name: base64.b64encode(content).decode() for name, content in tokenizer.files().items()
        },
        "tokenizer_rules": tokenizers.rules(tokenizer),
        "config": settings.to_keep(config),
        "clipjax": clipjax.__version__,
    }


def check(record: dict[str, Any], *, source: Any, tokenizer: Any, workdir: str) -> None:
    """Raise ConfigError if the data or the tokenizer are not those of the checkpoint."""
    for what, old, new in (
        ("data", record["data_fingerprint"], source.fingerprint),
        ("tokenizer", record["tokenizer_hash"], tokenizer.hash),
    ):
        if old != new:
            raise ConfigError(
                f"{workdir}: the {what} changed since its checkpoint ({old} → {new});"
                " restore it, or start in another --workdir"
            )
    tokenizers.check_rules(tokenizer, stored=record.get("tokenizer_rules", {}), where=workdir)
