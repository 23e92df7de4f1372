# NextViT and its optimizer for MMDetection's recipes, with the checks.
_base_ = './checks.py'

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
