# RTMDet-s' neck and head on NextViT-small, from ImageNet weights as RTMDet itself.
_base_ = './_base_/rtmdet_recipe.py'

weights = dict(type='Pretrained', checkpoint='timm://nextvit_small.bd_in1k')
imagenet = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
backbone = dict(type='mmdet.NextViT', out_indices=(1, 2, 3), init_cfg=weights)

model = dict(
    type='FittedYOLODetector',  # checks the channels and strides
    data_preprocessor=dict(**imagenet, bgr_to_rgb=True),  # RTMDet's own order is BGR
    backbone=dict(backbone, _delete_=True),
    # RTMDet-s' own width, written out: widen_factor would shrink in_channels, too.
    neck=dict(widen_factor=1.0, in_channels=[256, 512, 1024], out_channels=128),
)
