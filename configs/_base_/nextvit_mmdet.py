# What our configs on MMDetection's recipes share. It only names things, which those
# configs put in place: two bases of a config may not set the same key.
custom_imports = dict(imports=['mmnextvit'], allow_failed_imports=False)

# MMDetection's own mean and std are those that the ImageNet weights were trained with.
nextvit = dict(
    type='mmdet.NextViT',
    frozen_stages=1,
    norm_eval=True,
    init_cfg=dict(type='Pretrained', checkpoint='timm://nextvit_small.bd_in1k'),
)
optim = dict(  # the published one, for 8 GPUs with 2 images each
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
checks = dict(  # beside MMDetection's own hooks
    bad_loss=dict(type='StopOnBadLossHook'),
    checkpoint_fit=dict(type='CheckpointFitHook'),
    data_report=dict(type='DataReportHook'),
    predictions=dict(type='ContactSheetHook'),
    deploy=dict(type='DeployHook'),
)
