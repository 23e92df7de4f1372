"""``--slice`` of ``test`` and ``predict``, by torch and by exported files."""

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

from mmnextvit.predictors import Predictor
from mmnextvit.runtime import Slicing

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.helpers.commands import call_here

pytestmark = [pytest.mark.deploy, pytest.mark.slow]

TILE = 40  # pixels; the images have 64
OVERLAP = 0.3
SLICE = '--slice', TILE, '--overlap', OVERLAP


def evaluate(folder: Path, checkpoint: str, slicing: Slicing | None) -> float:
    """The mAP of a predictor's boxes on the validation images, by COCO's own tool."""
    predictor = Predictor('tiny.py', checkpoint, slicing=slicing)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / 'data' / 'annotations' / 'val.json'))
        ids = {c['name']: c['id'] for c in coco.dataset['categories']}
        results = []
        for image in coco.dataset['images']:
            file = folder / 'data' / 'val' / image['file_name']
            for found in predictor(file, score_thr=0):
                x1, y1, x2, y2 = found['box']
                results.append(
                    dict(
                        image_id=image['id'],
                        category_id=ids[found['class']],
                        score=found['score'],
                        bbox=[x1, y1, x2 - x1, y2 - y1],
                    )
                )
        evaluation = COCOeval(coco, coco.loadRes(results), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def select_whole(numbers: Mapping[str, float]) -> dict[str, float]:
    """The metrics of whole images of a test with tiles, under their plain names."""
    prefix = 'whole/'
    return {k.removeprefix(prefix): v for k, v in numbers.items() if prefix in k}


@pytest.mark.parametrize('whole', [True, False], ids=['both', 'tiles only'])
def test_metrics_are_those_of_coco_s_tool(here, whole):
    options = () if whole else ('--tiles-only',)
    numbers = call_here('test', 'tiny.py', 'best.pth', *SLICE, *options, cwd=here)
    plain = call_here('test', 'tiny.py', 'best.pth', cwd=here)
    assert select_whole(numbers) == plain
    assert numbers['slice/time_ratio'] > 1
    for found, slicing in (
        (plain, None),
        (numbers, Slicing(TILE, OVERLAP, whole=whole)),
    ):
        expected = evaluate(here, 'best.pth', slicing)
        assert expected > 0.02  # tiles cut the objects of such small images
        assert found['coco/bbox_mAP'] == pytest.approx(expected, abs=2e-3)
    assert numbers['coco/bbox_mAP'] != plain['coco/bbox_mAP']


def test_nothing_is_cut_that_a_tile_holds(here, capfd):
    numbers = call_here('test', 'tiny.py', 'best.pth', '--slice', 64, cwd=here)
    assert '0 of 4 images are larger than a tile of 64 pixels' in capfd.readouterr().out
    ratio = numbers.pop('slice/time_ratio')
    assert ratio == 1
    plain = select_whole(numbers)
    assert plain and {name: numbers[name] for name in plain} == plain


def test_exported_files_find_the_same_in_tiles(here, export_here):
    path = export_here('onnx').path
    by_torch, by_file = (
        call_here('test', 'tiny.py', file, *SLICE, cwd=here)
        for file in ('best.pth', path)
    )
    assert by_torch['coco/bbox_mAP'] > 0.1
    for name, value in by_torch.items():
        if 'bbox_mAP' in name:
            assert by_file[name] == pytest.approx(value, abs=0.01), name
    found = []
    for file in ('best.pth', path):
        out = here / f'of_{Path(file).suffix[1:]}'
        call_here(
            *('predict', 'tiny.py', file, 'wide', '--out-dir', out, *SLICE),
            *('--score-thr', 0.2),
            cwd=here,
        )
        content = json.loads((out / 'predictions.json').read_text())
        found.append([p['objects'] for p in content['predictions']])
    assert sum(map(len, found[0])) > 2
    predictor = Predictor('tiny.py', 'best.pth', slicing=Slicing(TILE, OVERLAP))
    expected = predictor(sorted((here / 'wide').iterdir()), score_thr=0.2)
    for by_torch, by_file, by_predictor in zip(*found, expected, strict=True):
        assert by_torch == [*by_predictor]
        assert [o['class'] for o in by_torch] == [o['class'] for o in by_file]
        for one, other in zip(by_torch, by_file):
            assert one['score'] == pytest.approx(other['score'], abs=5e-3)
            assert one['box'] == pytest.approx(other['box'], abs=0.5)
