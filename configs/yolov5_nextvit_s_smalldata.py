# The recipe for small data from scratch; your data go on top of it, as in the README.
_base_ = ['./yolov5_nextvit_s.py', './_base_/smalldata.py']

max_epochs = 100
model = _base_.small_model
fit = [*_base_.pre_transform, *_base_.test_pipeline[1:3]]
train_pipeline = [*fit, _base_.small_affine, *_base_.train_pipeline[-3:]]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(_base_.small_optim, _delete_=True)
auto_scale_lr = dict(base_batch_size=8)
ema = dict(_base_.small_average, _delete_=True)
schedule = dict(_base_.small_schedule, max_epochs=max_epochs)
default_hooks = dict(param_scheduler=schedule, ema=ema)
train_cfg = dict(max_epochs=max_epochs)
