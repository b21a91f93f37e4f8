"""A second start compiles nothing that takes long."""

import pytest

from clipjax.common import exits
from tests import processes


@pytest.mark.slow
def test_a_second_start_compiles_nothing_over_a_second(tmp_path):
    """What takes longer to compile is kept in the cache: a second start adds nothing to it."""
    cache = tmp_path / "cache"

    def compiled(workdir):
        process = processes.start(
            "--config=tests/tiny.py",
            f"--workdir={tmp_path / workdir}",
            f"--config.compilation_cache={cache}",
            environment={"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1"},
        )
        assert processes.finish(process) == exits.DONE, processes.output(process)
        return {path.name for path in cache.iterdir() if path.name.endswith("-cache")}

    first = compiled("first")
    assert any("train_step" in name for name in first)
    assert compiled("second") == first
