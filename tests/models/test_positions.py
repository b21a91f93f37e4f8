"""Resizing position tables: identity, orientation, the class token, PyTorch's numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.common.exits import ConfigError
from clipjax.models.positions import resize_grid, resize_sequence


def test_same_size_is_the_same_table():
    table = jnp.arange(10.0 * 3).reshape(10, 3)
    assert resize_grid(table, grid=(3, 3)) is table
    assert resize_sequence(table, length=10) is table


def test_class_token_and_orientation_are_kept():
    rows, columns = np.meshgrid(np.arange(4.0), np.arange(4.0), indexing="ij")
    table = np.concatenate([[[99, 77]], np.stack([rows, columns], -1).reshape(16, 2)])
    out = np.asarray(resize_grid(jnp.asarray(table, jnp.float32), grid=(8, 6)))
    np.testing.assert_array_equal(out[0], [99, 77])
    grid = out[1:].reshape(8, 6, 2)
    # The first feature grows along rows only, the second along columns only, with one sign.
    assert np.all(np.diff(grid[1:-1, :, 0], axis=0) > 0)
    assert np.all(np.diff(grid[:, 1:-1, 1], axis=1) > 0)
    np.testing.assert_allclose(np.diff(grid[..., 0], axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(np.diff(grid[..., 1], axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(grid.mean((0, 1)), [1.5, 1.5], atol=1e-5)


def test_without_a_class_token_all_rows_are_the_grid():
    """SigLIP's tables; a ResNet's pool has the mean's row in a class token's place."""
    table = jnp.asarray(np.random.default_rng(0).normal(size=(10, 3)), jnp.float32)
    whole = resize_grid(table, grid=(5, 5))
    assert whole.shape == (26, 3)
    np.testing.assert_array_equal(resize_grid(table[1:], grid=(5, 5), before=0), whole[1:])
    with pytest.raises(ConfigError, match="10 patches are not a square grid"):
        resize_grid(table, grid=(5, 5), before=0)


def test_grid_equals_pytorch_bicubic_with_antialiasing():
    """Golden: torch 2.14.1 interpolate(mode="bicubic", antialias=True, align_corners=False)."""
    table = [50, 0, 1, 4, 9, 2, 5, 3, 7, 8, 6, 0, 1, 3, 3, 2, 5]
    golden = [
        [0.0339, 0.8716, 2.2173, 3.4202, 6.6488, 9.1729],
        [5.2135, 5.7377, 5.2238, 1.7855, 2.4060, 3.9463],
        [4.6303, 4.3567, 3.4298, 1.4866, 2.4248, 3.8218],
    ]
    out = resize_grid(jnp.asarray(table, jnp.float32)[:, None], grid=(3, 6))
    np.testing.assert_allclose(out[1:, 0].reshape(3, 6), golden, atol=1e-4)


@pytest.mark.parametrize(
    "golden",
    [[0, 0.4375, 1.1875, 3.0625, 5.5625, 8.6875, 5.0625, 2], [0.3333333, 4, 4.3333333]],
)
def test_sequence_equals_pytorch_linear(golden):
    """Golden: torch 2.14.1 interpolate(mode="linear", align_corners=False)."""
    table = jnp.asarray([0.0, 1, 4, 9, 2])[:, None]
    np.testing.assert_allclose(resize_sequence(table, length=len(golden))[:, 0], golden, atol=1e-6)


def test_dtype_is_kept():
    assert resize_grid(jnp.ones((5, 2), jnp.bfloat16), grid=(3, 3)).dtype == jnp.bfloat16
    assert resize_sequence(jnp.ones((5, 2), jnp.bfloat16), length=7).dtype == jnp.bfloat16


def test_not_square_is_an_error():
    with pytest.raises(ConfigError, match="6 patches are not a square grid"):
        resize_grid(jnp.ones((7, 2)), grid=(3, 3))
