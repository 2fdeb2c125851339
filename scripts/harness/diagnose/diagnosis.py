"""All of a diagnosis but the remedy: survey, judgement, evidence, harm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..backends import EngineOptions, Session
from .evidence import ENGINE, Verdict, verdict
from .harm import Harm, group_of, measure_harm
from .judge import Judged, judge
from .places import Place
from .reference import Reference
from .survey import Survey, survey
from .taps import Tapped


@dataclass(frozen=True)
class Diagnosis:
    """`harm` is measured where no place is at fault. `candidate` is what a remedy should keep in
    higher precision: the first place at fault, or the most harmful; empty where it would not help.
    """

    survey: Survey
    judged: list[Judged]
    verdict: Verdict
    harm: Harm | None
    candidate: list[Place]


def diagnose(
    tested: Path,
    reference: Reference,
    backend: Tapped,
    options: EngineOptions,
    engine: Session | None = None,
) -> Diagnosis:
    """Find where the graph `tested` loses accuracy; the arguments are `survey.survey`'s."""
    found = survey(tested, reference, backend, options, engine)
    judged = judge(found)
    result = verdict(found, judged)
    if result.place is not None:
        return Diagnosis(found, judged, result, None, group_of(result.place, reference.places))
    harm = measure_harm(tested, reference, backend, options, found)
    group = [] if harm is None or result.kind == ENGINE else harm.group
    return Diagnosis(found, judged, result, harm, group)
