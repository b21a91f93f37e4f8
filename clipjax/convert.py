"""Models between clipjax and other programs.

    python -m clipjax.convert --input=FOLDER --format=clipjax --output=runs/imported
    python -m clipjax.convert --input=runs/quickstart --format=open_clip --output=exported

What lies at --input is found out: a clipjax run or step; an open_clip folder
(`open_clip_config.json`, safetensors); a folder of transformers' (`config.json`,
`model.safetensors`), also as hf://org/name@revision; a file of weights in such a folder;
big_vision's SigLIP as `.npz`; OpenAI's state dict as safetensors, told by its three numbers
`input_resolution`, `context_length` and `vocab_size`. The folder at --output appears whole or not
at all.

Any other state dict says neither its activation nor its heads' width nor how images are prepared;
nothing is guessed:

    python -m clipjax.convert --input=epoch_32.pt --trust_pickle \
        --model_config=open_clip:ViT-B-32 --format=clipjax --output=runs/imported

Between other programs' formats, what is float16 or bfloat16 stays so; a clipjax checkpoint is
float32.

OpenAI's own files (`ViT-B-32.pt`) and other pickles run their author's code when they are read.
With --trust_pickle a program of its own reads them with PyTorch and writes safetensors first; that
keeps crashes out, not malice. Get such files from nobody you do not trust.
"""

import os
import pathlib

from absl import flags

from clipjax.common import cli, files
from clipjax.common.exits import ConfigError
from clipjax.common.registry import check_name

FORMATS = ("clipjax", "open_clip", "huggingface")


def convert(
    source: str,
    *,
    to: str,
    output: str,
    step: int | None = None,
    tokenizer: str = "",
    trust_pickle: bool = False,
    average: bool = True,
    model_config: str = "",
) -> str:
    """Convert, and say in one line what was written; lines about what was read are printed.

    Raises:
      CleanExit: as the formats' readers and writers.
    """
    if not source or not output:
        raise ConfigError("say what and where: --input=PATH --format=open_clip --output=FOLDER")
    check_name(to, names=FORMATS, kind="--format")
    source, output = os.path.expanduser(source), os.path.expanduser(output)
    if "://" not in source and not os.path.exists(source):
        raise ConfigError(f"--input={source}: no such file or folder (looked from {os.getcwd()})")
    from clipjax.build import pretrained
    from clipjax.common import trees
    from clipjax.weights import formats, model_configs, torch_pickles
    from clipjax.weights.files import place_of, write_folder

    place_of(output)  # before a large file is read
    with files.temporary_folder() as scratch:
        weights = torch_pickles.make_safe(source, pathlib.Path(scratch)) if trust_pickle else ()
        variables, run = pretrained.read(
            source,
            step=step,
            tokenizer=tokenizer,
            average=average,
            keep_half=to != "clipjax",
            model_config=model_config,
            weights=weights,
        )
    model = run["config"]["model"]
    if "imported" in run:
        print(f"{run['imported']}: {model_configs.summary(model)}")
    for note in run.get("notes", ()):
        print(f"note: {note}")
    if to == "clipjax":
        write_folder(output, lambda folder: pretrained.write_checkpoint(folder, variables, run=run))
    else:
        formats.write(
            output,
            to=to,
            model=model,
            variables=variables,
            tokenizer=pretrained.tokenizer_of(run),
        )
    size = sum(file.stat().st_size for file in pathlib.Path(output).rglob("*") if file.is_file())
    count = sum(leaf.size for _, leaf in trees.named_leaves(variables["params"]))
    return f"{output}: {count:,} parameters, {size / 2**20:,.0f} MiB, format {to}"


if __name__ == "__main__":
    cli.define_path(
        "input",
        "",
        "What to read: a folder, a checkpoint, a .safetensors or .npz file, hf://org/name.",
        protocols=files.WEIGHTS,
    )
    cli.define_path("output", "", "The folder to make.")
    flags.DEFINE_string("format", "clipjax", f"What to write: {', '.join(FORMATS)}.")
    flags.DEFINE_integer("step", None, "Which checkpoint of a clipjax run; default the newest.")
    cli.define_path(
        "tokenizer",
        "",
        "The model's tokenizer where the input brings none: CLIP's merges file, SigLIP's"
        " spiece.model, SigLIP 2's tokenizer.model.",
    )
    cli.define_path(
        "model_config",
        "",
        "What the model is, where the input does not say it: open_clip's JSON of it, a run's or a"
        " transformers' folder's config.json, a name of the zoo (ViT-B/32), or open_clip:NAME of an"
        " installed open_clip.",
    )
    flags.DEFINE_boolean(
        "average",
        True,
        "The moving average of the weights, of a run with config.ema_decay or of a file that holds"
        " both; --noaverage takes the newest weights.",
    )
    flags.DEFINE_boolean(
        "trust_pickle",
        False,
        "Read a .pt, .pth or .bin file, which runs its author's code; a program of its own does it,"
        " which contains crashes, not malice.",
    )
    F = flags.FLAGS
    cli.run(
        lambda: print(
            convert(
                F.input,
                to=F.format,
                output=F.output,
                step=F.step,
                tokenizer=F.tokenizer,
                trust_pickle=F.trust_pickle,
                average=F.average,
                model_config=F.model_config,
            ),
            flush=True,
        )
    )
