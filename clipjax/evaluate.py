"""Evaluate a checkpoint: `python -m clipjax.evaluate --workdir=DIR [--step=N]`.

Runs all evaluators of the run on it, or a suite of evaluation sets, or asks it something:
  --suite=paper27 --data=DIR               on a checkpoint, or with --weights=PATH on any weights
  --suite=FILE.py --watch                  on each checkpoint as a running job saves it
  --query="a fox to the left of a pizza"   the best images, on a sheet; repeatable
  --query=... --images=FOLDER              among images of your own
  --image=FILE --labels="a dog, a cat"     which label fits
A checkpoint is all it needs, besides the evaluation data. Run it on every host of a slice, or on
any one machine.
"""

import os
from collections.abc import Sequence
from typing import Any

from absl import flags

from clipjax.common import cli, exits, files, lists
from clipjax.common.exits import ConfigError
from clipjax.config import defaults


def run(
    workdir: str,
    *,
    step: int | None = None,
    queries: Sequence[str] = (),
    images: str = "",
    image: str = "",
    labels: Sequence[str] = (),
    templates: Sequence[str] = (),
    weights: str = "",
    suite: str = "",
    watch: bool = False,
    output: str = "results",
    average: bool = True,
    **of_suite: Any,
) -> int:
    """Do what the flags of the same names ask; returns the exit code.

    `of_suite` are data, prompts, only, force and compare, see `evals.suites.Options`.

    Raises:
      CleanExit: with the exit code for what was wrong.
    """
    queries, labels, templates = (
        tuple(lists.texts(values, what=flag))
        for values, flag in ((queries, "--query"), (labels, "--labels"), (templates, "--template"))
    )
    if suite or weights or watch:
        if suite and (queries or image):
            raise ConfigError("--suite, --query and --image are questions; ask one at a time")
        if queries or image:
            raise ConfigError(_for_suites_only(workdir, weights=weights, queries=queries))
        _check_suite(workdir, weights=weights, suite=suite, watch=watch, step=step)
        from clipjax.evals import suites

        return run_suite(
            suites.find(suite),
            suites.Options(average=average, **of_suite),
            workdir=workdir,
            weights=weights,
            step=step,
            watch=watch,
            output=output,
        )
    _check(workdir, queries=queries, images=images, image=image, labels=labels)
    from clipjax import api
    from clipjax.parallel import compilation_cache, distributed, shutdown
    from clipjax.run import evaluation
    from clipjax.run import queries as run_queries

    distributed.initialize(alone=False)
    with shutdown.on_all_hosts(more_memory="use more devices"):
        model = api.load(workdir, step=step, average=average)
        compilation_cache.enable(model.config.compilation_cache)
        if queries:
            run_queries.show_best(model, queries, images=images, workdir=workdir)
        elif image:
            run_queries.show_labels(model, image, labels=labels, templates=templates)
        else:
            evaluation.evaluate_checkpoint(model, workdir=workdir, average=average)
    return exits.DONE


def _check(
    workdir: str, *, queries: Sequence[str], images: str, image: str, labels: Sequence[str]
) -> None:
    if not workdir:
        raise ConfigError("--workdir is missing; name the run's folder, --workdir=runs/quickstart")
    if "://" not in workdir and not os.path.isdir(workdir):
        raise ConfigError(f"--workdir={workdir}: no such folder (looked from {os.getcwd()})")
    if images and not queries:
        raise ConfigError(f'--images={images}: add what to look for, --query="a dog"')
    if queries and (image or labels):
        raise ConfigError("--query and --image are two questions; ask one at a time")
    if bool(image) != bool(labels):
        raise ConfigError('--image and --labels go together: --image=x.jpg --labels="a dog, a cat"')
    if labels and len(labels) < 2:
        raise ConfigError(f'--labels="{labels[0]}": give two or more, separated by commas')
    if image and not files.is_remote(image) and not os.path.isfile(image):
        raise ConfigError(f"--image={image}: no such file (looked from {os.getcwd()})")
    if not all(query.strip() for query in queries):
        raise ConfigError('--query="": is empty; write what the image should show')


def _for_suites_only(workdir: str, *, weights: str, queries: Sequence[str]) -> str:
    """What is wrong with --weights or --watch beside a question."""
    instead = "leave it out"
    if weights and not workdir:
        is_folder = os.path.isdir(weights)
        instead = f"write --workdir={weights}" if is_folder else "name a folder with --workdir"
    flag = f"--weights={weights}" if weights else "--watch"
    question = "--query" if queries else "--image"
    return f"{flag}: has no effect on {question}, only on --suite; {instead}"


