_base_ = [
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    './_base_/nextvit_mmdet.py',
]

model = dict(
    backbone=dict(_base_.nextvit, _delete_=True),
    neck=dict(in_channels=[96, 256, 512, 1024]),
)
optim_wrapper = dict(_base_.optim, _delete_=True)
default_hooks = _base_.checks
