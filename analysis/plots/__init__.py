"""The pictures. Every function takes data and returns a matplotlib Figure; ``narrow`` stacks its panels.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; sizes go from light to dark within one hue ramp.
The pictures of a whole study stand in ``overview``; the others take arrays and the small frozen classes beside them.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.plots.cloud import bootstrap_clouds
from analysis.plots.contour import LossMap, OptimalPath, loss_contour
from analysis.plots.frontier import Frontier, compute_frontier
from analysis.plots.inputs import Curve
from analysis.plots.isoflop import IsoflopSlice, isoflop_slices
from analysis.plots.misfit import Residuals, residual_panels
from analysis.plots.multiplier import Multiplier, multiplier_curves
from analysis.plots.overview import loss_vs_compute, loss_vs_tokens, residuals, vision_plateau
from analysis.plots.planning import Additions, Power, design_curve, power_curve
from analysis.plots.prediction import Predictions, predicted_against_observed
from analysis.plots.profile import Profile, profile_curves
from analysis.plots.sidebyside import Estimate, Setting, approaches_forest, sensitivity_forest
from analysis.plots.style import INK, legend, panels, styled, to_svg

__all__ = [
    "INK",
    "Additions",
    "Axes",
    "Curve",
    "Estimate",
    "Figure",
    "Frontier",
    "LossMap",
    "Multiplier",
    "OptimalPath",
    "Power",
    "Predictions",
    "Profile",
    "Residuals",
    "Setting",
    "IsoflopSlice",
    "approaches_forest",
    "bootstrap_clouds",
    "compute_frontier",
    "design_curve",
    "isoflop_slices",
    "legend",
    "loss_contour",
    "loss_vs_compute",
    "loss_vs_tokens",
    "multiplier_curves",
    "panels",
    "power_curve",
    "predicted_against_observed",
    "profile_curves",
    "residual_panels",
    "residuals",
    "sensitivity_forest",
    "styled",
    "to_svg",
    "vision_plateau",
]
