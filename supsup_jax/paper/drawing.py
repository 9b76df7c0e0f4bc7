"""Context managers for drawing: Matplotlib's default style, and warnings instead of errors."""

import contextlib
import sys
from collections.abc import Iterator

from supsup_jax.errors import reason
from supsup_jax.system import extras


@contextlib.contextmanager
def default_style() -> Iterator[None]:
    """Use Matplotlib's default style, independently of the user's matplotlibrc and style.

    Draw and save figures inside the context, since both read fonts, LaTeX and format settings. Make them without
    `pyplot`, so that no interactive backend is started.

    Raises:
        UserError: if Matplotlib is not installed, or cannot be imported.
    """
    matplotlib = extras.require("plots", "drawing a picture")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@contextlib.contextmanager
def optional(picture: object, later: str) -> Iterator[None]:
    """Turn an exception inside the context into a warning on stderr, so that the caller continues.

    Args:
        picture: name or path of the figure, for the warning.
        later: how to draw it after the cause is fixed.
    """
    try:
        yield
    except Exception as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
        print(f"warning: {picture} was not drawn: {cause}; {later}", file=sys.stderr, flush=True)
