# How YOLOv5 steps, where MMYOLO's recipes differ: it steps, and averages its weights,
# once for 64 images where a batch has fewer (the weight decay counts on it), and since
# v6.2 it clips gradients.
_base_ = './verified_coco.py'

yolov5_optim = dict(
    type='SummingOptimWrapper',
    constructor='ThreeGroupOptimWrapperConstructor',
    clip_grad=dict(max_norm=10.0),
)
yolov5_schedule = dict(type='YOLOv5ScheduleHook', nominal_batch_size=64)
