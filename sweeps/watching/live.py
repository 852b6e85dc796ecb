"""A sweep's status, shown until its run ends: in place on a terminal, as lines elsewhere."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sweeps.watching.show import to_lines
from sweeps.watching.status import SweepStatus

__all__ = ["show_until_the_end"]

REFRESH = 2.0  # seconds between two looks on a terminal
PLAIN = 15.0  # seconds between two looks elsewhere: a log stays readable over hours


def show_until_the_end(
    look: Callable[[], SweepStatus], console: Console | None = None, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Show a status until everything is settled, or the run that was seen has ended; Ctrl-C ends it, too.

    Args:
        look: returns the status at this moment.
        console: where it is shown; by default stdout.
        sleep: waits so many seconds; replaced in tests.
    """
    console = console or Console(highlight=False)
    seen, shown = False, list[str]()
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                status = look()
                lines = [f"{'sweep':<11} {status.sweep}", *to_lines(status)]
                if console.is_terminal:
                    live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)
                elif lines != shown:
                    console.print("\n".join(lines), markup=False, soft_wrap=True)
                    shown = lines
                if status.settled or (seen and not status.runs):
                    return
                seen = seen or bool(status.runs)
                sleep(REFRESH if console.is_terminal else PLAIN)
    except KeyboardInterrupt:
        return
