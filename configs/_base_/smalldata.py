# A recipe for some hundred images and no pretrained weights. It only names things,
# which a config puts in place, whatever its data: two bases may not set the same key.

small_model = dict(backbone=dict(drop_path_rate=0.0, norm_cfg=dict(momentum=0.1)))
small_affine = dict(  # of whole images, where YOLOv5 has parts of four
    type='YOLOv5RandomAffine',
    max_rotate_degree=0.0,
    max_shear_degree=0.0,
    scaling_ratio_range=(0.75, 1.25),
    border_val=(114, 114, 114),
)
small_optim = dict(
    type='SummingOptimWrapper',
    constructor='ThreeGroupOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
)
small_schedule = dict(  # a step a batch, a warm-up of epochs, of biases as of the rest
    nominal_batch_size=None,
    scheduler_type='cosine',
    warmup_epochs=2,
    warmup_mim_iter=0,
    warmup_bias_lr=0.0,
)
small_average = dict(  # over about 100 steps
    type='StepEMAHook',
    ema_type='ExpMomentumEMA',
    momentum=0.01,
    gamma=100,
    update_buffers=True,
    priority=49,
)
