"""Formats durations in words."""


def duration(seconds: float) -> str:
    """Format a duration in two units: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes_of_hour = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_of_hour:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def rounded(seconds: float) -> str:
    """Format a duration in one unit, for tables: `42 s`, `3.1 min`, `2.2 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
