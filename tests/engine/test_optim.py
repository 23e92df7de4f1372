"""Every trainable parameter in one group, and mixed precision without a GPU."""

import copy

from mmnextvit import NextViT
from mmnextvit.engine.optim import AnyDeviceAmpOptimWrapper, split_into_three_groups

import pytest
import timm
import torch
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmyolo.engine.hooks import YOLOv5ParamSchedulerHook
from mmyolo.registry import MODELS
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

OURS, MMYOLO = 'ThreeGroupOptimWrapperConstructor', 'mmyolo.YOLOv5OptimizerConstructor'
SGD = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)


def build(model, constructor=OURS, optimizer=SGD, **kwargs):
    return build_optim_wrapper(
        model,
        dict(type='OptimWrapper', constructor=constructor, optimizer=optimizer)
        | kwargs,
    )


def groups_of(wrapper):
    return [list(group['params']) for group in wrapper.optimizer.param_groups]


def decays_of(wrapper):
    return [group['weight_decay'] for group in wrapper.optimizer.param_groups]


def ids(params):
    return {id(p) for p in params}


@pytest.fixture
def yolov5(load_config):
    load_config('yolov5_nextvit_s')  # its scope
    head = dict(num_classes=3, in_channels=[256, 512, 1024], widen_factor=0.1)
    return MODELS.build(
        dict(
            type='YOLODetector',
            backbone=dict(type='YOLOv5CSPDarknet', widen_factor=0.1),
            neck=dict(
                type='YOLOv5PAFPN',
                widen_factor=0.1,
                in_channels=[256, 512, 1024],
                out_channels=[256, 512, 1024],
            ),
            bbox_head=dict(
                type='YOLOv5Head', head_module=dict(type='YOLOv5HeadModule', **head)
            ),
        )
    )


def small_swin():
    return SwinTransformer(
        img_size=32, embed_dim=16, depths=(2,), num_heads=(2,), window_size=4
    )


def small_swin_v2():
    return SwinTransformerV2(
        img_size=32, embed_dim=16, depths=(2,), num_heads=(2,), window_size=4
    )


INCOMPLETE_IN_MMYOLO = {
    'timm swin': small_swin,
    'timm swin v2': small_swin_v2,
    'timm convnext': lambda: timm.create_model('test_convnext'),
    'timm vit': lambda: timm.create_model('test_vit'),
    'torchvision swin': lambda: TorchvisionSwin([4, 4], 16, [2], [2], [4, 4]),
    'torchvision convnext': lambda: ConvNeXt([CNBlockConfig(16, None, 2)]),
    'attention': lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True),
}


@pytest.mark.parametrize('name', INCOMPLETE_IN_MMYOLO)
def test_every_parameter_is_in_one_group(name):
    model = INCOMPLETE_IN_MMYOLO[name]()
    groups = groups_of(build(model))
    assert len(groups) == 3
    found = [id(p) for group in groups for p in group]
    assert len(found) == len(set(found))
    assert set(found) == ids(model.parameters())
    # The reason for a constructor of our own:
    theirs = groups_of(build(model, MMYOLO))
    assert ids(p for group in theirs for p in group) < ids(model.parameters())


def test_groups_are_mmyolos_where_those_are_complete(yolov5):
    for ours, theirs in zip(groups_of(build(yolov5)), groups_of(build(yolov5, MMYOLO))):
        assert [id(p) for p in ours] == [id(p) for p in theirs]


