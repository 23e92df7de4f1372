"""JSON of annotation files."""

import json

from ..utils.errors import UserError
from ..utils.messages import shorten


def parse_json(content: bytes, what: str = 'JSON') -> object:
    """What a JSON file holds.

    Args:
        content: Of the file.
        what: What it is to be, for the messages.

    Raises:
        UserError: It is empty, no JSON, or nested too deeply; the error lacks the
            file's name.
    """
    if not content.strip():
        raise UserError('the file is empty')
    try:
        return json.loads(content)
    except ValueError as error:
        raise UserError(f'the file is not JSON: {shorten(error)}') from error
    except RecursionError:
        raise UserError(f'the file is nested too deeply to be {what}') from None
