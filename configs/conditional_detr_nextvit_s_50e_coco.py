# DETR's own schedule and optimizer: a tenth of the learning rate in the backbone.
_base_ = [
    'mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
    './_base_/nextvit_mmdet.py',
]

model = dict(
    backbone=dict(_base_.nextvit, _delete_=True, out_indices=(3,)),
    neck=dict(in_channels=[1024]),
)
default_hooks = _base_.checks
