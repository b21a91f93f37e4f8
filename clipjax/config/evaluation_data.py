"""Which data an evaluator of `config.evals` measures on: its own settings, or the training run's.

Read without jax, by `config_check` before anything is opened and by `build_data`, which opens them.
"""

from clipjax.common.exits import ConfigError
from clipjax.common.ranges import as_flag
from clipjax.config import Config
from clipjax.data import sources

KEYS = ("image_key", "text_key")
NAMES = ("path", "name")  # what names data, beside the source


def settings(config: Config, name: str) -> Config:
    """The settings of the evaluator `name` with the data that it measures on filled in.

    Where it names a `source`, nothing is filled in. Without one:

    - nor `path` nor `name`: the training run's data, of the evaluator's own `split`.
    - `path`: other files. The source follows from their ending, else it is the training run's; of
      the same source the training run's keys hold where it sets none.
    - `name`: another TFDS data set where the training run's lies.

    Raises:
      ConfigError: what is set does not say which data are meant.
    """
    own = config.evals[name].copy_and_resolve_references()
    if own.source:
        return own
    key, training = f"config.evals.{name}", config.data
    usual = "" if training.mixture else training.source
    if own.path:
        has_files = usual and sources.SOURCES[usual].needs_path
        own.source = sources.by_ending(own.path) or (usual if has_files else "")
        if not own.source:
            known = sources.those(lambda entry: entry.needs_path)
            raise ConfigError(
                f"{key}.path={as_flag(own.path)}: its ending does not tell how to read it; set"
                f" {key}.source, one of {known}"
            )
    elif own.name and not (usual and "name" in sources.SOURCES[usual].reads):
        raise ConfigError(
            f"{key}.name={as_flag(own.name)}: has no effect without {key}.source=tfds, whose data"
            " sets it names; add that, or leave it out"
        )
    elif training.mixture:
        raise ConfigError(
            f"{key}.source: not set, and the training data are a mixture; name the evaluation's own"
        )
    else:
        own.source = usual
    if own.source == usual:
        same = KEYS if own.path else (*KEYS, *NAMES)
        own.update({each: own[each] or training[each] for each in same})
    return own
