"""Which files hold a model's weights: one, or several with an index or numbers in their names."""

import pathlib
import re

from clipjax.common import git_lfs
from clipjax.common.exits import DataError
from clipjax.weights import files

ENDING = ".safetensors"
INDEX = re.compile(r".+\.safetensors\.index(\.\w+)?\.json")  # perhaps of a variant, "fp16"
# The first that is there is taken: open_clip's names, then transformers'.
PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
PART = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")  # "model-00001-of-00002.safetensors"
TRUST = (
    "a pickle, which runs its author's code when it is read; if you trust it, python -m"
    " clipjax.convert --trust_pickle --input={path} --output=FOLDER makes it safe first"
)
LONGEST_NAME = 200  # characters of a file's
SAVE = "load it with transformers, and save_pretrained(FOLDER) writes safetensors"
OTHERS = (  # how weights end that clipjax does not read, and what to do
    (".incomplete", "a download that has not ended; fetch it again"),
    *((ending, SAVE) for ending in (".msgpack", ".h5")),
    *(
        (end, "made for running alone; take the model that it was made of")
        for end in (".onnx", ".gguf", ".ggml", ".tflite", ".pb", ".engine")
    ),
)
PARTS = (  # files of a model in training, which its processes wrote a part each, and what to do
    (
        "*.distcp",
        "parts that torch's processes saved; python -m torch.distributed.checkpoint.format_utils"
        " dcp_to_torch {folder} NEW.pt makes one file of them",
    ),
    (
        "*zero_pp_rank_*",
        "parts that DeepSpeed's processes saved; python zero_to_fp32.py . NEW, in the folder that"
        " has this script, makes one model of them",
    ),
)
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".pkl")  # how their names end


def is_pickle(path: str) -> bool:
    """Whether it is a file that may run its author's code when it is read."""
    return path.endswith(PICKLES)


def find(path: pathlib.Path) -> tuple[list[pathlib.Path], tuple[str, ...]]:
    """The safetensors files that hold the one model at a path, and notes on the choice.

    Args:
      path: a folder, a file, an index, or one of a model's numbered parts.

    Raises:
      DataError: there are none, too few, or several models.
    """
    if path.is_file():
        return _whole(_indexed(path) if INDEX.fullmatch(path.name) else _all_parts(path)), ()
    for name in PREFERRED:
        if (path / name).is_file():
            return _whole([path / name]), ()
    listed = sorted(file for file in path.glob("*") if file.is_file())
    if indexes := [file for file in listed if INDEX.fullmatch(file.name)]:
        return _whole(_indexed(_only(indexes))), ()
    if weights := [file for file in listed if file.suffix == ENDING]:
        parts = _all_parts(weights[0])
        if set(weights) == set(parts) and len(parts) > 1:
            return _whole(parts), ()
        only = _only(weights)
        return _whole([only]), (f"taken is {only.name}, the only file of weights there",)
    if pickled := pickles(path):  # which raises where they are parts
        raise DataError(f"holds only {pickled[0].name}, {TRUST.format(path=path)}")
    raise _other_program(path, listed)


def _other_program(folder: pathlib.Path, listed: list[pathlib.Path]) -> DataError:
    """The error for a folder without safetensors: what it holds, and what makes them of that."""
    named = ", ".join(file.name for file in listed)[:200]
    remedy = next((told for file in listed for end, told in OTHERS if file.name.endswith(end)), "")
    return DataError(f"no {PREFERRED[-1]}; it holds {named}{remedy and f': {remedy}'}")


def pickles(path: pathlib.Path) -> list[pathlib.Path]:
    """The pickles that hold the one model at a path: the file itself, all parts of it, or those of
    a folder without safetensors; none where there are none.

    Raises:
      DataError: there are several models, or parts that are none.
    """
    if remedy := in_parts(path):
        raise DataError(f"holds {remedy}")
    if path.is_file():
        return [] if path.suffix in (ENDING, ".npz", ".json") else _whole(_all_parts(path))
    if any(path.glob(f"*{ENDING}")):
        return []
    pickled = sorted(file for file in path.glob("*") if is_pickle(file.name))
    preferred = [file for file in pickled if "model" in file.name] or pickled
    if not preferred:
        return []
    parts = _all_parts(preferred[0])
    return _whole(parts if set(preferred) == set(parts) else [_only(preferred)])


def in_parts(folder: pathlib.Path) -> str:
    """What a folder or those in it hold of PARTS, and what makes one file of it; else ""."""
    for pattern, remedy in PARTS:
        if any(folder.glob(pattern)) or any(folder.glob(f"*/{pattern}")):
            return remedy.format(folder=folder)
    return ""


def holds_pickles(folder: pathlib.Path) -> bool:
    """Whether files in a folder may run their author's code when they are read."""
    return any(is_pickle(file.name) for file in folder.glob("*"))


def _whole(files: list[pathlib.Path]) -> list[pathlib.Path]:
    """The same files; DataError if one is only Git LFS's word for where it lies."""
    for file in files:
        if file.is_file():
            with file.open("rb") as opened:
                if git_lfs.is_pointer(opened.read(git_lfs.LONGEST)):
                    raise DataError(f"{file.name} is {git_lfs.FETCH}")
    return files


def _only(candidates: list[pathlib.Path]) -> pathlib.Path:
    if len(candidates) > 1:
        names = ", ".join(file.name for file in candidates)[:200]
        raise DataError(f"holds several: {names}; name the one that you want, {candidates[0]}")
    return candidates[0]


def _all_parts(file: pathlib.Path) -> list[pathlib.Path]:
    """The file, or where its name is numbered all files of its set; DataError if one is missing."""
    part = PART.fullmatch(file.name)
    if part is None:
        return [file]
    stem, number, count, ending = part.groups()
    parts = []
    for i in range(1, int(count) + 1):
        parts.append(file.with_name(f"{stem}-{i:0{len(number)}d}-of-{count}{ending}"))
        if not parts[-1].is_file():
            raise DataError(f"{file.name} is one of several files, and {parts[-1].name} is missing")
    return parts


def _indexed(index: pathlib.Path) -> list[pathlib.Path]:
    """The files that an index names, all beside it."""
    places = files.read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise DataError(f"{index.name}: no weight_map")
    for name in places.values():
        if pathlib.PurePath(name).name != name or not 0 < len(name) <= LONGEST_NAME:
            raise DataError(f"{index.name}: {name[:LONGEST_NAME]!r} is not in this folder")
    return [index.with_name(name) for name in sorted(set(places.values()))]
