# Blood cells with the recipe for small data, in as many iterations.
_base_ = ['./yolov5_nextvit_s_bccd.py', './_base_/smalldata.py']

values = dict(tuning=_base_.scratch.tuning)  # the size and the epochs are the data's
globals().update(__import__('mmnextvit').tune_recipe(_base_, values))