def _check_suite(workdir: str, *, weights: str, suite: str, watch: bool, step: int | None) -> None:
    if not suite:
        from clipjax.common import shipped
        from clipjax.evals import suites

        flag = f"--weights={weights}" if weights else "--watch"
        known = ", ".join([*suites.SUITES, *shipped.names("suite")])
        raise ConfigError(f"{flag}: add what to run, --suite=NAME ({known}) or --suite=FILE.py")
    if bool(weights) == bool(workdir):
        raise ConfigError("--suite: name what to evaluate, either --weights=PATH or --workdir=RUN")
    if watch and (weights or step is not None):
        raise ConfigError("--watch: follows the run in --workdir, without --weights and --step")
    if workdir and not watch and "://" not in workdir and not os.path.isdir(workdir):
        raise ConfigError(f"--workdir={workdir}: no such folder (looked from {os.getcwd()})")


def run_suite(
    suite: Any,
    options: Any,
    *,
    workdir: str,
    weights: str,
    step: int | None,
    watch: bool,
    output: str,
) -> int:
    """The `suites.Suite` on what is named, with `suites.Options`; returns the exit code."""
    from clipjax.parallel import compilation_cache, distributed, shutdown
    from clipjax.run import suites as run_suites

    distributed.initialize(alone=False)
    compilation_cache.enable(defaults().compilation_cache)
    with shutdown.on_all_hosts(more_memory="use more devices"):
        if weights:
            run_suites.on_weights(weights, suite, output=output, options=options)
        elif watch:
            run_suites.watch(workdir, suite, options=options)
        else:
            run_suites.on_run(workdir, suite, step=step, options=options)
    return exits.DONE


def _define_flags() -> None:
    cli.define_path("workdir", None, "The run's folder, local or gs://.")
    cli.define_path(
        "weights",
        "",
        "Weights of any format that clipjax.load reads.",
        protocols=files.WEIGHTS,
    )
    flags.DEFINE_string("suite", "", "Suite of evaluation sets: a name, or a Python file.")
    cli.define_path("data", "", "Folder of the suite's data sets, local or gs://.")
    cli.define_path("output", "results", "Folder of results, with --weights.")
    cli.define_path("prompts", "", "Folder of your own prompts, SET.json or SET/ for each set.")
    flags.DEFINE_list("protocols", [], "Run these in place of the suite's.")
    flags.DEFINE_string("compare", "", "Released model whose published numbers stand beside.")
    flags.DEFINE_boolean("force", False, "Measure again what is measured.")
    flags.DEFINE_boolean("watch", False, "Follow a running job: each checkpoint as it comes.")
    flags.DEFINE_integer("step", None, "Which checkpoint; default the newest.")
    flags.DEFINE_boolean(
        "average",
        True,
        "Of a run with config.ema_decay, the moving average of the weights; --noaverage evaluates"
        " the newest weights.",
    )
    flags.DEFINE_multi_string("query", [], "Find the best images for these words; repeatable.")
    cli.define_path("images", "", "Folder of your own images for --query, local.", protocols=())
    cli.define_path("image", "", "An image to choose a label for.", protocols=None)
    flags.DEFINE_string("labels", "", "Labels for --image, separated by commas.")
    flags.DEFINE_multi_string(
        "template", [], "Prompt for --labels with {} for the label; repeatable. Default: the run's."
    )


GO_WITH = {  # a flag → the one without which nothing reads it
    **dict.fromkeys(("data", "prompts", "protocols", "compare", "force"), "suite"),
    "output": "weights",
    "template": "labels",
}


def main() -> int:
    """`run` with the flags; returns the exit code."""
    values = flags.FLAGS
    if values.workdir and values["output"].present and not values.weights:
        raise ConfigError(
            "--output: has no effect without --weights; results of --workdir go to"
            f" {values.workdir}/evaluations; leave it out"
        )
    cli.check_go_with(GO_WITH)
    same = ("step", "images", "image", "weights", "suite", "watch", "output", "average")
    of_suite = ("data", "prompts", "compare", "force")
    return run(
        values.workdir or "",
        queries=values.query,
        labels=[label.strip() for label in values.labels.split(",") if label.strip()],
        templates=values.template,
        only=values.protocols,
        **{name: getattr(values, name) for name in (*same, *of_suite)},
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
