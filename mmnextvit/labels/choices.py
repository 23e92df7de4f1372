"""The names of the formats of labels, which the command line needs at once."""

from ..utils.errors import UserError
from ..utils.messages import did_you_mean

NAMES = ('coco', 'yolo', 'voc', 'labelme')


def parse_formats(text: str) -> list[str]:
    """Names of formats, separated by commas: ``'coco,yolo'``.

    Raises:
        UserError: There is no such format.
    """
    names = [name.strip() for name in text.lower().split(',')]
    for name in names:
        if name not in NAMES:
            hint = did_you_mean(name, NAMES)
            problem = f'there is no format {name!r}, only {", ".join(NAMES)}'
            raise UserError(f'{problem}: {hint}' if hint else problem)
    return names
