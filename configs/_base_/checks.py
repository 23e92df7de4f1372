# The hooks that check a run, which every recipe has beside its own hooks. This file and
# the fragments that inherit from it only name things, for a recipe to put in place: two
# bases of a config may not set the same key.
custom_imports = dict(imports=['mmnextvit'], allow_failed_imports=False)

checks = dict(
    bad_loss=dict(type='StopOnBadLossHook'),
    checkpoint_fit=dict(type='CheckpointFitHook'),
    data_report=dict(type='DataReportHook'),
    predictions=dict(type='ContactSheetHook'),
    deploy=dict(type='DeployHook'),
    val_loss=dict(type='ValidationLossHook'),
)
