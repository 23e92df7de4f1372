"""Whatever is wrong with what is exported, the reference is not, and export fails.

Each fault goes through the function that the command uses, in every format.

Only Apple systems run a CoreML file, so what is compared here is the program that is
converted, run by torch. Its conversion is replaced by that of the right network, made
once: no fault is expected to show in the package. What is converted is checked on its
own, by the package's specification, in test_export.py.

Nothing that is exported or compared with is put through ``set_memory_format``; of the
memory formats it is ``in_faster_format`` that both networks go through.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit import runtime
from mmnextvit.deploy import coreml, mean_ap, parity
from mmnextvit.deploy import export as module
from mmnextvit.deploy.candidates import Candidates
from mmnextvit.deploy.formats import FORMATS
from mmnextvit.engine.runner import load_detector
from mmnextvit.models import fold, nextvit
from mmnextvit.utils.errors import UserError

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from tests.helpers.commands import fresh_process_state

pytestmark = [pytest.mark.deploy, pytest.mark.slow]


@pytest.fixture(autouse=True)
def seen(monkeypatch) -> list[nn.Module]:
    """The detectors that were compared with, each as it was trained at that time."""
    detectors, predict = [], parity.predict_candidates

    def predict_plain(detector, images):
        norms = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) > 50  # of all parts; none was folded
        for part in (detector.backbone, detector.neck, detector.bbox_head):
            assert [m for m in part.modules() if isinstance(m, nn.BatchNorm2d)] or (
                part is detector.bbox_head  # YOLOv5's has none
            )
        convs = [m for m in detector.modules() if isinstance(m, nn.Conv2d)]
        assert all(conv.weight.is_contiguous() for conv in convs)
        assert not detector.training
        detectors.append(detector)
        return predict(detector, images)

    monkeypatch.setattr(parity, 'predict_candidates', predict_plain)
    return detectors


@pytest.fixture(autouse=True)
def without_runtime_of_the_page(monkeypatch):
    """ONNX Runtime Web takes no part in the comparison, and comes by the network."""
    monkeypatch.setattr(module, 'read_runtime', lambda source, say: {})


@pytest.fixture(scope='session')
def coreml_program() -> dict:
    """The right network in CoreML, which takes long to convert."""
    return {}


@pytest.fixture(autouse=True)
def converted_to_coreml_once(coreml_program, monkeypatch):
    """CoreML's package takes no part in the comparison: torch runs what it is made of.

    So wrong networks need not be converted.
    """
    convert = coreml.convert

    def convert_once(program, job):
        if 'model' not in coreml_program:
            coreml_program['model'] = convert(program, job)
        return copy.copy(coreml_program['model'])

    monkeypatch.setattr(coreml, 'convert', convert_once)


# ----------------------------------------------------------------------------- faults


def fold_with_another_eps(monkeypatch):
    right = fold.compute_scale_and_shift

    def wrong(norm):
        norm.eps = 0.01
        return right(norm)

    monkeypatch.setattr(fold, 'compute_scale_and_shift', wrong)


def fold_without_bias(monkeypatch):
    right = fold.compute_scale_and_shift

    def wrong(norm):
        scale, shift = right(norm)
        return scale, shift - norm.bias.detach().double()

    monkeypatch.setattr(fold, 'compute_scale_and_shift', wrong)


class Misread(Candidates):
    """Reads memory of the channels-last format as if it were contiguous."""

    def forward(self, images):
        return super().forward(images.permute(0, 2, 3, 1).reshape(images.shape))


class MisreadWeights(Candidates):
    """Its 3x3 convolutions have weights of the channels-last format read so."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        for m in self.modules():
            if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3):
                weight = m.weight.data
                m.weight.data = weight.permute(0, 2, 3, 1).reshape(weight.shape)


class Permuted(Candidates):
    """Its first two classes have changed places."""

    def forward(self, images):
        boxes, scores = super().forward(images)
        first, second, third = scores.split(1, -1)
        return boxes, torch.cat((second, first, third), -1)


def misread_images(monkeypatch):
    monkeypatch.setattr(module, 'Candidates', Misread)


def misread_weights(monkeypatch):
    monkeypatch.setattr(module, 'Candidates', MisreadWeights)


def permute_scores(monkeypatch):
    monkeypatch.setattr(module, 'Candidates', Permuted)


def misread_the_faster_format(monkeypatch):
    """Maps get another format in the exported network, and are read as contiguous."""
    right = fold.in_faster_format

    def wrong(x):
        if not torch.jit.is_tracing():  # in the reference
            return right(x)
        return x.permute(0, 2, 3, 1).reshape(x.shape)

    monkeypatch.setattr(nextvit, 'in_faster_format', wrong)


def change_metadata(monkeypatch, change):
    build = module.build_metadata

    def wrong(*args, **options):
        metadata = build(*args, **options)
        change(metadata)
        return metadata

    monkeypatch.setattr(module, 'build_metadata', wrong)


def permute_names(monkeypatch):
    change_metadata(
        monkeypatch, lambda m: m.update(classes=[m['classes'][i] for i in (1, 0, 2)])
    )


def fill_otherwise(monkeypatch):
    change_metadata(monkeypatch, lambda m: m['resize'][-1].update(fill=0))


def pad_on_one_side(monkeypatch):
    lay_out = runtime.lay_out

    def wrong(image, steps):
        layout = lay_out(image, steps)
        return layout._replace(pad=tuple(2 * side for side in layout.pad))

    monkeypatch.setattr(runtime.resizing, 'lay_out', wrong)


