"""The one exception that a user's mistake ends in."""


class UserError(Exception):
    """A mistake that its maker can mend.

    The message is one line that names the config key, flag or file, its value, and what would be
    right; the command line prints that line alone and exits with code 1.
    """
