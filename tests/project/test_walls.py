"""The walls of docs/architecture.md: who imports whom, and what is optional."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.helpers.source_code import parse
from tests.helpers.warm_python import run_python

PACKAGE = ROOT / 'mmnextvit'
PAGE = (ROOT / 'docs' / 'architecture.md').read_text()


def rows(heading: str) -> dict[str, str]:
    """The first table of a section: its first column, without quotes, to its second."""
    section = PAGE.split(f'\n## {heading}\n')[1].split('\n## ')[0]
    return dict(re.findall(r'^\| `(\w+)` \| (.+?) \|$', section, re.M))


def allowed_rooms() -> dict[str, set[str]]:
    """The rooms that each room may import."""
    allowed: dict[str, set[str]] = {}
    for room, text in rows('Walls').items():
        everything = text == 'everything above'
        assert everything or text == 'nothing' or re.fullmatch(r'`\w+`(, `\w+`)*', text)
        allowed[room] = set(allowed if everything else re.findall(r'`(\w+)`', text))
        assert allowed[room] <= allowed.keys(), f'{room} imports something below it'
    return allowed


def modules_with_mmyolo() -> set[str]:
    return set(re.findall(r'^- `(\w+/\w+)`$', PAGE, re.M))


ALLOWED = allowed_rooms()
WITH_MMYOLO = modules_with_mmyolo()


def module_files(folder: Path = PACKAGE) -> list[Path]:
    files = (p.relative_to(folder) for p in sorted(folder.rglob('*.py')))
    return [folder / p for p in files if '.mim' not in p.parts]


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix('').as_posix()


def imported(source: str, package: str) -> Iterator[str]:
    """The dotted names that a source imports, wherever in it, as absolute ones.

    Args:
        source: Python.
        package: The package that its relative imports start from.
    """

    def nodes(parent: ast.AST) -> Iterator[ast.AST]:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
                for other in node.orelse:
                    yield from (other, *nodes(other))
            else:
                yield node
                yield from nodes(node)

    for node in nodes(parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split('.')[: 1 - node.level or None] if node.level else []
            base += [node.module] if node.module else []
            yield from ('.'.join([*base, alias.name]) for alias in node.names)


def rooms(names: Iterable[str]) -> set[str]:
    """The rooms of this package, and MMYOLO, that dotted names are from."""
    found = set()
    for dotted in names:
        top, _, rest = dotted.partition('.')
        room = rest.partition('.')[0]
        if top == 'mmnextvit':
            is_room = (PACKAGE / room).is_dir() or (PACKAGE / f'{room}.py').is_file()
            found.add(room if room and is_room else '__init__')
        elif top == 'mmyolo':
            found.add(top)
    return found


def broken_walls(path: Path) -> set[tuple[str, str]]:
    """The module, with what it imports though it may not."""
    package = '.'.join(path.relative_to(ROOT).parent.parts)
    room = path.relative_to(PACKAGE).with_suffix('').parts[0]
    used = rooms(imported(path.read_text(), package)) - {room}
    may = ALLOWED.get(room, set()) | (
        {'mmyolo'} if name(path) in WITH_MMYOLO else set()
    )
    return {(name(path), other) for other in used - may}


@pytest.mark.parametrize(
    'source, found',
    [
        ('import mmnextvit.models.fold as f', {'models'}),
        ('import mmnextvit', {'__init__'}),
        ('from mmnextvit import cli, NextViT', {'cli', '__init__'}),
        ('from mmnextvit.deploy.onnx import Run', {'deploy'}),
        ('def f():\n    from ..weights import reader', {'weights'}),
        ('from .. import utils, __version__', {'utils', '__init__'}),
        ('from . import hooks\nfrom .hooks import x', {'engine'}),
        ('class A:\n    if x:\n        from ..cli.arguments import y', {'cli'}),
        (
            'if TYPE_CHECKING:\n    import mmyolo\nelse:\n    from .. import hub',
            {'hub'},
        ),
        ('import mmyolo.registry, mmdet', {'mmyolo'}),
        ('try:\n    from mmyolo import x\nexcept ImportError:\n    pass', {'mmyolo'}),
        ('import mmnextvit_user, torch.mmyolo', set()),
    ],
)
def test_every_form_of_import_is_read(source, found):
    assert rooms(imported(source, 'mmnextvit.engine')) == found


def test_the_tables_have_every_room():
    there = {
        path.relative_to(PACKAGE).with_suffix('').parts[0] for path in module_files()
    }
    assert there == ALLOWED.keys()
    assert rows('Rooms').keys() == ALLOWED.keys() - {'__init__', '__main__'}
    assert len(WITH_MMYOLO) == 5
    assert ALLOWED['utils'] == ALLOWED['runtime'] == ALLOWED['_mmcv'] == set()
    assert ALLOWED['datasets'] == {'utils', 'runtime'}  # the table is read as it stands


def test_walls_hold():
    broken = set().union(*map(broken_walls, module_files()))
    assert not broken, sorted(broken)


def test_tools_import_the_command_line_alone():
    for path in sorted((ROOT / 'tools').glob('*.py')):
        assert set(imported(path.read_text(), '')) == {'mmnextvit.cli.main'}, path


def run(code: str, *hidden: str) -> str:
    """What code prints in an interpreter where packages are missing.

    Args:
        code: Python.
        hidden: The packages; with ``*`` first, all but these and Python's own.
    """
    hiding = f"""
import sys
from importlib.machinery import PathFinder
HIDDEN = {hidden!r}
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.partition('.')[0]
        listed = top in HIDDEN
        if '*' in HIDDEN:
            listed = not listed and top not in sys.stdlib_module_names
        return None if listed else super().find_spec(name, path, target)
for finder in list(sys.meta_path):  # of editable installs too
    if getattr(finder, '__name__', '').endswith(('PathFinder', 'EditableFinder')):
        sys.meta_path.remove(finder)
sys.meta_path.append(Hiding)
"""
    command = sys.executable, '-c', hiding + code
    if '*' in hidden:  # nothing may have been imported before
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    else:
        result = run_python(*command, cwd=ROOT, env=os.environ)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_every_module_is_imported_without_mmyolo():
    code = f"""
import json
from importlib import import_module
failed = {{}}
for name in {[name(path) for path in module_files()]}:
    try:
        import_module(f'mmnextvit/{{name}}'.removesuffix('/__init__').replace('/', '.'))
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps(failed))
assert 'mmyolo' not in sys.modules
"""
    failed = json.loads(run(code, 'mmyolo').splitlines()[-1])
    assert failed.keys() <= WITH_MMYOLO, failed
    assert all('mmyolo' in error.lower() for error in failed.values())


@pytest.mark.slow
def test_the_runtime_needs_numpy_opencv_and_onnx_runtime_alone():
    code = """
import mmnextvit
from mmnextvit.runtime import Detector
import onnxruntime
print(onnxruntime.InferenceSession.__name__, mmnextvit.runtime.Detector is Detector)
tops = {name.partition('.')[0] for name in sys.modules}
print(sorted(tops & {'torch', 'mmengine', 'PIL', 'yaml', 'rich'}))
"""
    said = run(code, '*', 'mmnextvit', 'numpy', 'cv2', 'onnxruntime')
    assert said == 'InferenceSession True\n[]\n'
