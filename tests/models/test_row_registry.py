"""Modules of a user's own, registered in a file of his own."""

import textwrap
from fractions import Fraction

from mmnextvit import register_row
from mmnextvit.models import yolov5_row_files
from mmnextvit.models.yolov5_graph import RowGraph
from mmnextvit.models.yolov5_row_files import import_row_files
from mmnextvit.models.yolov5_rows import ROW_RULES, FeatureMap, RowError
from mmnextvit.models.yolov5_unknown import find_misspelt
from mmnextvit.utils.errors import MissingFileError, UserError

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    """What a test registers is forgotten behind it."""
    known = dict(ROW_RULES)
    monkeypatch.setattr(yolov5_row_files, '_IMPORTED', {})
    yield
    ROW_RULES.clear()
    ROW_RULES.update(known)


@pytest.fixture
def write(tmp_path):
    def write(body: str, name: str = 'own_rows.py') -> str:
        start = 'import torch', 'from torch import nn', 'from mmnextvit import *', ''
        path = tmp_path / name
        path.write_text('\n'.join(start) + textwrap.dedent(body))
        return str(path)

    return write


def build(*rows: list, inputs: int = 1, **options) -> RowGraph:
    maps = {-i: FeatureMap(16, Fraction(8)) for i in range(1, inputs + 1)}
    return RowGraph(list(rows), maps, (len(rows) - 1,), 0, **options)


class Called(nn.Module):
    """Keeps what it was called with."""

    def __init__(self, *args) -> None:
        super().__init__()
        self.args = args
        self.norm = nn.BatchNorm2d(16)


class Same(Called):
    def forward(self, x):
        return x


class Wide(Called):
    def forward(self, x):
        return x.repeat(1, self.args[1] // x.shape[1], 1, 1)


class Joined(Called):
    def forward(self, x):
        return torch.cat(x, dim=1)


@pytest.mark.parametrize(
    'module, rule, row, called, channels',
    [
        (Same, dict(channels='same'), [-1, 1, 'Own', [7]], (16, 16, 7), 16),
        (Same, dict(channels='matched'), [-1, 1, 'Own', [32, 7]], (16, 16, 7), 16),
        (Same, dict(channels='matched'), [-1, 1, 'Own', []], (16, 16), 16),
        (Same, dict(channels='same'), [-1, 1, 'Own', ['mean']], (16, 16, 'mean'), 16),
        (Wide, {}, [-1, 1, 'Own', [64, 7]], (16, 32, 7), 32),
        (Wide, dict(repeats='inside'), [-1, 6, 'Own', [64, 7]], (16, 32, 3, 7), 32),
        (Joined, dict(channels='sum'), [[-1, -2], 1, 'Own', [7]],
         ([16, 16], 32, 7), 32),
        (Wide, dict(channels=lambda args, widths, scaling: args[0] * widths[0]),
         [-1, 1, 'Own', [3]], (16, 48, 3), 48),
        (Same, dict(channels='same', takes_widths=False), [-1, 1, 'Own', [7]],
         (7,), 16),
    ],
)  # fmt: skip
def test_a_rule_says_how_a_class_is_called(module, rule, row, called, channels):
    register_row('Own', **rule)(module)
    graph = build(row, inputs=2, width_multiple=0.5, depth_multiple=0.5)
    assert graph['0'].args == called
    assert graph.maps[0] == (channels, 8)
    assert (graph['0'].norm.eps, graph['0'].norm.momentum) == (1e-3, 0.03)


def test_a_number_stacks_modules_unless_it_goes_inside():
    register_row('Own', channels='same')(Same)
    graph = build([-1, 6, 'Own', []], depth_multiple=0.5)
    assert [type(m) for m in graph['0']] == [Same] * 3


@pytest.mark.parametrize('stride', [2, Fraction(1, 2), lambda args: args[0]])
def test_a_stride_is_a_number_or_a_function(stride):
    class Own(Called):
        def forward(self, x):
            factor = float(stride(self.args[2:]) if callable(stride) else stride)
            return nn.functional.interpolate(x, scale_factor=1 / factor)

    register_row(channels='same', stride=stride)(Own)
    graph = build([-1, 1, 'Own', [2]])
    assert graph.maps[0].stride == 8 * (2 if callable(stride) else stride)


def test_a_file_is_run_once_and_may_import_its_neighbours(write, tmp_path):
    (tmp_path / 'beside.py').write_text('WIDTH = 3')
    file = write("""
        import beside
        @register_row(channels='same')
        class Own(nn.Identity):
            def __init__(self, c1, c2):
                super().__init__()
        counted = globals().get('counted', 0) + 1
    """)
    assert import_row_files([file]) == import_row_files([file]) == (file,)
    assert isinstance(build([-1, 1, 'Own', []])['0'], nn.Identity)


def test_a_file_that_came_by_its_name_and_by_its_path_registers_once(
    write, tmp_path, monkeypatch
):
    """As by ``custom_imports`` of a config, and by ``--modules``."""
    file = write("""
        @register_row()
        class Own(nn.Conv2d):
            def __init__(self, c1, c2):
                super().__init__(c1, c2, 1)
    """)
    import_row_files([file])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__('sys').modules, 'own_rows')
    __import__('own_rows')
    assert build([-1, 1, 'Own', [24]]).maps[0].channels == 24


