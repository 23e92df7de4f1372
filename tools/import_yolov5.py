"""Import a YOLOv5 model: tools/import_yolov5.py MODEL.yaml -o CONFIG.py

    [--data data.yaml] [--hyp hyp.yaml] [--weights best.pt] [--imgsz 640] [--epochs 300]

Writes a config that inherits from ours, and the weights beside it under its name. What
has no counterpart here is listed with its file and line.
"""

import argparse
import os
import re
import tempfile
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit.cli.arguments import existing_file, new_config
from mmnextvit.datasets.anchors import box_sizes, compute_anchors
from mmnextvit.datasets.yolo_txt import SPLITS, find_sources, read_data_yaml
from mmnextvit.engine.runner import build_dataset, build_model, run
from mmnextvit.models.timm_features import timm_mean_std
from mmnextvit.utils.yaml_reader import YAMLFile, read_yaml
from mmnextvit.weights.contents import extract_weights, widen_to_float32
from mmnextvit.weights.loading import adapt, check
from mmnextvit.yolov5_import.model_yaml import (
    ImportedModel,
    config_text,
    one_line,
    read_hyp,
    read_model,
)

import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader


def parse_args(argv: list[str] | None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('model', help="YOLOv5's YAML of the model")
    p.add_argument('-o', '--out', required=True, help='config to write (.py), new')
    p.add_argument('--data', help="YOLOv5's data.yaml")
    p.add_argument('--hyp', help="YOLOv5's hyperparameters")
    p.add_argument('--weights', help='trained .pt of that model')
    p.add_argument('--imgsz', type=int, default=640, help='side in pixels (640)')
    p.add_argument('--epochs', type=int, default=300)
    p.add_argument('--batch-size', type=int, default=16, help='a process')
    return p.parse_args(argv)


def built(text: str, folder: Path) -> tuple[Config, torch.nn.Module]:
    """The config of a text that is to lie in ``folder``, and its model."""
    with tempfile.NamedTemporaryFile('w', suffix='.py', dir=folder) as file:
        file.write(text)
        file.flush()
        cfg = Config.fromfile(file.name)
    cfg.model.backbone.pop('init_cfg', None)
    return cfg, build_model(cfg)


def with_line(message: str, file: YAMLFile, model: ImportedModel) -> str:
    """A message about a row, with the row's line in the YAML."""
    match = re.search(r'row ([0-9]+) ', message)
    number = min(model.places)  # the backbone
    if match:
        number = int(match[1])
    elif 'output rows' in message:
        number = max(model.places)  # the head
    keys = model.places.get(number, ())
    return f'{file.where(*keys)}: {message[match.start() :] if match else message}'


def take_anchors(
    anchors: list, source: str, file: YAMLFile, model: ImportedModel
) -> None:
    """The anchors of the weights, which were trained with them."""
    where = file.where(*model.places[max(model.places)])
    if len(anchors) != len(model.out_rows):
        raise ValueError(
            f'{source} has {len(anchors)} levels, the {model.head} at {where} reads '
            f'{len(model.out_rows)}'
        )
    anchors = [[tuple(pair) for pair in level] for level in anchors]
    if anchors != model.anchors:
        model.notes.append(
            f'{file.where("anchors")} anchors: {model.anchors}: those of {source} are '
            'taken'
        )
    model.anchors = anchors


def in_order(anchors: list, strides: list[int]) -> list:
    """Small anchors at the small stride, whichever way the head reads its levels."""
    areas = [sum(w * h for w, h in level) for level in anchors]
    flipped = (areas[-1] - areas[0]) * (strides[-1] - strides[0]) < 0
    return anchors[::-1] if flipped else anchors


def save(
    content: dict,
    detector: torch.nn.Module,
    source: str,
    target: Path,
    classes: list[str] | None,
) -> None:
    """Writes the weights under our names, without a head for other classes."""
    receipt = adapt(content, detector, source)
    found = receipt.fit
    new_head = found.reshaped and all(
        n.startswith('bbox_head.') for n in found.reshaped
    )
    check(receipt, 'backbone.' if new_head else None)
    if new_head:
        print('The head starts anew: the file has another number of classes or anchors')
        check(receipt, 'neck.')
    state = {k: content['state_dict'][k] for k in found.fitting}
    meta = {'dataset_meta': {'classes': classes}} if classes and not new_head else {}
    # only a whole file gets the name
    scratch = target.with_name(f'.{target.name}.part')
    try:
        torch.save({'meta': meta, 'state_dict': widen_to_float32(state)}, scratch)
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
    print(f'{target}: {receipt}')


def main(argv: list[str] | None = None):
    args = parse_args(argv)
    out = new_config(args.out)
    weights_out = out.with_suffix('.pth')
    if args.weights and weights_out.exists():
        raise ValueError(
            f'{weights_out} exists, and nothing is overwritten: choose another'
        )
    for name in ('imgsz', 'epochs', 'batch_size'):
        if not 1 <= getattr(args, name) < 100_000:
            raise ValueError(f'--{name.replace("_", "-")}: write 1 or more')

    file = read_yaml(args.model)
    model = read_model(file)
    notes = model.notes
    hyp = {}
    if args.hyp:
        hyp, more = read_hyp(read_yaml(args.hyp))
        notes += more
        model.anchors = int(hyp.get('anchors', {}).get('count', 0)) or model.anchors
    data = read_data_yaml(args.data) if args.data else None
    if data:
        known = {'path', 'names', 'nc', *SPLITS}
        lines = data['lines'].items()
        for split in ('train', 'val'):
            find_sources(args.data, split)  # or an error that says where it looked
        notes += [f'{args.data}:{n} {key}' for key, n in lines if key not in known]
    content, facts = None, {}
    if args.weights:
        existing_file(args.weights, 'weights')
        content = CheckpointLoader.load_checkpoint(args.weights, 'cpu', logger='silent')
        facts = extract_weights(content, args.weights).metadata
        if 'anchors' in facts:
            take_anchors(facts['anchors'], args.weights, file, model)
    options = dict(
        sources=[p for p in (args.model, args.data, args.hyp, args.weights) if p],
        notes=notes,
        hyp=hyp,
        data=str(Path(args.data).resolve()) if args.data else None,
        num_classes=len(data['classes']) if data else None,
        img_size=args.imgsz,
        epochs=args.epochs,
        batch_size=args.batch_size,
    )
    if model.pretrained and not args.weights:
        # A patched YOLOv5 feeds images in 0..1, for which those weights are not.
        options['normalisation'] = timm_mean_std(model.pretrained)
    if args.weights:
        options['load_from'] = str(weights_out.resolve())
        model.backbone.pop('init_cfg', None)  # these weights would replace those

    with tempfile.TemporaryDirectory() as folder:
        try:
            cfg, detector = built(config_text(model, **options), Path(folder))
        except ValueError as error:
            raise ValueError(with_line(str(error), file, model)) from error
    options['strides'] = strides = list(detector.neck.strides)
    size = -(-args.imgsz // max(strides)) * max(strides)
    if size != args.imgsz:
        print(f'--imgsz {args.imgsz} is no multiple of {max(strides)}: {size} is taken')
        options['img_size'] = size
    if isinstance(model.anchors, int) and data:
        sizes = box_sizes(build_dataset(cfg, 'train').load_data_list(), size)
        threshold = hyp.get('head', {}).get('prior_match_thr', 4.0)
        levels = len(model.out_rows)
        model.anchors = compute_anchors(sizes, levels, model.anchors, threshold)
    if not isinstance(model.anchors, int):
        model.anchors = in_order(model.anchors, strides)
    out.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        save(content, detector, args.weights, weights_out, facts.get('classes'))
    out.write_text(config_text(model, **options))

    count = sum(p.numel() for p in detector.parameters())
    print(f'{out}: {count:,} parameters, levels of stride {strides}')
    if isinstance(model.anchors, int):
        print(
            'The anchors are a count, with which nothing trains: import again with '
            '--data data.yaml, from which they are computed'
        )
    print(f'{len(notes)} entries have no counterpart' + ':' * bool(notes))
    for note in notes:
        print(f'  {one_line(note)}')


if __name__ == '__main__':
    run(main)
