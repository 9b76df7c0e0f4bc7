"""Drawing under Matplotlib's own defaults; for runs also without letting a picture fail them."""

import contextlib
import sys
from collections.abc import Iterator

from supsup_jax.errors import UserError, reason
from supsup_jax.system import extras


@contextlib.contextmanager
def default_style() -> Iterator[None]:
    """Has Matplotlib draw in its default style, whatever the user's matplotlibrc or style says.

    Figures are drawn and written within: fonts, LaTeX and formats are looked up at both times. They are made without
    `pyplot`, so no interactive backend takes part.

    Raises:
        UserError: if Matplotlib is not installed, or cannot be imported.
    """
    try:
        matplotlib = extras.require("plots", "drawing a picture")
    except UserError:
        raise
    except Exception as error:  # a matplotlibrc, or MPLBACKEND, can fail it as well
        raise UserError(
            f"Matplotlib cannot be imported; repair its installation, matplotlibrc or MPLBACKEND ({reason(error)})"
        ) from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@contextlib.contextmanager
def optional(picture: object, later: str) -> Iterator[None]:
    """Where drawing fails within, a line on stderr says so, and the caller continues.

    Args:
        picture: what is drawn.
        later: how to draw it when the cause is gone.
    """
    try:
        yield
    except Exception as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
        print(f"warning: {picture} was not drawn: {said}; {later}", file=sys.stderr, flush=True)
