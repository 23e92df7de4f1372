"""The metafiles against the configs and models, and the page against the metafiles."""

from mmnextvit import NextViT

import pytest
import torch
import yaml
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from docs.make_model_zoo import PAGE, metafiles, page
from tests.conftest import ROOT

METAFILES = metafiles()
ENTRIES = [model for models in METAFILES.values() for model in models]
NO_MODELS = {  # small data only
    'yolov5_nextvit_s_demo',
    'yolov5_nextvit_s_bccd',
    'yolov5_nextvit_s_smalldata',
    'yolov5_nextvit_s_smalldata_bccd',
}

by_name = pytest.mark.parametrize('entry', ENTRIES, ids=lambda entry: entry['Name'])


def test_page_is_what_the_metafiles_say():
    assert PAGE.read_text() == page(), 'run docs/make_model_zoo.py'


def test_every_config_is_listed_once():
    names = [entry['Name'] for entry in ENTRIES]
    assert len(names) == len(set(names))
    listed = [entry['Config'] for entry in ENTRIES if 'Config' in entry]
    shipped = {path.stem for path in (ROOT / 'configs').glob('*.py')}
    assert sorted(listed) == sorted(f'configs/{x}.py' for x in shipped - NO_MODELS)
    assert shipped >= NO_MODELS


def test_every_metafile_is_in_the_index():
    files = {path.stem for path in (ROOT / 'configs' / 'metafiles').iterdir()}
    assert files == set(METAFILES)


@pytest.mark.slow
@by_name
def test_is_in_a_form_that_mim_reads(entry):
    """MIM joins lists of text, and takes the first of a list of dicts."""
    assert entry['In Collection'] in collections()
    assert entry.get('Config') in (None, f'configs/{entry["Name"]}.py')
    for value in entry['Metadata'].values():
        if isinstance(value, list):
            assert {type(item) for item in value} in ({str}, {dict})


@by_name
def test_every_published_figure_has_a_source(entry):
    for result in entry.get('Results', []):
        assert set(result) == {'Task', 'Dataset', 'Metrics', 'Source'}
        assert result['Metrics'] and result['Source']
    data = entry['Metadata']
    assert all(time['source'] for time in data.get('inference time (ms)', []))
    assert 'Published' not in data or data['Published']['Source']
    counted = {'Parameters', 'Epochs', 'Batch Size', 'Image Size'}
    numbers = {key for key, value in data.items() if isinstance(value, (int, float))}
    assert numbers <= counted, 'a figure outside a block with a source'


@by_name
def test_weights_are_timm_s(entry):
    import timm

    weights = [entry.get('Weights'), entry['Metadata'].get('Backbone Weights')]
    for address in filter(None, weights):
        scheme, name = address.split('://')
        model, _, tag = name.partition('.')
        assert scheme == 'timm' and tag
        assert name in timm.list_pretrained(f'{model}.*')


@pytest.mark.slow
@by_name
def test_figures_of_ours_are_those_of_the_model(entry):
    data = entry['Metadata']
    with torch.device('meta'):
        if 'Config' not in entry:
            model = NextViT(data['Arch'])
            assert entry['Name'].startswith(f'nextvit_{data["Arch"]}.')
        else:
            cfg = Config.fromfile(ROOT / entry['Config'])
            with DefaultScope.overwrite_default_scope(cfg.default_scope):
                model = MODELS.build(cfg.model)
            init = cfg.model.backbone.get('init_cfg') or {}
            assert data.get('Backbone Weights') == init.get('checkpoint')
            assert data['Epochs'] == cfg.train_cfg.max_epochs
            assert data['Batch Size'] == cfg.auto_scale_lr.base_batch_size
    assert data['Parameters'] == sum(p.numel() for p in model.parameters())


def collections() -> set[str]:
    files = (ROOT / 'configs' / 'metafiles').iterdir()
    content = [yaml.safe_load(file.read_text()) for file in files]
    return {c['Name'] for one in content for c in one['Collections']}
