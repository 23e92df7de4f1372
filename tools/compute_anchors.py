"""Compute anchors: tools/compute_anchors.py CONFIG -o NEW.py [--cfg-options ...]

Fits the anchors to the boxes of the config's training data, and writes a config that
inherits from CONFIG and has them.
"""

import os
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit.datasets.anchors import box_sizes, compute_anchors, possible_recall
from mmnextvit.engine.runner import (
    build_dataset,
    build_model,
    load_config,
    new_config,
    parser,
    run,
)

import numpy as np


def parse_args():
    p = parser('Compute anchors from the training data.', launcher=False)
    p.add_argument('-o', '--out', required=True, help='config to write (.py), new')
    return p.parse_args()


def main():
    args = parse_args()
    out = new_config(args.out)
    cfg = load_config(args)
    if 'prior_generator' not in cfg.model.get('bbox_head', {}):
        raise ValueError(f'{args.config}: its head has no anchors')
    cfg.model.backbone.pop('init_cfg', None)  # the weights are not needed
    head = build_model(cfg).bbox_head
    before = np.array(head.prior_generator.base_sizes)  # levels, anchors, 2
    dataset = build_dataset(cfg, 'train')
    dataset.full_init()
    samples = (dataset.get_data_info(i) for i in range(len(dataset)))
    size = max(cfg.img_scale)
    sizes = box_sizes(samples, size)
    threshold = head.prior_match_thr
    levels = compute_anchors(sizes, *before.shape[:2], threshold)

    recall = possible_recall(sizes, np.array(levels), threshold)
    print(f'{len(sizes)} boxes at {size} pixels; {recall:.1%} can match an anchor')
    if before.min() > 0:
        print(f'with the anchors of {args.config}: '
              f'{possible_recall(sizes, before, threshold):.1%}')  # fmt: skip
    base = os.path.relpath(Path(args.config).resolve(), out.resolve().parent)
    base = base if base.startswith('.') else f'./{base}'
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f'# Anchors for {len(sizes)} boxes, by tools/compute_anchors.py',
        f'_base_ = {base!r}',
        'anchors = [',
        *(f'    {level},' for level in levels),
        ']',
        'model = dict(bbox_head=dict(prior_generator=dict(base_sizes=anchors)))',
    ]
    out.write_text('\n'.join(lines) + '\n')
    print(f'{out} is the config to train with')


if __name__ == '__main__':
    run(main)
