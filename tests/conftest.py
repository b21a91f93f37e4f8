"""Eight simulated CPU devices for every test, joined as one process of a run."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu" and "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
# Runs of equal shape compile once a session.
CACHE = tempfile.TemporaryDirectory(prefix="clipjax-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def pytest_configure():
    """Training joins its processes before anything asks jax for devices; tests do likewise."""
    from clipjax.parallel import distributed

    distributed.initialize()
