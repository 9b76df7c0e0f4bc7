"""What is raised when the user, not the program, has to do something."""


class UserError(Exception):
    """Input that cannot be used: the message is one line that says what is wrong and what to do.

    The command line prints it without a traceback and exits with status 2.
    """
