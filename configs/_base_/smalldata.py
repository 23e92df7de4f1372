# Recipes for few images, by what is pretrained; none knows what is on the images.
# mmnextvit/tuning.py says what a value is; tune_recipe and `mmnextvit new` take them.
few_images = 2000  # to train with; from there on COCO's recipes hold
scratch = dict(  # the backbone learns all it knows from the images
    batch_size=8,
    image_size=640,  # where images are as large
    max_epochs=100,  # or as many as make least_steps, but not more than most_epochs
    least_steps=2500,
    most_epochs=300,
    tuning=dict(
        lr=1e-3,
        backbone_lr_mult=1.0,
        lr_factor=0.01,
        weight_decay=0.05,
        warmup_epochs=2,
        frozen_stages=-1,
        norm_eval=False,
        init_std=0.01,
        drop_path_rate=0.0,
        norm_momentum=0.1,
        ema_steps=100,
        mosaic=0.0,  # whole images, where YOLOv5 has parts of four
        mixup=0.0,
        plain_epochs=10,
        scale_range=(0.75, 1.25),
        degrees=0.0,
        shear=0.0,
        translate=0.1,
        flip=0.5,
        hsv=(0.015, 0.7, 0.4),
        prior_match_thr=4.0,
        box_weight=0.05,
    ),
)
# The backbone has learned before, from ImageNet or with another detector.
pretrained = dict(scratch, tuning=dict(scratch['tuning'], mosaic=0.5, init_std=None))
pretrained['tuning']['scale_range'] = (0.5, 1.5)
# The whole detector has learned before, some of the classes among others.
detector = dict(pretrained, tuning=dict(pretrained['tuning'], lr=2e-4))
detector['tuning']['backbone_lr_mult'] = 0.1
