"""`hf://org/name@revision`: a model's folder from the Hugging Face hub, through its own cache."""

import re

from clipjax.common import files
from clipjax.common.exits import ConfigError, RemoteError

PREFIX = "hf://"
ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.npz")  # nothing that is code


def fetch(address: str) -> str:
    """The local folder of a model on the hub.

    Args:
      address: hf://org/name, or hf://org/name@revision with a branch, tag or commit; a commit is
        the only one that stays what it is.

    Raises:
      ConfigError: it is no such address, there is no such model, or a package is missing.
      RemoteError: the hub does not answer, and the cache does not hold it.
      WriteError: the cache (HF_HOME) cannot be written; ConfigError where another must be named.
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigError(f"{address}: write hf://org/name or hf://org/name@revision")
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise ConfigError(f"{address}: pip install 'clipjax[hub]'") from None
    try:
        return huggingface_hub.snapshot_download(
            match[1], revision=match[2], allow_patterns=list(WANTED)
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ConfigError(f"{address}: {_line(error)}") from None
    except PermissionError as error:
        raise files.failure(error, error.filename or "the hub's cache (HF_HOME)") from None
    except Exception as error:  # of a network that is not there anything may come
        if clean := files.clean(error):
            raise clean from None
        raise RemoteError(f"{address}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
