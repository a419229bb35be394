"""Colours of plots and page.

The palette is that of Okabe and Ito (2008), which people with any of the usual colour deficiencies can tell apart; and
no meaning hangs on colour alone. In the page every plot colour becomes a CSS variable, so that plots follow the
reader's light or dark theme.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tone:
    """One colour in both themes, as ``#rrggbb``."""

    light: str
    dark: str


PALETTE: dict[str, Tone] = {
    "ink": Tone("#1f2430", "#e8eaf0"),
    "muted": Tone("#5c6370", "#a9b0bd"),
    "line": Tone("#d4d8df", "#434a57"),
    "blue": Tone("#0072b2", "#56b4e9"),
    "vermillion": Tone("#d55e00", "#ff9a4d"),
    "green": Tone("#00795b", "#3ecfa5"),
    "amber": Tone("#8f6400", "#e8b84a"),
    "wash": Tone("#fcf3ec", "#2b221d"),
    "paper": Tone("#ffffff", "#171a21"),
}
STATUS_COLOURS = {"passed": "green", "failed": "vermillion", "inconclusive": "amber"}


def colour(name: str) -> str:
    """The light colour called ``name``."""
    return PALETTE[name].light


def status_colour(status: str | None) -> str:
    """The light colour of a verdict."""
    return colour(STATUS_COLOURS.get(status or "", "muted"))
