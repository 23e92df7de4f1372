"""Runs the tools of MMDetection and MMYOLO on our demo's config, data and files.

    mmnextvit demo --out work --train 64 --val 16 --size 128
    python benchmarks/openmmlab_tools.py work [TOOL ...]

runs each as `mmnextvit TOOL`, in the folder `work/tools`, where its output stays, and
prints its exit code, the files that it made, and the last line that it wrote if it
failed. docs/mmdetection.md was written from that.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRAIN, VAL = '../demo_data/annotations/train.json', '../demo_data/annotations/val.json'
ONE_EPOCH = '--cfg-options train_cfg.max_epochs=1'

# Arguments of each tool, as one types them in `work/tools`.
TOOLS = {
    'mmdet/train': f'demo.py --work-dir trained_det {ONE_EPOCH}',
    'mmyolo/train': f'demo.py --work-dir trained_yolo {ONE_EPOCH}',
    'mmdet/test': 'demo.py demo.pth --out detections.pkl --work-dir tested_det '
    '--cfg-options test_evaluator.outfile_prefix=detections',
    'mmyolo/test': 'demo.py demo.pth --work-dir tested_yolo --show-dir shown',
    'mmdet/analysis_tools/analyze_logs': 'plot_curve scalars.json --keys loss_bbox '
    '--out curves.png',
    'mmdet/analysis_tools/analyze_results': 'demo.py detections.pkl results --topk 3',
    'mmdet/analysis_tools/benchmark': 'demo.py --checkpoint demo.pth --max-iter 8 '
    '--num-warmup 2 --log-interval 4 --work-dir bench_det',
    'mmdet/analysis_tools/browse_dataset': 'demo.py --output-dir seen_det --not-show',
    'mmdet/analysis_tools/coco_error_analysis': 'detections.bbox.json errors '
    f'--ann {VAL} --extraplots',
    'mmdet/analysis_tools/coco_occluded_separated_recall': 'detections.pkl',
    'mmdet/analysis_tools/confusion_matrix': 'demo.py detections.pkl matrix_det',
    'mmdet/analysis_tools/eval_metric': 'demo.py detections.pkl',
    'mmdet/analysis_tools/fuse_results': 'detections.bbox.json detections.bbox.json '
    f'--annotation {VAL} --save-fusion-results --out-dir fused',
    'mmdet/analysis_tools/get_flops': 'demo.py',
    'mmdet/analysis_tools/optimize_anchors': 'demo.py --algorithm k-means '
    '--input-shape 128 128 --device cpu --output-dir anchors_det',
    'mmdet/analysis_tools/test_robustness': 'demo.py demo.pth --out robust.pkl '
    '--corruptions gaussian_noise --severities 0 1 --work-dir robust',
    'mmdet/analysis_tools/robustness_eval': 'robust_results.pkl',
    'mmdet/misc/get_image_metas': 'demo.py --dataset val --out metas.pkl',
    'mmdet/misc/print_config': 'demo.py --save-path ./printed_det.py',
    'mmdet/misc/split_coco': '--data-root coco --out-dir split_det '
    '--labeled-percent 50 --fold 1',
    'mmdet/dataset_converters/images2coco': '../demo_data/val classes.txt listed.json',
    'mmdet/model_converters/publish_model': 'demo.pth published_det.pth',
    'mmdet/deployment/mmdet2torchserve': 'demo.py demo.pth --output-folder . '
    '--model-name demo',
    'mmyolo/analysis_tools/benchmark': 'demo.py demo.pth --max-iter 10 '
    '--work-dir bench_yolo',
    'mmyolo/analysis_tools/browse_coco_json': '--data-root ../demo_data --img-dir val '
    '--ann-file annotations/val.json --wait-time 0.01',
    'mmyolo/analysis_tools/browse_dataset': 'demo.py --out-dir seen_yolo --not-show',
    'mmyolo/analysis_tools/browse_dataset_simple': 'demo.py --output-dir seen_simple '
    '--not-show',
    'mmyolo/analysis_tools/confusion_matrix': 'demo.py detections.pkl matrix_yolo',
    'mmyolo/analysis_tools/dataset_analysis': 'demo.py --out-dir analysed',
    'mmyolo/analysis_tools/get_flops': 'demo.py --shape 128 128',
    'mmyolo/analysis_tools/optimize_anchors': 'demo.py --algorithm v5-k-means '
    '--input-shape 128 128 --device cpu --out-dir anchors_yolo',
    'mmyolo/analysis_tools/vis_scheduler': 'demo.py --out-dir rates --not-show',
    'mmyolo/misc/coco_split': f'--json {TRAIN} --out-dir split_yolo --ratios 0.8 0.2',
    'mmyolo/misc/extract_subcoco': 'coco subset --num-img 4',
    'mmyolo/misc/print_config': 'demo.py --save-path ./printed_yolo.py',
    'mmyolo/misc/publish_model': 'demo.pth published_yolo.pth',
    'mmyolo/dataset_converters/yolo2coco': 'yolo',
    'mmyolo/dataset_converters/labelme2coco': '--img-dir ../demo_data/val '
    '--labels-dir labelme --out labelme.json',
}


def prepare(work: Path) -> Path:
    """A folder in which the tools find the demo's files by short names."""
    folder = work / 'tools'
    folder.mkdir(exist_ok=True)
    run, data = work / 'demo', work / 'demo_data'
    checkpoint = Path(
        (run / 'last_checkpoint').read_text(encoding='utf-8').strip()
    ).name
    shutil.copy(run / checkpoint, folder / 'demo.pth')
    shutil.copy(next(run.glob('*/vis_data/scalars.json')), folder)
    (folder / 'demo.py').write_text(
        f'_base_ = {str(ROOT / "configs" / "yolov5_nextvit_s_demo.py")!r}\n'
        "data_root = '../demo_data/'\n"
        'train_dataloader = dict(dataset=dict(data_root=data_root))\n'
        'val_dataloader = dict(dataset=dict(data_root=data_root))\n'
        'test_dataloader = val_dataloader\n'
        f'val_evaluator = dict(ann_file={VAL!r})\n'
        'test_evaluator = val_evaluator\n',
        encoding='utf-8',
    )
    truth = json.loads((data / 'annotations' / 'val.json').read_bytes())
    names = [category['name'] for category in truth['categories']]
    (folder / 'classes.txt').write_text('\n'.join(names), encoding='utf-8')
    for split in ('train', 'val'):  # as COCO names them
        annotations = folder / 'coco' / 'annotations'
        annotations.mkdir(parents=True, exist_ok=True)
        file = data / 'annotations' / f'{split}.json'
        shutil.copy(file, annotations / f'instances_{split}2017.json')
        images = folder / 'coco' / f'{split}2017'
        shutil.copytree(data / split, images, dirs_exist_ok=True)
    for kind in ('images', 'labels'):
        (folder / 'yolo' / kind).mkdir(parents=True, exist_ok=True)
    (folder / 'labelme').mkdir(exist_ok=True)
    shutil.copy(folder / 'classes.txt', folder / 'yolo' / 'classes.txt')
    for image in truth['images'][:2]:
        stem, boxes = Path(image['file_name']).stem, []
        shutil.copy(data / 'val' / image['file_name'], folder / 'yolo' / 'images')
        found = [a for a in truth['annotations'] if a['image_id'] == image['id']]
        size = image['width']
        shapes = []
        for label, (x, y, w, h) in ((a['category_id'] - 1, a['bbox']) for a in found):
            values = (x + w / 2) / size, (y + h / 2) / size, w / size, h / size
            boxes.append(' '.join(map(str, (label, *values))))
            corners = [[x, y], [x + w, y + h]]
            shapes.append(
                dict(label=names[label], points=corners, shape_type='rectangle')
            )
        (folder / 'yolo' / 'labels' / f'{stem}.txt').write_text(
            '\n'.join(boxes), encoding='utf-8'
        )
        content = dict(imagePath=image['file_name'], shapes=shapes)
        content |= dict(imageWidth=size, imageHeight=size)
        (folder / 'labelme' / f'{stem}.json').write_text(
            json.dumps(content), encoding='utf-8'
        )
    return folder


def run(tool: str, folder: Path) -> str:
    """What came of a tool, in a line."""
    before = set(folder.rglob('*'))
    start = time.monotonic()
    command = [sys.executable, '-m', 'mmnextvit', tool, *TOOLS[tool].split()]
    try:
        ended = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=180
        )
        code, said = str(ended.returncode), (ended.stderr or ended.stdout)
        (folder / f'{tool.replace("/", "_")}.log').write_text(
            ended.stdout + ended.stderr, encoding='utf-8'
        )
    except subprocess.TimeoutExpired:
        code, said = 'runs for more than 180 s', ''
    made = sorted(set(folder.rglob('*')) - before)
    files = [p.relative_to(folder) for p in made if p.is_file() and p.suffix != '.log']
    reason = said.strip().splitlines()[-1] if code != '0' and said.strip() else ''
    seconds = round(time.monotonic() - start)
    shown = ', '.join(map(str, files[:3]))
    return f'{tool}: {code}, {seconds} s, {len(files)} files ({shown}) {reason}'


if __name__ == '__main__':
    place = prepare(Path(sys.argv[1]).resolve())
    for name in sys.argv[2:] or TOOLS:
        print(run(name, place), flush=True)
