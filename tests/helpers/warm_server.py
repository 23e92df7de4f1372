"""Waits with other projects' packages imported, and becomes the processes asked for.

:mod:`tests.helpers.warm_python` starts it. It imports nothing of OpenMMLab's or ours:
when these are imported, and in which order, is each process's own.
"""

import importlib
import json
import os
import random
import runpy
import sys
import types

# What takes long to import, and what MMEngine, mmcv, MMDetection and timm need.
PRELOADED = (
    'cv2',
    'einops',
    'faster_coco_eval',
    'matplotlib.pyplot',
    'numpy',
    'pycocotools.coco',
    'rich.progress',
    'scipy.stats',
    'shapely.geometry',
    'sklearn.gaussian_process',
    'sklearn.mixture',
    'timm',
    'torch',
    'torch.distributed.optim',
    'torch.utils.data',
    'torchvision',
)


def wait_for_a_request() -> dict:
    """Answers requests by forks of itself; returns the request in each fork."""
    requests = os.fdopen(int(sys.argv[1]))
    answers = os.fdopen(int(sys.argv[2]), 'w')
    for line in requests:
        child = os.fork()
        if not child:
            # What stays open here would keep the server from seeing the end.
            os.close(requests.fileno())
            os.close(answers.fileno())
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
    os._exit(0)


def become(request: dict) -> None:
    """Sets this process up as Python does, but for what has been imported."""
    for name, number in (('stdout', 1), ('stderr', 2)):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(request['cwd'])
    os.environ.clear()
    os.environ.update(request['env'])
    first, *rest = request['arguments']
    paths = [
        path for path in os.environ.get('PYTHONPATH', '').split(os.pathsep) if path
    ]
    own = '' if first in ('-c', '-m') else os.path.dirname(os.path.abspath(first))
    sys.path[:1] = [own, *paths]
    sys.argv = [first, *rest] if first not in ('-c', '-m') else [first, *rest[1:]]
    import numpy
    import torch

    random.seed()
    numpy.random.seed()
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS') or os.cpu_count() or 1))


def run(first: str, *rest: str) -> None:
    """Runs a script, ``-c`` code or ``-m`` a module, as ``__main__``."""
    if first == '-c':
        sys.modules['__main__'] = main = types.ModuleType('__main__')
        exec(compile(rest[0], '<string>', 'exec'), main.__dict__)
    elif first == '-m':
        runpy.run_module(rest[0], run_name='__main__', alter_sys=True)
    else:
        runpy.run_path(first, run_name='__main__')


if __name__ == '__main__':
    for preloaded in PRELOADED:
        importlib.import_module(preloaded)
    request = wait_for_a_request()
    become(request)
    run(*request['arguments'])
