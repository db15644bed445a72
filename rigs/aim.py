"""Aim: where the next kill is to fall, so that every moment of a turn gets its share."""

from __future__ import annotations

import random

_BLIND = 0.05  # the part of kills that wait for no mark
_ASIDE = {"move": 0.05, "start": 0.02}  # and of those that are aimed beside the four moments of a turn
_FOUR = ("open", "ask", "seal", "idle")


class Aim:
    """Chooses by what was hit so far, and learns how long the moments last."""

    def __init__(self) -> None:
        self._lasts = {"open": 0.001, "ask": 0.01, "seal": 0.001, "idle": 0.002, "move": 0.001, "start": 0.005}

    def choose(self, chance: random.Random, hits: dict[str, int]) -> str | None:
        """The moment that was hit least, as a rule; None is a kill that waits for none."""
        what = chance.random()
        if what < _BLIND:
            return None
        for face, part in _ASIDE.items():
            if (what := what - part) < _BLIND:
                return face
        return min(_FOUR, key=lambda face: (hits.get(face, 0), chance.random()))

    def delay(self, chance: random.Random, face: str) -> float:
        """Where in the moment: anywhere, a little more than it lasts included."""
        return chance.random() * 1.1 * self._lasts[face]

    def learn(self, lasted: dict[str, float]) -> None:
        for face, seconds in lasted.items():
            if 0 < seconds < 1:
                self._lasts[face] += (seconds - self._lasts[face]) / 8
