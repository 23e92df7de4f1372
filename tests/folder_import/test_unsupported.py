"""Formats that are named, with the way to convert them."""

import json

from mmnextvit.folder_import.conversions import CONVERSIONS
from mmnextvit.folder_import.tree import read_tree
from mmnextvit.folder_import.unsupported import find_unsupported

import pytest

from tests.helpers.layouts import BUILDERS, PLAIN, write_images
from tests.helpers.tool_layouts import TOOL_BUILDERS

CORNERS = '0.1 0.1 0.5 0.12 0.52 0.4 0.11 0.41'
KITTI = '0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59'
COORDINATES = dict(x=20, y=20, width=10, height=8)

# By what is to be named: the files, and words of the way to convert them.
FORMATS: dict[str, tuple[dict[str, object], str]] = {
    'TFRecord': ({'train/pets.tfrecord': '\0\1', 'train/pets_label_map.pbtxt': ''},
                 'again as COCO or Pascal VOC'),
    'TFRecord ': ({'train.record-00000-of-00010': '\0'}, 'again as COCO'),
    'CreateML JSON': (
        {'train/_annotations.createml.json': [dict(image='a.jpg', annotations=[])]},
        'datum convert -i FOLDER -if roboflow_create_ml -f coco',
    ),
    'CreateML JSON ': (
        {'boxes.json': [dict(imagefilename='a.jpg', annotation=[
            dict(label='cat', coordinates=COORDINATES)])]},
        'again as COCO',
    ),
    'the raw JSON of Label Studio': (
        {'project-1-at-2024.json': [dict(id=1, annotations=[dict(id=1, result=[
            dict(value=COORDINATES)])], data=dict(image='/data/upload/1/a.jpg'))]},
        'COCO with images',
    ),
    'the raw JSON of Label Studio ': (
        {'min.json': [dict(image='a.jpg', label=[dict(x=1, rectanglelabels=['cat'],
                                                      original_width=64)])]},
        'COCO with images',
    ),
    'Supervisely': (
        {'meta.json': dict(classes=[dict(title='cat', shape='rectangle')], tags=[]),
         'ds0/ann/a.jpg.json': dict(description='', tags=[], size=dict(
             height=48, width=64), objects=[dict(classTitle='cat')])},
        'Export to COCO',
    ),
    'OpenImages CSV': (
        {'train-annotations-bbox.csv': 'ImageID,Source,LabelName,Confidence,XMin,XMax,'
         'YMin,YMax,IsOccluded\n000,x,/m/01,1,0.1,0.2,0.1,0.2,0\n'},
        'datum convert -i FOLDER -if open_images',
    ),
    'VIA CSV': (
        {'via_region_data.csv': 'filename,file_size,file_attributes,region_count,'
         'region_id,region_shape_attributes,region_attributes\n'},
        'export the annotations as JSON',
    ),
    'a project of VIA 3': (
        {'via.json': dict(project=dict(pid='__VIA_PROJECT_ID__', rev='1'), config={},
                          file={}, metadata={})},
        'again as COCO',
    ),
    'VoTT JSON': ({'pets.vott': dict(name='pets')}, '-if vott_json'),
    "Datumaro's JSON": (
        {'annotations/train.json': dict(dm_format_version='1.0', infos={}, items=[])},
        '-if datumaro',
    ),
    'a manifest of SageMaker Ground Truth': (
        {'output.manifest': '{"source-ref": "s3://a.jpg"}\n'}, 'one JSON a line'),
    'a data set of Hugging Face': (
        {'train/metadata.jsonl': '{"file_name": "a.jpg", "objects": {}}\n'},
        'the package datasets',
    ),
    'the NDJSON of Ultralytics': ({'pets.ndjson': '{"type": "dataset"}\n'},
                                  'data.yaml'),
    'WIDER FACE': ({'wider_face_train_bbx_gt.txt': '0--Parade/a.jpg\n1\n1 2 3 4\n'},
                   '-if wider_face'),
    'MOT': ({'MOT17-02/gt/gt.txt': '1,1,912,484,97,109,0,7,1\n'}, '-if mot_seq'),
    'KITTI': ({'training/label_2/000000.txt': f'Pedestrian {KITTI}\n'},
              '-if kitti_detection'),
    'DOTA': (
        {'labelTxt/P0000.txt': 'imagesource:GoogleEarth\ngsd:0.1\n'
         '2753.0 2408.0 2861.0 2385.0 2888.0 2468.0 2805.0 2502.0 plane 0\n'},
        'convert_dota_to_yolo_obb',
    ),
    'YOLO-OBB': ({'labels/000000.txt': f'0 {CORNERS}\n3 {CORNERS}\n'},
                 'Write a data.yaml'),
    'semantic segmentation of Roboflow': (
        {'train/_classes.csv': 'Pixel Value, Class\n0, background\n'},
        'COCO Segmentation',
    ),
    'classes by image of Roboflow': (
        {'train/_classes.csv': 'filename, cat, dog\na.jpg, 1, 0\n'},
        'Draw boxes first',
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', FORMATS)
def test_format_is_named_with_the_way_to_convert_it(tmp_path, name):
    files, way = FORMATS[name]
    write_images(tmp_path / 'images', PLAIN, range(2))
    for path, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    tree = read_tree(tmp_path)
    assert not any(conversion.recognise(tree) for conversion in CONVERSIONS)
    message = str(find_unsupported(tree))
    assert message.startswith(f'{tmp_path}: the folder holds {name.strip()}')
    assert any(path in message for path in files)
    assert way in message


@pytest.mark.parametrize('split', ['', 'train'])
def test_folders_by_class(tmp_path, split):
    for folder in ('cats', 'dogs'):
        write_images(tmp_path / split / folder, PLAIN, range(2))
    (tmp_path / 'README.txt').write_text('pets')
    message = str(find_unsupported(read_tree(tmp_path)))
    assert 'images in 2 folders (cats, dogs) and no annotations' in message
    assert 'Draw boxes' in message


def test_unknown_formats_are_not_named(tmp_path):
    for folder in ('images', 'train', 'val'):
        write_images(tmp_path / folder, PLAIN, range(2))
    (tmp_path / 'notes.json').write_text('{"a": [1, 2]}')
    (tmp_path / 'labels.txt').write_text('cat\ndog\n')
    (tmp_path / 'broken.csv').write_bytes(b'\xff\xfe\0x')
    assert find_unsupported(read_tree(tmp_path)) is None


# Beside Roboflow's CSV files a list of classes is called as that of other projects.
READ = {**BUILDERS, **TOOL_BUILDERS}.keys() - {'roboflow_retinanet'}


@pytest.mark.parametrize('name', sorted(READ))
def test_layouts_that_are_read_are_none_of_these(tmp_path, name):
    {**BUILDERS, **TOOL_BUILDERS}[name](tmp_path)
    assert find_unsupported(read_tree(tmp_path)) is None
