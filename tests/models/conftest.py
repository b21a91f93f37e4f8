"""What the tests of this folder share: comparing gradients of whole models."""

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def assert_gradients_close():
    return _assert_gradients_close


def _assert_gradients_close(actual, expected, *, tolerance):
    """Each leaf's largest difference within `tolerance` of its largest value (floored at 1e-4 of
    the tree's). Key biases, whose true gradient is 0, only need to be 0 to rounding."""
    actual, expected = jax.tree.map(np.asarray, (actual, expected))
    largest = max(float(np.max(np.abs(x))) for x in jax.tree.leaves(expected))

    def check(path, a, b):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("attention/key/bias"):
            assert float(np.max(np.abs(a))) <= 1e-6 * largest, name
            assert float(np.max(np.abs(b))) <= 1e-6 * largest, name
            return
        scale = max(float(np.max(np.abs(b))), 1e-4 * largest)
        error = float(np.max(np.abs(a - b))) / scale
        assert error <= tolerance, f"{name}: {error}"

    jax.tree_util.tree_map_with_path(check, actual, expected)
