"""One episode in pictures, frozen beside adapted: a contact sheet, and an animation."""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from analysis.figures.drawing import GREY, styled
from mpcwdwm.evaluation.film import Film, Picture

__all__ = ["animation", "contact_sheet"]

TILE = 1.25  # inches, width and height of a picture
LABEL = 1.5  # inches, beside a row
LABEL_CHARACTERS = 19  # that fit there
HEAD = 0.35  # inches, above the pictures
BAND = 22  # pixels above a moving picture, for its text
DIMMED = 0.45  # brightness of an episode that has ended, while another goes on
SHRUNK = 2  # times smaller than they were rendered, width and height, are moving pictures
MILLISECONDS = 80  # of a picture of the animation
HOLD = 1500  # milliseconds, of its last one


def contact_sheet(films: Sequence[Film], columns: int = 8) -> Figure:
    """Return a figure with a row for each film, and the same steps of all below each other.

    An episode that has ended shows its last picture, pale, with the step at which it ended.

    Args:
        films: of `mpcwdwm.evaluation.film.films`: taken at the same steps.
        columns: pictures in a row, the first step and the end included.
    """
    longest = max(films, key=lambda film: film.length)
    chosen = np.unique(np.linspace(0, len(longest.steps) - 1, columns).round().astype(int))
    steps = [longest.steps[i] for i in chosen]
    size = (LABEL + TILE * len(steps), HEAD + TILE * len(films))
    with styled():
        figure = Figure(figsize=size)
        left, top = LABEL / size[0], 1 - HEAD / size[1]
        rows = figure.subplots(
            len(films),
            len(steps),
            squeeze=False,
            gridspec_kw={"left": left, "right": 1, "bottom": 0, "top": top, "wspace": 0.02, "hspace": 0.02},
        )
        for film, places in zip(films, rows, strict=True):
            for axes, step in zip(places, steps, strict=True):
                picture, has_ended = _at(film, step)
                axes.imshow(picture, alpha=DIMMED if has_ended else 1.0)
                axes.set_axis_off()
                if has_ended:
                    axes.text(0.5, 0.06, f"ended at {film.length}", transform=axes.transAxes, ha="center", fontsize=7)
            middle = sum(places[0].get_position().intervaly) / 2
            figure.text(0.1 / size[0], middle, _said(film), va="center", fontsize=8)
        for axes, step in zip(rows[0], steps, strict=True):
            box = axes.get_position()
            said = f"step {step}"
            figure.text((box.x0 + box.x1) / 2, top, said, ha="center", va="bottom", fontsize=8, color=GREY)
    return figure


def animation(films: Sequence[Film], form: str = "WEBP") -> bytes:
    """Return an animated file with the films beside each other; one that has ended stands still, darker.

    Args:
        films: of `mpcwdwm.evaluation.film.films`: taken at the same steps.
        form: "WEBP", or "GIF", which any viewer shows and which is larger.
    """
    longest = max(films, key=lambda film: film.length)
    frames = [Image.fromarray(np.concatenate([_moving(film, step) for film in films], 1)) for step in longest.steps]
    times = [MILLISECONDS] * (len(frames) - 1) + [HOLD]
    content = io.BytesIO()
    frames[0].save(content, form, save_all=True, append_images=frames[1:], duration=times, loop=0)
    return content.getvalue()


def _at(film: Film, step: int) -> tuple[Picture, bool]:
    """Return a film's picture at a step, and whether it ended before."""
    place = max(i for i, taken in enumerate(film.steps) if taken <= step)
    return film.pictures[place], step > film.length


def _moving(film: Film, step: int) -> Picture:
    """Return a film's picture at a step, with a line of text above it."""
    picture, has_ended = _at(film, step)
    small = Image.fromarray((picture * (DIMMED if has_ended else 1.0)).astype(np.uint8)).reduce(SHRUNK)
    shown = Image.new("RGB", (small.width, BAND + small.height), "white")
    shown.paste(small, (0, BAND))
    text = f"{film.label}: {f'ended at step {film.length}' if has_ended else f'step {min(step, film.length)}'}"
    ImageDraw.Draw(shown).text((4, 4), text.encode("ascii", "replace").decode(), fill="black")
    return np.asarray(shown)


def _said(film: Film) -> str:
    """Return who acted, and what came of it."""
    label = textwrap.fill(film.label, LABEL_CHARACTERS)
    parts = [label, f"return {film.return_:.0f}", f"{film.length} steps"]
    return "\n".join(parts if film.score is None else [parts[0], f"score {film.score:.1f}", *parts[1:]])
