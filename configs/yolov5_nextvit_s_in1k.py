# Fine-tuning: ImageNet weights (SSLD, trained with 6M images) in the backbone, with
# the normalisation and the BatchNorm constants that they were trained with.
_base_ = './yolov5_nextvit_s.py'

max_epochs = 100
weights = 'timm://nextvit_small.bd_ssld_6m_in1k'

model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        norm_cfg=dict(eps=1e-5, momentum=0.1),
        init_cfg=dict(type='Pretrained', checkpoint=weights),
    ),
)
# AdamW, a tenth of the learning rate in the backbone, no decay on norms and biases
optim_wrapper = dict(
    clip_grad=None,
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(backbone_lr_mult=0.1),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.01,
        begin=0,
        T_max=max_epochs,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(param_scheduler=dict(_delete_=True, type='ParamSchedulerHook'))
train_cfg = dict(max_epochs=max_epochs)
