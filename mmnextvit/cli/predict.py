"""Detect objects in images and videos, draw them, write them as JSON.

INPUT is an image, a video, a folder of them or a pattern in quotes ('a/**/*.jpg').
The output folder gets what is drawn, under `drawn/`, and `predictions.json`:

    {"config": ..., "checkpoint": ..., "score_thr": 0.3, "classes": [...],
     "box_format": "x1, y1, x2, y2 in pixels, from the image's top left corner",
     "predictions": [{"file": ..., "frame": 0 (of videos only), "drawn": ...,
                      "objects": [{"class": ..., "score": ..., "box": [...]}],
                      "feature_maps": folder (with --feature-maps only)}],
     "unreadable": {file: reason}}

--feature-maps draws, for every image, the backbone's maps and the neck's, row by row,
into a folder of its own under `feature_maps/`, with an `overview.png` of all.
"""

import argparse

from ..utils.errors import UserError
from .arguments import add_config, existing_file, load_config, to_share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint, or exported file or folder')
    parser.add_argument('input', help='image, video, folder or quoted pattern')
    parser.add_argument(
        '--out-dir', help='a new folder (./predictions/<date and time>)'
    )
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision (bfloat16 on a CPU)'
    )
    parser.add_argument('--device', help='cpu, cuda:0, ... (a GPU where there is one)')
    parser.add_argument(
        '--score-thr', type=to_share, default=0.3, help='minimum score, 0 to 1 (0.3)'
    )
    parser.add_argument(
        '--feature-maps',
        action='store_true',
        help="draw the output of each row, under feature_maps/ (a video's first frame)",
    )


def run(args: argparse.Namespace) -> None:
    from ..apis import load_predictor
    from ..datasets.sources import find_files
    from ..deploy.exported import is_exported
    from ..engine.prediction import new_folder, predict_files, write_json

    cfg = load_config(args)
    if not is_exported(args.checkpoint):
        existing_file(args.checkpoint, 'checkpoint')
    elif args.feature_maps:
        raise UserError('--feature-maps needs a checkpoint: exported files keep none')
    files = find_files(args.input)
    predictor = load_predictor(cfg, args.checkpoint, args.device, args.amp)
    out_dir = new_folder(args.out_dir)
    predictions = predict_files(
        predictor, files, out_dir, args.score_thr, args.feature_maps
    )
    write_json(
        out_dir / 'predictions.json',
        predictions,
        predictor.classes,
        args.config,
        args.checkpoint,
        args.score_thr,
    )
    print(f'{predictions.summarize()}: {out_dir}')
    if predictions.unreadable:
        reasons = predictions.unreadable.values()
        raise UserError('\n'.join(['These files could not be read:', *reasons]))
