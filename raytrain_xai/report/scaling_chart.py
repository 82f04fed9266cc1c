"""Where the time of a job goes on 1 to many devices: a stack of shares for each size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from raytrain_xai.report.drawing import INK, STYLE, to_png
from raytrain_xai.scaling.forecast import LOSSES, Forecast

# The first is training; losses are told apart with the common colour deficiencies (after Okabe and Ito).
COLOURS = ("#0a84c6", "#c9c9c9", "#c76fa6", "#e07b00", "#d1495b", "#0b9e73", "#3b3b3b")
_PANEL_INCHES = (3.4, 3.0)
_SMALL = 7  # points; eleven sizes stand side by side


def scaling_png(jobs: Mapping[str, Sequence[Forecast]]) -> bytes:
    """One panel per job (title -> forecasts in ascending order of devices), and a legend for all."""
    with rc_context(STYLE):
        width, height = _PANEL_INCHES
        figure = Figure(figsize=(width * len(jobs), height), layout="constrained")
        panels = figure.subplots(1, len(jobs), squeeze=False, sharey=True)[0]
        for axes, (title, forecasts) in zip(panels, jobs.items(), strict=True):
            _draw(axes, title, forecasts)
        panels[0].set_ylabel("share of the time")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        return to_png(figure)


def _draw(axes: Axes, title: str, forecasts: Sequence[Forecast]) -> None:
    places = range(len(forecasts))
    shares = {"training": [one.efficiency for one in forecasts]}
    shares |= {name: [one.losses[name] for one in forecasts] for name in LOSSES}
    bottom = [0.0] * len(forecasts)
    for (name, values), colour in zip(shares.items(), COLOURS, strict=True):
        axes.bar(places, values, bottom=bottom, width=0.86, color=colour, label=name)
        bottom = [below + value for below, value in zip(bottom, values, strict=True)]
    for place, one in zip(places, forecasts, strict=True):
        if one.efficiency > 0.15:  # room for the number
            axes.text(place, one.efficiency - 0.02, f"{100 * one.efficiency:.0f}", ha="center", va="top", color="white")
    axes.set_xticks(list(places), [str(one.devices) for one in forecasts], fontsize=_SMALL)
    axes.set_xlabel("devices")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title(title, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
