"""The command line all programs share: absl flags, one-line errors, the exit-code table.

cli.run(main)           # in a program's `if __name__ == "__main__"`
cli.run_verb(verbs)     # the same for a program with verbs
cli.config()            # the value of --config, or a one-line error
"""

import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from clipjax.common import exits, files, interrupts, shipped, streams
from clipjax.common.registry import closest
from clipjax.common.setting_names import closest_setting

ADVICE = {  # what the parsers of `--config.a.b=value` say, in our words
    "invalid literal for int()": "give a whole number",
    "could not convert string to float": "give a number",
    "Non-boolean argument": "give True or False",
    "as a ConfigDict": "is a group of settings; give those in it, each as a flag of its own",
    "as tuple": "give a list in quotes, '(1, 2)' or '(\"a\", \"b\")'",
}
KINDS = {  # what a setting of a type takes, where a config file gives another
    "bool": "give True or False",
    "float": "give a number",
    "int": "give a whole number",
    "str": "give a text in quotes",
    "tuple": "give a list in brackets",
}
OF_ANOTHER_TYPE = re.compile(
    r"TypeError: Could not override field '(\w+)' \(reference\)\. (.*) is of original type"
    r" <class '(\w+)'> and cannot be casted to type <class '(\w+)'>"
)


class WholeNumbers(flags.IntegerParser):
    """Takes 3.2e4 for 32000, too."""

    def convert(self, argument: Any) -> int:
        try:
            return super().convert(argument)
        except ValueError:
            if re.fullmatch(r"[-+]?[\d.]+[eE]\+?\d\d?", argument) and float(argument).is_integer():
                return int(float(argument))
            raise


class _ConfigFileParser(config_flags.config_flags.ConfigFileFlagParser):
    """Loads a config by its path, or by the name of a shipped one; `:VARIANT` may follow."""

    def parse(self, path: str) -> Any:
        config = super().parse(_with_file(path))
        getattr(config, "keys", None)  # raises what the file raised, if it could not read another
        if not isinstance(config, ConfigDict):
            raise exits.ConfigError(
                f"{_with_file(path)}: get_config() returns {type(config).__name__}; let it return"
                " what config.defaults() gives, changed as you like"
            )
        return config


def define_config_flag() -> Any:
    """`--config=FILE.py` or `--config=NAME`, with `--config.a.b=value` for each of its settings."""
    config_flags.register_flag_parser_for_type(int, WholeNumbers())
    flag = config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, Python run as code, or one that comes with clipjax by its name: "
        + ", ".join(shipped.names("config")),
    )
    flags.FLAGS["config"].parser = _ConfigFileParser("config")
    return flag


class _Path(flags.ArgumentParser):
    """What is typed for a file or folder, as `files.resolve` gives it."""

    syntactic_help = "a path"

    def __init__(self, name: str, *, protocols: Sequence[str] | None) -> None:
        self.name = name
        self.protocols = protocols

    def parse(self, argument: str) -> str:
        return files.resolve(argument, setting=f"--{self.name}", protocols=self.protocols)


def define_path(
    name: str,
    default: str | None,
    help: str,
    *,
    protocols: Sequence[str] | None = files.PROTOCOLS,
) -> Any:
    """A flag for a file or folder: its `~` is replaced, and a path that cannot be is refused.

    Args:
      name, default, help: of the flag.
      protocols: of remote paths that it takes; () for local ones alone, None for any that is read.
    """
    parser = _Path(name, protocols=protocols)
    return flags.DEFINE(parser, name, default, help, serializer=flags.ArgumentSerializer())


def define_paths(name: str, help: str, *, protocols: Sequence[str] | None = files.PROTOCOLS) -> Any:
    """Define a path flag that can be repeated, as `define_path`; without it, no path."""
    parser = _Path(name, protocols=protocols)
    return flags.DEFINE_multi(parser, flags.ArgumentSerializer(), name, [], help)


def run(main: Callable[[], int | None]) -> None:
    """Parse flags, run `main`, leave with its exit code.

    A CleanExit from parsing or from `main` becomes one line on stderr and its code, and so do
    Ctrl-C (130) and output that cannot be written (74); other exceptions keep their traceback.
    """
    _run(lambda _: main(), parse=_parse)


