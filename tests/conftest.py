"""Eight simulated CPU devices for every test, joined as one process of a run."""

import os
import tempfile

from tests import devices

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Runs of equal shape compile once a session.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="clipjax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

MOST_WORKERS = 4  # of 2 GiB each


def pytest_xdist_auto_num_workers(config):
    """A worker for each core where the whole suite runs; none where a few files do, or tests
    that start several processes themselves."""
    whole = config.args == config.getini("testpaths") and "not multihost" in config.option.markexpr
    return min(os.cpu_count() or 1, MOST_WORKERS) if whole else 0


def pytest_configure(config):
    """Training joins its processes before anything asks jax for devices; tests do likewise."""
    if os.environ["JAX_PLATFORMS"] == "cpu" and "XLA_FLAGS" not in os.environ:
        marked = config.option.markexpr.replace("not tpu_compiler", "")
        os.environ["XLA_FLAGS"] = devices.xla_flags(8, quick="tpu_compiler" not in marked)
    if config.option.dist != "no":
        return  # the workers run the tests
    from clipjax.parallel import distributed

    distributed.initialize()
