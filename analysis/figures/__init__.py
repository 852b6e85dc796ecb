"""Plots of sweeps: each a function that takes a run of `analysis.load` and `ax=`, and returns the axes."""

from analysis.figures.ablation import plot_ablation, plot_heatmap
from analysis.figures.comparison import plot_improvement, plot_profile
from analysis.figures.cost import plot_cost
from analysis.figures.curves import plot_learning_curves, plot_model_error
from analysis.figures.drawing import rendered
from analysis.figures.episodes import plot_adaptation, plot_imagination
from analysis.figures.film import animation, contact_sheet

__all__ = [
    "animation",
    "contact_sheet",
    "plot_ablation",
    "plot_adaptation",
    "plot_cost",
    "plot_heatmap",
    "plot_imagination",
    "plot_improvement",
    "plot_learning_curves",
    "plot_model_error",
    "plot_profile",
    "rendered",
]
