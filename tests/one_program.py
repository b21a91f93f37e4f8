"""Runs programs with many command lines in one process of its own: their imports cost once.

    results = one_program.run("clipjax.dataset", [["check", "--source=digits"]], cwd=folder)
    results = one_program.run_several([("clipjax.dataset", commands), …], cwd=folder)

Each result has `code`, what was said, `out` and `err`, and the flags' `values`. Programs end as for
a user: `cli` parses the flags and turns errors into lines and codes.
"""

import dataclasses
import io
import json
import os
import runpy
import subprocess
import sys
import traceback

from tests import processes


@dataclasses.dataclass(repr=False)
class Result:
    """How a command ended."""

    argv: list[str]
    code: int
    out: str
    err: str
    values: dict

    def __repr__(self) -> str:
        return f"{' '.join(self.argv)}\nended with {self.code}\n{self.out}\n{self.err}"


def run(module, commands, **settings):
    """A Result for each command, each a list of arguments of the program `module`, in order;
    settings as `run_several`."""
    return run_several([(module, commands)], **settings)


def run_several(programs, *, cwd, environment=None, before="", timeout=600):
    """A Result for each command of each program, in order.

    Args:
      programs: (module, commands), each command a list of arguments.
      cwd: the folder they run in.
      environment: variables to add.
      before: Python to run in the process first.
      timeout: seconds for all of them.
    """
    done = subprocess.run(
        [sys.executable, __file__, before],
        input=json.dumps([(name, [list(map(str, c)) for c in each]) for name, each in programs]),
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": str(processes.ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": processes.xla_flags(1),
            **(environment or {}),
        },
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    return [Result(**result) for result in results]


def _ended(call, argv):
    """The Result of one command in this process."""
    from absl import flags

    flags.FLAGS.unparse_flags()
    for name in list(flags.FLAGS):
        if name.startswith("config."):  # of the command before
            delattr(flags.FLAGS, name)
        else:
            flags.FLAGS[name].unparse()
    sys.argv = ["program", *argv]
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    spoken = sys.stdout, sys.stderr
    code = 1
    try:
        call()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException:
        traceback.print_exc()
    values = {name: flags.FLAGS[name].value for name in flags.FLAGS}
    plain = {name: value for name, value in values.items() if isinstance(value, (str, list))}
    said = {"out": spoken[0].getvalue(), "err": spoken[1].getvalue()}
    return {"argv": argv, "code": code, **said, "values": plain}


def _main(before):
    from absl import flags

    from clipjax.common import cli

    programs = json.loads(sys.stdin.read())
    calls, results = [], []
    real_run, real_run_verb = cli.run, cli.run_verb
    cli.run = lambda main: calls.append(lambda: real_run(main))
    cli.run_verb = lambda verbs: calls.append(lambda: real_run_verb(verbs))
    exec(before, {})  # noqa: S102 - of a test
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries say
    for module, commands in programs:
        known = set(flags.FLAGS)
        runpy.run_module(module, run_name="__main__")
        results += [_ended(calls[-1], argv) for argv in commands]
        for name in set(flags.FLAGS) - known:  # another program has its own of that name
            delattr(flags.FLAGS, name)
    print(json.dumps(results), file=output, flush=True)
    os._exit(0)


if __name__ == "__main__":
    _main(sys.argv[1])
