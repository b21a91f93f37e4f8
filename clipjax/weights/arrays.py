"""Which array of another program's file is which parameter of ours, and how it lies in memory.

A format gives a `Layout`; `read` and `Written` follow it, each other's inverse bit by bit. Ours are
the parameters of a model with scan=True: "vision/blocks/mlp/up/kernel" [L, D, F].
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import tqdm

from clipjax.common import trees
from clipjax.common.exits import DataError

SAME = "same"  # as ours, or the same numbers in another shape of one row
FLAT = "flat"  # ours [H, K] as [H K]
LINEAR = "linear"  # our [in, out] or [in, H, K] as PyTorch's [out, in]
MERGED = "merged"  # our [H, K, out] as PyTorch's [out, in]
CONVOLUTION = "convolution"  # our [P, P, in, out] as PyTorch's [out, in, P, P]
ROW = "row"  # ours as [1, …]
ROWS = "rows"  # ours as [1, 1, …]
LARGE = 1 << 28  # bytes of weights from which progress is shown
SINGLE = np.dtype(np.float32)
HALVES = ("float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Array:
    """Where a parameter of ours lies.

    Attributes:
      name: theirs; "{i}" is the block's number, for parameters that we keep stacked.
      form: one of the above.
      part, parts: which of so many equal parts, along the first axis, it is of that array.
    """

    name: str
    form: str = SAME
    part: int = 0
    parts: int = 1


Layout = Mapping[str, Array]


class Tensors(Protocol):
    """An open file: shapes and dtypes at once, values one by one."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    @property
    def dtypes(self) -> Mapping[str, np.dtype]: ...  # of those that hold floating-point numbers

    def read(self, name: str, /) -> np.ndarray: ...


def linear(ours: str, theirs: str, **part: int) -> dict[str, Array]:
    """A matrix product with bias."""
    return {
        f"{ours}/kernel": Array(f"{theirs}.weight", LINEAR, **part),
        f"{ours}/bias": Array(f"{theirs}.bias", FLAT, **part),
    }


def merged(ours: str, theirs: str) -> dict[str, Array]:
    """The product with bias that joins an attention's heads."""
    return {
        f"{ours}/kernel": Array(f"{theirs}.weight", MERGED),
        f"{ours}/bias": Array(f"{theirs}.bias"),
    }


def norm(ours: str, theirs: str) -> dict[str, Array]:
    """A LayerNorm's gain and bias."""
    return {f"{ours}/scale": Array(f"{theirs}.weight"), f"{ours}/bias": Array(f"{theirs}.bias")}


def common(dtypes: Iterable[np.dtype]) -> np.dtype:
    """The half precision that all of these are, else float32, which holds both kinds of it."""
    kinds = set(dtypes)
    (only,) = kinds if len(kinds) == 1 else (SINGLE,)
    return only if only.name in HALVES else SINGLE


def read(
    tensors: Tensors,
    *,
    layout: Layout,
    shapes: Mapping[str, tuple[int, ...]],
    ignored: Any = (),
    keep_half: bool = False,
) -> dict[str, Any]:
    """Our parameters from another program's arrays of any float dtype.

    Names and shapes are compared before any value is read.

    Args:
      tensors: the open file.
      layout: of its format, for this model.
      shapes: our parameter → shape; all must be found.
      ignored: regexes of their names that hold no weights.
      keep_half: what is float16 or bfloat16 there, in all blocks of a stack, stays so; all else
        is float32.

    Raises:
      DataError: an array is missing, left over, of another shape or not finite; names it.
    """
    places = _compare(tensors, layout=layout, shapes=shapes, ignored=ignored)
    dtypes = _dtypes(tensors, places) if keep_half else {}
    params = {ours: np.empty(shape, dtypes.get(ours, SINGLE)) for ours, shape in shapes.items()}
    sizes = (math.prod(tensors.shapes[name]) * _dtype(tensors, name).itemsize for name in places)
    with _progress(sum(sizes)) as bar:
        for name, uses in places.items():
            value = tensors.read(name)
            bar.update(value.nbytes)
            value = _numbers(value, name=name)
            for ours, place in uses:
                target = params[ours] if place is None else params[ours][place]
                part = _part(value, layout[ours])
                target[...] = _to_ours(part, layout[ours].form, target.shape)
    return trees.unflatten(params)


def _progress(size: int) -> Any:
    return tqdm.tqdm(total=size, unit="B", unit_scale=True, disable=size < LARGE)


def _dtypes(
    tensors: Tensors, places: Mapping[str, list[tuple[str, int | None]]]
) -> dict[str, np.dtype]:
    """Our parameter → the dtype that all of its values fit; `places` as `_compare` gives them."""
    kinds: dict[str, set[np.dtype]] = {}
    for name, uses in places.items():
        for ours, _ in uses:
            kinds.setdefault(ours, set()).add(_dtype(tensors, name))
    return {ours: common(dtypes) for ours, dtypes in kinds.items()}


def _dtype(tensors: Tensors, name: str) -> np.dtype:
    return tensors.dtypes.get(name, SINGLE)  # what holds no numbers is refused when it is read


