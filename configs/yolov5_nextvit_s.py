# YOLOv5's neck and head on NextViT-small: the hand-patched YAML, row by row.
_base_ = ['./_base_/yolov5_recipe.py', './_base_/yolov5_norm.py']

# [from, number, module, args]; maps 0 to 4 are the backbone's P1 (absent) to P5
rows = [
    [-1, 1, 'SPPF', [1024, 5]],  # 5
    [-1, 1, 'Conv', [512, 1, 1]],  # 6
    [-1, 1, 'nn.Upsample', [None, 2, 'nearest']],  # 7
    [[-1, 3], 1, 'Concat', [1]],  # 8, with the backbone's P4
    [-1, 3, 'C3', [512, False]],  # 9
    [-1, 1, 'Conv', [256, 1, 1]],  # 10
    [-1, 1, 'nn.Upsample', [None, 2, 'nearest']],  # 11
    [[-1, 2], 1, 'Concat', [1]],  # 12, with the backbone's P3
    [-1, 3, 'C3', [256, False]],  # 13, P3/8
    [-1, 1, 'Conv', [256, 3, 2]],  # 14
    [[-1, 10], 1, 'Concat', [1]],  # 15
    [-1, 3, 'C3', [512, False]],  # 16, P4/16
    [-1, 1, 'Conv', [512, 3, 2]],  # 17
    [[-1, 5], 1, 'Concat', [1]],  # 18, the SPPF map (YOLOv5's own YAML has 6)
    [-1, 3, 'C3', [1024, False]],  # 19, P5/32
]

model = dict(
    type='FittedYOLODetector',  # derives the channels
    backbone=dict(_delete_=True, type='mmdet.NextViT', norm_cfg=_base_.yolov5_norm),
    neck=dict(
        _delete_=True,
        type='YOLOv5YAMLNeck',
        rows=rows,
        out_rows=(13, 16, 19),
        depth_multiple=0.33,
        width_multiple=0.25,
    ),
    bbox_head=dict(
        head_module=dict(
            _delete_=True, type='YOLOv5HeadModule', num_classes=_base_.num_classes
        )
    ),
)
