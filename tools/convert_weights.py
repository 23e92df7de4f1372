"""Convert weights: tools/convert_weights.py SRC DST [--to FORMAT] [--config CONFIG]

SRC is a file or an address of any layout that is known: the official release's, timm's,
the patched YOLOv5's, ours. DST gets another layout, or ours; its name may end in
.safetensors.
"""

import argparse
import os
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit.cli.arguments import existing_file
from mmnextvit.engine.runner import build_model, run
from mmnextvit.weights.layouts import FORMATS, Numbering, formats
from mmnextvit.weights.loading import numbering_of, weights_of, widened

import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file


def parse_args():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('src', help='checkpoint to read')
    p.add_argument('dst', help='file to write, which must not exist')
    p.add_argument('--to', choices=list(FORMATS), default='ours', help='its layout')
    p.add_argument(
        '--config',
        help='config of the detector, where it is not NextViT with rows 5 to 19',
    )
    return p.parse_args()


def main():
    args = parse_args()
    dst = Path(args.dst)
    if dst.exists():
        raise ValueError(
            f'{dst} exists, and nothing is overwritten: choose another name'
        )
    numbering = Numbering()
    if args.config:
        existing_file(args.config, 'config')
        numbering = numbering_of(build_model(Config.fromfile(args.config)))
    content = CheckpointLoader.load_checkpoint(args.src, 'cpu', logger='silent')
    weights = weights_of(content, args.src, numbering)
    state = formats(numbering)[args.to].from_ours(widened(weights.state))
    if not state:
        raise ValueError(f'{args.src} has nothing that the layout {args.to} can hold')

    scratch = dst.with_name(f'.{dst.name}.part')  # only a whole file gets the name
    dst.parent.mkdir(parents=True, exist_ok=True)
    try:
        if dst.suffix == '.safetensors':
            save_file({k: v.contiguous() for k, v in state.items()}, scratch)
        else:
            key = {'official': 'model', 'ours': 'state_dict', 'yolov5': 'state_dict'}
            torch.save({key[args.to]: state} if args.to in key else state, scratch)
        os.replace(scratch, dst)
    finally:
        scratch.unlink(missing_ok=True)
    print(
        f'{args.src}: {FORMATS[weights.layout].title}, {len(weights.state)} tensors\n'
        f'{dst}: {FORMATS[args.to].title}, {len(state)} tensors'
    )
    for name, fact in weights.facts.items():
        print(f'  {name}: {fact}')


if __name__ == '__main__':
    run(main)
