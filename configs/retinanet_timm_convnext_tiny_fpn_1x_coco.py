# Any timm model under MMDetection's necks: its name, and the channels of its maps. One
# with another mean and std needs them in model.data_preprocessor (get_timm_mean_std).
_base_ = './retinanet_nextvit_s_fpn_1x_coco.py'

name = 'convnext_tiny.fb_in1k'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdet.TimmFeatures',
        model_name=name,
        init_cfg=dict(type='Pretrained', checkpoint=f'timm://{name}'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