def run_verb(verbs: Mapping[str, Callable[[], int | None]]) -> None:
    """Run a program whose first argument says what to do; otherwise as `run`."""

    def parse(argv: Sequence[str]) -> list[str]:
        known = ", ".join(verbs)
        if len(argv) > 1 and not argv[1].startswith("-"):
            if argv[1] not in verbs:
                hint = closest(argv[1], verbs)
                raise exits.ConfigError(f'"{argv[1]}" is no verb{hint}; known: {known}')
            rest = _parse([argv[0], *argv[2:]])
            _check_read(argv[1], verbs)
            return [*rest, argv[1]]
        _parse(argv)  # --help ends here
        raise exits.ConfigError(f"say what to do first: {known}")

    _run(lambda argv: verbs[argv[-1]](), parse=parse)


def _check_read(verb: str, verbs: Iterable[str]) -> None:
    """Raise ConfigError on a typed flag that belongs to other verbs; its help begins with them."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        readers = (flag.help or "").partition(":")[0].split(", ")
        if flag.present and set(readers) <= set(verbs) and verb not in readers:
            raise exits.ConfigError(
                f"--{name}: has no effect on {verb}, only on {', '.join(readers)}; leave it out"
            )


def check_go_with(others: Mapping[str, str]) -> None:
    """Raise ConfigError on a typed flag without the other one that `others` gives for it."""
    for name, other in others.items():
        if flags.FLAGS[name].present and not flags.FLAGS[other].present:
            raise exits.ConfigError(f"--{name}: has no effect without --{other}; leave it out")


def _run(main: Callable[[list[str]], int | None], *, parse: Any) -> None:
    streams.prepare()
    _check_folder()
    logging.get_absl_handler().python_handler.stream = sys.stderr  # it has kept its import's
    interrupts.raise_in_work()
    os.umask(os.umask(0) | 0o022)  # what is written is code and weights: nobody else may change it
    try:
        app.run(lambda argv: sys.exit(_with_output(main(argv) or exits.DONE)), flags_parser=parse)
    except exits.CleanExit as error:
        print(f"clipjax: {error}", file=sys.stderr, flush=True)
        sys.exit(error.code)
    except OSError as error:
        if (clean := files.clean(error)) is None:
            raise
        print(f"clipjax: {clean}", file=sys.stderr, flush=True)
        sys.exit(clean.code)
    except KeyboardInterrupt:
        print("clipjax: interrupted", file=sys.stderr, flush=True)
        sys.exit(exits.INTERRUPTED)


def _check_folder() -> None:
    """Leave in one line where the folder that the program was started in is gone; libraries would
    abort as they load."""
    try:
        os.getcwd()
    except OSError as error:
        problem = f"the folder here cannot be read: {error.strerror}; cd to one that is there"
        print(f"clipjax: {problem}", file=sys.stderr, flush=True)
        sys.exit(exits.BAD_CONFIG)


def _with_output(code: int) -> int:
    """The exit code of a program that has ended with `code`: 74 if what it said is lost."""
    lost = streams.close_output()
    if lost:
        print(f"clipjax: standard output: cannot be written: {lost}", file=sys.stderr, flush=True)
    return exits.CHECKPOINT_IO if lost and code == exits.DONE else code


def _parse(argv: Sequence[str]) -> list[str]:
    logging.set_verbosity(logging.ERROR)
    try:
        rest = flags.FLAGS(list(argv))
    except exits.ConfigError:
        raise
    except Exception as error:  # a config file is Python and may raise anything
        raise exits.ConfigError(_explain(error, argv)) from error
    if len(rest) > 1:
        raise exits.ConfigError(f'"{rest[1]}" is no flag; settings are --config.name=value')
    if not flags.FLAGS["verbosity"].present:  # --verbosity=0 brings the libraries' notes back
        logging.set_verbosity(logging.WARNING)
    _check_paths(argv)
    return rest


def _check_paths(argv: Sequence[str]) -> None:
    """A path in braces without quotes comes from the shell as several flags; the last would win."""
    paths: dict[str, list[str]] = {}
    for name, has_value, value in (argument.lstrip("-").partition("=") for argument in argv[1:]):
        if has_value and name.split(".")[-1] == "path":
            paths.setdefault(name, []).append(value)
    for name, values in paths.items():
        if len(set(values)) > 1:
            raise exits.ConfigError(
                f"--{name} is given {len(values)} times, with {values[0]} and {values[1]}; give it"
                f" once, braces in quotes: --{name}='{{00000..00099}}.tar'"
            )


def _explain(error: Exception, argv: Sequence[str]) -> str:
    path = _config_path(argv)
    for argument in argv[1:]:
        name = argument.split("=")[0].lstrip("-")
        if name.startswith("config."):
            known = _known_settings(_config_value(argv))
            if known and name.removeprefix("config.") not in known:
                hint = closest_setting(name.removeprefix("config."), known)
                return f"--{name}: no such setting{hint}"
    text = str(error)
    refused = re.match(r"flag (--config\..*?=.*?): ", text)
    for said, advice in ADVICE.items():
        if refused and said in text:
            return f"{refused[1]}: {advice}"
    if path is not None and "has no attribute 'get_config'" in text:
        return f"{path}: has no function get_config(), which returns the config"
    if path is not None and "get_config() takes 0 positional arguments" in text:
        return f"{path}: has no variants; drop what follows the colon"
    if path is not None and "Traceback (most recent call last)" in text:  # the file raised it
        line = re.findall(rf'File "{re.escape(path)}", line (\d+)', text)[-1:]
        said = text.strip().splitlines()[-1]
        if (refused := OF_ANOTHER_TYPE.fullmatch(said)) and refused[4] in KINDS:
            key, value, given, wanted = refused.groups()
            value = f'"{value}"' if given == "str" else value
            said = f"{key} is {value}; {KINDS[wanted]}"
        return f"{' line '.join([path, *line])}: {said}"
    message = " ".join(text.split())
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    if lines:
        return f"{path} line {lines[-1]}: {type(error).__name__}: {message}"
    if path is not None and not isinstance(error, flags.Error):
        return f"{path}: {message or type(error).__name__}"
    return message or type(error).__name__


def _config_path(argv: Sequence[str]) -> str | None:
    """The file that `--config=FILE` or `--config=FILE:VARIANT` names."""
    value = _config_value(argv)
    return None if value is None else value.split(":", 1)[0]


def _with_file(value: str) -> str:
    """The value of `--config`, with the file's path for its name."""
    name, *variant = [value] if "://" in value else value.split(":", 1)
    return ":".join([shipped.file(name, flag="config"), *variant])


