"""The mAP of an export's report and of the demo, against pycocotools."""

import json
from pathlib import Path

from mmnextvit.demo import DemoRun
from mmnextvit.deploy.mean_ap import measure_in_torch

import pytest
from mmengine.config import Config

from tests.helpers.commands import call_here, fresh_process_state
from tests.helpers.pycocotools_reference import list_expected, without_minus_one

CLASSES = dict(circle=30, square=10, triangle=20)


@pytest.mark.slow
def test_map_of_export_and_demo_is_that_of_pycocotools(here):
    """With category ids that do not rise in the file."""
    content = json.loads(Path('data/annotations/val.json').read_text())
    for entry in content['categories']:
        entry['id'] = CLASSES[entry['name']]
    for annotation in content['annotations']:
        annotation['category_id'] = [30, 10, 20][annotation['category_id'] - 1]
    truth = here / 'shuffled.json'
    truth.write_text(json.dumps(content))
    options = {
        'test_dataloader.dataset.ann_file': str(truth),
        'test_evaluator.ann_file': str(truth),
        'test_evaluator.outfile_prefix': str(here / 'found'),
        'test_evaluator.classwise': True,
    }
    with fresh_process_state():
        cfg = Config.fromfile('tiny.py')
        cfg.merge_from_dict(options)
        numbers = measure_in_torch(cfg, 'best.pth')
    found = json.loads((here / 'found.bbox.json').read_text())
    expected = list_expected(truth, found, CLASSES)
    names = 'coco/bbox_mAP', 'coco/bbox_mAP_50'
    assert numbers == {name: expected[name] for name in names}
    assert 0.3 < numbers['coco/bbox_mAP_50'] < 1

    words = [f'{key}={value}' for key, value in options.items()]
    tested = call_here(
        *('test', 'tiny.py', 'best.pth', '--work-dir', 'run', '--cfg-options', *words),
        cwd=here,
    )
    found = json.loads((here / 'found.bbox.json').read_text())
    expected = list_expected(truth, found, CLASSES)
    (stored,) = map(json.loads, (p.read_text() for p in here.glob('run/*/*.json')))
    for numbers in (tested, stored):
        printed = {name: numbers[name] for name in expected}
        assert without_minus_one(printed) == pytest.approx(expected, nan_ok=True)
    assert len({tested[f'coco/{name}_precision'] for name in CLASSES}) == 3
    demo = DemoRun(stored, *[here] * 4, next_command=['mmnextvit'])
    map50, mean = (expected[f'coco/bbox_{name}'] for name in ('mAP_50', 'mAP'))
    assert demo.summarize().startswith(f'\nmAP50 {map50:.3f}, mAP {mean:.3f}\n')
