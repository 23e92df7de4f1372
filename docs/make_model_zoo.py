"""Writes model_zoo.md from model-index.yml: docs/make_model_zoo.py"""

from pathlib import Path

from mmnextvit.utils.files import atomic_write_text

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'model_zoo.md'
UNTRAINED = 'not trained by us yet'

HEAD = """<!-- Written by docs/make_model_zoo.py: change configs/metafiles instead. -->
# Model zoo

What there is to start from: weights of backbones, which are downloaded by name, and
configs of whole detectors. We have trained none of these detectors on COCO yet, so that
there are no weights of whole detectors to download. The accuracies of Mask R-CNN show
what the backbone reaches in the official code.

Published figures are those of the source that is named below each table, and hold for
the official code and weights. Parameters are counted in our models, and a test counts
them again.
"""
TEXTS = {
    'imagenet': """## Backbones: ImageNet-1K

`mmnextvit new data/my_data --weights timm://nextvit_small.bd_ssld_6m_in1k` writes a
config that starts from such weights. By hand a name goes into
`init_cfg=dict(type='Pretrained', checkpoint=…)` of an `mmdet.NextViT`, with ImageNet's
mean and std in the `data_preprocessor`.

Top-1 is the accuracy on ImageNet in %; SSLD is distillation with 6M images. Parameters
are without the classifier, which has 1,025,000. Times are the authors', on their
machines; at 224x224 those of TensorRT are of batches of 8 images.
""",
    'mask_rcnn': """## Mask R-CNN on COCO

The official weights are on the authors' Google Drive only, so there is no address here:
download the file and give its path to `load_from` or to a command. AP in %.

Times are the authors', on their machines. Their tables have the same times for other
heads on the same backbone (Semantic FPN, UperNet), so that they are those of the
backbone alone. They do not say for which image size.
""",
    'mmdet': """## Other detectors in MMDetection

These train without MMYOLO. [mmdetection.md](mmdetection.md) says what else of
MMDetection works.
""",
    'yolo': """## YOLO detectors in MMYOLO

`mmnextvit new` chooses among these for a folder of images: those with `smalldata` in
their name below 2,000 images, those with `in1k` where a backbone's weights are given.
""",
}


def metafiles() -> dict[str, list[dict]]:
    """Name of each metafile of the index, and its models."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))
    files = [ROOT / path for path in index['Import']]
    return {f.stem: yaml.safe_load(f.read_bytes())['Models'] for f in files}


def sources(models: list[dict]) -> list[str]:
    """Where the published figures of these models are from."""
    named = {r['Source'] for m in models for r in m.get('Results', [])}
    for data in (m['Metadata'] for m in models):
        named |= {time['source'] for time in data.get('inference time (ms)', [])}
        named |= {data['Published']['Source']} if 'Published' in data else set()
    return sorted(named)


def metric(model: dict, name: str) -> float | str:
    """A published figure, or the words that there is none."""
    every = [result['Metrics'] for result in model.get('Results', [])]
    return next((metrics[name] for metrics in every if name in metrics), UNTRAINED)


def row(model: dict) -> dict[str, object]:
    """A line of a model's table: the columns' titles and what stands there."""
    data = model['Metadata']
    params = f'{data["Parameters"]:,}'
    times = {t['backend']: t['value'] for t in data.get('inference time (ms)', [])}
    in_ms = {f'{name}, ms': times.get(name, '') for name in ('TensorRT', 'CoreML')}
    if 'Config' not in model:
        return {
            'weights': f'`{model["Weights"]}`',
            'trained on': data['Training Data'],
            'images': f'{data["Image Size"]}x{data["Image Size"]}',
            'top-1': metric(model, 'Top 1 Accuracy'),
            'parameters': params,
            **in_ms,
        }
    cells = {
        'config': f'[{model["Name"]}](../{model["Config"]})',
        'epochs': data['Epochs'],
        'box AP': metric(model, 'box AP'),
    }
    if published := data.get('Published'):
        cells['mask AP'] = metric(model, 'mask AP')
        cells |= in_ms
        cells['FLOPs'] = f'{published["FLOPs (G)"]} G'
        cells['parameters, published'] = f'{published["Parameters (M)"]} M'
    start = data.get('Backbone Weights', data.get('Starts From', 'random weights'))
    return {**cells, 'parameters': params, 'backbone starts from': start}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, models in metafiles().items():
        rows = [row(model) for model in models]
        lines = [list(rows[0]), ['---'] * len(rows[0]), *(r.values() for r in rows)]
        table = ''.join(f'| {" | ".join(map(str, line))} |\n' for line in lines)
        parts += [TEXTS[name], table]
        if named := sources(models):
            parts.append(f'Published figures: {", ".join(named)}.\n')
    return '\n'.join(parts)


if __name__ == '__main__':
    atomic_write_text(PAGE, page())
