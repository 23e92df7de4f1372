"""The layouts of folders that our datasets read, and what recognises them."""

from collections.abc import Callable

from .coco_layouts import find_coco
from .csv_layouts import find_csv
from .reading import Reading
from .tree import Tree
from .voc_layouts import find_voc
from .yolo_layouts import find_darknet, find_data_yaml, find_named_labels

Recogniser = Callable[[Tree], list[Reading]]

# Each group reads one type of annotations. Of a group the first recogniser that finds
# anything is asked alone: label files are the same boxes, whatever names their classes.
RECOGNISERS: tuple[tuple[Recogniser, ...], ...] = (
    (find_data_yaml, find_darknet, find_named_labels),
    (find_csv,),
    (find_coco,),
    (find_voc,),
)

# In the order of how often they lie about, with what they are known by. Where a folder
# has several of them, the first is taken.
LAYOUTS = {
    'Roboflow YOLO': 'a data.yaml, with ../train/images',
    'Darknet': 'an obj.data with obj.names and lists, or _darknet.labels and .txt '
    'beside the images',
    'TensorFlow CSV': 'a CSV file with the columns filename, class, xmin, ymin, xmax, '
    'ymax',
    'Roboflow CSV': 'an _annotations.csv, with or without a header',
    'Roboflow COCO': 'an _annotations.coco.json beside the images',
    'COCO': 'a JSON file with images, annotations and categories',
    'Ultralytics YOLO': 'a data.yaml, images/ and labels/',
    'YOLO with classes.txt': 'label files and a classes.txt, in images/ and labels/ or '
    'beside the images',
    'Pascal VOC': 'XML files with <annotation>, with or without ImageSets',
    'CVAT COCO 1.0': 'annotations/instances_default.json and images/',
    'Label Studio COCO': 'a result.json and images/',
}
