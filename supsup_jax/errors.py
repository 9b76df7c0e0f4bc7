"""What is raised when the user, not the program, has to do something."""


class UserError(Exception):
    """Input that cannot be used: the message is one line that says what is wrong and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


def reason(error: Exception) -> str:
    """What an error of a library says, as a part of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