@pytest.mark.parametrize('batch_size', [1, 2, 3, 16, 48, 64, 100, 128])
def test_weight_decay_follows_the_batch_size_as_in_mmyolo(batch_size):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    optimizer = dict(SGD, batch_size_per_gpu=batch_size)
    ours, theirs = (
        decays_of(build(model, constructor, optimizer))
        for constructor in (OURS, MMYOLO)
    )
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_which_group():
    swin, convnext = small_swin(), timm.create_model('test_convnext')
    vit, attention = timm.create_model('test_vit'), nn.MultiheadAttention(8, 2)
    nextvit = NextViT(arch=dict(depths=(1, 1, 5, 1)))
    model = nn.ModuleList([swin, convnext, vit, attention, nextvit])
    weights, others, biases = map(ids, split_into_three_groups(model))
    for param in (
        swin.layers[0].blocks[0].attn.qkv.weight,
        convnext.stem[0].weight,
        attention.in_proj_weight,
        nextvit.features[0].mhca.group_conv3x3.weight,
    ):
        assert id(param) in weights
    for param in (
        swin.layers[0].blocks[0].attn.relative_position_bias_table,
        swin.layers[0].blocks[0].norm1.weight,  # LayerNorm
        convnext.stages[0].blocks[0].gamma,
        vit.pos_embed,
        nextvit.features[0].norm.weight,  # BatchNorm2d
        nextvit.features[1].e_mhsa.norm.weight,  # BatchNorm1d
    ):
        assert id(param) in others
    for param in (
        swin.layers[0].blocks[0].norm1.bias,
        attention.in_proj_bias,
        nextvit.norm.bias,
    ):
        assert id(param) in biases
    assert len(weights) + len(others) + len(biases) == len(list(model.parameters()))


def test_norm_weights_of_any_shape_have_no_decay():
    model = nn.Sequential(nn.LayerNorm((4, 5)), nn.GroupNorm(2, 4), nn.Embedding(3, 4))
    weights, others, _ = split_into_three_groups(model)
    assert ids(weights) == {id(model[2].weight)}
    assert ids(others) == {id(model[0].weight), id(model[1].weight)}


def test_shared_once_and_frozen_nowhere():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    weights, others, biases = split_into_three_groups(model)
    assert ids(weights) == {id(model[0].weight)} and not others
    assert ids(biases) == {id(model[0].bias), id(model[1].bias)}


def test_empty_groups_keep_biases_third():
    model = nn.Sequential(nn.Linear(4, 4))
    wrapper = build(model)
    assert [len(g) for g in groups_of(wrapper)] == [1, 0, 1]
    wrapper.update_params(model(torch.ones(1, 4)).sum())
    state = copy.deepcopy(wrapper.state_dict())
    build(model).load_state_dict(state)
    # MMYOLO's schedule warms the third group from its own rate.
    hook = YOLOv5ParamSchedulerHook(warmup_bias_lr=0.1)
    runner = type('Runner', (), dict(optim_wrapper=wrapper, iter=0, epoch=0))
    runner.train_dataloader = [0]
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    assert [group['lr'] for group in wrapper.optimizer.param_groups] == [0, 0, 0.1]


def test_any_optimizer_decays_the_first_group_only():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    for optimizer, decay in ((dict(weight_decay=0.05), 0.05), ({}, 0)):
        wrapper = build(model, optimizer=dict(type='AdamW', lr=1e-3, **optimizer))
        assert isinstance(wrapper.optimizer, torch.optim.AdamW)
        assert [g['weight_decay'] for g in wrapper.optimizer.param_groups] == [
            decay,
            0,
            0,
        ]


def test_a_step_moves_every_parameter():
    model = small_swin()
    wrapper = build(model, optimizer=dict(type='AdamW', lr=1e-3))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    wrapper.update_params(model(torch.randn(2, 3, 32, 32)).square().sum())
    still = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    assert not still


def test_options_that_it_does_not_follow_are_refused():
    with pytest.raises(
        ValueError, match=r"\['norm_decay_mult'\].*allowed are.*'base_to"
    ):
        build(nn.Linear(2, 2), paramwise_cfg=dict(norm_decay_mult=0))


@pytest.mark.slow
def test_a_smaller_learning_rate_in_the_backbone(load_config):
    """The fine-tuning config: one group each, no decay on norms and biases."""
    cfg = load_config('yolov5_nextvit_s_in1k')
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    found = {}
    for group in wrapper.optimizer.param_groups:
        for param in group['params']:
            assert param not in found
            found[param] = group
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    undecayed = {
        p for m in model.modules() if isinstance(m, norms) for p in m.parameters()
    }
    assert len(found) == len(list(model.parameters()))
    lr = cfg.optim_wrapper.optimizer.lr
    for name, param in model.named_parameters():
        group = found[param]
        assert group['lr'] == lr * (0.1 if name.startswith('backbone.') else 1), name
        decays = param not in undecayed and not name.endswith('bias')
        assert (group['weight_decay'] > 0) == decays, name
    # the hook of YOLOv5's own schedule warms up the third group
    assert all(p.ndim == 1 for p in wrapper.optimizer.param_groups[2]['params'])


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.last = nn.Conv2d(8, 1, 3)

    def forward(self, inputs, mode='loss'):
        features = self.conv(inputs)
        self.dtype_seen = features.dtype
        return dict(loss=self.last(features.relu()).float().square().mean())


