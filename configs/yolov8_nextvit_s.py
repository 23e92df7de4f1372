# YOLOv8's neck and head on NextViT-small, from scratch. The neck joins maps before it
# narrows them, so that it is as wide as the backbone.
_base_ = ['./_base_/yolov8_recipe.py', './_base_/yolov5_norm.py']

widths = [256, 512, 1024]
norm = _base_.yolov5_norm
backbone = dict(type='mmdet.NextViT', out_indices=(1, 2, 3), norm_cfg=norm)

model = dict(
    type='FittedYOLODetector',  # checks the channels and strides
    backbone=dict(backbone, _delete_=True),
    neck=dict(widen_factor=1.0, in_channels=widths, out_channels=widths),
    bbox_head=dict(head_module=dict(widen_factor=1.0, in_channels=widths)),
)
