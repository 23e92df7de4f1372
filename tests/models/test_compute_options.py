"""How a machine's options to compute with are measured, kept, overruled, shared."""

import json
from functools import partial

from mmnextvit import NextViT
from mmnextvit.models import compute_options, probe
from mmnextvit.models.compute_options import (
    RULES,
    ComputeOptions,
    Overrides,
    decide,
    describe_options,
    find_options,
    measure_or_remember,
    read_overrides,
    read_processor,
    set_overrides,
    settle_options,
)
from mmnextvit.models.fold import copy_folded, in_faster_format
from mmnextvit.models.probe import Timing, build_pass
from mmnextvit.utils.errors import UserError

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

CPU = torch.device('cpu')
VARIABLES = compute_options.FORMAT_VARIABLE, compute_options.NORMS_VARIABLE


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """No environment's choice, an empty cache, and nothing decided before or after."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(compute_options, '_decided', {})
    monkeypatch.setattr(compute_options, '_overrides', None)


class Clock:
    """A probe that finds what it is told, and counts its calls."""

    def __init__(self, training=(1.0, 1.0), inference=(1.0, 1.0), disturbed=False):
        self.calls = 0
        self.found = {
            name: Timing(dict(zip(('channels_last', 'contiguous'), pair)), disturbed)
            for name, pair in dict(training=training, inference=inference).items()
        }

    def __call__(self, threads):
        self.calls += 1
        return self.found


@pytest.fixture
def clock(monkeypatch):
    def use(*args, **kwargs):
        found = Clock(*args, **kwargs)
        monkeypatch.setattr(compute_options, 'probe', found)
        return found

    return use


def formats(found: ComputeOptions) -> tuple[str, str]:
    return found.training, found.inference


LAST, PLAIN = 'channels_last', 'contiguous'


@pytest.mark.parametrize(
    'training, inference, expected',
    [
        ((1.0, 1.0), (1.0, 1.0), (LAST, LAST)),
        ((1.0, 0.97), (1.0, 1.2), (LAST, LAST)),  # no clear difference
        ((1.0, 0.9), (1.0, 1.2), (PLAIN, LAST)),
        ((0.8, 1.0), (1.0, 0.5), (LAST, PLAIN)),
    ],
)
def test_the_faster_format_is_taken(training, inference, expected, clock):
    clock(training, inference)
    found = decide(CPU, Overrides())
    assert formats(found) == expected and found.recompute_norms


def files(tmp_path):
    return [*(tmp_path / 'cache').rglob('*.json')]


def test_it_is_measured_once_and_remembered(clock, tmp_path):
    first = clock((1.0, 0.5))
    found = find_options(CPU)
    assert find_options(CPU) is found and first.calls == 1
    second = clock((0.5, 1.0))  # another process would find something else
    compute_options._decided.clear()
    assert formats(find_options(CPU)) == (PLAIN, LAST) and second.calls == 0
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize(
    'change',
    [
        dict(processor='another'),
        dict(torch='3.0'),
        dict(threads=77),
        dict(instructions='AVX1024'),
    ],
    ids=str,
)
def test_another_machine_is_measured_anew(change, clock, monkeypatch, tmp_path):
    clock((1.0, 0.5))
    decide(CPU, Overrides())
    here = compute_options.describe_machine()
    monkeypatch.setattr(compute_options, 'describe_machine', lambda: {**here, **change})
    second = clock((1.0, 1.0))
    assert formats(decide(CPU, Overrides())) == (LAST, LAST) and second.calls == 1
    assert len(files(tmp_path)) == 2


BROKEN = [
    b'',
    b'{',
    b'\xff\xfe',
    b'[]',
    b'7',
    b'{"formats": null}',
    b'[' * 4900,
    b'x' * 10_000,
]


@pytest.mark.parametrize('content', BROKEN)
def test_a_broken_file_is_measured_anew_and_mended(content, clock, tmp_path):
    clock((1.0, 0.5))
    decide(CPU, Overrides())
    (file,) = files(tmp_path)
    file.write_bytes(content)
    again = clock((1.0, 0.5))
    assert formats(decide(CPU, Overrides())) == (PLAIN, LAST) and again.calls == 1
    decide(CPU, Overrides())
    assert again.calls == 1


@pytest.mark.parametrize('part', ['machine', 'format', 'missing'])
def test_of_a_changed_file_nothing_is_believed(part, clock, tmp_path):
    clock((1.0, 0.5))
    decide(CPU, Overrides())
    (file,) = files(tmp_path)
    entry = json.loads(file.read_text(encoding='utf-8'))
    if part == 'machine':
        entry['machine']['processor'] = 'that of a home folder on another machine'
    elif part == 'format':
        entry['formats']['training'] = 'preserve'
    else:
        del entry['formats']['inference']
    file.write_text(json.dumps(entry), encoding='utf-8')
    again = clock((1.0, 1.0))
    assert formats(decide(CPU, Overrides())) == (LAST, LAST) and again.calls == 1


def test_where_nothing_can_be_kept_it_goes_on(clock, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('', encoding='utf-8')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    clock((1.0, 0.5))
    assert formats(decide(CPU, Overrides())) == (PLAIN, LAST)


def test_a_busy_machine_is_not_judged(clock, tmp_path):
    clock((1.0, 0.1), disturbed=True)
    found = decide(CPU, Overrides())
    assert formats(found) == formats(RULES['cpu']) and 'busy' in found.reason
    assert not files(tmp_path)


def test_processes_that_are_not_asked_together_do_not_measure(clock, monkeypatch):
    monkeypatch.setattr(compute_options, 'get_world_size', lambda: 2)
    clocked = clock((1.0, 0.1))
    assert formats(find_options(CPU)) == formats(RULES['cpu']) and clocked.calls == 0


@pytest.mark.parametrize('rank', [0, 1])
def test_all_processes_compute_as_the_first(rank, clock, monkeypatch):
    """Whatever each would measure; only the first does."""
    sent = []

    def broadcast(objects):
        sent.append(objects[0])
        objects[0] = ComputeOptions(PLAIN, LAST, False, 'the first')

    monkeypatch.setattr(compute_options, 'get_rank', lambda: rank)
    monkeypatch.setattr(compute_options, 'get_world_size', lambda: 2)
    monkeypatch.setattr(compute_options, 'broadcast_object_list', broadcast)
    clocked = clock((0.5, 1.0))
    settled = settle_options({}, CPU)
    assert find_options(CPU) == settled == (PLAIN, LAST, False, 'the first')
    assert clocked.calls == (rank == 0) and (sent[0] is None) == (rank == 1)


def test_one_process_of_several_may_load_another_config(clock, monkeypatch):
    """Without waiting for the others, and only what it asks for changes."""
    clock()
    settled = settle_options({}, CPU)
    monkeypatch.setattr(compute_options, 'broadcast_object_list', None)
    set_overrides({})
    assert find_options(CPU) is settled
    set_overrides(dict(memory_format=PLAIN))
    assert find_options(CPU).training == PLAIN


def test_a_config_and_above_it_the_environment_overrule(clock, monkeypatch):
    clocked = clock((1.0, 0.5), (1.0, 0.5))
    config = dict(memory_format=LAST, recompute_norms=False)
    assert settle_options(config, CPU)[:3] == (LAST, LAST, False)
    assert find_options(CPU).training == LAST and clocked.calls == 0
    monkeypatch.setenv(compute_options.FORMAT_VARIABLE, PLAIN)
    monkeypatch.setenv(compute_options.NORMS_VARIABLE, '1')
    assert settle_options(config, CPU)[:3] == (PLAIN, PLAIN, True)
    assert clocked.calls == 0
    monkeypatch.setenv(compute_options.FORMAT_VARIABLE, 'auto')
    monkeypatch.setenv(compute_options.NORMS_VARIABLE, 'auto')
    assert (
        settle_options(config, CPU)[:3] == (PLAIN, PLAIN, True) and clocked.calls == 1
    )


@pytest.mark.parametrize(
    'config, name',
    [
        (dict(memory_format='nhwc'), 'env_cfg.memory_format'),
        (dict(memory_format='preserve'), 'env_cfg.memory_format'),
        (dict(memory_format=True), 'env_cfg.memory_format'),
        (dict(recompute_norms='yes'), 'env_cfg.recompute_norms'),
        (dict(recompute_norms=1), 'env_cfg.recompute_norms'),
        ({compute_options.FORMAT_VARIABLE: 'NHWC'}, compute_options.FORMAT_VARIABLE),
        ({compute_options.NORMS_VARIABLE: 'yes'}, compute_options.NORMS_VARIABLE),
    ],
    ids=str,
)
def test_what_there_is_not_is_refused(config, name, monkeypatch):
    for variable in set(config) & set(VARIABLES):
        monkeypatch.setenv(variable, config.pop(variable))
    with pytest.raises(UserError, match=name):
        read_overrides(config)


@pytest.mark.parametrize(
    'capability, expected', [((6, 1), PLAIN), ((7, 0), LAST), ((9, 0), LAST)]
)
def test_gpus_follow_a_rule(capability, expected, clock, monkeypatch):
    clocked = clock()
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    found = decide(torch.device('cuda', 0), Overrides())
    assert found[:3] == (expected, expected, False) and clocked.calls == 0
    assert decide(
        torch.device('cuda', 0), Overrides(recompute_norms=True)
    ).recompute_norms


def test_other_devices_keep_the_format(clock):
    x = torch.rand(1, 4, 3, 3, device='meta')
    assert in_faster_format(x) is x


def test_in_training_and_without_gradients_each_has_its_format(tiny, clock):
    clock((1.0, 0.5), (0.5, 1.0))
    model, x, seen = NextViT(tiny).eval(), torch.rand(2, 3, 64, 64), []
    model.features[1].register_forward_pre_hook(lambda module, args: seen.extend(args))
    expected = model(x)
    assert seen.pop().is_contiguous()
    with torch.no_grad():
        found = model(x)
    assert seen.pop().is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(found, expected, strict=True):
        assert a.is_contiguous() and b.is_contiguous()
        torch.testing.assert_close(a, b)
    weights = [m.weight for m in copy_folded(model).modules() if type(m) is nn.Conv2d]
    assert not all(w.is_contiguous() for w in weights)


def test_contiguous_maps_give_the_format_of_the_images(tiny, clock):
    clock((1.0, 0.5), (1.0, 0.5))
    x = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    for y in NextViT(tiny)(x):
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_norms_are_kept_where_that_is_faster(tiny, monkeypatch):
    def count_saved() -> int:
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            NextViT(tiny).train()(torch.rand(2, 3, 64, 64))
        return sum(sizes)

    counts = {}
    for norms in (True, False):
        settle_options(dict(memory_format=LAST, recompute_norms=norms), CPU)
        counts[norms] = count_saved()
    assert counts[True] < counts[False]


def test_the_probe_leaves_no_trace(monkeypatch, tmp_path):
    """Of it, random numbers, counted operations and modes know nothing."""
    monkeypatch.setattr(probe, 'SHAPES', dict.fromkeys(probe.SHAPES, (2, 64, 6, 5)))
    monkeypatch.setattr(probe, 'BUDGET', 0.0)
    state = torch.get_rng_state()
    with (
        FlopCounterMode(display=False) as counter,
        torch.inference_mode(),
        torch.autocast('cpu', torch.bfloat16),
    ):
        measure_or_remember(RULES['cpu'], may_probe=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert counter.get_total_flops() == 0


@pytest.mark.parametrize('train', [True, False])
def test_the_probe_builds_the_same_each_time(train, error):
    results = [
        build_pass(train, (2, 64, 6, 5), memory_format)()
        for memory_format in (
            torch.channels_last, torch.contiguous_format, torch.contiguous_format
        )
    ]  # fmt: skip
    last, *plain = [r if isinstance(r, tuple) else (r,) for r in results]
    for a, b, c in zip(last, *plain, strict=True):
        assert torch.equal(b, c) and error(a, b) < 1e-4 and b.abs().max() > 0


class Time:
    """Clocks that passes move: that of the wall, and that of the process."""

    def __init__(self):
        self.wall = self.process = 0.0

    def perf_counter(self):
        return self.wall

    def process_time(self):
        return self.process

    def move(self, wall, process):
        self.wall += wall
        self.process += process


@pytest.fixture
def clocks(monkeypatch):
    found = Time()
    monkeypatch.setattr(probe, 'time', found)
    return found


@pytest.mark.parametrize(
    'threads, wall, process, slower, disturbed',
    [
        # Others had the processor while b was computed.
        (1, dict(a=0.11, b=0.20), dict(a=0.10, b=0.09), 'a', True),
        (1, dict(a=0.10, b=0.12), dict(a=0.09, b=0.11), 'b', False),
        (2, dict(a=0.10, b=0.12), dict(a=0.19, b=0.18), 'b', False),
        (2, dict(a=0.10, b=0.12), dict(a=0.11, b=0.12), 'b', True),
    ],
)
def test_what_the_clocks_say(threads, wall, process, slower, disturbed, clocks):
    """With one thread the processor's time counts, the first round never."""
    calls = []

    def compute(name):
        calls.append(name)
        first = calls.count(name) == 1
        clocks.move(0.01 if first else wall[name], 0.01 if first else process[name])

    passes = {name: partial(compute, name) for name in 'ab'}
    timing = probe.time_in_turn(passes, threads)
    assert max(timing.seconds, key=timing.seconds.get) == slower
    assert timing.disturbed == disturbed
    assert calls == list('ab' * (1 + probe.MIN_ROUNDS))  # in turn, and no longer


