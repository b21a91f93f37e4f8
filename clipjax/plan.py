"""What a run needs on TPUs you do not have: `python -m clipjax.plan --config=… --topology=v5e-256`.

Compiles training's own step for an absent slice with the libtpu package, on any Linux machine, and
prints memory, estimated time and transfers; `--sweep` tries remat policies, micro-batches and
meshes. Takes what training would take of config errors; the data are not looked at.
"""

import os
import sys
import time
from typing import Any

from absl import flags

from clipjax.common import cli, exits, files, waiting
from clipjax.common.counts import counted
from clipjax.common.exits import CleanExit, ConfigError

GIB = 2**30
HOW_LONG = "half a minute of one core for ViT-B/32, seven minutes for ViT-L/14 on 256 chips"


def run(
    config: Any,
    *,
    topology: str,
    name: str = "",
    num_slices: int = 0,
    json_path: str = "",
    sweeping: dict[str, list[str]] | None = None,
) -> int:
    """Plan a config, or a sweep of it, and print the table; returns the exit code.

    Args:
      config: of the run.
      topology: a TPU slice, see `planning/topologies.py`.
      name: the config's, for the table.
      num_slices: instead of the config's; 0 keeps it.
      json_path: file for the figures; "" writes none.
      sweeping: what to try, `remats`, `micro_batches`, `meshes` as written; None plans the config.

    Raises:
      CleanExit: with the exit code for what was wrong. A step that does not fit is no error.
    """
    from clipjax.config import check as config_check
    from clipjax.planning import topologies

    if not topology:
        raise ConfigError("--topology is missing; write --topology=v5litepod-256 or v5e:16x16")
    slice_ = topologies.find(topology)
    config.num_slices = num_slices or config.num_slices
    config_check.check(config, data=False)
    if json_path:
        json_path = files.resolve(json_path, setting="--json")
        folder = os.path.dirname(os.path.abspath(json_path))
        if not files.is_remote(json_path) and not os.path.isdir(folder):
            raise ConfigError(f"--json={json_path}: its folder does not exist; make it first")
        files.check_writable(json_path, setting="--json")
    ranges = _ranges(sweeping) if sweeping is not None else None
    version = topologies.check_compiler()
    with files.temporary_folder() as dump:
        dump = os.path.join(dump, "kernels")
        topologies.prepare_environment(dump)
        from clipjax.planning import figures

        devices = topologies.devices(slice_, num_slices=config.num_slices)
        slice_settings = {"topology": slice_, "devices": devices, "dump_folder": dump}
        result: dict[str, Any] = {"config": name, "libtpu": version, "asked": slice_.asked}
        chips = slice_.chips * config.num_slices
        where = f"clipjax plan: {config.num_slices} × {slice_.name}, {counted(chips, 'chip')}"
        if ranges is None:
            _say(f"{where}; compiling the step, {HOW_LONG} …")
            with waiting.told("compiling"):
                result |= figures.measure(config, **slice_settings)
            print(describe(result))
        else:
            groups = figures.variants(config, devices=len(devices), **ranges)
            _say(f"{where}; at most {sum(map(len, groups))} variants, each {HOW_LONG} …")
            result["rows"] = sweep(groups, slice_settings=slice_settings)
            print(describe_sweep(result["rows"], version=version))
    if json_path:
        files.write_json(json_path, result, indent=1)
    return exits.DONE


