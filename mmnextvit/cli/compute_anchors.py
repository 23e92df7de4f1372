"""Fit anchors to training data, and write a config with them.

The new config inherits from the one that is given.
"""

import argparse
import os
from pathlib import Path

from ..utils.errors import UserError
from ..utils.files import atomic_write_text
from .arguments import add_config, check_new_config, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument('-o', '--out', required=True, help='config to write (.py), new')


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from ..datasets.anchors import (
        compute_anchors,
        compute_possible_recall,
        measure_boxes,
    )
    from ..engine.runner import build_dataset, build_model

    out = check_new_config(args.out)
    cfg = load_config(args)
    if 'prior_generator' not in cfg.model.get('bbox_head', {}):
        raise UserError(
            'its head has no anchors',
            file=args.config,
            key='model.bbox_head.prior_generator',
        )
    cfg.model.backbone.pop('init_cfg', None)  # the weights are not needed
    head = build_model(cfg).bbox_head
    before = np.array(head.prior_generator.base_sizes)
    count, per_level, _ = before.shape
    dataset = build_dataset(cfg, 'train')
    dataset.full_init()
    samples = (dataset.get_data_info(i) for i in range(len(dataset)))
    size = max(cfg.img_scale)
    sizes = measure_boxes(samples, size)
    threshold = head.prior_match_thr
    levels = compute_anchors(sizes, count, per_level, threshold)

    recall = compute_possible_recall(sizes, np.array(levels), threshold)
    print(f'{len(sizes)} boxes at {size} pixels; {recall:.1%} can match an anchor')
    if before.min() > 0:
        recall = compute_possible_recall(sizes, before, threshold)
        print(f'with the anchors of {args.config}: {recall:.1%}')
    base = os.path.relpath(Path(args.config).resolve(), out.resolve().parent)
    base = base if base.startswith('.') else f'./{base}'
    lines = [
        f'# Anchors for {len(sizes)} boxes, by mmnextvit compute_anchors',
        f'_base_ = {base!r}',
        'anchors = [',
        *(f'    {level},' for level in levels),
        ']',
        'model = dict(bbox_head=dict(prior_generator=dict(base_sizes=anchors)))',
    ]
    atomic_write_text(out, '\n'.join(lines) + '\n', overwrite=False)
    print(f'{out} is the config to train with')