def _config_value(argv: Sequence[str]) -> str | None:
    for position, argument in enumerate(argv):
        if argument in ("--config", "-config") and position + 1 < len(argv):
            return _with_file(argv[position + 1])
        if argument.startswith(("--config=", "-config=")):
            return _with_file(argument.split("=", 1)[1])
    return None


def _known_settings(value: str | None) -> list[str]:
    """Flattened keys of the config file, inner nodes too; empty where the file itself is broken."""
    if value is None:
        return []
    path, *variant = value.split(":", 1)
    try:
        return list(_keys(runpy.run_path(path)["get_config"](*variant)))
    except Exception:  # only a hint depends on it; the first error is the one reported
        return []


def _keys(config: Any, prefix: str = "") -> Any:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if hasattr(value, "items"):
            yield from _keys(value, f"{prefix}{key}.")


def config(flag: Any) -> Any:
    """The config that `--config` names.

    Raises:
      ConfigError: there is no `--config`.
    """
    if flag.value is None:
        raise exits.ConfigError("--config is missing; write --config=quickstart")
    return flag.value


def config_name(flag: Any) -> str:
    """The config file's name, without folder and ending, and its variant: "figure2_words"."""
    path, *variant = config_flags.get_config_filename(flags.FLAGS[flag.name]).split(":", 1)
    return "_".join([os.path.splitext(os.path.basename(path))[0], *variant]).replace(",", "_")
