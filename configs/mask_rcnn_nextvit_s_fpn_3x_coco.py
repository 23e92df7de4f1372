# Next-ViT's published Mask R-CNN, 3x: Swin's schedule and multi-scale crops in
# MMDetection (36 epochs), AdamW, mixed precision. Its backbone has no final norm.
_base_ = [
    'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py',
    './_base_/nextvit_mmdet.py',
]

model = dict(
    backbone=dict(_base_.nextvit, _delete_=True, final_norm=False),
    neck=dict(in_channels=[96, 256, 512, 1024]),
    roi_head=dict(type='FittedRoIHead'),  # derives the classes of the masks
)
optim_wrapper = dict(_base_.optim, _delete_=True, type='AnyDeviceAmpOptimWrapper')
default_hooks = _base_.checks
