_base_ = './yolov5_nextvit_s_in1k.py'

weights = 'timm://nextvit_large.bd_ssld_6m_in1k'

model = dict(backbone=dict(arch='large', init_cfg=dict(checkpoint=weights)))
