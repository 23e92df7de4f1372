"""Images with label files in YOLO's txt format, laid out as one likes."""

from pathlib import Path

from mmengine.dataset import BaseDataset

from tests.helpers.bad_data import build_dataset, write_image

BOX = '0.5 0.5 0.25 0.5'  # of an image of 64 x 48 pixels: 24, 12, 40, 36


def write_text(path: Path, *lines: str, end: str = '\n') -> Path:
    """A text file of lines, in folders that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(''.join(f'{line}{end}' for line in lines).encode())
    return path


def write_labelled(image: Path, *class_ids: int, labels: Path | None = None) -> Path:
    """An image of 64 x 48 pixels, and a label file with a box of each class.

    Args:
        image: The image file.
        class_ids: Each of another line; the boxes are a little apart.
        labels: The folder of the label file; by default that of the image.
    """
    image.parent.mkdir(parents=True, exist_ok=True)
    write_image(image)
    lines = [f'{n} 0.5 0.5 0.25 {0.5 - i / 100}' for i, n in enumerate(class_ids)]
    write_text((labels or image.parent) / f'{image.stem}.txt', *lines)
    return image


def build_yolo(root: Path, ann_file: str, **cfg: object) -> BaseDataset:
    """A dataset of YOLO's txt format in a folder.

    Serializing its list, MMEngine would collect all garbage, which takes a quarter of a
    second.
    """
    cfg = dict(type='VerifiedYOLOTxtDataset', serialize_data=False) | cfg
    return build_dataset(root, ann_file=ann_file, **cfg)


def list_labels(dataset: BaseDataset) -> dict[str, list[int]]:
    """The classes of the boxes of each image, by its name."""
    infos = (dataset.get_data_info(i) for i in range(len(dataset)))
    return {
        Path(info['img_path']).name: [box['bbox_label'] for box in info['instances']]
        for info in infos
    }
