"""Runs a tool of an installed package, with mmnextvit imported first.

``python -m mmnextvit train my_config.py`` is ours; a package before it, as in
``python -m mmnextvit mmyolo/analysis_tools/browse_dataset my_config.py``, names
another's. That one too then knows what is registered here, and needs no compiled ops.
"""

import difflib
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from mmnextvit.hub import mim_folder

PACKAGES = ('mmdet', 'mmyolo')


def tool_file(name: str) -> Path:
    """The script of a tool, named by its path without ``.py``.

    Raises:
        FileNotFoundError: There is none of that name, or its package is not installed.
    """
    folder, prefix = mim_folder() / 'tools', ''
    package = name.partition('/')[0]
    if package in PACKAGES:
        spec = find_spec(package)
        if spec is None:
            raise FileNotFoundError(f'{package} is not installed')
        folder, prefix = Path(spec.origin).parent / '.mim' / 'tools', f'{package}/'
    tools = {
        prefix + path.relative_to(folder).with_suffix('').as_posix(): path
        for path in sorted(folder.rglob('*.py'))
        if not path.name.startswith('_')
    }
    if name.removesuffix('.py') in tools:
        return tools[name.removesuffix('.py')]
    near = difflib.get_close_matches(name, tools, 3, 0.5) or tools
    raise FileNotFoundError(f'no tool {name!r}: did you mean {" or ".join(near)}?')


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ('-h', '--help'):
        sys.exit(__doc__)
    try:
        path = tool_file(sys.argv[1])
    except FileNotFoundError as error:
        sys.exit(f'mmnextvit: {error}')
    sys.argv = [str(path), *sys.argv[2:]]
    sys.path[0] = str(path.parent)  # as Python does for a script
    runpy.run_path(str(path), run_name='__main__')


if __name__ == '__main__':
    main()
