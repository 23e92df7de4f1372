# YOLOv8-s' neck and head on NextViT-small, from scratch.
_base_ = './_base_/yolov8_recipe.py'

bn = dict(type='BN', eps=1e-3, momentum=0.03)  # as in the neck
backbone = dict(type='mmdet.NextViT', out_indices=(1, 2, 3), norm_cfg=bn)

model = dict(
    type='FittedYOLODetector',  # checks the channels and strides
    backbone=dict(backbone, _delete_=True),
    # YOLOv8-s' own widths, written out: widen_factor would shrink in_channels, too.
    neck=dict(widen_factor=1.0, out_channels=[128, 256, 512]),
)