@pytest.fixture
def on_cpu(monkeypatch):
    """A machine without a GPU, whatever this one has."""
    monkeypatch.setattr('mmnextvit.engine.optim.get_device', lambda: 'cpu')
    monkeypatch.setattr('mmengine.runner.amp.get_device', lambda: 'cpu')
    precision = 'mmnextvit.engine.precision.computes_in_bfloat16'
    monkeypatch.setattr(precision, lambda: True)


def amp(model):
    return build(model, type='AnyDeviceAmpOptimWrapper', clip_grad=dict(max_norm=10))


def test_amp_on_a_cpu_computes_in_bfloat16_and_learns(on_cpu):
    net = Net()
    wrapper = amp(net)
    assert isinstance(wrapper, AmpOptimWrapper)
    batch = dict(inputs=torch.randn(2, 3, 8, 8))
    losses = [net.train_step(batch, wrapper)['loss'].item() for _ in range(20)]
    assert net.dtype_seen == torch.bfloat16
    assert net.conv.weight.dtype == torch.float32
    assert losses[-1] < 0.5 * losses[0]
    # and without --amp it is float32
    net.train_step(batch, build(net))
    assert net.dtype_seen == torch.float32


def test_amp_on_a_cpu_without_bfloat16_goes_on_in_float32(on_cpu, monkeypatch, log):
    precision = 'mmnextvit.engine.precision.computes_in_bfloat16'
    monkeypatch.setattr(precision, lambda: False)
    batch = dict(inputs=torch.randn(2, 3, 8, 8))
    net = Net()
    wrapper = amp(net)
    net.train_step(batch, wrapper)
    assert net.dtype_seen == torch.float32
    (line,) = log
    assert 'slower' in line and 'float32' in line and '--force-amp' in line
    forced = build(Net(), type='AnyDeviceAmpOptimWrapper', force=True)
    net.train_step(batch, forced)
    assert net.dtype_seen == torch.bfloat16
    forced.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    assert len(log) == 1


def test_amp_resumes(on_cpu):
    batches = [dict(inputs=torch.randn(2, 3, 8, 8)) for _ in range(4)]
    straight, broken_off = Net(), Net()
    wrapper = amp(straight)
    for batch in batches:
        straight.train_step(batch, wrapper)
    wrapper = amp(broken_off)
    for batch in batches[:2]:
        broken_off.train_step(batch, wrapper)
    state = copy.deepcopy(wrapper.state_dict())
    wrapper = amp(broken_off)
    wrapper.load_state_dict(state)
    for batch in batches[2:]:
        broken_off.train_step(batch, wrapper)
    for a, b in zip(straight.parameters(), broken_off.parameters()):
        assert torch.equal(a, b)


def test_amp_states_of_cpu_and_gpu_are_exchanged(on_cpu):
    of_cpu = copy.deepcopy(amp(Net()).state_dict())
    scaler = torch.amp.GradScaler('cpu', enabled=True)  # as a GPU's
    of_gpu = dict(of_cpu, loss_scaler=scaler.state_dict())
    assert of_gpu['loss_scaler'] and not of_cpu['loss_scaler']
    wrapper = amp(Net())
    wrapper.load_state_dict(copy.deepcopy(of_gpu))
    wrapper.loss_scaler = scaler
    wrapper.load_state_dict(copy.deepcopy(of_cpu))  # torch refuses an empty state
    wrapper.load_state_dict(copy.deepcopy(of_gpu))


def test_amp_on_a_gpu_is_mmengines(monkeypatch):
    monkeypatch.setattr('mmnextvit.engine.optim.get_device', lambda: 'cuda')
    built = {}

    def init(self, **kwargs):
        built.update(kwargs)

    monkeypatch.setattr(AmpOptimWrapper, '__init__', init)
    OPTIM_WRAPPERS.build(dict(type=AnyDeviceAmpOptimWrapper, optimizer=1, dtype='x'))
    assert built == dict(optimizer=1, dtype='x', loss_scale='dynamic')