NETWORK = 'candidate (boxes|scores) differ by '
INPUT = r'pixels of the input differ by \d+, for an image of 40x64'
FAULTS: dict[Callable, str] = {
    fold_with_another_eps: NETWORK,
    misread_images: NETWORK,
    permute_scores: NETWORK,
    permute_names: r"classes are \['square', 'circle', 'triangle'\], not \['circle'",
    fill_otherwise: INPUT,
}
# Every format's network and the runtime's inputs are compared alike, so one must do.
OTHER_FAULTS: dict[Callable, str] = {
    fold_without_bias: NETWORK,
    misread_weights: NETWORK,
    misread_the_faster_format: NETWORK,
    pad_on_one_side: INPUT,
}


@pytest.fixture
def to(request) -> str:
    """A format, if what it needs is installed: NCNN's extra is in no lock."""
    for library in FORMATS[request.param].libraries if request.param == 'ncnn' else ():
        pytest.importorskip(library, reason='needs the extra ncnn')
    return request.param


@pytest.mark.parametrize('to', FORMATS, indirect=True)
def test_right_files_are_kept(here, export_here, seen, to):
    report = export_here(to, images='wide')
    assert report.path.exists() and not report.drift.list_faults()
    assert seen and all(detector is seen[0] for detector in seen)
    assert report.drift.images == (0 if to == 'coreml' else 3)
    assert report.drift.largest['candidate scores'] > 0  # it was folded


def assert_is_not_kept(export_here, seen, to: str, message: str) -> None:
    before = {p.name for p in Path.cwd().iterdir()}
    with pytest.raises(UserError, match='is not kept, since') as error:
        export_here(to, images='wide')
    assert error.match(message)
    assert seen  # and compared with; the fixture saw to it that it was plain
    assert {p.name for p in Path.cwd().iterdir()} == before


@pytest.mark.parametrize('to', FORMATS, indirect=True)
@pytest.mark.parametrize('fault', FAULTS)
def test_wrong_files_are_not_kept(export_here, monkeypatch, seen, fault, to):
    fault(monkeypatch)
    assert_is_not_kept(export_here, seen, to, FAULTS[fault])


@pytest.mark.parametrize('fault', OTHER_FAULTS)
def test_other_faults(export_here, monkeypatch, seen, fault):
    fault(monkeypatch)
    assert_is_not_kept(export_here, seen, 'torchscript', OTHER_FAULTS[fault])


@pytest.mark.parametrize('fault', [permute_names, fill_otherwise, pad_on_one_side])
def test_no_precision_excuses_it(here, export_here, monkeypatch, fault):
    """Nor a file that cannot run here, for its NMS is TensorRT's."""
    fault(monkeypatch)
    for options in (
        dict(to='torchscript', precision='half'),
        dict(to='tensorrt', efficient_nms=True),
    ):
        with pytest.raises(UserError, match=(FAULTS | OTHER_FAULTS)[fault]):
            export_here(images='wide', **options)


def test_load_detector_is_plain(here):
    """Whatever is exported of it; its classes are the checkpoint's or the config's."""
    cfg = Config.fromfile('tiny.py')
    detector = load_detector(cfg, 'best.pth')
    state = copy.deepcopy(detector.state_dict())
    Candidates(detector)
    assert detector.state_dict().keys() == state.keys()
    assert all(torch.equal(detector.state_dict()[key], state[key]) for key in state)
    content = torch.load('best.pth', weights_only=False)
    assert state.keys() == content['state_dict'].keys()
    assert all(torch.equal(state[k], content['state_dict'][k]) for k in state)
    assert detector.dataset_meta['classes'] == ('circle', 'square', 'triangle')
    assert not detector.training and detector.cfg is cfg

    renamed = {f'module.{k}': v for k, v in content['state_dict'].items()}
    torch.save(dict(state_dict=renamed), 'plain.pth')
    other = load_detector(cfg, 'plain.pth')
    assert other.dataset_meta['classes'] == ('circle', 'square', 'triangle')
    assert all(torch.equal(other.state_dict()[key], state[key]) for key in state)
    del content['state_dict'][next(k for k in state if k.startswith('neck.'))]
    torch.save(content, 'less.pth')
    with pytest.raises(
        ValueError, match='less.pth: the weights do not fit, and all must'
    ):
        load_detector(cfg, 'less.pth')


def test_map_in_torch_is_of_the_model_as_it_was_trained(here, monkeypatch):
    """The recipe's DeployHook would test a folded copy in another memory format."""
    tested: list[tuple[int, bool]] = []  # BatchNorms; whether weights are contiguous

    class Noted(Hook):
        def before_test_iter(self, runner: Runner, *args: object, **more: object):
            modules = list(runner.model.modules())
            weights = [m.weight for m in modules if isinstance(m, nn.Conv2d)]
            norms = sum(isinstance(m, nn.BatchNorm2d) for m in modules)
            tested.append((norms, all(w.is_contiguous() for w in weights)))

    build_runner = mean_ap.build_runner

    def build_noted(cfg):
        runner = build_runner(cfg)
        runner.register_hook(Noted(), 'LOWEST')
        return runner

    monkeypatch.setattr(mean_ap, 'build_runner', build_noted)
    with fresh_process_state():
        cfg = Config.fromfile('tiny.py')
        assert cfg.default_hooks.deploy.type == 'DeployHook'
        metrics = mean_ap.measure_in_torch(cfg, 'best.pth')
        assert cfg.default_hooks.deploy.type == 'DeployHook'  # it was a copy
    assert metrics['coco/bbox_mAP_50'] > 0.3
    assert len(tested) == 4 and all(norms > 50 and plain for norms, plain in tested)

    tested.clear()
    with fresh_process_state():
        cfg.load_from = 'best.pth'
        assert mean_ap.measure_map(cfg) == pytest.approx(metrics, abs=1e-3)
    assert tested == [(0, False)] * 4  # as the recipe tests it