@pytest.mark.parametrize('seconds, rounds', [(0.001, 13), (0.1, 4), (10.0, 2)])
def test_the_probe_takes_no_longer_on_a_slow_machine(seconds, rounds, clocks):
    calls = []

    def compute():
        calls.append(1)
        clocks.move(seconds, seconds)

    probe.time_in_turn({'a': compute}, threads=1)
    assert len(calls) == rounds


def test_the_line_for_the_log():
    line = describe_options(ComputeOptions(PLAIN, LAST, True, 'the rule'), CPU)
    assert '\n' not in line
    for part in ('contiguous maps in training', 'channels_last ones', 'by the rule'):
        assert part in line


def test_the_processor_is_read(tmp_path):
    file = tmp_path / 'cpuinfo'
    names = []
    for model in (1, 2):
        file = tmp_path / f'cpuinfo{model}'
        cpu = f'vendor_id\t: AuthenticAMD\nmodel\t\t: {model}\nmodel name\t: AMD EPYC'
        file.write_text(f'{cpu}\nMHz: 7\n\n{cpu}\n', encoding='utf-8')
        names.append(read_processor(file))
    assert len({*names}) == 2 and all('AMD EPYC' in name for name in names)
    assert 'MHz' not in names[0]
    assert read_processor(tmp_path / 'none')
