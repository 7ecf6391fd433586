"""What Salver promises to be, next to others in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from results import Results, difference_of, ratio_of, shown

PEER_TITLES = {
    "uvicorn": "bare uvicorn",
    "fastapi": "FastAPI alone",
    "mosec": "Mosec",
    "ray": "Ray",
    "ray-tuned": "Ray tuned",
    "litserve": "LitServe",
    "bentoml": "BentoML",
}


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a sample; of Salver's unless another peer is named."""

    workload: str
    metric: str
    peer: str = "salver"

    def series(self, results: Results) -> list[float | None]:
        return results.series(self.workload, self.peer, self.metric)


@dataclass(frozen=True, slots=True)
class Target:
    """One promise.

    Attributes:
        what: the workload and the number, for people.
        ours: the number it is about.
        bound: what it (or its ratio to, or its difference from `theirs`) must not be beyond.
        sense: on which side of the bound it must be.
        theirs: what it is compared with; another number, or nothing.
        by: whether the bound is for the ratio or for the difference.
        unit: of the bound, for people.
    """

    what: str
    ours: Number
    bound: float
    sense: Literal["≥", "≤"]
    theirs: Number | None = None
    by: Literal["ratio", "difference"] = "ratio"
    unit: str = ""
    versus: str = ""

    @property
    def goal(self) -> str:
        if self.by == "difference":
            return f"{self.sense} {self.versus} + {self.bound:.2f} {self.unit}"
        if self.theirs is None:
            return f"{self.sense} {self.bound:g} {self.unit}".rstrip()
        return f"{self.sense} {self.bound:g} × {self.versus}"

    def measured(self, results: Results) -> float | None:
        ours = self.ours.series(results)
        if self.theirs is None:
            theirs: Sequence[float | None] = [1.0] * len(ours)
        else:
            theirs = self.theirs.series(results)
        return (difference_of if self.by == "difference" else ratio_of)(ours, theirs)

    def met(self, results: Results) -> bool | None:
        """None when it was not measured."""
        value = self.measured(results)
        if value is None:
            return None
        return value >= self.bound if self.sense == "≥" else value <= self.bound

    def said(self, results: Results) -> str:
        """The measured value with its unit."""
        value = self.measured(results)
        if value is None:
            return "–"
        if self.by == "difference":
            return f"{value:+.2f} {self.unit}"
        return f"{shown(value)} {'×' if self.theirs is not None else self.unit}".rstrip()


def _against(what: str, workload: str, metric: str, sense: Literal["≥", "≤"], **bounds: float) -> list[Target]:
    """The same number against several peers' in the same workload: `mosec=2.5, ray_tuned=6`."""
    targets: list[Target] = []
    for name, bound in bounds.items():
        peer = name.replace("_", "-")
        theirs = Number(workload, metric, peer)
        targets.append(Target(what, Number(workload, metric), bound, sense, theirs, versus=PEER_TITLES[peer]))
    return targets


def _against_bare(what: str, workload: str, metric: str, bound: float) -> Target:
    """A number against the no-op on bare uvicorn, for what bare uvicorn cannot do."""
    return Target(
        what, Number(workload, metric), bound, "≥", Number("noop", metric, "uvicorn"), versus="bare uvicorn"
    )


NOOP, ONE, COMPOSED = "no-op, 64 connections, requests/s", "no-op, one connection, p50", "composed, 64 connections"
BATCH, MEMORY, STREAM = "batch, requests/s", "memory (PSS)", "SSE, 50 chunks"
BARE_P50 = Number("noop", "p50_ms_1", "uvicorn")

TARGETS: tuple[Target, ...] = (
    *_against(NOOP, "noop", "per_s_64", "≥", uvicorn=0.6, mosec=2.5, ray_tuned=6, ray=70, litserve=20, bentoml=20),
    Target(ONE, Number("noop", "p50_ms_1"), 0.10, "≤", BARE_P50, "difference", "ms", "bare uvicorn"),
    *_against(ONE, "noop", "p50_ms_1", "≤", ray_tuned=0.5),
    _against_bare(COMPOSED, "composed", "per_s_64", 0.35),
    *_against(COMPOSED, "composed", "per_s_64", "≥", ray_tuned=10, mosec=2),
    *_against("FastAPI ingress → child", "fastapi", "per_s_64", "≥", fastapi=0.5, ray_tuned=5),
    *_against(f"{STREAM}, chunks/s", "stream_50", "chunks_per_s", "≥", ray_tuned=10),
    Target(f"{STREAM}, first byte", Number("stream_50", "first_byte_ms"), 1.0, "≤", unit="ms"),
    Target("10 MB array", Number("array", "gb_per_s"), 1.0, "≥", unit="GB/s"),
    *_against("10 MB array", "array", "gb_per_s", "≥", ray=5, ray_tuned=5),
    *_against("1 MB body, requests/s", "echo_1m", "per_s_8", "≥", uvicorn=0.5),
    Target(BATCH, Number("batch", "per_s_64"), 0.95, "≥", Number("batch", "model_per_s"), versus="the model alone"),
    *_against(BATCH, "batch", "per_s_64", "≥", ray_tuned=1, ray=1, mosec=1, litserve=1, bentoml=1),
    _against_bare("sync handler, requests/s", "sync", "per_s_64", 0.25),
    Target("overload × 10, goodput", Number("overload", "goodput_ratio"), 0.95, "≥", unit="of capacity"),
    Target("overload × 10, rejections, p99", Number("overload", "rejected_p99_ms"), 20, "≤", unit="ms"),
    Target(
        "overload × 10, accepted, p99",
        Number("overload", "accepted_p99_ms"),
        2,
        "≤",
        Number("overload", "full_queue_p99_ms"),
        versus="the full queue's",
    ),
    Target("start to first 200", Number("start", "first_200_s"), 0.6, "≤", unit="s"),
    Target(f"{MEMORY}, one replica", Number("footprint", "pss_mb_1"), 70, "≤", unit="MB"),
    Target(f"{MEMORY}, each further replica", Number("footprint", "further_mb"), 10, "≤", unit="MB"),
    *_against(f"{MEMORY}, eight replicas", "footprint", "pss_mb_8", "≤", ray=1 / 20),
    Target("idle CPU, eight replicas", Number("footprint", "idle_percent_8"), 0.5, "≤", unit="% of a core"),
)