def _numbers(value: np.ndarray, *, name: str) -> np.ndarray:
    """The values in half precision as they are, others as float32."""
    if not np.issubdtype(value.dtype, np.floating) and value.dtype.name not in HALVES:
        raise DataError(f"{name} holds {value.dtype}, not floating-point numbers")
    value = np.asarray(value, common([value.dtype]))
    if not np.isfinite(value).all():
        raise DataError(f"{name} holds values that are not finite")
    return value


def _compare(
    tensors: Tensors, *, layout: Layout, shapes: Mapping[str, tuple[int, ...]], ignored: Any
) -> dict[str, list[tuple[str, int | None]]]:
    """Their name → [(our parameter, index in our stack or None)]; DataError as `read`."""
    places: dict[str, list[tuple[str, int | None]]] = {}
    for ours, shape in shapes.items():
        if ours not in layout:
            raise DataError(f"this format has no place for {ours}")
        for place, name, each in _places(layout[ours], shape):
            wanted = _theirs(each, layout[ours])
            if name not in tensors.shapes:
                raise DataError(f"{name} {list(wanted)} is missing")
            actual = tuple(tensors.shapes[name])
            if actual != wanted and not (math.prod(actual) == math.prod(wanted) == 1):
                raise DataError(f"{name} is {list(actual)}, not {list(wanted)}")
            places.setdefault(name, []).append((ours, place))
    left = sorted(set(tensors.shapes) - set(places))
    left = [name for name in left if not any(re.fullmatch(known, name) for known in ignored)]
    if left:
        others = f", nor have {len(left) - 1} others" if len(left) > 1 else ""
        raise DataError(f"{left[0]} has no place in this model{others}")
    return places


class Written:
    """`Tensors` of another program, each made of our parameters when it is read.

    Args:
      params: ours, numpy, in the layout of scan=True or of scan=False; each keeps its dtype, and
        several that are one array there have their `common` one.
      layout: of the format, for this model.

    Raises:
      DataError: the format has no name for a parameter.
    """

    def __init__(self, params: Any, *, layout: Layout) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._parts: dict[str, dict[int, tuple[np.ndarray, str]]] = {}
        for ours, value in trees.named_leaves(params):
            single = re.fullmatch(r"(.*/)block_(\d+)(/.*)", ours)
            array = layout.get(f"{single[1]}blocks{single[3]}" if single else ours)
            if array is None:
                raise DataError(f"this format has no place for {ours}")
            block = int(single[2]) if single else None
            for place, name, shape in _places(array, value.shape, block=block):
                one = value if place is None else value[place]
                self.shapes[name] = _theirs(shape, array)
                self._parts.setdefault(name, {})[array.part] = (one, array.form)
        self.dtypes = {
            name: common(value.dtype for value, _ in parts.values())
            for name, parts in self._parts.items()
        }

    def read(self, name: str, /) -> np.ndarray:
        """The array, contiguous or not; of one part it is a view of ours."""
        dtype = self.dtypes[name]
        parts = [
            _to_theirs(value, form).astype(dtype, copy=False)
            for _, (value, form) in sorted(self._parts[name].items())
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _places(
    array: Array, shape: tuple[int, ...], *, block: int | None = None
) -> Iterator[tuple[int | None, str, tuple[int, ...]]]:
    """(index in our stack or None, their name, our shape there) of every block of a stack, or of
    the one `block`."""
    if "{i}" not in array.name or block is not None:
        yield None, array.name.format(i=block), shape
        return
    for i in range(shape[0]):
        yield i, array.name.format(i=i), shape[1:]


def _theirs(shape: tuple[int, ...], array: Array) -> tuple[int, ...]:
    """Their shape of our array, all parts together."""
    whole = _SHAPES[array.form](shape)
    return (whole[0] * array.parts, *whole[1:]) if array.parts > 1 else whole


_SHAPES: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
    SAME: lambda shape: shape,
    FLAT: lambda shape: (math.prod(shape),),
    LINEAR: lambda shape: (math.prod(shape[1:]), shape[0]),
    MERGED: lambda shape: (shape[-1], math.prod(shape[:-1])),
    CONVOLUTION: lambda shape: (shape[3], shape[2], shape[0], shape[1]),
    ROW: lambda shape: (1, *shape),
    ROWS: lambda shape: (1, 1, *shape),
}


def _part(value: np.ndarray, array: Array) -> np.ndarray:
    if array.parts == 1:
        return value
    rows = len(value) // array.parts
    return value[array.part * rows : (array.part + 1) * rows]


def _to_ours(value: np.ndarray, form: str, shape: tuple[int, ...]) -> np.ndarray:
    if form in (LINEAR, MERGED):
        value = value.T
    elif form == CONVOLUTION:
        value = value.transpose(2, 3, 1, 0)
    return value.reshape(shape)


def _to_theirs(value: np.ndarray, form: str) -> np.ndarray:
    shape = _SHAPES[form](value.shape)
    if form == LINEAR:
        value = value.reshape(len(value), -1).T
    elif form == MERGED:
        value = value.reshape(-1, value.shape[-1]).T
    elif form == CONVOLUTION:
        value = value.transpose(3, 2, 0, 1)
    return value.reshape(shape)
