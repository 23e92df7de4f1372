"""Metadata that are damaged or hostile, and networks that do not go with theirs."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit.runtime import (
    MAX_METADATA,
    Detector,
    ModelFileError,
    OptionError,
    check_metadata,
    parse_metadata,
)

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from tests.helpers.toy_exports import (
    BOXES,
    LABELS,
    SCORES,
    WRITERS,
    metadata,
    replace_metadata,
    write_onnx,
    write_openvino,
)

pytestmark = pytest.mark.deploy

KEY = tuple[str | int, ...]
# All that mmnextvit export writes, with everything that may be there.
FULL = metadata(
    size=[64, 64],
    anchors=[[[10, 13.5], [16, 30]]],
    normalization={'mean': [0.0] * 3, 'std': [255.0] * 3, 'in_graph': True},
    versions={'torch': '2.0'},
)
FULL['input'] |= {'name': 'images', 'channels': 'RGB', 'range': [0, 255]}
FULL['nms']['nms_pre'] = 30000

NESTED: object = 0
for _ in range(400):
    NESTED = [NESTED]
# Values that no key can have, whatever it is for.
NEVER = [
    float('nan'),
    float('inf'),
    -float('inf'),
    -1,
    -0.5,
    10**30,
    1e300,
    '',
    'x\x1b[2J',
    'line\nbreak',
    '\ud800',
    '\u202eexe.',
    'a' * 2000,
    [],
    [None],
    ['', 3],
    [[]],
    {},
    {'type': 'x'},
    [1, 2, 3, 4, 5, 6, 7],
    NESTED,
]


def find_keys(node: object, key: KEY = ()) -> Iterator[KEY]:
    """The way to every value, objects and lists included."""
    if key:
        yield key
    if isinstance(node, (dict, list)):
        for name in node if isinstance(node, dict) else range(len(node)):
            yield from find_keys(node[name], (*key, name))


def with_value(key: KEY, value: object) -> dict:
    """The full metadata with another value in one place."""
    changed = copy.deepcopy(FULL)
    *way, last = key
    node = changed
    for name in way:
        node = node[name]
    node[last] = value
    return changed


def without(key: KEY) -> dict:
    changed = with_value(key, None)
    node = changed
    for name in key[:-1]:
        node = node[name]
    del node[key[-1]]
    return changed


def spell(key: KEY) -> str:
    """As messages name a key: ``resize[1].size``."""
    parts = (f'[{name}]' if isinstance(name, int) else f'.{name}' for name in key)
    return ''.join(parts).removeprefix('.')


def refusal(text: str) -> str:
    """The message on metadata that are read from a text: one short line."""
    with pytest.raises(ModelFileError) as error:
        parse_metadata(text, 'model.onnx')
    message = str(error.value)
    assert message.startswith('model.onnx ')
    assert message.isascii() and message.isprintable() and len(message) < 400
    return message


KEYS = list(find_keys(FULL))
# What is refused below for all keys and may yet stand in these.
MAY_BE = {
    ('versions',): [{}, {'type': 'x'}],
    ('versions', 'torch'): [v for v in NEVER if isinstance(v, str)],
    ('strides',): [[1, 2, 3, 4, 5, 6, 7]],
    **{
        ('normalization', part, i): [-1, -0.5]
        for part in ('mean', 'std')
        for i in range(3)
    },
}


def test_all_that_an_export_writes_passes():
    assert len(KEYS) > 50
    assert parse_metadata(json.dumps(FULL), 'model.onnx') == FULL
    assert parse_metadata(json.dumps(FULL | {'later': [1]}), 'model.onnx')


@pytest.mark.parametrize('key', KEYS, ids=spell)
def test_values_that_no_key_can_have(key):
    for value in NEVER:
        if value in MAY_BE.get(key, []):
            continue
        message = refusal(json.dumps(with_value(key, value)))
        assert spell(key[:1]) in message, message


@pytest.mark.parametrize('key', KEYS, ids=spell)
def test_other_types_and_missing_keys(key):
    """A number as a text, a text as a number, true for 1, null, and nothing at all."""
    here = FULL
    for name in key:
        here = here[name]
    null_may_be = {('anchors',), ('input', 'batch'), ('nms', 'nms_pre')}
    others = [] if key in null_may_be else [None]
    if not isinstance(here, bool):
        others += [True]
    if not isinstance(here, str):
        others += ['1', 'true']
    if isinstance(here, int) and not {'anchors', 'fill'} & set(key):
        others += [here + 0.5, float(here)]
    if isinstance(here, str):
        others += [7, [here], {here: here}]
    for value in others:
        refusal(json.dumps(with_value(key, value)))

    may_lack = {'config', 'anchors', 'precision', 'normalization', 'versions'}
    may_lack |= {'input.name', 'input.channels', 'input.range', 'nms.nms_pre'}
    may_lack |= {f'classes[{i}]' for i in range(3)} | {'versions.torch'}
    may_lack |= {f'strides[{i}]' for i in range(3)} | {'resize[0]'}
    may_lack |= {'anchors[0][0]', 'anchors[0][1]'}
    text = json.dumps(without(key))
    if spell(key) in may_lack:
        parse_metadata(text, 'model.onnx')
    else:
        refusal(text)


@pytest.mark.parametrize(
    'key, value, message',
    [
        (
            ['nms', 'score_thr'],
            float('nan'),
            'nms.score_thr is nan, and must be a numb',
        ),
        (['nms', 'iou_threshold'], '0.5', "nms.iou_threshold is '0.5', and must be a"),
        (['nms', 'max_per_img'], 0, 'nms.max_per_img is 0, and must be a whole number'),
        (
            ['classes', 1],
            'x\x1b[2J',
            r"classes\[1\] is 'x\\x1b\[2J', and must be a text",
        ),
        (['classes'], [], r'classes is \[\], and must be a list of 1 to 100000'),
        (
            ['resize', 1, 'type'],
            'pad',
            '.type is .pad., and must be "keep_ratio" or "le',
        ),
        (['resize', 1, 'size', 0], 32, r'must end in a letterbox of .* \[64, 64\]'),
        (['resize', 1, 'mini_pad'], True, 'mini_pad.*dynamic_size is false'),
        (['input', 'channels'], 'BGR', "input.channels is 'BGR', and must be .RGB"),
        (['normalization', 'in_graph'], False, 'in_graph is False, and must be true'),
        (['input', 'size', 0], 20000, r'input.size\[0\] is 20000, .* from 1 to 16384'),
    ],
)
def test_messages(key, value, message):
    with pytest.raises(ModelFileError, match=message):
        parse_metadata(json.dumps(with_value(key, value)), 'model.onnx')


@pytest.mark.parametrize(
    'value, message',
    [
        (None, 'best_scores is None, and must be an object'),
        ([], 'best_scores is .., and must be an object'),
        ({'all': 0.5}, 'best_scores.classes is missing'),
        ({'classes': {}}, 'best_scores.all is missing'),
        ({'all': 1.5, 'classes': {}}, 'best_scores.all is 1.5, and must be a number'),
        ({'all': True, 'classes': {}}, 'best_scores.all is True'),
        ({'all': 0.5, 'classes': []}, 'best_scores.classes is .., and must be an obj'),
        (
            {'all': 0.5, 'classes': {'red': 'high'}},
            r"best_scores.classes\['red'\] is 'high', and must be a number from 0 to 1",
        ),
        (
            {'all': 0.5, 'classes': {'blue\x1b[2J': 0.5}},
            r"best_scores.classes has 'blue\\x1b\[2J', and must have names of classes",
        ),
    ],
)
def test_best_scores_that_are_none(value, message):
    text = json.dumps(FULL | {'best_scores': value})
    with pytest.raises(ModelFileError, match=message):
        parse_metadata(text, 'model.onnx')
    best = {'all': 0.5, 'classes': {'red': 1, 'white': 0.25}}
    about = json.dumps(FULL | {'best_scores': best})
    assert parse_metadata(about, 'model.onnx')['best_scores'] == best


def test_batches_that_no_memory_holds():
    about = with_value(('input',), FULL['input'] | {'batch': 4096, 'size': [640, 640]})
    about['resize'][1]['size'] = [640, 640]
    assert '4096 x 640 x 640 pixels, and must have at most' in refusal(
        json.dumps(about)
    )


@pytest.mark.parametrize(
    'text',
    [
        '',
        'null',
        '3',
        '"text"',
        '[]',
        '{',
        '[' * 100_000,
        '{"a":' * 100_000,
        json.dumps(FULL)[:-1],
        '\ufeff' + json.dumps(FULL),
        json.dumps(FULL) + ' ' * MAX_METADATA,
        json.dumps(FULL).replace('30000', '9' * 5000),
    ],
    ids=lambda text: text[:9],
)
def test_texts_that_are_no_metadata(text):
    assert 'was not written by mmnextvit export' in refusal(text)


def test_versions_from_the_future_and_none(write):
    for number in (2, 10**300):
        assert 'install the mmnextvit that wrote it' in refusal(
            json.dumps(FULL | {'format': number})
        )
    for number in (0, True, '2', 1.5, None):
        assert 'format is ' in refusal(json.dumps(FULL | {'format': number}))


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """Writes the toy detector in one of the formats; returns its path."""
    return lambda about: WRITERS[request.param](tmp_path / request.param, about)


def test_every_format_is_checked(write):
    path = write(metadata())
    for key in (('nms', 'score_thr'), ('classes', 0), ('input', 'size'), ('resize',)):
        for value in (None, 'x\x07', [], -1e9):
            replace_metadata(path, json.dumps(with_value(key, value)))
            with pytest.raises(ModelFileError, match='has metadata that cannot be'):
                Detector(path)


# ----------------------------------------------------- networks that say otherwise


@pytest.mark.parametrize('writer', [write_onnx, write_openvino])
def test_inputs_that_disagree_with_the_network(tmp_path, writer):
    """One image at a time of 64 x 64 go in; the metadata say something else."""

    def write(name: str, about: dict) -> Path:
        suffix = '.onnx' if writer is write_onnx else ''
        path = writer(tmp_path / f'{name}{suffix}', metadata(batch=1))
        fix_size(path / 'model.xml' if path.is_dir() else path)
        replace_metadata(path, json.dumps(about))
        return path

    assert Detector(write('same', metadata(batch=1)))
    for i, (about, says) in enumerate(
        [
            (metadata(batch=2), '2 x 3 x 64 x 64'),
            (metadata(batch=None), 'any x 3 x 64 x 64'),
            (metadata((96, 64), batch=1), '1 x 3 x 96 x 64'),
            (metadata(batch=1, dynamic=True), '1 x 3 x any x any'),
        ]
    ):
        with pytest.raises(ModelFileError, match=f'takes 1 x 3 x 64 x 64, .* {says}'):
            Detector(write(str(i), about))


def fix_size(file: Path) -> None:
    """Gives the input of a toy detector a fixed height and width."""
    if file.suffix == '.xml':
        text = file.read_text()
        assert text.count('shape="1,3,?,?"') == 1
        text = text.replace('shape="1,3,?,?"', 'shape="1,3,64,64"')
        head, tail = text.split('</layer>', 1)
        assert head.count('<dim>-1</dim>') == 2
        file.write_text(
            head.replace('<dim>-1</dim>', '<dim>64</dim>') + '</layer>' + tail
        )
        return
    model = onnx.load(file)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 64
    onnx.save(model, file)


def test_networks_with_other_inputs(tmp_path):
    path = write_onnx(tmp_path / 'm.onnx', metadata())
    model = onnx.load(path)
    extra = onnx.helper.make_tensor_value_info('extra', TensorProto.FLOAT, [1])
    model.graph.input.append(extra)
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match='takes any x 3 x any x any and 1, and'):
        Detector(path)


def test_torchscript_that_takes_another_size(tmp_path):
    """Such a program says so only when it runs."""

    class Picky(torch.nn.Module):
        def forward(self, images):
            return images.reshape(-1, 3, 32, 32)[:, 0, :, :4], images[:, 0, :, :3]

    path = tmp_path / 'm.torchscript'
    about = metadata((96, 65), in_graph=False)
    traced = torch.jit.trace(Picky(), torch.zeros(1, 3, 32, 32))
    torch.jit.save(traced, path, _extra_files={'mmnextvit.json': json.dumps(about)})
    with pytest.raises(ModelFileError, match=r'm\.torchscript is damaged.*torch says'):
        Detector(path).detect([np.zeros((9, 9, 3), np.uint8)])


def detect(path: Path) -> list:
    return Detector(path).detect([np.full((64, 64, 3), 255, np.uint8)])


@pytest.mark.parametrize('in_graph', [True, False])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_scores_that_are_not_finite(tmp_path, in_graph, value):
    scores = SCORES if in_graph else np.tile(SCORES[:, None], 3)
    scores = np.where(scores == 0, np.float32(value), scores)  # the last: padding
    about = metadata(in_graph=in_graph)
    path = write_onnx(tmp_path / 'm.onnx', about, scores=scores)
    with pytest.raises(
        ModelFileError, match=r'm\.onnx gives wrong results: its scores'
    ):
        detect(path)


@pytest.mark.parametrize('in_graph', [True, False])
def test_boxes_that_are_not_finite(tmp_path, in_graph):
    boxes = BOXES.copy()
    boxes[1, 2] = np.nan
    scores = SCORES if in_graph else np.tile(SCORES[:, None], 3)
    path = write_onnx(
        tmp_path / 'm.onnx', metadata(in_graph=in_graph), boxes=boxes, scores=scores
    )
    with pytest.raises(ModelFileError, match='its boxes are not all finite'):
        detect(path)


@pytest.mark.parametrize(
    'constants, message',
    [
        (dict(labels=np.int64([2, 3, 1, 0])), 'labels reach from 1 to 3, and .* 3 cla'),
        (dict(labels=np.int64([2, -1, 1, 0])), 'labels reach from -1 to 2, and the'),
        (
            dict(scores=SCORES[:2], labels=LABELS[:2], boxes=BOXES[:2]),
            '3 detections, of 2 at',
        ),
    ],
)
def test_labels_and_counts_that_cannot_be(tmp_path, constants, message):
    path = write_onnx(tmp_path / 'm.onnx', metadata(), **constants)
    with pytest.raises(ModelFileError, match=f'gives wrong results: it.*{message}'):
        detect(path)


def test_outputs_of_another_shape(tmp_path):
    about = metadata(in_graph=False)
    scores = np.tile(SCORES[:, None], 4)  # of four classes, and three have names
    path = write_onnx(tmp_path / 'm.onnx', about, scores=scores)
    message = r"'scores' has the shape \(1, 4, 4\) .*, and must have \(1, 4, 3\)"
    with pytest.raises(ModelFileError, match=message):
        detect(path)
    path = write_onnx(tmp_path / 'n.onnx', about, scores=np.tile(SCORES[:, None], 3))
    replace_metadata(path, json.dumps(metadata()))  # as if it had NMS inside
    with pytest.raises(ModelFileError, match="it has no output 'num_detections'"):
        detect(path)


@pytest.mark.parametrize('threads', [0, -3, 2.5, True, 'many', 100_000])
def test_threads_that_cannot_be(tmp_path, threads):
    path = write_onnx(tmp_path / 'm.onnx', metadata())
    with pytest.raises(OptionError, match='threads=.* is not a whole number from 1'):
        Detector(path, threads=threads)


def test_sizes_that_cannot_be(tmp_path):
    path = write_onnx(tmp_path / 'm.onnx', metadata(dynamic=True))
    for size in ((64.0, 64), (10**9 // 32 * 32, 64), (-64, 64), (True, 64)):
        with pytest.raises(OptionError, match='takes multiples of 32 up to 16384'):
            Detector(path, imgsz=size)


# ----------------------------------------------------------------- hostile files


def test_metadata_that_are_no_text(tmp_path, capfd):
    """Bytes that are no UTF-8 in ONNX, an object in OpenVINO, a huge file in a zip."""
    path = write_onnx(tmp_path / 'm.onnx', metadata())
    content = path.read_bytes()
    text = json.dumps(metadata()).encode()
    assert content.count(text) == 1
    path.write_bytes(content.replace(text, b'\xff' * len(text)))
    with pytest.raises(ModelFileError, match=r'm\.onnx'):
        Detector(path)
    assert capfd.readouterr() == ('', '')  # one message, by us

    folder = write_openvino(tmp_path / 'ov', metadata())
    xml = (folder / 'model.xml').read_text()
    start = xml.rindex('<mmnextvit')  # OpenVINO keeps ONNX's under 'framework'
    end = xml.index('/>', start) + 2
    inner = '<mmnextvit><classes value="a" /></mmnextvit>'
    (folder / 'model.xml').write_text(xml[:start] + inner + xml[end:])
    with pytest.raises(ModelFileError, match='was not written by mmnextvit export'):
        Detector(folder)

    path = WRITERS['model.torchscript'](tmp_path / 'm.torchscript', metadata())
    replace_metadata(path, json.dumps(metadata()) + ' ' * (5 * MAX_METADATA))
    with pytest.raises(ModelFileError, match='was not written by mmnextvit export'):
        Detector(path)


@pytest.mark.parametrize('name', WRITERS)
def test_damaged_anywhere(tmp_path, name):
    """Cut or changed at any place: it works, or one message names the file."""
    path = WRITERS[name](tmp_path / name, metadata())
    file = path / 'model.xml' if path.is_dir() else path
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 12).tolist():
        flipped = bytearray(whole)
        flipped[at] ^= 0x55
        for damaged in (whole[:at], bytes(flipped)):
            file.write_bytes(damaged)
            try:
                detect(path)
            except ModelFileError as error:
                assert path.name in str(error)
                assert '\n' not in str(error)


def test_checks_are_of_values_alone():
    """Also without JSON: numbers of NumPy and tuples are not what a file has."""
    with pytest.raises(
        ValueError, match=r'input\.size is \(64, 64\), and must be a list'
    ):
        check_metadata(with_value(('input', 'size'), (64, 64)))
    with pytest.raises(ValueError, match='nms.score_thr is'):
        check_metadata(with_value(('nms', 'score_thr'), np.float32(0.5)))