def sweep(groups: list[list[Any]], *, slice_settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of every variant; within a group the first that fits ends it.

    More micro-batches than needed only repeat work. A variant that fails is a row with `reason`.
    """
    from clipjax.planning import figures

    rows, done, total = [], 0, sum(map(len, groups))
    for group in groups:
        for position, config in enumerate(group):
            done += 1
            began = time.monotonic()
            tried = {
                "remat": {tower: config.model[tower].remat for tower in ("vision", "text")},
                "micro_batches": config.micro_batches,
                "mesh": dict(config.mesh),
            }
            try:
                with waiting.told(f"[{done}/{total}] compiling"):
                    row = figures.measure(config, loss_alone=False, **slice_settings)
            except CleanExit as error:
                row = tried | {"fits": None, "reason": str(error)}
            rows.append(row)
            _say(f"[{done}/{total}] {time.monotonic() - began:.0f} s  {_outcome(row)}")
            if row["fits"]:
                done += len(group) - 1 - position
                break
    return rows


def describe(plan: dict[str, Any]) -> str:
    """The table of one plan."""
    remat = " ".join(f"{tower}={policy}" for tower, policy in plan["remat"].items())
    slices = f"{plan['num_slices']} × " if plan["num_slices"] > 1 else ""
    chips = counted(plan["chips"], "chip")
    lines = [
        f"plan        {plan['config']} on {slices}{plan['asked']} = {chips}"
        f" ({slices}{plan['topology']}, {plan['devices']:,} × {plan['device_kind']})",
        f"            {plan['note']} (libtpu {plan['libtpu']})",
        f"model       {plan['model']}, {plan['parameter_count']:,} parameters, {plan['loss']}",
        f"batch       {plan['batch_size']:,} = {chips} ×"
        f" {plan['per_chip_batch']:,g}; micro-batches {plan['micro_batches']}; remat {remat};"
        f" mesh {_mesh(plan['mesh'])}",
    ]
    available = plan["hbm_available_bytes"] / GIB
    if plan["fits"]:
        lines.append(
            f"memory      fits: {plan['hbm_peak_bytes'] / GIB:.2f} of {available:.2f} GiB on each"
            " device"
        )
    else:
        lines.append(
            f"memory      DOES NOT FIT: needs {plan['hbm_peak_bytes'] / GIB:.2f} of"
            f" {available:.2f} GiB on each device, {plan['hbm_overflow_bytes'] / GIB:.2f} too many;"
            " try --sweep"
        )
    lines += [_loss_line(plan)] if "loss_temp_bytes" in plan else []
    if plan["estimated_cycles"]:
        lines += _time_lines(plan) + _kernel_lines(plan) + _transfer_lines(plan)
    elif plan["fits"]:
        lines.append(f"step        no times: {plan['no_times']}")
    lines += [
        f"limited by  {plan['limited_by']}",
        f"compiled    in {plan['compile_seconds']:.0f} s",
    ]
    return "\n".join(lines)


def _loss_line(plan: dict[str, Any]) -> str:
    line = f"            the loss alone: temporaries of {plan['loss_temp_bytes'] / 2**20:,.1f} MiB"
    if plan["loss_estimated_cycles"] and plan["estimated_cycles"]:
        share = plan["loss_estimated_cycles"] / plan["estimated_cycles"]
        line += f", {plan['loss_estimated_cycles'] / 1e6:,.1f} M cycles, {share:.1%} of the step"
    return line


def _time_lines(plan: dict[str, Any]) -> list[str]:
    million = {name: cycles / 1e6 for name, cycles in plan["cycles"].items()}
    run = f"run         {plan['examples_per_second']:,.0f} examples a second"
    if plan["chip_hours"] is not None:
        hours = plan["chip_hours"] / plan["chips"]
        run += f"; {hours:,.1f} hours, {plan['chip_hours']:,.0f} chip-hours in all"
    lines = [
        f"step        {plan['estimated_cycles'] / 1e6:,.1f} M cycles ="
        f" {plan['estimated_step_seconds']:.4g} s",
        f"            {million['compiler_compute']:,.1f} M compute,"
        f" {million['compiler_memory']:,.1f} M memory,"
        f" {million['custom_kernels']:,.1f} M custom kernels,"
        f" {million['exposed_communication']:,.1f} M waiting for other chips",
        f"MFU         {plan['estimated_mfu']:.1%}, {plan['estimated_mfu_low']:.1%} to"
        f" {plan['estimated_mfu_high']:.1%} with custom kernels at double and at half",
        run,
    ]
    if plan["loops_of_unknown_length"]:
        count = plan["loops_of_unknown_length"]
        lines.append(f"warning     {count} loop(s) of unknown length count as one turn")
    return lines


def _kernel_lines(plan: dict[str, Any]) -> list[str]:
    return [
        f"kernel      {kernel['name']}: {kernel['count']:,} × {kernel['cycles'] / 1e6:,.3f} M"
        f" cycles, charged {kernel['charged']}"
        for kernel in plan["custom_kernels"]
    ] or ["kernels     none custom"]


def _transfer_lines(plan: dict[str, Any]) -> list[str]:
    lines = []
    for transfer in plan["collective_contents"]:
        across = " BETWEEN SLICES" if transfer["crosses_slices"] else ""
        lines.append(
            f"transfer    {transfer['kind']} of {transfer['carries']}{across}:"
            f" {transfer['count']:,} times, {transfer['bytes'] / 2**20:,.2f} MiB in all"
        )
    if not lines:
        return []
    lines.append(
        "            no cycles from the compiler: bytes over half the chip's links, one link for a"
        " permute,"
    )
    return [*lines, "            its share of the network between slices; laid beside the schedule"]


def describe_sweep(rows: list[dict[str, Any]], *, version: str) -> str:
    """The table of a sweep, fastest first, then those that do not fit or failed."""
    rows = sorted(rows, key=lambda row: row.get("estimated_step_seconds") or float("inf"))
    fitting = [row for row in rows if row["fits"]]
    lines = [f"The TPU compiler's estimates (libtpu {version}), not measurements; fastest first"]
    lines += [_outcome(row) for row in rows]
    best = f"fastest: {_outcome(fitting[0])}" if fitting else "none fits"
    return "\n".join([*lines, best])


def _outcome(row: dict[str, Any]) -> str:
    remat = "/".join(dict.fromkeys(row["remat"].values()))
    tried = f"remat {remat:6} micro-batches {row['micro_batches']:<2} mesh {_mesh(row['mesh'])}  "
    if row["fits"] is None:
        return f"{tried}failed: {row['reason']}"
    needed = f"{row['hbm_peak_bytes'] / GIB:6.2f} of {row['hbm_available_bytes'] / GIB:.2f} GiB"
    if not row["fits"]:
        return f"{tried}{needed}: does not fit"
    if not row["estimated_cycles"]:
        return f"{tried}{needed}  no times: {row['no_times']}"
    return (
        f"{tried}{needed}  {row['estimated_step_seconds']:.4f} s"
        f"  MFU {row['estimated_mfu']:.1%}  limited by {row['limited_by']}"
    )


def _ranges(sweeping: dict[str, list[str]]) -> dict[str, Any]:
    """What to try, with counts as numbers; ConfigError for what cannot be read."""
    from clipjax.common.registry import check_name
    from clipjax.models import config as model_config

    for remat in sweeping["remats"]:
        check_name(remat, names=model_config.REMAT_POLICIES, kind="--sweep_remats")
    counts = sweeping["micro_batches"]
    if not all(count.isdigit() and int(count) > 0 for count in counts):
        raise ConfigError(f"--sweep_micro_batches={','.join(counts)}: write counts, 1,2,4")
    return {
        "remats": sweeping["remats"] or list(model_config.REMAT_POLICIES),
        "micro_batches": [int(count) for count in counts],
        "meshes": sweeping["meshes"],
    }


def _mesh(mesh: dict[str, int]) -> str:
    return " × ".join(f"{axis}={size}" for axis, size in mesh.items())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _define_flags() -> Any:
    flags.DEFINE_string(
        "topology", "", "TPU slice: v5litepod-256, v6e-64, v5p-512, or a shape, v5e:16x16."
    )
    flags.DEFINE_integer("num_slices", 0, "Slices; 0 takes config.num_slices.")
    cli.define_path("json", "", "File to write the figures to.")
    flags.DEFINE_bool("sweep", False, "Try remat policies, micro-batches and meshes.")
    flags.DEFINE_list("sweep_remats", [], "Remat policies to try; default all.")
    flags.DEFINE_list("sweep_micro_batches", ["1", "2", "4", "8"], "Micro-batches to try.")
    flags.DEFINE_list(
        "sweep_meshes",
        [],
        "Meshes to try, DATAxFSDPxTENSOR; default config.mesh, and fsdp=16 and 1.",
    )
    return cli.define_config_flag()


def main(config_flag: Any) -> int:
    """`run` with the flags; returns the exit code."""
    values = flags.FLAGS
    names = ("remats", "micro_batches", "meshes")
    return run(
        cli.config(config_flag),
        topology=values.topology,
        name=cli.config_name(config_flag),
        num_slices=values.num_slices,
        json_path=values.json,
        sweeping={key: getattr(values, f"sweep_{key}") for key in names} if values.sweep else None,
    )


if __name__ == "__main__":
    config_flag = _define_flags()
    cli.run(lambda: main(config_flag))
