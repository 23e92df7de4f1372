# 12 epochs, images of one size
_base_ = './mask_rcnn_nextvit_s_fpn_3x_coco.py'

resize = dict(type='Resize', scale=(1333, 800), keep_ratio=True)
train_pipeline = [*_base_.train_pipeline[:3], resize, _base_.train_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

max_epochs = 12
steps = dict(_base_.param_scheduler[1], end=max_epochs, milestones=[8, 11])
param_scheduler = [_base_.param_scheduler[0], steps]
train_cfg = dict(max_epochs=max_epochs)
