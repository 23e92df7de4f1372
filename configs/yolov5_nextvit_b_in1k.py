_base_ = './yolov5_nextvit_s_in1k.py'

weights = 'timm://nextvit_base.bd_ssld_6m_in1k'

model = dict(backbone=dict(arch='base', init_cfg=dict(checkpoint=weights)))
