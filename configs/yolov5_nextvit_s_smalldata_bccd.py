# Blood cells with the recipe for small data, in as many iterations.
_base_ = ['./yolov5_nextvit_s_bccd.py', './_base_/smalldata.py']

model = _base_.small_model
fit = [*_base_.pre_transform, *_base_.test_pipeline[1:3]]
train_pipeline = [*fit, _base_.small_affine, *_base_.train_pipeline[-3:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(_base_.small_optim, _delete_=True)
auto_scale_lr = dict(base_batch_size=8)
ema = dict(_base_.small_average, _delete_=True)
default_hooks = dict(param_scheduler=_base_.small_schedule, ema=ema)