@pytest.mark.parametrize('name', ['Conv', 'CBAM', 'Detect'])
def test_a_name_that_is_taken_is_an_error(name, write):
    file = write(f"""
        @register_row('{name}')
        class Own(nn.Identity):
            pass
    """)
    with pytest.raises(UserError, match=rf'own_rows.py:5: {name}: ') as error:
        import_row_files([file])
    assert ('force=True' in str(error.value)) == (name != 'Detect')


def test_a_class_may_compute_numbers_where_it_is_built():
    class Own(nn.Conv2d):
        def __init__(self, c1, c2):
            super().__init__(c1, c2, 1)
            self.share = torch.linspace(0, 1, 3)[1].item()

    register_row()(Own)
    assert build([-1, 1, 'Own', [24]])['0'].share == 0.5


def test_a_name_is_replaced_by_force():
    register_row('Conv', force=True)(Wide)
    assert isinstance(build([-1, 1, 'Conv', [32]])['0'], Wide)


@pytest.mark.parametrize(
    'body, line, message',
    [
        ('x = (', 4, 'was never closed'),
        ('\nx = 1 / 0', 5, 'ZeroDivisionError: division by zero'),
        ('\nimport not_there', 5, 'No module named'),
        ('@register_row(channels="x")\nclass Own: pass', 4, 'channels=.x.: write'),
        ('@register_row(repeats="x")\nclass Own: pass', 4, 'repeats=.x.: write'),
        ('@register_row\nclass Own: pass', 4, 'with its parentheses'),
    ],
)
def test_a_file_that_cannot_be_imported_is_named(body, line, message, write):
    file = write('')
    with open(file, 'a') as f:
        f.write(body)
    with pytest.raises(UserError, match=message) as error:
        import_row_files([file])
    assert (str(error.value.file), error.value.line) == (file, line)


def test_a_file_that_is_missing_is_named(tmp_path):
    for path in (tmp_path / 'gone.py', 'https://example.org/rows.py'):
        with pytest.raises(MissingFileError, match=r'modules .*(gone|rows)\.py'):
            import_row_files([str(path)])


OWN = """
    def width(args, widths, scaling):
        {width}

    @register_row(channels={channels})
    class Own(nn.Module):
        def __init__(self, c1, c2{more}):
            super().__init__()

        def forward(self, x):
            return {forward}
"""
GOOD = dict(width='return 16', channels='"same"', more='', forward='x')


@pytest.mark.parametrize(
    'changes, row, message, line',
    [
        (dict(channels='width', width='return args[3]'), [7], 'index out of range', 6),
        (dict(channels='width', width='return wdths'), [7], 'wdths.* is not def', 6),
        (dict(channels='width', width='return "16"'), [7], "a count, not '16'", 8),
        (dict(channels='width', width='return None'), [7], 'a count, not None', 8),
        (dict(), [7], r'takes 3 positional arguments', 8),
        (dict(more=', a'), [], 'missing 1 required positional argument', 8),
        (dict(forward='x.y'), [], "no attribute 'y'", 14),
        (dict(forward='x[:, :3]'), [], 'promises 16 channels, and it gives 3', 8),
        (dict(forward='x[..., ::2, ::2]'), [], 'promises a stride of 1, .*16x16', 8),
        (dict(forward='[x]'), [], 'not one map', 8),
        (dict(forward='x.mean()'), [], 'not one map', 8),
        (dict(forward='__import__("einops_2")'), [], 'No module named', 14),
        (dict(forward='open("/gone.npy")'), [], 'No such file', 14),
    ],
)
def test_a_wrong_module_names_row_file_and_line(changes, row, message, line, write):
    file = write(OWN.format(**{**GOOD, **changes}))
    import_row_files([file])
    with pytest.raises(RowError, match=message) as error:
        build([-1, 1, 'Own', row])
    assert error.value.row == 0
    assert str(error.value).endswith(f'({file}:{line})')


def test_all_unknown_modules_are_named_at_once():
    rows = [
        [-1, 1, 'Conv', [16]],
        [-1, 1, 'GSConv', [16]],
        [-1, 1, 'C3STR', [16]],
        [-1, 1, 'GSConv', [16]],
    ]
    with pytest.raises(RowError) as error:
        build(*rows)
    text = str(error.value)
    assert (
        'row 1: [-1, 1, GSConv, [16]]: unknown modules GSConv (rows 1, 3); C3' in text
    )
    assert 'C3STR (row 2): its window' in text
    assert 'docs/custom_modules.md' in text and 'did you mean' not in text


@pytest.mark.parametrize(
    'name, meant',
    [
        ('conv', 'Conv'),
        ('Cov', 'Conv'),
        ('Cnov', 'Conv'),
        ('Cc3', 'C3'),
        ('Upsample', 'nn.Upsample'),
        ('GhostConvs', 'GhostConv'),
        ('coord_att', 'CoordAtt'),
        ('resnet17', 'resnet18'),
        *((name, None) for name in (
            'C3STR', 'PConv', 'GSConv', 'C3k', 'C2', 'CA2', 'SA', 'SEAM', 'DConv',
            'C3CA', 'EMA', 'Concat_bifpn', 'RepConv', 'SPPCSPC', 'BiFPN',
            'ECANet', 'CBAMC3', 'BiFPN_Concat4',
        )),
    ],
)  # fmt: skip
def test_only_a_slip_of_the_pen_is_corrected(name, meant):
    assert find_misspelt(name, [*ROW_RULES, 'resnet18', 'cait_s24_224']) == meant
