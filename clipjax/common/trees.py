"""Parameter trees as "a/b/c" paths, and (regex → value) lists over them.

Used wherever a setting is given by parameter name: decay, freezing, sharding, initial weights.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from clipjax.common.exits import ConfigError
from clipjax.common.registry import closest


def path_name(path: tuple[Any, ...]) -> str:
    """A jax key path as "vision/blocks/mlp/up/kernel"."""
    return "/".join(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    )


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with their path names, in tree order."""
    import jax

    return [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def unflatten(leaves: dict[str, Any]) -> dict[str, Any]:
    """The nested dict of {"a/b/c": leaf}."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *path, last = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def map_with_names(function: Any, tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` whose function gets the path name first."""
    import jax

    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_name(path), *leaves), tree, *rest
    )


def first_match(*names: str, rules: Sequence[tuple[str, Any]], where: str) -> Any:
    """The value of the first rule whose regex matches the whole of a name.

    Args:
      *names: a parameter's path name; several if it goes by several.
      rules: pairs of (regex, value); the last is usually (".*", default).
      where: the config key of the rules, for errors.

    Raises:
      ConfigError: no rule matches: every parameter must be covered, or it would be forgotten.
    """
    for pattern, value in rules:
        if any(re.fullmatch(pattern, name) for name in names):
            return value
    raise ConfigError(
        f'{where}: no rule matches parameter "{names[0]}"; end the list with (".*", …)'
    )


def check_matches(patterns: Iterable[str], *, names: Sequence[str], where: str) -> None:
    """Raise ConfigError on a regex that matches no whole name, be it for other rules or for none.

    A slip in a rule that should freeze a tower would otherwise train it without a word.
    """
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            parts = [name.split("/") for name in names]
            above = {"/".join(part[:end]) for part in parts for end in range(1, len(part))}
            near = closest(pattern, [*names, *(f"{module}/.*" for module in sorted(above))])
            raise ConfigError(f"{where}: {pattern!r} matches no parameter; one is {names[0]}{near}")
