"""The table: answers of all repeats -> Markdown and JSON.

Rule of this file: pure. Every cell is made from answers; what a subject cannot do stands in its cell in words.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rigs.peers.judge import Answers, Question
from rigs.peers.probes import Probe

# Of one subject: for each probe the answers of its repeats, or why it was not run.
Results = Mapping[str, "Sequence[Answers] | str"]


def cell(question: Question, repeats: Sequence[Answers]) -> str:
    """One question, all repeats of one subject."""
    found = [value for answers in repeats if (value := answers.get(question)) is not None]
    if not found:
        return "–"
    if question.unit == "times":
        return f"{sum(map(bool, found))} of {len(found)}"
    middle = statistics.median(found)
    if question.unit == "share":
        return f"{middle:.0%}".replace("%", " %")
    if question.unit == "ratio":
        return f"× {middle:.1f}" if middle < 10 else f"× {middle:.0f}"
    return f"{middle / 1000:.1f} kB" if middle < 1e6 else f"{middle / 1e6:.2f} MB"


def rows(probe: Probe, results: Mapping[str, Results]) -> list[list[str]]:
    """The rows of a probe: the question, then a cell for each subject."""
    ran = [found[probe.name] for found in results.values()]
    questions: dict[Question, None] = {}
    for found in ran:
        if not isinstance(found, str):
            questions |= {question: None for answers in found for question in answers}
    return [
        [question.text, *(found if isinstance(found, str) else cell(question, found) for found in ran)]
        for question in questions
        if not question.aside or _ever(question, ran)
    ]


def _ever(question: Question, ran: Sequence[Sequence[Answers] | str]) -> bool:
    return any(answers.get(question) for found in ran if not isinstance(found, str) for answers in found)


def markdown(probes: Sequence[Probe], results: Mapping[str, Results]) -> str:
    """All probes, one table."""
    titles = list(results)
    lines = [_line(["", *titles]), _line(["---"] * (len(titles) + 1))]
    for probe in probes:
        found = rows(probe, results)
        if found:
            lines.append(_line([f"**{probe.title}**", *([""] * len(titles))]))
            lines += [_line(row) for row in found]
    return "\n".join(lines)


def unseen(probes: Sequence[Probe], results: Mapping[str, Results]) -> str:
    """What was asked too, has no row, and was never true, in words."""
    counts: dict[str, int] = {}
    for probe in probes:
        ran = [found[probe.name] for found in results.values()]
        asked = {question for found in ran if not isinstance(found, str) for answers in found for question in answers}
        for question in asked:
            if question.aside and not _ever(question, ran):
                counts[question.text] = counts.get(question.text, 0) + 1
    told = "; ".join(f"{text} ({count} fault{'s' * (count > 1)})" for text, count in sorted(counts.items()))
    return f"Asked too, and never true of anybody, so without a row: {told}." if told else ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_json(results: Mapping[str, Results]) -> dict[str, Any]:
    """The same for programs: subject -> probe -> question -> the answers of the repeats."""
    return {
        title: {name: found if isinstance(found, str) else _by_question(found) for name, found in told.items()}
        for title, told in results.items()
    }


def _by_question(repeats: Sequence[Answers]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for answers in repeats:
        for question, value in answers.items():
            found.setdefault(question.text, []).append(value)
    return found
