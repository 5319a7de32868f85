"""The one exception for a user's mistakes."""


class UserError(Exception):
    """A mistake that the user can correct.

    The message is one line. It names the config key, flag or file, its value, and what would be right. The
    command line prints this line alone and exits with code 1.
    """
