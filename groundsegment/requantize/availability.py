"""Whether this installation can requantize: torch is no part of the ground's own needs."""

from groundsegment.errors import InputError


def check_torch() -> None:
    """Find out at once.

    Raises:
        InputError: torch or transformers is not installed.
    """
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"requantizing needs torch and transformers; {error.name} is not installed",
            hint="pip install 'skyload[requantize]'",
        ) from None
    assert torch is not None
