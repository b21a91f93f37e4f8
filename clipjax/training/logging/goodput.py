"""Where the time of a run goes: training, and each kind of time lost to something else."""

import time

KINDS: tuple[str, ...] = (
    *("init", "restore", "compile", "train", "replay", "data_wait", "eval", "save"),
)


TRAINING = ("train", "replay")  # the steps themselves; `replay`: those done again after a kill


class Goodput:
    """A clock that always runs for exactly one of `KINDS`, so that they sum to the wall time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        self.kind, self.since = "init", time.perf_counter()

    def enter(self, kind: str) -> None:
        """Count time as `kind` from now on."""
        now = time.perf_counter()
        self.seconds[self.kind] += now - self.since
        self.kind, self.since = kind, now

    def read(self) -> dict[str, float]:
        """Seconds of each kind up to now."""
        self.enter(self.kind)
        return dict(self.seconds)

    def metrics(self) -> dict[str, float]:
        """Seconds of each kind since this program began, "time/train_seconds", the share of
        training in all, "time/goodput", and the time of day in seconds since 1970, "time/clock",
        from which `clipjax.pictures.charts.times` tells how long a run was not there at all."""
        seconds = self.read()
        named = {f"time/{kind}_seconds": value for kind, value in seconds.items()}
        share = seconds["train"] / max(sum(seconds.values()), 1e-9)
        return named | {"time/goodput": share, "time/clock": time.time()}

    def describe(self) -> str:
        """ "time: train 93.1 %, compile 4.0 %, …", the largest first."""
        seconds = self.read()
        total = max(sum(seconds.values()), 1e-9)
        parts = sorted(seconds.items(), key=lambda item: -item[1])
        shares = ", ".join(f"{kind} {value / total:.1%}" for kind, value in parts if value)
        return f"time: {shares} of {total:,.0f} s"
